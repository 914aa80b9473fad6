package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// daemon is what the Handler works on. It is called for several tools at once.
type daemon struct {
	started  time.Time
	journal  *journal
	log      *log.Logger        // writes to the journal
	stop     context.CancelFunc // ends the daemon
	stopping <-chan struct{}    // closed by that

	mu      sync.Mutex
	ended   bool           // no stream starts any more
	streams sync.WaitGroup // of logs
}

// serve is the daemon. It runs until a tool or a signal stops it. If there is one
// already, it has nothing to do.
func serve(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	j := newJournal()
	d := &daemon{
		started:  time.Now(),
		journal:  j,
		log:      log.New(j, "", log.LstdFlags),
		stop:     stop,
		stopping: ctx.Done(),
	}
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      name,
		SocketDir: dir,
		MultiMode: true,
		Authorize: ipc.SameUser,
		Handler:   d.handle,
	})
	if errors.Is(err, ipc.ErrInUse) {
		return nil
	}
	if err != nil {
		return err
	}
	d.log.Printf("pid %d listens on %v", os.Getpid(), server.Addr())
	<-ctx.Done()
	d.endStreams()
	return server.Close() // sends what is not sent yet, such as the answer to stop
}

// handle is called with each message and event of a tool, one at a time for each
// tool.
func (d *daemon) handle(tool *ipc.Server, m *ipc.Message) {
	switch {
	case m.IsRequest():
		if err := d.answer(tool, m); err != nil { // the tool has gone, say
			d.log.Printf("tool %d: no answer: %v", tool.ClientID(), err)
		}
	case m.Err != nil:
		d.log.Printf("tool %d: %v", tool.ClientID(), m.Err)
	case m.MsgType < 0:
		d.log.Printf("tool %d: %s", tool.ClientID(), m.Status)
	}
}

// answer does what a tool asks for.
func (d *daemon) answer(tool *ipc.Server, m *ipc.Message) error {
	var args []string
	if err := json.Unmarshal(m.Data, &args); err != nil || len(args) == 0 {
		return m.ReplyError(exitUsage, "this is no command")
	}
	switch args[0] {
	case "status":
		return m.Reply(typeText, fmt.Appendf(nil, "pid %d, up %v, tools %d\n", os.Getpid(),
			time.Since(d.started).Round(time.Second), len(tool.ServerManager.Servers())))
	case "logs":
		flags := flag.NewFlagSet("logs", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		follow := flags.Bool("f", false, "go on with what is logged from now on")
		if err := flags.Parse(args[1:]); err != nil {
			return m.ReplyError(exitUsage, err.Error())
		}
		d.startStream(tool, m, *follow)
		return nil
	case "stop":
		defer d.stop() // when the answer is on its way
		return m.Reply(typeText, []byte("stopping\n"))
	default:
		return m.ReplyError(exitUsage, fmt.Sprintf("unknown command %q", args[0]))
	}
}

// startStream sends the journal from a goroutine, as it may take long: until then
// the Handler would not be called with what else this tool sends. What the
// Handler was lent is valid until it returns; the clone is a request, too.
func (d *daemon) startStream(tool *ipc.Server, m *ipc.Message, follow bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return // which answers that there is no reply
	}
	request := m.Clone()
	d.streams.Go(func() {
		if err := d.stream(request, follow); err != nil {
			d.log.Printf("tool %d: no logs: %v", tool.ClientID(), err)
			_ = request.ReplyError(exitFailed, err.Error()) // in vain if the tool has gone
		}
		d.log.Printf("tool %d: end of logs", tool.ClientID())
	})
}

// stream sends the lines of the journal that there are and, if follow is set, those
// that come, for as long as the tool wants them.
func (d *daemon) stream(request *ipc.Message, follow bool) error {
	ctx := request.Context()
	for next := 0; ; {
		lines, n, added := d.journal.from(next)
		next = n
		for _, line := range lines {
			if err := request.ReplyPart(typeText, line); err != nil {
				return err
			}
		}
		if !follow {
			return request.ReplyEnd()
		}
		select {
		case <-added:
		case <-d.stopping:
			return request.ReplyEnd()
		case <-ctx.Done():
			return nil // Ctrl-C, or the tool has gone: there is nobody to reply to
		}
	}
}

// endStreams waits until all tools have the end of their logs. A tool that has
// stopped reading delays it, until ServerConfig.WriteTimeout drops that tool.
func (d *daemon) endStreams() {
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.streams.Wait()
}
