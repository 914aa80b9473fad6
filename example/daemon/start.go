package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// errAbsent says that there is no daemon.
var errAbsent = errors.New("there is no daemon")

// connect returns a client of the daemon. If there is none, it starts one, or
// returns errAbsent.
//
// Other tools may start one at the same time. The first daemon gets the name, the
// others end, and all tools find the first.
func connect(ctx context.Context, dir string, start bool) (*ipc.Client, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var ours *process
	// The first time, one attempt tells whether there is a daemon.
	for timeout := time.Duration(-1); ; timeout = min(max(2*timeout, 50*time.Millisecond), time.Second) {
		client, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{
			Name:      name,
			SocketDir: dir,
			Timeout:   timeout,
			Authorize: ipc.SameUser,
			Logger:    slog.New(slog.DiscardHandler), // what goes wrong is returned
		})
		switch {
		case err == nil:
			ours.yieldTo(client)
			return client, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !errors.Is(err, ipc.ErrTimeout):
			return nil, err
		case !isAbsent(err) || ours.lives():
			// It needs more time.
		case !start:
			return nil, errAbsent
		default:
			if ours, err = launch(dir, fail); err != nil {
				return nil, err
			}
		}
	}
}

// isAbsent reports whether an attempt to connect has failed because no daemon
// listens: there is no socket, or one that was left behind by a daemon that was
// killed.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// process is a daemon that this tool has started; nil if it has not.
type process struct {
	pid   int
	ended chan struct{} // closed when it has
}

// launch starts a daemon that outlives this process and its terminal. If the
// daemon cannot serve, fail is called.
func launch(dir string, fail func(error)) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// For what a daemon says when it fails, or panics.
	stderr, err := os.OpenFile(filepath.Join(dir, "stderr"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	cmd := exec.Command(self, "-dir", dir, "daemon")
	cmd.Dir = dir
	cmd.Stderr = stderr
	cmd.SysProcAttr = detached
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd.Process.Pid, make(chan struct{})}
	go func() {
		defer close(p.ended)
		if err := cmd.Wait(); err != nil {
			fail(fmt.Errorf("the daemon does not start: %w: see %s", err, stderr.Name()))
		}
	}()
	return p, nil
}

func (p *process) lives() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// yieldTo waits for the end of p, if another daemon was faster. Otherwise p might
// find the name free later, when that one has been stopped, and be left over.
func (p *process) yieldTo(client *ipc.Client) {
	if p == nil {
		return
	}
	if peer, err := client.Peer(); err == nil && peer.PID != p.pid {
		<-p.ended
	}
}
