package ipc_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// handledPair is a connected pair of which one side has a Handler.
type handledPair struct {
	setup
	byClient bool
	route    *route
	server   *ipc.Server // as StartServer returned it
	self     side        // the side with the Handler: what the Handler gets
	other    side        // which reads
	lost     string      // the event of the Handler's side when the other has gone

	calls   chan string // what the Handler got, in words, once a call has done its work
	running sync.Map    // the sides that the Handler is being called with
	on      atomic.Pointer[func(side, *ipc.Message)]
}

// setOn changes what the Handler does from its next call on.
func (p *handledPair) setOn(f func(self side, m *ipc.Message)) { p.on.Store(&f) }

// handle is the Handler.
func (p *handledPair) handle(t testing.TB, self side, m *ipc.Message) {
	if _, running := p.running.LoadOrStore(self, true); running {
		t.Error("two calls of the Handler at once")
	}
	what := describe(m)
	func() {
		defer p.running.Delete(self) // also after Goexit
		if f := p.on.Load(); f != nil {
			(*f)(self, m)
		}
	}()
	p.calls <- what
}

// wantCalls waits for the next calls of the Handler.
func (p *handledPair) wantCalls(t testing.TB, calls ...string) {
	t.Helper()
	for _, want := range calls {
		if got := <-p.calls; got != want {
			t.Fatalf("the Handler got %s, want %s", got, want)
		}
	}
}

// wantMessages waits for the call with a message.
func (p *handledPair) wantMessages(t testing.TB, msgType, size int) {
	t.Helper()
	p.wantCalls(t, fmt.Sprintf("message of type %d, %d bytes", msgType, size))
}

// startHandled connects a pair whose server, or client, has a Handler. The events
// of that have been handled.
func (s setup) startHandled(t testing.TB, byClient bool) *handledPair {
	t.Helper()
	p := &handledPair{setup: s, byClient: byClient, route: s.open(t), calls: make(chan string, 50_000)}
	self := make(chan side, 1)
	first := func(got side, _ *ipc.Message) {
		select {
		case self <- got:
		default:
		}
	}
	p.setOn(first)
	if byClient {
		p.lost = "Reconnecting"
		p.server = s.startServer(t, p.route)
		config := p.route.client
		config.Handler = func(c *ipc.Client, m *ipc.Message) { p.handle(t, c, m) }
		client, err := ipc.StartClient(&config)
		noError(t, "StartClient", err)
		t.Cleanup(func() { client.Close() })
		p.wantCalls(t, "Connecting", "Connected")
		p.other = s.join(t, p.server)
	} else {
		p.lost = "Disconnected"
		p.server = s.startServer(t, p.route, serverHandler(func(s *ipc.Server, m *ipc.Message) { p.handle(t, s, m) }))
		p.other = p.route.startClient(t)
		p.wantCalls(t, "Connected")
	}
	p.self = <-self
	return p
}

// serverHandler is a tweak.
func serverHandler(f func(*ipc.Server, *ipc.Message)) tweak {
	return func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
		if s != nil {
			s.Handler = f
		}
	}
}

// eachHandled runs test, guarded by begin, once for each of setups and with the
// Handler on either side.
func eachHandled(t *testing.T, setups []setup, test func(t *testing.T, p *handledPair)) {
	t.Helper()
	for _, byClient := range []bool{false, true} {
		t.Run(map[bool]string{false: "server", true: "client"}[byClient], func(t *testing.T) {
			eachSetup(t, setups, func(t *testing.T, s setup) { test(t, s.startHandled(t, byClient)) })
		})
	}
}

// eachHandledBubble is eachHandled in synthetic time.
func eachHandledBubble(t *testing.T, test func(t *testing.T, p *handledPair)) {
	t.Helper()
	for _, byClient := range []bool{false, true} {
		t.Run(map[bool]string{false: "server", true: "client"}[byClient], func(t *testing.T) {
			eachBubble(t, func(t *testing.T, s setup) { test(t, s.startHandled(t, byClient)) })
		})
	}
}

// hold makes the Handler wait at the first message of this type. It returns
// channels that are closed when it waits, and that the test closes to go on.
func (p *handledPair) hold(msgType int) (waits, goOn chan struct{}) {
	waits, goOn = make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.setOn(func(_ side, m *ipc.Message) {
		if m.MsgType == msgType {
			once.Do(func() {
				close(waits)
				<-goOn
			})
		}
	})
	return waits, goOn
}

// A Handler gets all messages, of any size and in order, with their data, and the
// counts are current. It can answer them.
//
// Pins doc.go, "Handlers": called with each message and event
func TestHandlerGetsAll(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		sizes := []int{0, 1, 64, 4096, 4097, 32 << 10, 64 << 10, 68 << 10, 69 << 10, 300_000, 1 << 20, 3 << 20}
		small := fewer(20_000)
		size := func(i int) int {
			if i < len(sizes) {
				return sizes[i]
			}
			return i % 200
		}
		n := 0
		p.setOn(func(self side, m *ipc.Message) {
			if m.MsgType < 0 {
				return
			}
			wantSame(t, m, n+1, payload(n, size(n)))
			n++
			if got := self.Stats().MessagesIn; got < uint64(n) {
				t.Errorf("%d messages counted at message %d", got, n)
			}
			if cap(m.Data) != len(m.Data) && len(m.Data) <= 4096 { // else its memory is its own
				t.Error("an append to Data overwrites what follows")
			}
			if n <= len(sizes) || n%100 == 0 {
				noError(t, "Write in a Handler", self.Write(m.MsgType, m.Data))
			}
		})
		sent := background(func() error {
			for i := range len(sizes) + small {
				if err := p.other.Write(i+1, payload(i, size(i))); err != nil {
					return err
				}
			}
			return nil
		})
		for i := range len(sizes) + small {
			if i < len(sizes) || (i+1)%100 == 0 {
				wantMessage(t, p.other, i+1, payload(i, size(i)))
			}
		}
		noError(t, "Write", sent())
		for i := range len(sizes) + small {
			p.wantMessages(t, i+1, size(i))
		}
	})
}

// Where a Handler reads, all other ways to read say so, also from the Handler and
// after the end.
//
// Pins doc.go, "Handlers": Read and the other ways to read return ErrHandler then
func TestHandlerReadsAlone(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		check := func(self side) {
			wantError(t, "Read", second(self.Read()), ipc.ErrHandler)
			wantError(t, "ReadTimed", second(self.ReadTimed(time.Hour, nil)), ipc.ErrHandler)
			wantError(t, "ReadTimed(0)", second(self.ReadTimed(0, nil)), ipc.ErrHandler)
			wantError(t, "ReadContext", second(self.ReadContext(t.Context())), ipc.ErrHandler)
			calls := 0
			for m, err := range self.Messages(t.Context()) {
				calls++
				wantError(t, "Messages", err, ipc.ErrHandler)
				if m != nil {
					t.Errorf("Messages yields %s", describe(m))
				}
			}
			want := 1
			if !p.byClient {
				m := p.server.ServerManager
				callback := func(s *ipc.Server, _ *ipc.Message, err error) {
					calls++
					wantError(t, "callback", err, ipc.ErrHandler)
					if s != p.server {
						t.Error("the callback does not get the listening Server")
					}
				}
				m.Read(callback)
				m.ReadTimed(time.Hour, nil, callback)
				m.ReadTimed(0, nil, callback)
				wantError(t, "ReadContext of the manager", m.ReadContext(t.Context(), callback), ipc.ErrHandler)
				want = 5
			}
			if calls != want {
				t.Errorf("%d calls of callbacks, want %d", calls, want)
			}
		}
		check(p.self)
		p.setOn(func(self side, _ *ipc.Message) { check(self) })
		noError(t, "Write", p.other.Write(1, nil))
		p.wantMessages(t, 1, 0)
		noError(t, "Close", p.self.Close())
		p.wantCalls(t, "Closed")
		check(p.self)
	})
}

// A Handler may call the manager.
//
// Pins doc.go, "Handlers": A Handler may call all methods, also Write, Broadcast
func TestHandlerBroadcasts(t *testing.T) {
	eachSetup(t, everySetup, func(t *testing.T, s setup) {
		p := s.startHandled(t, false)
		p.setOn(func(self side, m *ipc.Message) {
			if m.MsgType > 0 {
				if servers := p.server.ServerManager.Servers(); len(servers) != 1 || servers[0] != self {
					t.Errorf("Servers are %v, want the Handler's", servers)
				}
				noError(t, "Broadcast", p.server.ServerManager.Broadcast(m.MsgType, m.Data))
				noError(t, "Flush", self.Flush(t.Context()))
			}
		})
		for i := range 50 {
			noError(t, "Write", p.other.Write(i+1, payload(i, i*i*20)))
			wantMessage(t, p.other, i+1, payload(i, i*i*20))
			p.wantMessages(t, i+1, i*i*20)
		}
	})
}

// Handlers of different clients run at once, and those of one client never.
//
// Pins doc.go, "Handlers": one message at a time, in order; those of different clients run in parallel
func TestHandlersInParallel(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const clients, each = 5, 20
		var all, most atomic.Int32
		var mu sync.Mutex
		running := map[*ipc.Server]bool{}
		mark := func(s *ipc.Server, runs bool) {
			mu.Lock()
			defer mu.Unlock()
			if running[s] == runs {
				t.Error("two calls for a client at once")
			}
			running[s] = runs
		}
		route := pipeMulti.open(t)
		server := pipeMulti.startServer(t, route, serverHandler(func(s *ipc.Server, m *ipc.Message) {
			mark(s, true)
			n := all.Add(1)
			most.Store(max(most.Load(), n))
			time.Sleep(time.Millisecond)
			all.Add(-1)
			mark(s, false)
			if m.MsgType > 0 {
				noError(t, "Write", s.Write(m.MsgType, nil))
			}
		}))
		var done sync.WaitGroup
		for range clients {
			client := route.startClient(t)
			done.Go(func() { writeRising(client, each) })
			done.Go(func() {
				for i := range each {
					wantMessage(t, client, i+1, nil)
				}
			})
		}
		done.Wait()
		noError(t, "Close", server.Close())
		time.Sleep(time.Second) // the last calls
		if most.Load() != clients {
			t.Errorf("%d Handlers at once, want %d", most.Load(), clients)
		}
	})
}

// A Handler that does not return holds back its sender, in bounded memory, and no
// other client. Then it gets everything in order.
//
// Pins doc.go, "Handlers": holds what comes, up to 1 MiB. So a Handler that takes long delays the messages of its own client only
func TestHandlerBlocks(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		waits, goOn := p.hold(1)
		n := fill(t, p.other, 30_000)
		<-waits
		if p.multi && !p.byClient {
			second := p.route.startClient(t)
			noError(t, "Write", second.Write(2, nil))
			p.wantCalls(t, "Connected")
			p.wantMessages(t, 2, 0)
			noError(t, "Close", second.Close())
			p.wantCalls(t, "Disconnected")
		}
		if in := p.self.Stats().BytesIn; in > 2<<20 {
			t.Errorf("%d bytes were read while the Handler was busy", in)
		}
		next := 0
		p.setOn(func(_ side, m *ipc.Message) {
			if got := numberOf(m.Data); m.MsgType > 0 && got != next+1 {
				t.Errorf("message %d after %d", got, next)
			}
			next++
		})
		close(goOn)
		for range n {
			p.wantMessages(t, 1, 30_000)
		}
	})
}

// The loss of a connection is noticed while its Handler runs: within 100 ms it is
// taken away, and a Client has another. What had arrived is handed over then, and
// the events after it.
//
// Pins doc.go, "Handlers": after 20 ms another goroutine reads the socket, notices its loss
func TestHandlerLosesTheConnection(t *testing.T) {
	eachHandledBubble(t, func(t *testing.T, p *handledPair) {
		waits, goOn := p.hold(1)
		for i := range 3 {
			noError(t, "Write", p.other.Write(i+1, nil))
		}
		<-waits
		time.Sleep(50 * time.Millisecond)
		for i := range 3 {
			noError(t, "Write", p.other.Write(i+4, nil))
		}
		noError(t, "Close", p.other.Close())
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		_, err := p.self.Peer()
		reconnects := p.byClient && p.multi // the server is still there
		switch {
		case reconnects:
			if got := p.self.Stats().Reconnects; got != 1 {
				t.Errorf("%d reconnects while the Handler runs, want 1", got)
			}
		default:
			wantError(t, "Peer", err, ipc.ErrNotConnected)
		}
		close(goOn)
		for i := range 6 {
			p.wantMessages(t, i+1, 0)
		}
		p.wantCalls(t, p.lost)
		if reconnects {
			p.wantCalls(t, "Connected")
		}
	})
}

// A Client's messages come before the events of a reconnect that was made while
// its Handler ran, and those of the new connection after them.
func TestHandlerReconnects(t *testing.T) {
	eachSetup(t, everySetup, func(t *testing.T, s setup) {
		p := s.startHandled(t, true)
		waits, goOn := p.hold(1)
		noError(t, "Write", p.other.Write(1, nil))
		noError(t, "Write", p.other.Write(2, nil))
		<-waits
		noError(t, "Close", p.server.Close())
		again := s.startServer(t, p.route)
		peer := s.join(t, again)
		noError(t, "Write", peer.Write(3, nil))
		if !eventually(func() bool { return p.self.Stats().MessagesIn == 3 }) {
			t.Error("the new connection is not read")
		}
		close(goOn)
		p.wantMessages(t, 1, 0)
		p.wantMessages(t, 2, 0)
		p.wantCalls(t, "Reconnecting", "Connected")
		p.wantMessages(t, 3, 0)
	})
}

// Close returns while a Handler does not, and is called from the Handler at any
// event or message. What had arrived is handed over, and Closed is the last call.
//
// Pins doc.go, "Handlers": Its last call is for the event Closed
func TestHandlerAndClose(t *testing.T) {
	t.Run("elsewhere", func(t *testing.T) {
		eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
			waits, goOn := p.hold(1)
			noError(t, "Write", p.other.Write(1, nil))
			<-waits
			noError(t, "Close", p.self.Close())
			noError(t, "Close", p.server.Close())
			close(goOn)
			p.wantMessages(t, 1, 0)
			p.wantCalls(t, "Closed")
		})
	})
	t.Run("a full inbox", func(t *testing.T) {
		eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
			waits, goOn := p.hold(1)
			fill(t, p.other, 30_000)
			<-waits
			p.self.Close()
			close(goOn)
			last := ""
			for last != "Closed" {
				last = <-p.calls
			}
		})
	})
	t.Run("in it", func(t *testing.T) {
		eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
			p.setOn(func(self side, m *ipc.Message) {
				self.Close() // of the last calls, too
				if !p.byClient {
					p.server.Close()
				}
			})
			noError(t, "Write", p.other.Write(1, nil))
			p.wantMessages(t, 1, 0)
			p.wantCalls(t, "Closed")
		})
	})
	t.Run("in it after a stand-in", func(t *testing.T) {
		eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
			p.setOn(func(self side, m *ipc.Message) {
				if m.MsgType == 1 {
					p.other.Write(2, nil)
					eventually(func() bool { return self.Stats().MessagesIn == 2 })
					self.Close()
				}
			})
			noError(t, "Write", p.other.Write(1, nil))
			p.wantMessages(t, 1, 0)
			p.wantMessages(t, 2, 0)
			p.wantCalls(t, "Closed")
		})
	})
	t.Run("in it when the other has gone", func(t *testing.T) {
		eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
			p.setOn(func(self side, m *ipc.Message) {
				if m.Status == p.lost {
					self.Close()
					p.server.Close()
				}
			})
			p.other.Close()
			if p.byClient && !p.multi {
				p.server.Close()
			}
			p.wantCalls(t, p.lost)
			if p.multi && !p.byClient {
				return // that was its last call
			}
			last := ""
			for last != "Closed" {
				if last = <-p.calls; last != "Closed" && last != "Connected" && last != p.lost {
					t.Errorf("the Handler got %s", last)
				}
			}
		})
	})
}

// Several Handlers close the whole server at once.
func TestHandlersCloseAtOnce(t *testing.T) {
	eachSetup(t, modes(transports...), func(t *testing.T, s setup) {
		if !s.multi {
			return
		}
		const clients = 3
		var inside sync.WaitGroup
		inside.Add(clients)
		last := make(chan string, clients)
		route := s.open(t)
		var server atomic.Pointer[ipc.Server]
		server.Store(s.startServer(t, route, serverHandler(func(_ *ipc.Server, m *ipc.Message) {
			switch {
			case m.MsgType == 1:
				inside.Done()
				inside.Wait()
				server.Load().Close()
			case m.Status != "Connected":
				last <- m.Status
			}
		})))
		for range clients {
			noError(t, "Write", route.startClient(t).Write(1, nil))
		}
		for range clients {
			if got := <-last; got != "Closed" {
				t.Errorf("the last call is for %s, want Closed", got)
			}
		}
	})
}

// A Handler that ends its goroutine ends the connection.
//
// Pins doc.go, "Handlers": one that calls runtime.Goexit ends the connection
func TestHandlerGoexit(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("after a stand-in: ", late), func(t *testing.T) {
			eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
				p.setOn(func(self side, m *ipc.Message) {
					if m.MsgType != 1 {
						return
					}
					if late {
						p.other.Write(2, nil)
						eventually(func() bool { return self.Stats().MessagesIn == 2 })
					}
					runtime.Goexit()
				})
				noError(t, "Write", p.other.Write(1, nil))
				if late {
					p.wantMessages(t, 2, 0)
				}
				p.wantCalls(t, p.lost)
				if p.byClient {
					wantEvents(t, p.other, ipc.Disconnected)
				} else {
					wantEvents(t, p.other, ipc.ReConnecting, ipc.Connected)
				}
				p.wantCalls(t, "Connected")
			})
		})
	}
}

// What came before a breach of the protocol is handed over, and nothing after it.
func TestHandlerOfABadPeer(t *testing.T) {
	eachSetup(t, []setup{unixSingle, unixMulti, pipeSingle, pipeMulti}, func(t *testing.T, s setup) {
		p := s.startHandled(t, false)
		noError(t, "Close", p.other.Close())
		p.wantCalls(t, "Disconnected")
		var protocol atomic.Bool
		p.setOn(func(_ side, m *ipc.Message) {
			if errors.Is(m.Err, ipc.ErrProtocol) {
				protocol.Store(true)
			}
		})
		raw := p.route.dial(t)
		raw.openClient()
		p.wantCalls(t, "Connected")
		raw.send(encode(1, []byte("a")), encode(2, nil), head(3, 0), encode(3, nil))
		p.wantMessages(t, 1, 1)
		p.wantMessages(t, 2, 0)
		if got := <-p.calls; !protocol.Load() {
			t.Errorf("the Handler got %s, want an Error of the protocol", got)
		}
		p.wantCalls(t, "Disconnected")
	})
}

// The place of a client that has left is free although its Handler runs.
func TestHandlerAndMaxClients(t *testing.T) {
	eachSetup(t, multiSetup, func(t *testing.T, s setup) {
		goOn := make(chan struct{})
		calls := make(chan string, 100)
		route := s.open(t)
		s.startServer(t, route, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) { c.MaxClients = 1 },
			serverHandler(func(s *ipc.Server, m *ipc.Message) {
				if m.MsgType > 0 {
					<-goOn
				}
				calls <- fmt.Sprint(s.ClientID(), describe(m))
			}))
		const clients = 5
		for range clients {
			client := route.startClient(t)
			noError(t, "Write", client.Write(1, nil))
			noError(t, "Close", client.Close())
		}
		close(goOn)
		got := map[string]bool{}
		for range 3 * clients {
			got[<-calls] = true
		}
		for id := range clients {
			for _, want := range []string{"Connected", "message of type 1, 0 bytes", "Disconnected"} {
				if !got[fmt.Sprint(id+1, want)] {
					t.Errorf("client %d: no call for %s", id+1, want)
				}
			}
		}
	})
}

// A message costs no allocation: neither the one that is handled nor its answer.
//
// Pins doc.go, "Handlers": The message is lent: it lies in the read buffer
func TestHandlerAllocatesNothing(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		if raceEnabled {
			t.Skip("the race detector allocates")
		}
		if runtime.GOOS == "windows" {
			t.Skip("package os allocates for each write of a pipe")
		}
		const n = 20_000
		done := make(chan struct{})
		var left atomic.Int64
		route := s.open(t)
		s.startServer(t, route, serverHandler(func(s *ipc.Server, m *ipc.Message) {
			if m.MsgType > 0 {
				s.Write(m.MsgType, m.Data)
			}
		}))
		config := route.client
		config.Handler = func(c *ipc.Client, m *ipc.Message) {
			switch {
			case m.MsgType < 0:
			case left.Add(-1) == 0:
				done <- struct{}{}
			default:
				c.Write(m.MsgType, m.Data)
			}
		}
		client, err := ipc.StartClient(&config)
		noError(t, "StartClient", err)
		t.Cleanup(func() { client.Close() })
		data := payload(1, 64)
		exchange := func() {
			left.Store(n)
			noError(t, "Write", client.Write(1, data))
			<-done
		}
		exchange()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		exchange()
		runtime.ReadMemStats(&after)
		if got := float64(after.Mallocs-before.Mallocs) / (2 * n); got > 0.01 {
			t.Errorf("%.3f allocations a message, want none", got)
		}
	})
}
