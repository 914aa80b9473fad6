package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A request that is cancelled before the kernel has it is never sent, and the
// error says so: it is ctx's, and no more.
func TestCancelBeforeSending(t *testing.T) {
	for i, size := range []int{0, 100, 20_000, 100_000, 0, 100_000} {
		parts := i >= 4
		t.Run(fmt.Sprintf("%d bytes, parts %t", size, parts), func(t *testing.T) {
			eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
				p.announce()
				_, before := requesting(t.Context(), p, 1, nil)
				id := p.wantRequest(1, 0, "")
				p.say(control{replyKind, 0, uint32(echoType(1)), id, ""})
				noError(t, "Request", before())

				// The raw peer does not read, and the first write is under way.
				noError(t, "Write", p.Write(10, []byte("first")))
				synctest.Wait()
				noError(t, "Write", p.Write(11, []byte("second")))
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				_, cancelled := call(func() (end error) {
					if !parts {
						return second(p.Request(ctx, 2, payload(2, size)))
					}
					for _, err := range p.RequestParts(ctx, 2, payload(2, size)) {
						end = err
					}
					return end
				})
				synctest.Wait()
				_, kept := requesting(t.Context(), p, 3, payload(3, size))
				synctest.Wait()
				noError(t, "Write", p.Write(12, []byte("third")))
				start := time.Now()
				cancel()
				err := cancelled()
				wantElapsed(t, "Request whose ctx has ended", start, 0)
				wantError(t, "Request", err, context.Canceled)
				// What may have been sealed for the write under way counts as sent.
				sent := errors.Is(err, ipc.ErrNoReply)
				if sent && !p.sealed || !sent && err != context.Canceled {
					t.Errorf("Request that was not sent: %v, want the error of ctx", err)
				}

				p.wantFrame(10, []byte("first"))
				p.wantFrame(11, []byte("second"))
				flags := byte(0)
				if parts {
					flags = partsWelcome
				}
				if sent {
					p.wantRequest(2, flags, string(payload(2, size)))
				}
				id = p.wantRequest(3, 0, string(payload(3, size)))
				p.wantFrame(12, []byte("third"))
				if sent {
					if c := p.hearControl(); c.kind != cancelKind {
						t.Errorf("control frame of %v, want a cancel", c)
					}
				}
				p.raw.wantSilence("after that")
				p.say(control{replyKind, 0, uint32(echoType(3)), id, string(payload(3, size))})
				noError(t, "Request", kept())
				if stats := p.Stats(); stats.RequestsCancelled != 1 {
					t.Errorf("stats: %v, want 1 cancelled", stats)
				}
			})
		})
	}
}

// A Request that waits for room in the outbox has not been sent.
func TestCancelWithoutRoom(t *testing.T) {
	eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
		p.announce()
		written := 0
		for ; ; written++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := p.WriteContext(ctx, 1, numbered(written, 10_000))
			cancel()
			if err != nil {
				break
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		returned, wait := call(func() error { return second(p.Request(ctx, 2, make([]byte, 10_000))) })
		wantBlocked(t, "Request without room", returned)
		cancel()
		if err := wait(); err != context.Canceled {
			t.Errorf("Request without room: %v, want the error of ctx", err)
		}
		for i := range written {
			p.wantFrame(1, numbered(i, 10_000))
		}
		p.raw.wantSilence("after what was written")
		p.checkRequests(1)
	}, noWriteTimeout)
}

// noWriteTimeout is a tweak.
func noWriteTimeout(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
	if s != nil {
		s.WriteTimeout = -1
	}
}

// A cancel needs no room, and Request does not wait for it.
func TestCancelWithAFullOutbox(t *testing.T) {
	eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
		p.announce()
		const n = 50
		ctx, cancel := context.WithCancel(t.Context())
		var waits []func() error
		ids := make(map[uint64]bool)
		for range n {
			_, wait := requesting(ctx, p, 2, nil)
			waits = append(waits, wait)
			ids[p.wantRequest(2, 0, "")] = true
		}
		written := 0
		for ; ; written++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := p.WriteContext(ctx, 1, numbered(written, 10_000))
			cancel()
			if err != nil {
				break
			}
		}
		start := time.Now()
		cancel()
		for _, wait := range waits {
			wantSentNoReply(t, "Request", wait(), context.Canceled)
		}
		wantElapsed(t, "Request with a full outbox", start, 0)
		for i := range written {
			p.wantFrame(1, numbered(i, 10_000))
		}
		for range n {
			c := p.hearControl()
			if c.kind != cancelKind || !ids[c.id] {
				t.Fatalf("control frame of %v, want a cancel of each request", c)
			}
			delete(ids, c.id)
		}
		p.checkRequests(1)
	}, noWriteTimeout)
}

// A responder that cannot send, because the requester does not read, ends each
// request that is cancelled once all the same.
func TestCancelledRequestsOfOneThatDoesNotRead(t *testing.T) {
	const n = 1024
	eachAskerBubble(t, askingReaders, func(t *testing.T, p *wireAsker) {
		p.announce()
		for id := range uint64(n) {
			p.say(control{requestKind, 0, 1, id + 1, ""})
		}
		written := 0
		for ; ; written++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := p.WriteContext(ctx, 1, numbered(written, 10_000))
			cancel()
			if err != nil {
				break
			}
		}
		for id := range uint64(n) {
			p.say(control{cancelKind, 0, 0, id + 1, ""})
		}
		synctest.Wait()
		wantNothing(t, p) // none of them is handed to the program
		for i := range written {
			p.wantFrame(1, numbered(i, 10_000))
		}
		ended := make(map[uint64]bool)
		for range n {
			c := p.hearControl()
			if c != none(c.id) || c.id < 1 || c.id > n || ended[c.id] {
				t.Fatalf("control frame of %v, want each request to end once", c)
			}
			ended[c.id] = true
		}
		p.raw.wantSilence("after all have ended")
		p.checkRequests(n + 1)
	}, noWriteTimeout)
}

// A request that is cancelled while nobody has read it is not read any more.
func TestCancelWhileUnread(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		p.eachRequester(func(name string, from, to side) {
			for _, size := range []int{0, 5000, 100_000} {
				ctx, cancel := context.WithCancel(t.Context())
				var waits []func() error
				for i := range 5 {
					_, wait := requesting(ctx, from, 1+i, payload(i, size))
					waits = append(waits, wait)
				}
				synctest.Wait()
				noError(t, "Write", from.Write(9, nil))
				synctest.Wait()
				start := time.Now()
				cancel()
				for _, wait := range waits {
					wantSentNoReply(t, name, wait(), context.Canceled)
				}
				wantElapsed(t, "Request whose ctx has ended", start, 0)
				synctest.Wait()
				wantMessage(t, to, 9, nil)
				wantNothing(t, to)
				_, wait := requesting(t.Context(), from, 8, nil)
				echoes(t)(to, nextRequest(t, to, 8))
				noError(t, name, wait())
			}
		})
	})
}

// Nor is a Handler called for one that was cancelled while it was busy.
func TestCancelWhileTheHandlerIsBusy(t *testing.T) {
	for _, k := range []askingKind{{client: true, handler: true}, {multi: true, handler: true}, {handler: true, sealed: true}} {
		t.Run(k.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newWireAsker(t, k, pipeTransport)
				p.announce()
				goOn := make(chan struct{})
				called := make(chan int, 10)
				p.setOn(func(_ side, m *ipc.Message) {
					called <- m.MsgType
					if m.MsgType == 1 {
						<-goOn
					}
				})
				// Both with the message that the handler is busy with, and after that.
				p.raw.send(p.frame(1, nil), p.frame(0, control{requestKind, 0, 2, 1, "?"}.encode()), p.frame(3, nil))
				synctest.Wait()
				time.Sleep(time.Second)
				p.raw.send(p.frame(0, control{requestKind, 0, 4, 2, "?"}.encode()), p.frame(5, nil))
				p.say(control{requestKind, 0, 6, 3, string(payload(1, 100_000))})
				p.send(7, nil)
				time.Sleep(time.Second)
				p.say(control{cancelKind, 0, 0, 1, ""}, control{cancelKind, 0, 0, 2, ""}, control{cancelKind, 0, 0, 3, ""})
				time.Sleep(time.Second)
				close(goOn)
				for id := uint64(1); id <= 3; id++ {
					if c := p.hearControl(); c != none(c.id) {
						t.Errorf("control frame of %v, want the end of request %d", c, id)
					}
				}
				p.raw.wantSilence("after the requests have ended")
				for _, want := range []int{1, 3, 5, 7} {
					if got := <-called; got != want {
						t.Errorf("the handler was called with type %d, want %d, and no request", got, want)
					}
				}
				if len(called) > 0 {
					t.Errorf("the handler was called with type %d after all", <-called)
				}
			})
		})
	}
}

// While a Handler has it, a request that is cancelled is not over for the peer
// before the Handler returns, whatever that tries.
func TestCancelWhileBeingHandled(t *testing.T) {
	for _, k := range []askingKind{{client: true, handler: true}, {multi: true, handler: true, sealed: true}, {handler: true}} {
		t.Run(k.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newWireAsker(t, k, pipeTransport)
				p.announce()
				goOn := make(chan struct{})
				p.setOn(func(_ side, m *ipc.Message) {
					<-m.Context().Done()
					wantError(t, "context of the request", m.Context().Err(), context.Canceled)
					clone := m.Clone()
					for what, err := range map[string]error{
						"Reply":            m.Reply(1, nil),
						"ReplyError":       m.ReplyError(1, ""),
						"ReplyPart":        m.ReplyPart(1, nil),
						"ReplyEnd":         m.ReplyEnd(),
						"Reply of a clone": clone.Reply(1, nil),
					} {
						wantError(t, what, err, context.Canceled)
					}
					<-goOn
				})
				for id := uint64(1); id <= 3; id++ {
					p.say(control{requestKind, partsWelcome, 1, id, ""})
					synctest.Wait()
					time.Sleep(time.Second)
					p.say(control{cancelKind, 0, 0, id, ""})
					p.raw.wantSilence("before the handler returns")
					goOn <- struct{}{}
					p.wantControl(none(id))
				}
				p.raw.wantSilence("after all")
			})
		})
	}
}

// One that reads, or has cloned, is through with a request that is cancelled, and
// may do with it what it likes.
//
// Pins doc.go, "Requests": an error that matches context.Canceled
func TestCancelWhileHeld(t *testing.T) {
	eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
		p.announce()
		p.say(control{requestKind, partsWelcome, 1, 1, "?"})
		m := nextRequest(t, p, 1)
		noError(t, "ReplyPart", m.ReplyPart(1, []byte("part")))
		p.wantControl(control{partKind, 0, 1, 1, "part"})
		p.say(control{cancelKind, 0, 0, 1, ""})
		p.wantControl(none(1))
		<-m.Context().Done()
		for what, err := range map[string]error{
			"Reply":      m.Reply(1, nil),
			"ReplyError": m.ReplyError(1, ""),
			"ReplyPart":  m.ReplyPart(1, nil),
			"ReplyEnd":   m.ReplyEnd(),
			"of a clone": m.Clone().Reply(1, nil),
		} {
			wantError(t, what, err, context.Canceled)
		}
		m.Release()
		p.raw.wantSilence("after the end")
		p.checkRequests(2)
	})
}

// cancelled is how often the mixed test cancels, over each connection and way.
const cancelled = 2500

// droppers is an answer that leaves much unanswered. Requests of type 9 are told
// to gather.
func droppers(gather func(self side, m *ipc.Message)) func(testing.TB) answer {
	return func(t testing.TB) answer {
		return func(self side, m *ipc.Message) {
			switch m.MsgType {
			case 1:
				m.Reply(echoType(1), m.Data) // fails if it was cancelled
			case 2: // is dropped
			case 3:
				m = m.Clone()
				go func() {
					<-m.Context().Done()
					if err := m.Reply(1, nil); !errors.Is(err, context.Canceled) {
						t.Errorf("Reply to a request whose context has ended: %v, want it to be cancelled", err)
					}
				}()
			case 4:
				m = m.Clone()
				go m.Reply(echoType(4), m.Data)
			case 5:
				m = m.Clone()
				go func() {
					for range 5 {
						m.ReplyPart(1, m.Data)
					}
					<-m.Context().Done()
					m.ReplyPart(1, m.Data)
				}()
			case 6:
				m.Clone()
			case 9:
				gather(self, m.Clone())
			}
		}
	}
}

// Requests are cancelled at all moments, by the thousand, and none of the places
// for unanswered ones is lost: in the end as many as ever can wait at once.
func TestPlacesComeBack(t *testing.T) {
	const places = 1024
	gathered := make(chan *ipc.Message, 2*places)
	gather := func(_ side, m *ipc.Message) { gathered <- m }
	eachAnswering(t, answeringUnix, droppers(gather), func(t *testing.T, p *pair) {
		var asking sync.WaitGroup
		var answered, unanswered atomic.Int64
		p.eachRequester(func(name string, from, _ side) {
			var left atomic.Int64
			left.Store(cancelled)
			for g := range 16 {
				data := fmt.Appendf(nil, "%d", g)
				asking.Go(func() {
					for left.Add(-1) >= 0 {
						msgType, patience := 1+rand.IntN(6), rand.N(2*time.Millisecond)
						if (msgType == 1 || msgType == 4) && rand.IntN(2) == 0 {
							patience = time.Minute // these are answered
						}
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						var err error
						if msgType == 5 {
							for _, err = range from.RequestParts(ctx, msgType, data) {
								if rand.IntN(10) == 0 {
									break
								}
							}
						} else {
							var m *ipc.Message
							if m, err = from.Request(ctx, msgType, data); err == nil && !bytes.Equal(m.Data, data) {
								t.Errorf("the reply to %s is %s", data, m.Data)
							}
						}
						cancel()
						switch {
						case errors.Is(err, ipc.ErrNotConnected):
							t.Errorf("%s: the connection is lost: %v", name, err)
						case err == nil:
							answered.Add(1)
						case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ipc.ErrNoReply):
							unanswered.Add(1)
						default:
							t.Errorf("%s: request of type %d: %v", name, msgType, err)
						}
					}
				})
			}
		})
		asking.Wait()
		t.Logf("%d answered, %d not", answered.Load(), unanswered.Load())
		p.eachRequester(func(name string, from, to side) {
			for i := range places {
				asking.Go(func() {
					if err := ask(t.Context(), from, 9, fmt.Append(nil, i)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			var all []*ipc.Message
			for range places {
				all = append(all, <-gathered)
			}
			for _, m := range all {
				echoes(t)(to, m)
			}
			asking.Wait()
		})
	})
}
