package ipc_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Close may be called again and concurrently: each call returns.
//
// Pins doc.go, "Starting": They may be called from any goroutine, more than once
func TestCloseIsIdempotent(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		var wg sync.WaitGroup
		for _, e := range []interface{ Close() error }{p.client, p.peer, p.server, p.server.ServerManager} {
			for range 10 {
				wg.Go(func() {
					if err := e.Close(); err != nil {
						t.Error("Close:", err)
					}
				})
			}
		}
		wg.Wait()
		for range 2 {
			noError(t, "Close", p.client.Close())
			noError(t, "Close", p.server.Close())
			noError(t, "Close", p.peer.Close())
		}
	})
}

// Close wakes every call that waits.
//
// Pins doc.go, "Starting": wake every call that waits
func TestCloseWakesEveryCall(t *testing.T) {
	reads := map[string]func(side) error{
		"Read":        func(e side) error { return second(e.Read()) },
		"ReadTimed":   func(e side) error { return second(e.ReadTimed(1e9*time.Second, nil)) },
		"ReadContext": func(e side) error { return second(e.ReadContext(context.Background())) },
		"Messages": func(e side) error {
			for _, err := range e.Messages(context.Background()) {
				return err
			}
			return nil
		},
	}
	t.Run("readers", func(t *testing.T) {
		eachWireBubble(t, func(t *testing.T, p *wirePair) {
			var waits []func() error
			for name, read := range reads {
				for range 3 {
					returned, wait := call(func() error { return read(p) })
					wantBlocked(t, name, returned)
					waits = append(waits, wait)
				}
			}
			start := time.Now()
			noError(t, "Close", p.Close())
			events := 0
			for _, wait := range waits {
				if err := wait(); err == nil {
					events++ // one of them gets the event Closed
				} else {
					wantError(t, "reader", err, ipc.ErrClosed)
				}
			}
			wantElapsed(t, "Close and all readers", start, 0)
			if events != 1 {
				t.Errorf("%d readers got an event, want 1", events)
			}
		})
	})

	t.Run("writers", func(t *testing.T) {
		ctx := context.Background()
		eachWireBubble(t, func(t *testing.T, p *wirePair) {
			fill(t, p, 5000)
			var waits []func() error
			for name, write := range map[string]func() error{
				"Write":                 func() error { return p.Write(1, make([]byte, 5000)) },
				"WriteContext":          func() error { return p.WriteContext(ctx, 1, make([]byte, 5000)) },
				"Write, large":          func() error { return p.Write(1, make([]byte, largeSize)) },
				"WriteContext, large":   func() error { return p.WriteContext(ctx, 1, make([]byte, largeSize)) },
				"Flush":                 func() error { return p.Flush(ctx) },
				"Flush, a second later": func() error { time.Sleep(time.Second); return p.Flush(ctx) },
			} {
				returned, wait := call(write)
				wantBlocked(t, name, returned)
				waits = append(waits, wait)
			}
			time.Sleep(2 * time.Second)
			if err := p.Close(); err == nil {
				t.Error("Close returns nil with messages that the peer does not read")
			}
			for _, wait := range waits {
				wantError(t, "writer", wait(), ipc.ErrClosed)
			}
		})
	})

	t.Run("managers", func(t *testing.T) {
		eachBubble(t, func(t *testing.T, s setup) {
			p := s.pair(t)
			m := p.server.ServerManager
			var mu sync.Mutex
			var all []delivery
			note := func(s *ipc.Server, msg *ipc.Message, err error) {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, delivery{s, msg, err})
			}
			var waits []func() error
			for name, read := range map[string]func() error{
				"Read":        func() error { m.Read(note); return nil },
				"ReadTimed":   func() error { m.ReadTimed(1e9*time.Second, nil, note); return nil },
				"ReadContext": func() error { return m.ReadContext(context.Background(), note) },
			} {
				for range 2 {
					returned, wait := call(read)
					wantBlocked(t, name, returned)
					waits = append(waits, wait)
				}
			}
			noError(t, "Close", m.Close())
			for _, wait := range waits {
				if err := wait(); err != nil {
					wantError(t, "ReadContext", err, ipc.ErrClosed)
				}
			}
			closed := 0
			for _, d := range all {
				switch {
				case d.err == nil && d.message.Status == ipc.Closed.String() && d.server == p.peer:
					closed++
				case errors.Is(d.err, ipc.ErrClosed) && d.server == p.server && d.message == nil:
				default:
					t.Errorf("callback got %v", d)
				}
			}
			if closed != 1 {
				t.Errorf("%d events Closed, want 1", closed)
			}
		})
	})
}

// Close does not wait for a callback that is running, so that the callback may
// wait for Close. Another Read does wait for it: ErrClosed comes when everything
// has been handed over.
func TestCloseDoesNotWaitForACallback(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		m := p.server.ServerManager
		noError(t, "Write", p.client.Write(1, nil))
		release := make(chan struct{})
		var got, other []delivery
		note := collect(&got)
		_, wait := call(func() error {
			m.Read(func(s *ipc.Server, msg *ipc.Message, err error) {
				note(s, msg, err)
				<-release
			})
			return nil
		})
		synctest.Wait()
		returned, otherWait := call(func() error {
			m.Read(collect(&other))
			return nil
		})
		wantBlocked(t, "Read", returned)
		start := time.Now()
		noError(t, "Close", p.server.Close())
		wantElapsed(t, "Close", start, 0)
		wantBlocked(t, "Read beside a callback, after Close,", returned)
		time.Sleep(time.Second)
		wantBlocked(t, "Read beside a callback, a second after Close,", returned)

		close(release)
		wait()
		otherWait()
		got = append(got, other...)
		for range 2 {
			got = append(got, readManager(t, m)...)
		}
		if len(got) < 4 || got[0].String() != "message of type 1, 0 bytes" || got[1].String() != "Closed" {
			t.Fatalf("the callbacks got %v, want the message, Closed, and then only ErrClosed", got)
		}
		for i, d := range got {
			if i < 2 && d.server != p.peer || i >= 2 && (!errors.Is(d.err, ipc.ErrClosed) || d.server != p.server) {
				t.Errorf("the callbacks got %v, want the message, Closed, and then only ErrClosed", got)
			}
		}
	})
}

// Close ends the handshakes that are under way, and those that wait for a
// place.
func TestCloseEndsHandshakes(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			if s != nil {
				s.MaxClients = 1
			}
		})
		var raws []*wireConn
		for step := range 3 {
			raw := p.route.dial(t)
			raws = append(raws, raw)
			if step > 0 {
				raw.want("step 1", 2, 0)
			}
			if step > 1 {
				raw.send([]byte{0}) // waits for a place
			}
		}
		synctest.Wait()
		start := time.Now()
		noError(t, "Close", p.server.Close())
		for _, raw := range raws {
			if got := raw.wantDropped(); len(got) > 0 {
				t.Errorf("read %v from a server that closed", got)
			}
		}
		wantElapsed(t, "Close and its consequences", start, 0)
		if n := p.server.Stats().HandshakeFailures; n != 0 {
			t.Errorf("HandshakeFailures = %d, and it was us", n)
		}
	})
}

// Close does not wait for Authorize, which may call Close.
func TestCloseDoesNotWaitForAuthorize(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		entered, release := make(chan struct{}), make(chan struct{})
		route := s.open(t)
		server := s.startServer(t, route, quiet, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			s.Authorize = func(ipc.Peer) error {
				close(entered)
				<-release
				return nil
			}
		})
		route.dial(t)
		<-entered
		noError(t, "Close", server.Close())
		close(release)

		self, closed := make(chan *ipc.Server), make(chan error)
		server = s.startServer(t, route, quiet, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			s.Authorize = func(ipc.Peer) error {
				closed <- (<-self).Close()
				return nil
			}
		})
		route.dial(t)
		self <- server
		noError(t, "Close from Authorize", <-closed)
	})
}

// A side that has just been closed does not keep its peer's writers.
func TestCloseOfAReaderFreesTheWriter(t *testing.T) {
	parallel(t)
	eachDirection(t, unixSetups, func(t *testing.T, from, to side) {
		fill(t, from, 10_000)
		wrote := background(func() error {
			for {
				if err := from.Write(1, make([]byte, 10_000)); err != nil {
					return err
				}
			}
		})
		noError(t, "Close", to.Close())
		if _, client := from.(*ipc.Client); !client {
			wantError(t, "Write", wrote(), ipc.ErrNotConnected)
			return
		}
		// A client of a MultiMode server that closed one Server is back at
		// once, perhaps before it could fail.
		from.Close()
		if err := wrote(); !errors.Is(err, ipc.ErrNotConnected) {
			wantError(t, "Write", err, ipc.ErrClosed)
		}
	})
}

// 200 starts and ends in every order: begin and socketDir see that nothing is
// left.
//
// Pins doc.go, "Starting": leave no goroutine, descriptor or file behind
func TestStartCloseCycles(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		ctx := t.Context()
		server := func() *ipc.Server {
			config := route.server()
			config.MultiMode = s.multi
			server, err := ipc.StartServer(&config)
			noError(t, "StartServer", err)
			return server
		}
		client := func() *ipc.Client {
			client, err := ipc.StartClient(&route.client)
			noError(t, "StartClient", err)
			return client
		}
		together := func(calls ...func() error) {
			var wg sync.WaitGroup
			for _, call := range calls {
				wg.Go(func() { call() })
			}
			wg.Wait()
		}
		orders := []func(){
			func() { // the client goes first
				server, client := server(), client()
				noError(t, "Close", client.Close())
				noError(t, "Close", server.Close())
			},
			func() { // the server goes first
				server, client := server(), client()
				noError(t, "Close", server.Close())
				noError(t, "Close", client.Close())
			},
			func() { // the client starts first
				started := background(client)
				server := server()
				client := started()
				together(server.Close, client.Close)
			},
			func() { // no client comes
				noError(t, "Close", server().Close())
			},
			func() { // there is no server
				ctx, cancel := context.WithCancel(ctx)
				started := background(func() error { _, err := ipc.StartClientContext(ctx, &route.client); return err })
				cancel()
				wantError(t, "StartClientContext", started(), context.Canceled)
			},
			func() { // the server goes while the client comes
				server := server()
				ctx, cancel := context.WithCancel(ctx)
				started := background(func() error {
					client, err := ipc.StartClientContext(ctx, &route.client)
					if err == nil {
						client.Close()
					}
					return err
				})
				server.Close()
				cancel()
				started()
			},
			func() { // messages are on their way
				server, client := server(), client()
				noError(t, "Write", client.Write(1, []byte("into the void")))
				noError(t, "Write", client.Write(2, make([]byte, largeSize)))
				together(client.Close, server.Close)
			},
			func() { // the server is replaced
				first, client := server(), client()
				first.Close()
				second := server()
				wantEvents(t, client, ipc.Connecting, ipc.Connected, ipc.ReConnecting, ipc.Connected)
				together(client.Close, second.Close)
			},
		}
		for range 13 {
			for _, order := range orders {
				order()
			}
		}
	})
}

// Close finds the goroutines of an idle side wherever they wait.
func TestCloseOfAnIdlePair(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		start := time.Now()
		noError(t, "Close", p.client.Close())
		noError(t, "Close", p.server.Close())
		wantElapsed(t, "Close", start, 0)
	})
}

// A Broadcast while Close still sends says that the server is closed.
func TestBroadcastDuringClose(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := wireClientPair(t, s)
		noError(t, "Write", p.Write(1, []byte("that is not read")))
		returned, wait := call(p.server.Close)
		wantBlocked(t, "Close", returned)
		wantError(t, "Broadcast", p.server.ServerManager.Broadcast(2, nil), ipc.ErrClosed)
		if wait() == nil {
			t.Error("Close returns nil with a message that the peer does not read")
		}
	})
}

// Close of nothing does nothing, so that it can be deferred before the error of
// the start is looked at.
//
// Pins doc.go, "Starting": and on nil
func TestCloseOfNil(t *testing.T) {
	server, err := ipc.StartServer(nil)
	noError(t, "Close", server.Close())
	client, err2 := ipc.StartClient(nil)
	noError(t, "Close", client.Close())
	if server != nil || client != nil || err == nil || err2 == nil {
		t.Errorf("StartServer and StartClient of nil return %v, %v and %v, %v", server, err, client, err2)
	}
}
