package ipc_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A Handler that returns without having replied says that there is no reply, at
// once. The connection lives.
//
// Pins doc.go, "Requests": ErrNoReply alone if the peer's Handler returned without a reply
func TestHandlerWithoutAReply(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		p.setOn(func(_ side, m *ipc.Message) {
			if m.MsgType == 2 {
				echoes(t)(p.self, m)
			}
		})
		for range 3 {
			m, err := p.other.Request(t.Context(), 1, []byte("?"))
			if m != nil {
				t.Errorf("a reply comes with the error: %s", describe(m))
			}
			wantSentNoReply(t, "Request", err)
			wantNot(t, "Request", err, ipc.ErrNotConnected, ipc.ErrClosed, context.Canceled)
			p.wantMessages(t, 1, 1)
			noError(t, "Request", ask(t.Context(), p.other, 2, []byte("?")))
			p.wantMessages(t, 2, 1)
		}
		if stats := p.other.Stats(); stats.RequestsUnanswered != 3 || stats.RequestsCancelled != 0 {
			t.Errorf("stats: %v, want 3 unanswered", stats)
		}
	})
}

// The reply leaves when it is made, and not when the Handler returns, which then
// has nothing to add.
func TestHandlerGoesOnAfterTheReply(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		goOn := make(chan struct{})
		p.setOn(func(_ side, m *ipc.Message) {
			echoes(t)(p.self, m)
			if m.MsgType == 1 {
				<-goOn
			}
		})
		noError(t, "Request", ask(t.Context(), p.other, 1, nil))
		_, next := requesting(t.Context(), p.other, 2, nil) // queues behind the first
		goOn <- struct{}{}
		p.wantMessages(t, 1, 0)
		p.wantMessages(t, 2, 0)
		noError(t, "Request", next())
		if stats := p.self.Stats(); stats.RequestsUnanswered != 0 {
			t.Errorf("stats: %v, want all answered", stats)
		}
	})
}

// A request that was cloned is open until the clone is answered, whatever becomes
// of the Handler.
//
// Pins doc.go, "Requests": reply to the clone from another goroutine
func TestHandlerClones(t *testing.T) {
	eachHandledBubble(t, func(t *testing.T, p *handledPair) {
		clones := make(chan *ipc.Message, 10)
		p.setOn(func(_ side, m *ipc.Message) { clones <- m.Clone() })
		var waits []func() error
		var held []*ipc.Message
		for i, size := range []int{0, 100, 5000, 100_000} {
			data := payload(i, size)
			returned, wait := requesting(t.Context(), p.other, i+1, data)
			p.wantMessages(t, i+1, size)
			wantBlocked(t, "Request that was cloned", returned)
			time.Sleep(time.Minute)
			wantBlocked(t, "Request that was cloned", returned)
			waits = append(waits, wait)
			m := <-clones
			wantSame(t, m, i+1, data)
			if !m.IsRequest() || m.Context().Err() != nil {
				t.Errorf("a clone is a request: %t, its context: %v", m.IsRequest(), m.Context().Err())
			}
			held = append(held, m)
		}
		for i := range held { // in another order
			i = len(held) - 1 - i
			echoes(t)(p.self, held[i])
			noError(t, "Request", waits[i]())
		}
	})
}

// A Handler that ends its goroutine ends the connection, and the request with it.
func TestHandlerExitsInARequest(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		p.setOn(func(_ side, m *ipc.Message) {
			if m.MsgType == 1 {
				runtime.Goexit()
			}
		})
		wantSentNoReply(t, "Request", second(p.other.Request(t.Context(), 1, nil)), ipc.ErrNotConnected)
		p.wantCalls(t, p.lost)
	})
}

// While a Handler runs, its request's context ends when the requester gives up,
// and when that leaves.
func TestHandlerSeesTheEnd(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		began := make(chan struct{})
		var replied error
		p.setOn(func(_ side, m *ipc.Message) {
			switch m.MsgType {
			case 1:
				began <- struct{}{}
				<-m.Context().Done()
				replied = m.Reply(1, nil)
			case 2:
				echoes(t)(p.self, m)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		_, wait := call(func() error { return second(p.other.Request(ctx, 1, nil)) })
		<-began
		cancel()
		wantSentNoReply(t, "Request", wait(), context.Canceled)
		p.wantMessages(t, 1, 0)
		wantError(t, "Reply", replied, context.Canceled)
		noError(t, "Request", ask(t.Context(), p.other, 2, nil))
		p.wantMessages(t, 2, 0)

		_, wait = call(func() error { return second(p.other.Request(t.Context(), 1, nil)) })
		<-began
		p.other.Close()
		wantSentNoReply(t, "Request", wait(), ipc.ErrClosed)
		p.wantMessages(t, 1, 0)
		wantError(t, "Reply", replied, ipc.ErrNotConnected)
	})
}

// Requests take their turn among the messages, also where one read brings many of
// both, and among those that come while the Handler is busy.
func TestHandlerGetsRequestsInTurn(t *testing.T) {
	const n = 300
	for _, k := range askingKinds {
		if !k.handler {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newWireAsker(t, k, pipeTransport)
				p.announce()
				calls := make(chan int, 10*n)
				p.setOn(func(_ side, m *ipc.Message) {
					if i := m.MsgType; m.IsRequest() != (i%3 == 0) || string(m.Data) != string(payload(i, i*7)) {
						t.Errorf("call %d is with %s, request %t", i, describe(m), m.IsRequest())
					}
					if m.MsgType == 1 {
						time.Sleep(time.Second)
					}
					if m.IsRequest() {
						m.Reply(m.MsgType, nil)
					}
					calls <- m.MsgType
				})
				var stream []byte
				for i := 1; i <= n; i++ {
					if i%3 == 0 {
						stream = append(stream, p.frame(0, control{requestKind, 0, uint32(i), uint64(i), string(payload(i, i*7))}.encode())...)
					} else {
						stream = append(stream, p.frame(i, payload(i, i*7))...)
					}
				}
				said := background(func() error { _, err := p.raw.Write(stream); return err })
				for i := 3; i <= n; i += 3 {
					p.wantControl(control{replyKind, 0, uint32(i), uint64(i), ""})
				}
				noError(t, "raw write", said())
				synctest.Wait()
				for i := 1; i <= n; i++ {
					if got := <-calls; got != i {
						t.Fatalf("call %d is with type %d", i, got)
					}
				}
			})
		})
	}
}

// One that asks in its Handler does not hold up what the answer needs, nor lose
// what comes meanwhile.
func TestHandlerAsksAmongMessages(t *testing.T) {
	const n = 200
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		p.setOn(func(self side, m *ipc.Message) {
			if m.MsgType%5 != 0 {
				return
			}
			if err := ask(t.Context(), self, m.MsgType, payload(m.MsgType, 100)); err != nil {
				t.Error(err)
			}
		})
		sent := background(func() error { return writeRising(p.other, n) })
		for asked := 0; asked < n/5; asked++ {
			m := next(t, p.other)
			wantSame(t, m, (asked+1)*5, payload((asked+1)*5, 100))
			echoes(t)(p.other, m)
		}
		noError(t, "Write", sent())
		for i := range n {
			p.wantMessages(t, i+1, i)
		}
	})
}
