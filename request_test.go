package ipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// newAnswering returns a server that answers each request with its data.
func newAnswering(t *testing.T) *Server {
	return newServer(t, ServerConfig{MultiMode: true, Handler: func(_ *Server, m *Message) {
		if m.IsRequest() {
			m.Reply(m.MsgType, m.Data)
		}
	}})
}

// Calls of Request, and of Read beside them, hand the reader's role on to each
// other, however each of them ends: the timer, after which the loop would read, is
// an hour.
func TestRequestsTakeTurns(t *testing.T) {
	server := newAnswering(t)
	client := newClientOf(t, server, ClientConfig{loopDelay: never})
	ctx, cancel := context.WithCancel(t.Context())
	var reads, requests sync.WaitGroup
	for range 2 {
		reads.Go(func() { // callers that come, wait for a moment, and leave
			for ctx.Err() == nil {
				if _, err := client.ReadTimed(rand.N(100*time.Microsecond), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	inTime(t, "Request", func() {
		for g := range 32 {
			requests.Go(func() {
				for i := range 300 {
					want := fmt.Sprint(g, " ", i)
					limit, stop := t.Context(), func() {}
					if i%5 == 0 {
						limit, stop = context.WithTimeout(limit, rand.N(200*time.Microsecond))
					}
					m, err := client.Request(limit, 1, []byte(want))
					stop()
					if err != nil && i%5 == 0 && errors.Is(err, context.DeadlineExceeded) {
						continue
					}
					if err != nil || string(m.Data) != want {
						t.Error(m, err)
						return
					}
				}
			})
		}
		requests.Wait()
	})
	cancel()
	inTime(t, "ReadTimed", reads.Wait)
	if !becomes(func() bool {
		client.mu.Lock()
		defer client.mu.Unlock()
		return len(client.conn.exchange.calls) == 0 || client.conn.in.role != none
	}) {
		t.Error("places are taken by requests that have ended")
	}
}

// A Request reads by itself, the announcement and the reply, also when the loop
// has the role, or a caller of Read leaves it.
//
// Pins doc.go, "Requests": A goroutine that waits in Request reads the connection if no other does
func TestRequestReads(t *testing.T) {
	server := newAnswering(t)
	client := newClientOf(t, server, ClientConfig{loopDelay: never})
	inTime(t, "the first Request", func() { wantReply(t, client) })
	state(&client.session, func(r *reader) any {
		r.idle = true
		r.wakeLoop()
		return nil
	})
	awaitRole(t, &client.session, loop)
	inTime(t, "Request while the loop reads", func() { wantReply(t, client) })

	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			if _, err := client.ReadContext(ctx); err != nil {
				return
			}
		}
	})
	awaitRole(t, &client.session, caller)
	var asking sync.WaitGroup
	asking.Go(func() {
		for range 100 {
			wantReply(t, client)
		}
	})
	cancel()
	inTime(t, "Request beside a Read that leaves", func() { reading.Wait(); asking.Wait() })
}

// A Request that reads the connection itself ends, too, when the peer has not
// announced itself in time.
//
// Pins doc.go, "Requests": which is known within about five seconds
func TestRequestReadsFromASilentPeer(t *testing.T) {
	wantNone := func(t *testing.T, s *session) {
		t.Helper()
		s.mu.Lock()
		s.conn.began = time.Now().Add(-announceWait)
		s.mu.Unlock()
		inTime(t, "Request", func() {
			if _, err := s.Request(context.Background(), 1, nil); !errors.Is(err, ErrNoRequests) {
				t.Errorf("Request = %v, want ErrNoRequests", err)
			}
		})
	}
	t.Run("client", func(t *testing.T) {
		wantNone(t, &newServerRaw(t).client.session)
	})
	t.Run("server", func(t *testing.T) {
		s := startReaderServer(t, never, false)
		s.dial()
		if status := nextEvent(t, &s.session); status != "Connected" {
			t.Fatal(status)
		}
		wantNone(t, &s.session)
	})
}

func wantReply(t *testing.T, c *Client) {
	t.Helper()
	if m, err := c.Request(t.Context(), 3, []byte("data")); err != nil || m.MsgType != 3 || string(m.Data) != "data" {
		t.Error(m, err)
	}
}

// newFloodedClient returns a client of a server that writes n messages of size bytes
// before it replies to a request. The client's loop does not read.
func newFloodedClient(t *testing.T, n, size int) *Client {
	t.Helper()
	server := newServer(t, ServerConfig{})
	client := newClientOf(t, server, ClientConfig{loopDelay: never})
	go func() {
		for {
			m, err := server.Read()
			if err != nil {
				return
			}
			if m.IsRequest() {
				for range n {
					server.Write(1, make([]byte, size))
				}
				m.Reply(2, nil)
			}
		}
	}()
	return client
}

// awaitFull waits until the inbox of a client is full.
func awaitFull(t *testing.T, client *Client) {
	t.Helper()
	inTime(t, "a full inbox", func() {
		for !becomes(func() bool { return state(&client.session, func(*reader) bool { return client.full }) }) {
		}
	})
}

// While the inbox is full no Request reads, and the one that waits does when there
// is room.
func TestRoomWakesARequest(t *testing.T) {
	const unread = 40_000 // several reads bring more than there is room for
	client := newFloodedClient(t, unread, 0)
	ctx, cancel := context.WithCancel(t.Context())
	var requests sync.WaitGroup
	requests.Go(func() {
		if m, err := client.Request(t.Context(), 1, nil); err != nil || m.MsgType != 2 {
			t.Error(m, err)
		}
	})
	awaitFull(t, client)
	gaveUp := make(chan struct{})
	go func() { // another that waits, and gives up
		defer close(gaveUp)
		if _, err := client.Request(ctx, 1, nil); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrFull) {
			t.Errorf("a Request that ends while the inbox is full: %v, want context.Canceled and ErrFull", err)
		}
	}()
	for !becomes(func() bool {
		client.mu.Lock()
		defer client.mu.Unlock()
		return len(client.asking.forReply.list) == 2
	}) {
	}
	cancel()
	inTime(t, "Request", func() {
		<-gaveUp
		for i := 0; i < unread; {
			if m, err := client.Read(); err != nil {
				t.Fatal(err)
			} else if m.MsgType > 0 {
				i++
			}
		}
		requests.Wait()
	})
}

// A Request also uses the room that there was before it began to wait. The loop
// has not been told of that: it reads on once half of the inbox is free.
func TestRoomBeforeARequest(t *testing.T) {
	const unread, taken = 120, 25 // more than there is room for, less than half of it
	flood := func(self, peer *session) {
		for range unread {
			if err := peer.Write(2, make([]byte, 10_000)); err != nil {
				t.Error(err)
			}
		}
		if !becomes(func() bool { return state(self, func(*reader) bool { return self.full }) }) {
			t.Error("the inbox does not fill up")
		}
	}
	// There is no limit: it must not be the end of a context that wakes it.
	ask := func(self *session) {
		if _, err := self.Request(context.Background(), 1, nil); err != nil {
			t.Error(err)
		}
	}
	t.Run("Read", func(t *testing.T) {
		server := newServer(t, ServerConfig{MultiMode: true})
		client := newClientOf(t, server, ClientConfig{Handler: func(_ *Client, m *Message) {
			if m.IsRequest() {
				m.Reply(1, nil)
			}
		}})
		inTime(t, "Request", func() {
			var self *Server
			server.ServerManager.Read(func(s *Server, _ *Message, _ error) { self = s })
			flood(&self.session, &client.session)
			for range taken {
				self.Read()
			}
			ask(&self.session)
		})
	})
	t.Run("Handler", func(t *testing.T) {
		server := newAnswering(t)
		filled, done := make(chan struct{}), make(chan struct{})
		n := 0
		client := newClientOf(t, server, ClientConfig{Handler: func(c *Client, m *Message) {
			if m.MsgType != 2 {
				return
			}
			switch n++; n {
			case 1:
				<-filled
			case taken:
				ask(&c.session)
				close(done)
			}
		}})
		inTime(t, "Request", func() {
			if !becomes(func() bool { return len(server.ServerManager.Servers()) == 1 }) {
				t.Error("the client is not known")
				return
			}
			flood(&client.session, &server.ServerManager.Servers()[0].session)
			close(filled)
			<-done
		})
	})
}

// A Read also waits for no more room than there is, beside a loop over parts that
// has stopped.
func TestRoomBesideParts(t *testing.T) {
	for _, c := range []struct{ multi, late bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("multi=%t,late=%t", c.multi, c.late), func(t *testing.T) {
			server := newServer(t, ServerConfig{MultiMode: c.multi})
			newClientOf(t, server, ClientConfig{Handler: func(c *Client, m *Message) {
				if !m.IsRequest() {
					return
				}
				for range 120 { // more than there is room for
					m.ReplyPart(2, make([]byte, 10_000))
				}
				c.Write(7, nil)
			}})
			inTime(t, "Read", func() {
				if !becomes(func() bool { return len(server.ServerManager.Servers()) == 1 }) {
					t.Error("the client is not known")
					return
				}
				self := server.ServerManager.Servers()[0]
				wantType(t, &self.session, eventType)
				next, stop := iter.Pull2(self.RequestParts(context.Background(), 1, nil))
				defer stop()
				next()
				var reading sync.WaitGroup
				read := func() { reading.Go(func() { wantType(t, &self.session, 7) }) }
				if !c.late {
					read()
				}
				if !becomes(func() bool { return state(&self.session, func(*reader) bool { return self.full }) }) {
					t.Error("the inbox does not fill up")
				}
				for range 25 { // less than half of it
					next()
				}
				if c.late {
					read()
				}
				reading.Wait()
			})
		})
	}
}

// waiters is a list from which each goroutine is taken once, in no order.
func TestWaiters(t *testing.T) {
	var l waiters
	var all []*waiter
	for range 5 {
		w := newWaiter()
		all = append(all, &w)
		l.add(&w)
	}
	l.remove(all[1])
	l.remove(all[4])
	all[2].wake()
	all[2].wake() // it does not wait any more
	for i, want := range []int{0, -1, -1, 1, -1} {
		if w := all[i]; want >= 0 && (w.list != &l || l.list[w.index] != w) || want < 0 && w.list != nil {
			t.Errorf("waiter %d: %+v", i, w)
		}
	}
	l.wakeAll()
	if l.woken != 3 || !l.empty() || slices.ContainsFunc(all, func(w *waiter) bool { return w.list != nil }) {
		t.Errorf("%d woken, %d left", l.woken, len(l.list))
	}
	for _, i := range []int{0, 2, 3} {
		<-all[i].woken
	}
}
