//go:build unix

package ipc_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// What the server of a program without asyncio does with its messages.
const (
	toEcho = 1 + iota
	toSendParts
	toFail
	toHold
	toFlood
	toTellCancelled
	toAsk
	toInterrupt
	toStick
)

// blockingServer does that.
type blockingServer struct {
	interrupt func()
	cancelled chan struct{} // a value for each cancelled request that toTellCancelled tells of
}

func (b *blockingServer) handle(peer *ipc.Server, m *ipc.Message) {
	if m.IsRequest() {
		go b.answer(peer, m.Clone())
	}
}

func (b *blockingServer) answer(peer *ipc.Server, m *ipc.Message) {
	switch m.MsgType {
	case toEcho:
		m.Reply(toEcho, m.Data)
	case toSendParts:
		n, _ := strconv.Atoi(string(m.Data))
		for i := range n {
			m.ReplyPart(toEcho, []byte(strconv.Itoa(i+1)))
		}
		m.ReplyEnd()
	case toFail:
		m.ReplyError(7, string(m.Data))
	case toHold:
		<-m.Context().Done()
	case toFlood:
		for m.ReplyPart(toEcho, []byte("more")) == nil {
		}
		b.cancelled <- struct{}{}
	case toTellCancelled:
		select {
		case <-b.cancelled:
			m.Reply(toTellCancelled, nil)
		case <-m.Context().Done():
		}
	case toAsk:
		reply, err := peer.Request(context.Background(), toEcho, m.Data)
		if err != nil {
			m.ReplyError(1, err.Error())
			return
		}
		m.Reply(toEcho, reply.Data)
	case toInterrupt:
		b.interrupt()
		<-m.Context().Done()
		b.cancelled <- struct{}{}
	case toStick:
		peer.Write(toStick, nil) // it is here
		<-m.Context().Done()
	}
}

// eachPython runs test with Python, without encryption and with it.
func eachPython(t *testing.T, test func(t *testing.T, v *visit)) {
	t.Helper()
	for _, g := range languages {
		if g.name == "python" {
			g.visit(t, false, test)
			g.visit(t, true, test)
		}
	}
}

// A request that is cancelled before the program has read it is not handed to the
// program.
func TestPythonReadsNoneCancelled(t *testing.T) {
	parallel(t)
	eachPython(t, func(t *testing.T, v *visit) {
		s := v.byHand()
		s.send(controlOf(wire.Request, 0, 1, 1, ""), controlOf(wire.Request, 0, 2, 2, ""), controlOf(wire.Cancel, 0, 0, 1, ""))
		s.want(0, controlOf(wire.Error, 0, 0, 1, ""))
		s.driver.want(line{Event: "request", Request: 1, Type: 2})
		s.asked = 1
		s.check(2, 0)
		s.close()
	})
}

// A Python program without asyncio makes and answers requests, from several
// threads, and gives them up: by a timeout, by leaving a
// loop, and by Ctrl-C.
func TestPythonBlocking(t *testing.T) {
	parallel(t)
	eachPython(t, func(t *testing.T, v *visit) {
		started := make(chan *foreign, 1)
		b := &blockingServer{
			interrupt: func() { (<-started).cmd.Process.Signal(os.Interrupt) },
			cancelled: make(chan struct{}, 10),
		}
		v.startServer(func(s *ipc.ServerConfig, _ *ipc.ClientConfig) { s.Handler = b.handle })
		client := v.run(filepath.Join("testdata", "blocking.py"))
		started <- client
		client.wantOK("all of it")
	})
}
