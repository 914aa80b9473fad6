package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The connection is lost when so many bytes of a request have left. If it was not
// whole, the peer cannot have handled it: a Client asks the next server, and a
// Server says that there is none. Otherwise it may have, and nobody asks again.
//
// Pins doc.go, "Requests": No request is sent twice
func TestTornRequests(t *testing.T) {
	const head = 8 + 16
	for _, size := range []int{0, 10, 100_000} {
		for _, sent := range []int{0, 1, 4, 8, 23, head + size - 1, head + size} {
			if sent > head+size {
				continue
			}
			t.Run(fmt.Sprintf("%d of %d bytes", sent, head+size), func(t *testing.T) {
				eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
					p.announce()
					whole, left := sent == head+size, sent
					if p.sealed && sent >= head {
						left += refOverhead
					}
					data := payload(1, size)
					_, asked := requesting(t.Context(), p, 1, data)
					_, err := io.ReadFull(p.raw, make([]byte, left))
					noError(t, "raw read", err)
					synctest.Wait()
					p.raw.Close()
					if whole {
						wantSentNoReply(t, "Request that was sent", asked(), ipc.ErrNotConnected)
					} else if !p.client {
						wantUnsent(t, "Request that was not sent", asked(), ipc.ErrNotConnected)
					}
					wantEvents(t, p, p.lost)
					p.connect()
					p.announce()
					if !whole && p.client {
						id := p.wantRequest(1, 0, string(data))
						p.say(control{replyKind, 0, uint32(echoType(1)), id, string(data)})
						noError(t, "Request", asked())
					}
					p.raw.wantSilence("after that")
					p.checkRequests(1)
				})
			})
		}
	}
}

// A client asks server after server until one has had the request whole.
func TestRequestTornSeveralTimes(t *testing.T) {
	eachAskerBubble(t, askingClients, func(t *testing.T, p *wireAsker) {
		p.announce()
		data := payload(1, 50_000)
		_, asked := requesting(t.Context(), p, 1, data)
		for _, sent := range []int{0, 100, 1, 49_000, 5} {
			_, err := io.ReadFull(p.raw, make([]byte, sent))
			noError(t, "raw read", err)
			p.renew()
		}
		_, err := io.ReadFull(p.raw, make([]byte, 7))
		noError(t, "raw read", err)
		p.raw.Close()
		wantEvents(t, p, p.lost)
		p.connect() // this one announces itself late
		p.send(5, nil)
		wantMessage(t, p, 5, nil)
		p.announce()
		id := p.wantRequest(1, 0, string(data))
		p.raw.Close()
		wantSentNoReply(t, fmt.Sprintf("Request, sent as %d", id), asked(), ipc.ErrNotConnected)
		wantEvents(t, p, p.lost)
		p.connect()
		p.announce()
		p.raw.wantSilence("after the loss of what was sent")
	})
}

// A server's reply that is under way when its client leaves is not the next
// client's, nor is what a program says later to a request that it has kept.
//
// Pins doc.go, "Requests": a reply comes over the connection that its request came by, or not at all
func TestRepliesAreForOneConnection(t *testing.T) {
	eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
		p.announce()
		for i := range uint64(6) {
			p.say(control{requestKind, partsWelcome, uint32(i + 1), i + 1, ""})
		}
		var held []*ipc.Message
		for range 6 {
			held = append(held, next(t, p))
		}
		noError(t, "Reply", held[0].Reply(1, []byte("torn")))
		synctest.Wait()
		noError(t, "Reply", held[1].Reply(1, []byte("queued")))
		noError(t, "ReplyPart", held[2].ReplyPart(1, []byte("queued")))
		p.raw.receive(20)
		synctest.Wait()
		p.renew()
		// The next one uses the same ids.
		for i := range uint64(6) {
			p.say(control{requestKind, 0, uint32(i + 11), i + 1, ""})
		}
		for what, err := range map[string]error{
			"Reply":      held[3].Reply(1, nil),
			"ReplyError": held[4].ReplyError(1, ""),
			"ReplyPart":  held[2].ReplyPart(1, nil),
			"ReplyEnd":   held[2].ReplyEnd(),
			"of a clone": held[5].Clone().Reply(1, nil),
		} {
			wantError(t, what+" to one who has left", err, ipc.ErrNotConnected)
		}
		for i := range uint64(6) {
			m := nextRequest(t, p, int(i)+11)
			noError(t, "Reply", m.Reply(2, []byte("the right one")))
			p.wantControl(control{replyKind, 0, 2, i + 1, "the right one"})
		}
		p.raw.wantSilence("after the replies")
		p.checkRequests(7)
	})
}

// The same between our own ends, over every transport: a reply that was held
// across a reconnect is for nobody.
func TestReplyAcrossAReconnect(t *testing.T) {
	for _, byServer := range []bool{false, true} {
		t.Run(map[bool]string{false: "held by the server", true: "held by the client"}[byServer], func(t *testing.T) {
			eachSetup(t, everySetup, func(t *testing.T, s setup) {
				var k cutter
				p := s.pair(t, k.tweak)
				from, to := side(p.client), side(p.peer)
				if byServer {
					from, to = to, from
				}
				lost := background(func() error { return second(from.Request(t.Context(), 1, nil)) })
				held := nextRequest(t, to, 1)
				k.cut()
				wantSentNoReply(t, "Request", lost(), ipc.ErrNotConnected)
				wantEvents(t, p.client, ipc.ReConnecting, ipc.Connected)
				wantEvents(t, p.peer, ipc.Disconnected)
				p.peer = s.join(t, p.server)
				if byServer {
					from = p.peer
				} else {
					to = p.peer
				}
				_, again := requesting(t.Context(), from, 1, []byte("again"))
				m := nextRequest(t, to, 1)
				<-held.Context().Done()
				wantError(t, "Reply across a reconnect", held.Reply(7, []byte("late")), ipc.ErrNotConnected)
				wantError(t, "ReplyError across a reconnect", held.ReplyError(7, "late"), ipc.ErrNotConnected)
				echoes(t)(to, m)
				noError(t, "Request", again())
				wantRoundTrip(t, to, from)
			})
		})
	}
}

// In single mode the next client never gets what was meant for the last.
//
// Pins doc.go, "Many clients": requests, whose replies never reach another client
func TestReplyToTheNextClient(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			begin(t)
			s := setup{tr, false}
			p := s.pair(t)
			lost := background(func() error { return second(p.client.Request(t.Context(), 1, nil)) })
			held := nextRequest(t, p.peer, 1)
			p.client.Close()
			wantSentNoReply(t, "Request", lost(), ipc.ErrClosed)
			wantEvents(t, p.peer, ipc.Disconnected)
			wantUnsent(t, "Request between clients", second(p.peer.Request(t.Context(), 1, nil)), ipc.ErrNotConnected)

			client := p.route.startClient(t)
			s.join(t, p.server)
			_, asked := requesting(t.Context(), client, 1, []byte("mine"))
			m := nextRequest(t, p.peer, 1)
			wantError(t, "Reply to the last client", held.Reply(1, []byte("not yours")), ipc.ErrNotConnected)
			echoes(t)(p.peer, m)
			noError(t, "Request", asked())
			_, asked = requesting(t.Context(), p.peer, 2, nil)
			echoes(t)(client, nextRequest(t, client, 2))
			noError(t, "Request of the next client", asked())
		})
	}
}

// What a client has not sent when its server goes, it asks the next one, once:
// what waited for a place, and what was asked while there was no connection.
//
// Pins doc.go, "Requests": A Client that is not connected waits for the next connection; a request that was not sent before a connection was lost does so, too
func TestRequestsWaitForTheNextServer(t *testing.T) {
	const places, more = 1024, 20
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		var sent, unsent []func() error
		for range places {
			_, wait := requesting(t.Context(), p.client, 1, nil)
			sent = append(sent, wait)
			nextRequest(t, p.peer, 1)
		}
		for i := range more {
			_, wait := requesting(t.Context(), p.client, 2, fmt.Append(nil, i))
			unsent = append(unsent, wait)
		}
		synctest.Wait()
		noError(t, "Close", p.server.Close())
		for _, wait := range sent {
			wantSentNoReply(t, "Request", wait(), ipc.ErrNotConnected)
		}
		for i := range more {
			_, wait := requesting(t.Context(), p.client, 2, fmt.Append(nil, more+i))
			unsent = append(unsent, wait)
		}
		var stream error
		streamed := background(func() int {
			n, err, wrong := takeStream(p.client.RequestParts(t.Context(), 3, nil), 1)
			stream = errors.Join(err, wrong)
			return n
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := second(p.client.Request(ctx, 4, nil)); err != context.DeadlineExceeded {
			t.Errorf("Request without a server: %v, want the error of ctx", err)
		}

		p.server = s.startServer(t, p.route)
		wantEvents(t, p.client, ipc.ReConnecting, ipc.Connected)
		synctest.Wait()
		p.peer = p.server
		if s.multi { // not by the manager, which may read requests, too
			p.peer = p.server.ServerManager.Servers()[0]
		}
		wantEvents(t, p.peer, ipc.Connected)
		asked := make(map[string]int)
		for range 2*more + 1 {
			m := next(t, p.peer)
			asked[string(m.Data)]++
			if m.MsgType == 3 {
				noError(t, "ReplyPart", errors.Join(streamParts(m, 3, 1), m.ReplyEnd()))
			} else {
				echoes(t)(p.peer, m)
			}
		}
		for _, wait := range unsent {
			noError(t, "Request", wait())
		}
		if n := streamed(); n != 3 || stream != nil {
			t.Errorf("%d parts, error %v, want 3", n, stream)
		}
		if len(asked) != 2*more+1 {
			t.Errorf("the next server was asked %v, want each once", asked)
		}
		synctest.Wait()
		wantNothing(t, p.peer)
	})
}

// A Request for which there is nobody to ask says at once why.
//
// Pins doc.go, "Requests": A Server without a client returns ErrNotConnected
func TestRequestWithoutAPeer(t *testing.T) {
	request := func(e side) error {
		err := second(e.Request(context.Background(), 1, nil))
		for _, partsErr := range e.RequestParts(context.Background(), 1, nil) {
			if (err == nil) != (partsErr == nil) || errors.Is(err, ipc.ErrNotConnected) != errors.Is(partsErr, ipc.ErrNotConnected) {
				return fmt.Errorf("Request: %w, RequestParts: %v", err, partsErr)
			}
		}
		return err
	}
	t.Run("single", func(t *testing.T) {
		begin(t)
		route := unixRoute(t)
		server := unixSingle.startServer(t, route)
		wantUnsent(t, "before the first client", request(server), ipc.ErrNotConnected)
		client := route.startClient(t)
		wantEvents(t, server, ipc.Connected)
		client.Close()
		wantUnsent(t, "Client that is closed", request(client), ipc.ErrClosed)
		wantEvents(t, server, ipc.Disconnected)
		wantUnsent(t, "between clients", request(server), ipc.ErrNotConnected)
		server.Close()
		wantUnsent(t, "Server that is closed", request(server), ipc.ErrClosed)
	})
	t.Run("multi", func(t *testing.T) {
		begin(t)
		p := unixMulti.pair(t)
		wantUnsent(t, "the listening Server", request(p.server), ipc.ErrMultiMode)
		p.client.Close()
		wantEvents(t, p.peer, ipc.Disconnected)
		wantUnsent(t, "Server of a client that has left", request(p.peer), ipc.ErrNotConnected)
		p.server.Close()
		wantUnsent(t, "the listening Server, closed", request(p.server), ipc.ErrMultiMode, ipc.ErrClosed)
	})
	t.Run("timeout", func(t *testing.T) {
		eachBubble(t, func(t *testing.T, s setup) {
			p := s.pair(t, clientTimeout(3*time.Second))
			_, sent := requesting(t.Context(), p.client, 1, nil)
			held := nextRequest(t, p.peer, 1)
			noError(t, "Close", p.server.Close())
			wantSentNoReply(t, "Request that was sent", sent(), ipc.ErrNotConnected)
			wantError(t, "Reply after Close", held.Reply(1, nil), ipc.ErrNotConnected)
			start := time.Now()
			wantUnsent(t, "Request of a Client that gives up", request(p.client), ipc.ErrTimeout)
			wantElapsed(t, "that", start, 3*time.Second)
			wantUnsent(t, "Request after that", request(p.client), ipc.ErrTimeout)
			wantElapsed(t, "that", start, 3*time.Second)
		})
	})
}

// Close ends all Requests: what was sent may have been handled, what was not has
// not been.
//
// Pins doc.go, "Requests": ErrClosed after Close
func TestCloseWhileRequestsWait(t *testing.T) {
	const places, more = 1024, 10
	eachBubble(t, func(t *testing.T, s setup) {
		for _, byServer := range []bool{false, true} {
			p := s.pair(t)
			from, to := side(p.client), side(p.peer)
			if byServer {
				from, to = to, from
			}
			var sent, unsent []func() error
			for range places {
				_, wait := requesting(t.Context(), from, 1, nil)
				sent = append(sent, wait)
				nextRequest(t, to, 1)
			}
			for range more {
				_, wait := requesting(t.Context(), from, 2, nil)
				unsent = append(unsent, wait)
			}
			synctest.Wait()
			start := time.Now()
			noError(t, "Close", from.Close())
			for _, wait := range sent {
				wantSentNoReply(t, "Request that was sent", wait(), ipc.ErrClosed)
			}
			for _, wait := range unsent {
				wantUnsent(t, "Request that was not sent", wait(), ipc.ErrClosed)
			}
			wantElapsed(t, "Close", start, 0)
			p.client.Close()
			p.server.Close()
		}
	})
	t.Run("closed by the peer", func(t *testing.T) {
		eachBubble(t, func(t *testing.T, s setup) {
			p := s.pair(t)
			var sent, unsent []func() error
			for range places {
				_, wait := requesting(t.Context(), p.peer, 1, nil)
				sent = append(sent, wait)
				nextRequest(t, p.client, 1)
			}
			for range more {
				_, wait := requesting(t.Context(), p.peer, 2, nil)
				unsent = append(unsent, wait)
			}
			synctest.Wait()
			noError(t, "Close", p.client.Close())
			for _, wait := range sent {
				wantSentNoReply(t, "Request that was sent", wait(), ipc.ErrNotConnected)
			}
			for _, wait := range unsent {
				wantUnsent(t, "Request that was not sent", wait(), ipc.ErrNotConnected)
			}
		})
	})
	t.Run("without a connection", func(t *testing.T) {
		eachBubble(t, func(t *testing.T, s setup) {
			p := s.pair(t)
			noError(t, "Close", p.server.Close())
			wantEvents(t, p.client, ipc.ReConnecting)
			returned, unsent := requesting(t.Context(), p.client, 1, nil)
			wantBlocked(t, "Request without a connection", returned)
			noError(t, "Close", p.client.Close())
			wantUnsent(t, "Request without a connection", unsent(), ipc.ErrClosed)
		})
	})
	t.Run("before the announcement", func(t *testing.T) {
		eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
			returned, unsent := requesting(t.Context(), p, 1, nil)
			wantBlocked(t, "Request of a peer that is not known", returned)
			noError(t, "Close", p.Close())
			wantUnsent(t, "Request", unsent(), ipc.ErrClosed)
		})
	})
	t.Run("peer that does not read", func(t *testing.T) {
		eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
			p.announce()
			noError(t, "Write", p.Write(10, nil))
			synctest.Wait()
			_, small := requesting(t.Context(), p, 1, []byte("unsent"))
			synctest.Wait()
			_, large := requesting(t.Context(), p, 2, payload(1, 100_000))
			synctest.Wait()
			if err := p.Close(); err == nil {
				t.Error("Close says that all has been sent")
			}
			for _, wait := range []func() error{small, large} {
				wantUnsent(t, "Request that was not sent", wait(), ipc.ErrClosed)
			}
		})
	})
}

// Close sends what was accepted, replies too.
func TestCloseSendsReplies(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		const n = 100
		var asking sync.WaitGroup
		for i := range n {
			asking.Go(func() {
				if err := ask(t.Context(), from, 1, payload(i, 1000)); err != nil {
					t.Error(err)
				}
			})
		}
		var held []*ipc.Message
		for range n {
			held = append(held, nextRequest(t, to, 1))
		}
		for _, m := range held {
			echoes(t)(to, m)
		}
		noError(t, "Close", to.Close())
		asking.Wait()
	})
}

// Whoever does not read what comes before the reply does not get the reply, and is
// told why.
//
// Pins doc.go, "Requests": when ctx ends in such a state, the error also matches ErrFull
func TestFullInbox(t *testing.T) {
	const size, n = 10_000, 300
	fill := func(t testing.TB, from, to side) (wait func() error) {
		return background(func() error {
			for i := range n {
				if err := to.Write(1, numbered(i, size)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	t.Run("read", func(t *testing.T) {
		eachBubble(t, func(t *testing.T, s setup) {
			p := s.pair(t, noWriteTimeout)
			p.eachRequester(func(name string, from, to side) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, notFull := call(func() error { return second(from.Request(ctx, 1, nil)) })
				nextRequest(t, to, 1)
				err := notFull()
				wantSentNoReply(t, name, err, context.DeadlineExceeded)
				wantNot(t, name, err, ipc.ErrFull)

				noError(t, "Write", fill(t, from, to)())
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, full := call(func() error { return second(from.Request(ctx, 1, nil)) })
				m := nextRequest(t, to, 1)
				noError(t, "Reply", m.Reply(1, nil))
				wantSentNoReply(t, name, full(), context.DeadlineExceeded, ipc.ErrFull)

				_, wait := requesting(t.Context(), from, 2, nil)
				for i := range n {
					wantMessage(t, from, 1, numbered(i, size))
				}
				echoes(t)(to, nextRequest(t, to, 2))
				noError(t, name, wait())
			})
		})
	})
	t.Run("handler", func(t *testing.T) {
		eachHandledBubble(t, func(t *testing.T, p *handledPair) {
			// The other side's announcement must not be behind what fills the inbox.
			_, wait := requesting(t.Context(), p.self, 2, nil)
			echoes(t)(p.other, nextRequest(t, p.other, 2))
			noError(t, "Request", wait())

			waits, goOn := p.hold(9)
			noError(t, "Write", p.other.Write(9, nil))
			<-waits
			filled := fill(t, p.self, p.other)
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, full := call(func() error { return second(p.self.Request(ctx, 1, nil)) })
			m := nextRequest(t, p.other, 1)
			replied := background(func() error { return m.Reply(1, nil) })
			wantSentNoReply(t, "Request beside a busy Handler", full(), context.DeadlineExceeded, ipc.ErrFull)
			close(goOn)
			noError(t, "Write", filled())
			p.wantMessages(t, 9, 0)
			for range n {
				p.wantMessages(t, 1, size)
			}
			if err := replied(); err != nil && !errors.Is(err, context.Canceled) {
				t.Error("Reply:", err)
			}
			_, wait = requesting(t.Context(), p.self, 2, nil)
			echoes(t)(p.other, nextRequest(t, p.other, 2))
			noError(t, "Request", wait())
		})
	})
}
