package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// crowd is a server with clients, whose events of the start are read.
type crowd struct {
	setup
	route   *route
	server  *ipc.Server
	manager *ipc.ServerManager
	clients []*ipc.Client
	peers   []*ipc.Server // in the order of clients
}

func (s setup) crowd(t testing.TB, n int, tweaks ...tweak) *crowd {
	t.Helper()
	c := &crowd{setup: s, route: s.open(t)}
	c.server = c.startServer(t, c.route, tweaks...)
	c.manager = c.server.ServerManager
	for range n {
		c.clients = append(c.clients, c.route.startClient(t))
		c.peers = append(c.peers, c.join(t, c.server))
	}
	return c
}

// Twenty clients (or one, in single mode), three goroutines in Read: every
// message is answered, in the order of its client, and no client is with two
// of them at a time.
//
// Pins doc.go, "Many clients": the messages of one client are never handled by two at a time
func TestManagerServesMany(t *testing.T) {
	eachSetup(t, everySetup, func(t *testing.T, s setup) {
		const clients, n, readers = 20, 200, 3
		c := s.crowd(t, map[bool]int{false: 1, true: clients}[s.multi])

		answering := make([]answers, clients+1) // by ClientID
		var serving sync.WaitGroup
		for range readers {
			serving.Go(func() { answerAll(t, c.manager, answering) })
		}
		var talking sync.WaitGroup
		for id, client := range c.clients {
			talking.Go(func() {
				if err := askFor(client, id, n); err != nil {
					t.Errorf("client %d: %v", id, err)
				}
			})
		}
		talking.Wait()
		c.server.Close()
		serving.Wait()
	})
}

// answers is what has been answered to one client. Only the manager keeps two
// goroutines from it at a time.
type answers struct {
	busy atomic.Bool
	last int
}

// answerAll answers what m reads until it is closed.
func answerAll(t *testing.T, m *ipc.ServerManager, answering []answers) {
	for ended := false; !ended; {
		m.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			if err != nil {
				ended = true
				return
			}
			if m.MsgType < 0 {
				return
			}
			id := s.ClientID()
			a := &answering[id]
			if !a.busy.CompareAndSwap(false, true) {
				t.Errorf("client %d is with two goroutines", id)
			}
			defer a.busy.Store(false)
			runtime.Gosched() // a chance to get it wrong
			if a.last++; m.MsgType != a.last {
				t.Errorf("client %d: message %d, want %d", id, m.MsgType, a.last)
			}
			if err := s.Write(m.MsgType, m.Data); err != nil {
				t.Error("Write:", err)
			}
		})
	}
}

// askFor sends n messages and reads the answers beside it.
func askFor(client *ipc.Client, seed, n int) error {
	sent := background(func() error {
		for i := range n {
			if err := client.Write(i+1, payload(seed, i)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range n {
		m, err := client.Read()
		if err != nil {
			return err
		}
		if m.MsgType != i+1 || !bytes.Equal(m.Data, payload(seed, i)) {
			return fmt.Errorf("read %s, want answer %d", describe(m), i+1)
		}
	}
	return sent()
}

// One client has much to say, and the others little: each has its turn, of 64
// messages at most.
//
// Pins doc.go, "Many clients": Clients take turns
func TestManagerIsFair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := pipeMulti.crowd(t, 4)
		count := []int{1000, 500, 100, 1}
		for i, client := range c.clients {
			for n := range count[i] {
				noError(t, "Write", client.Write(n+1, nil))
			}
			synctest.Wait() // all of it has arrived
		}
		var got [4]int
		var order []int
		for read := 0; read < 1601; {
			for _, d := range readManager(t, c.manager) {
				i := d.server.ClientID() - 1
				got[i]++
				wantSame(t, d.message, got[i], nil)
				order = append(order, i)
				read++
			}
		}
		left := slices.Clone(count)
		run, before := 0, -1
		for at, i := range order {
			if run++; i != before {
				run, before = 1, i
			}
			left[i]--
			others := 0
			for j, n := range left {
				if j != i {
					others += n
				}
			}
			if run > 64 && others > 0 {
				t.Fatalf("client %d had %d messages in a row, to message %d, while others waited", i, run, at)
			}
		}
		if at := slices.Index(order, 3); at > 3*64 {
			t.Errorf("the only message of the last client came as number %d", at)
		}
	})
}

// Read waits for the first of anything, also from a client that joins
// meanwhile.
//
// Pins doc.go, "Many clients": waits until any client has something
func TestManagerReadWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := pipeMulti.crowd(t, 2)
		var got []delivery
		returned, wait := call(func() error { c.manager.Read(collect(&got)); return nil })
		time.Sleep(time.Hour)
		wantBlocked(t, "Read", returned)
		late := c.route.startClient(t)
		wait()
		if len(got) != 1 || got[0].String() != "Connected" || got[0].server.ClientID() != 3 {
			t.Fatalf("read %v, want the event of client 3", got)
		}

		got = nil
		returned, wait = call(func() error { c.manager.Read(collect(&got)); return nil })
		wantBlocked(t, "Read", returned)
		noError(t, "Write", late.Write(9, nil))
		wait()
		if len(got) != 1 || got[0].message.MsgType != 9 || got[0].server.ClientID() != 3 {
			t.Fatalf("read %v, want the message of client 3", got)
		}
	})
}

// ReadTimed calls back once when nothing came, with the listening Server and
// the message that it was given.
func TestManagerReadTimed(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		m := p.server.ServerManager
		mine := &ipc.Message{}
		for _, tt := range []struct {
			d               time.Duration
			onTimeout, want *ipc.Message
		}{
			{time.Hour, mine, mine},
			{time.Hour, nil, ipc.TimeoutMessage},
			{0, mine, mine},
			{-1, nil, ipc.TimeoutMessage},
		} {
			var got []delivery
			start := time.Now()
			m.ReadTimed(tt.d, tt.onTimeout, collect(&got))
			wantElapsed(t, "ReadTimed", start, max(tt.d, 0))
			if want := []delivery{{p.server, tt.want, nil}}; !slices.Equal(got, want) {
				t.Errorf("ReadTimed(%v): callback got %v of %v", tt.d, got, want)
			}
		}

		var got []delivery
		start := time.Now()
		_, wait := call(func() error { m.ReadTimed(time.Hour, mine, collect(&got)); return nil })
		time.Sleep(time.Minute)
		noError(t, "Write", p.client.Write(5, []byte("five")))
		wait()
		wantElapsed(t, "the message", start, time.Minute)
		if len(got) != 1 || got[0].server != p.peer {
			t.Fatalf("read %v, want one message, with the client's Server", got)
		}
		wantSame(t, got[0].message, 5, []byte("five"))
	})
}

// ReadContext returns the context's error, without a call of the callback.
//
// Pins doc.go, "Many clients": hands that over in the caller's goroutine, and returns
func TestManagerReadContext(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		m := p.server.ServerManager
		var got []delivery
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := m.ReadContext(ctx, collect(&got)); err != context.DeadlineExceeded {
			t.Errorf("ReadContext: %v, want %v", err, context.DeadlineExceeded)
		}
		wantElapsed(t, "ReadContext", start, time.Minute)
		if len(got) > 0 {
			t.Errorf("callback got %v", got)
		}
		noError(t, "Write", p.client.Write(5, []byte("five")))
		noError(t, "ReadContext", m.ReadContext(t.Context(), collect(&got)))
		if len(got) != 1 {
			t.Fatalf("read %v, want one message", got)
		}
		wantSame(t, got[0].message, 5, []byte("five"))
	})
}

// Time-outs cost no message and no order.
func TestManagerTimeoutsLoseNothing(t *testing.T) {
	parallel(t)
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		n, burst := fewer(500), 10
		timedOut := make(chan struct{}, 1)
		sent := background(func() error {
			for i := range n {
				if i%burst == 0 {
					<-timedOut
				}
				if err := p.client.Write(i+1, payload(i, i%300)); err != nil {
					return err
				}
			}
			return nil
		})
		for i := 0; i < n; {
			p.server.ServerManager.ReadTimed(200*time.Microsecond, nil, func(s *ipc.Server, m *ipc.Message, err error) {
				noError(t, "callback", err)
				if m == ipc.TimeoutMessage {
					select {
					case timedOut <- struct{}{}:
					default:
					}
					return
				}
				wantSame(t, m, i+1, payload(i, i%300))
				i++
			})
		}
		noError(t, "Write", sent())
	})
}

// The manager hands over the events of every row of the table.
//
// Pins doc.go, "Reading": All of them return what the peer wrote and the events of the connection, in order
func TestManagerEvents(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		read := func(n int) (all []string) {
			t.Helper()
			for len(all) < n {
				for _, d := range readManager(t, p.server.ServerManager) {
					all = append(all, fmt.Sprint(d.server.ClientID(), " ", d))
				}
			}
			return all
		}
		first, second := 0, 0
		if p.multi {
			first, second = 1, 2
		}
		noError(t, "Write", p.client.Write(7, nil))
		p.client.Close()
		want := []string{fmt.Sprint(first, " message of type 7, 0 bytes"), fmt.Sprint(first, " Disconnected")}
		if got := read(2); !slices.Equal(got, want) {
			t.Errorf("read %q, want %q", got, want)
		}
		client := p.route.startClient(t)
		noError(t, "Write", client.Write(8, nil))
		want = []string{fmt.Sprint(second, " Connected"), fmt.Sprint(second, " message of type 8, 0 bytes")}
		if got := read(2); !slices.Equal(got, want) {
			t.Errorf("read %q, want %q", got, want)
		}
		p.server.ServerManager.Close()
		want = []string{fmt.Sprint(second, " Closed")}
		if got := read(1); !slices.Equal(got, want) {
			t.Errorf("read %q, want %q", got, want)
		}

		// After the end each call calls back once, with the error.
		for name, read := range map[string]func(func(*ipc.Server, *ipc.Message, error)){
			"Read":      p.server.ServerManager.Read,
			"ReadTimed": func(f func(*ipc.Server, *ipc.Message, error)) { p.server.ServerManager.ReadTimed(time.Hour, nil, f) },
			"ReadContext": func(f func(*ipc.Server, *ipc.Message, error)) {
				if err := p.server.ServerManager.ReadContext(context.Background(), f); err != nil {
					wantError(t, "ReadContext", err, ipc.ErrClosed)
				}
			},
		} {
			for range 2 {
				var got []delivery
				read(collect(&got))
				if len(got) != 1 || got[0].server != p.server || got[0].message != nil || !errors.Is(got[0].err, ipc.ErrClosed) {
					t.Errorf("%s: callback got %v, want ErrClosed once", name, got)
				}
			}
		}
		if left := p.server.ServerManager.Servers(); len(left) > 0 {
			t.Errorf("manager has %d clients after the end", len(left))
		}
		wantError(t, "Broadcast", p.server.ServerManager.Broadcast(1, nil), ipc.ErrClosed)
	})
}

// What a client had sent is handed over after its end and after the manager's.
//
// Pins doc.go, "Many clients": What a client has sent before it left is still handed over
func TestManagerHandsOverWhatArrived(t *testing.T) {
	begin(t)
	c := unixMulti.crowd(t, 3)
	const n = 200
	for i, client := range c.clients {
		for range n {
			noError(t, "Write", client.Write(i+1, nil))
		}
		if !eventually(func() bool { return c.peers[i].Stats().MessagesIn == n }) {
			t.Fatal("messages do not arrive")
		}
	}
	noError(t, "Close", c.clients[0].Close())
	if !eventually(func() bool { return len(c.manager.Servers()) == 2 }) {
		t.Fatal("a client that left stays with the manager")
	}
	noError(t, "Close", c.server.Close())
	var messages, events [3]int
	for ended := false; !ended; {
		c.manager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			if err != nil {
				ended = true
				return
			}
			i := s.ClientID() - 1
			if m.MsgType > 0 {
				messages[i]++
				return
			}
			want := ipc.Closed
			if i == 0 {
				want = ipc.Disconnected
			}
			if events[i]++; m.Status != want.String() || messages[i] != n {
				t.Errorf("client %d: event %s after %d messages, want %v after %d", i+1, describe(m), messages[i], want, n)
			}
		})
	}
	if messages != [3]int{n, n, n} || events != [3]int{1, 1, 1} {
		t.Errorf("messages %v and events %v, want %d and 1 of each client", messages, events, n)
	}
}

// A callback may do what it likes with the Server that it was given.
func TestCallbackMayCallItsServer(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		for i := range 5 {
			noError(t, "Write", p.client.Write(i+1, nil))
		}
		noError(t, "Flush", p.client.Flush(t.Context()))
		calls := 0
		p.server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			noError(t, "callback", err)
			if calls++; calls > 1 {
				return // what was ready after the Close
			}
			wantSame(t, m, 1, nil)
			for i := 1; i < 5; i++ { // the others of this client, which do not come again
				wantMessage(t, s, i+1, nil)
			}
			noError(t, "Write", s.Write(9, []byte("bye")))
			noError(t, "Flush", s.Flush(t.Context()))
			wantStatus(t, "callback's server", s, ipc.Connected)
			noError(t, "Close", s.Close())
			wantEvents(t, s, ipc.Closed)
			wantEnd(t, s, ipc.ErrClosed)
		})
		wantMessage(t, p.client, 9, []byte("bye"))
		wantEvents(t, p.client, ipc.ReConnecting)
	})
}

// A callback may close the manager, under which it runs.
func TestCloseFromCallback(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		noError(t, "Write", p.client.Write(1, nil))
		var statuses []string
		for ended := false; !ended; {
			p.server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
				switch {
				case err != nil:
					wantError(t, "callback", err, ipc.ErrClosed)
					ended = true
				case m.MsgType > 0:
					noError(t, "Close", p.server.ServerManager.Close())
				default:
					statuses = append(statuses, m.Status)
				}
			})
		}
		if !slices.Equal(statuses, []string{"Closed"}) {
			t.Errorf("events %q, want Closed", statuses)
		}
	})
}

// While a callback runs, no other call gets what follows of its client.
func TestNoTwoCallbacksOfOneClient(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		m := p.server.ServerManager
		noError(t, "Write", p.client.Write(1, nil))
		release := make(chan struct{})
		var first, second []delivery
		_, wait := call(func() error {
			m.Read(func(s *ipc.Server, msg *ipc.Message, err error) {
				<-release
				first = append(first, delivery{s, msg, err})
			})
			return nil
		})
		synctest.Wait()
		noError(t, "Write", p.client.Write(2, nil))
		start := time.Now()
		m.ReadTimed(time.Hour, nil, collect(&second))
		wantElapsed(t, "ReadTimed", start, time.Hour)
		if len(second) != 1 || second[0].message != ipc.TimeoutMessage {
			t.Errorf("read %v beside a callback", second)
		}
		close(release)
		wait()
		if len(first) == 1 { // message 2 was not in the same turn
			first = append(first, readManager(t, m)...)
		}
		for i, d := range first {
			if d.server != p.peer || d.message.MsgType != i+1 || len(first) != 2 {
				t.Fatalf("read %v, want messages 1 and 2", first)
			}
		}
	})
}

// While a callback of one client takes its time, the others are served.
//
// Pins doc.go, "Many clients": A callback or Handler that does so delays its loop or its client
func TestSlowCallbackHoldsUpItsClientOnly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := pipeMulti.crowd(t, 2)
		noError(t, "Write", c.clients[0].Write(1, nil))
		release := make(chan struct{})
		_, wait := call(func() error {
			c.manager.Read(func(*ipc.Server, *ipc.Message, error) { <-release })
			return nil
		})
		synctest.Wait()
		for i := range 3 {
			noError(t, "Write", c.clients[1].Write(i+1, nil))
			got := readManager(t, c.manager)
			if len(got) != 1 || got[0].server != c.peers[1] || got[0].message.MsgType != i+1 {
				t.Fatalf("read %v of client 2, want message %d", got, i+1)
			}
		}
		close(release)
		wait()
	})
}

// Servers are those that are connected, and the slice is the caller's.
//
// Pins doc.go, "Starting": Servers and Broadcast have it once the server has got the event "Connected"
func TestServers(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		manager := server.ServerManager
		if got := manager.Servers(); len(got) != 0 {
			t.Errorf("%d clients before the first", len(got))
		}
		client := route.startClient(t)
		peer := s.join(t, server)
		for range 2 {
			got := manager.Servers()
			if !slices.Equal(got, []*ipc.Server{peer}) {
				t.Fatalf("Servers is %v, want the one of the client", got)
			}
			got[0] = nil
		}
		client.Close()
		wantEvents(t, peer, ipc.Disconnected)
		if got := manager.Servers(); len(got) != 0 {
			t.Errorf("%d clients after the last", len(got))
		}
	})
}

// Broadcast reaches all, whatever the size, and refuses what Write refuses.
func TestBroadcast(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			begin(t)
			c := setup{tr, true}.crowd(t, 5, maxMsgSize(1<<20))
			noError(t, "Broadcast", c.manager.Broadcast(1, []byte("all")))
			data := slices.Clone(payload(1, 1<<20))
			noError(t, "Broadcast", c.manager.Broadcast(2, data))
			clear(data) // ours again, at once
			for _, client := range c.clients {
				wantMessage(t, client, 1, []byte("all"))
				wantMessage(t, client, 2, payload(1, 1<<20))
			}
			wantError(t, "Broadcast", c.manager.Broadcast(0, nil), ipc.ErrReservedType)
			wantError(t, "Broadcast", c.manager.Broadcast(-1, nil), ipc.ErrReservedType)
			wantError(t, "Broadcast", c.manager.Broadcast(1, make([]byte, 1<<20+1)), ipc.ErrMsgTooLarge)
			for _, client := range c.clients {
				client.Close()
			}
			if !eventually(func() bool { return len(c.manager.Servers()) == 0 }) {
				t.Error("clients that left stay with the manager")
			}
			noError(t, "Broadcast without clients", c.manager.Broadcast(1, nil))
		})
	}
	t.Run("huge", func(t *testing.T) { // an empty outbox takes a message of any size
		begin(t)
		const size = 6 << 20
		c := unixMulti.crowd(t, 2, maxMsgSize(size))
		noError(t, "Broadcast", c.manager.Broadcast(1, payload(1, size)))
		for _, client := range c.clients {
			wantMessage(t, client, 1, payload(1, size))
		}
	})
	t.Run("single mode", func(t *testing.T) {
		begin(t)
		p := unixSingle.pair(t)
		noError(t, "Broadcast", p.server.ServerManager.Broadcast(1, []byte("you")))
		wantMessage(t, p.client, 1, []byte("you"))
	})
}

// Broadcast never waits: a client that is full is left out and named, the
// others get everything.
//
// Pins doc.go, "Many clients": writes to all clients, and waits for none: its error names those that had no room, with ErrFull
func TestBroadcastOverAFullClient(t *testing.T) {
	for _, size := range []int{1000, largeSize} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c := pipeMulti.crowd(t, 1)
				stuck := c.route.dial(t) // which reads nothing
				stuck.openClient()
				full := c.join(t, c.server)
				c.clients = append(c.clients, c.route.startClient(t))
				c.peers = append(c.peers, full, c.join(t, c.server))

				start := time.Now()
				var err error
				sent := 0
				for ; err == nil; sent++ {
					err = c.manager.Broadcast(1, numbered(sent, size))
					for _, client := range c.clients {
						wantMessage(t, client, 1, numbered(sent, size))
					}
					if sent*size > 64<<20 {
						t.Fatal("no client is ever full")
					}
				}
				wantElapsed(t, "Broadcast", start, 0)
				wantFull(t, err, full.ClientID())
				if out := full.Stats().MessagesOut; out != uint64(sent-1) {
					t.Errorf("the full client was sent %d messages, want %d", out, sent-1)
				}

				// It gets what it was sent, and no gap before it.
				for i := range sent - 1 {
					stuck.wantFrame(1, numbered(i, size))
				}
				noError(t, "Broadcast", c.manager.Broadcast(2, nil))
				stuck.wantFrame(2, nil)
			})
		})
	}
}

// wantFull checks that err is one ErrFull, which names client id.
func wantFull(t *testing.T, err error, id int) {
	t.Helper()
	wantError(t, "Broadcast", err, ipc.ErrFull)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 1 {
		t.Fatalf("Broadcast: %v, want one error joined", err)
	}
	if !regexp.MustCompile(fmt.Sprintf(`\b%d\b`, id)).MatchString(err.Error()) {
		t.Errorf("Broadcast: %v, want client %d named", err, id)
	}
}

// Clients that came and went before anybody read leave their events, but a
// bounded number of clients does.
func TestDepartedClientsAreBounded(t *testing.T) {
	begin(t)
	s := unixMulti
	route := s.open(t)
	server := s.startServer(t, route)
	const visitors = 1300
	for range visitors {
		raw := route.dial(t)
		raw.openClient()
		raw.Close()
	}
	if !eventually(func() bool { return len(server.ServerManager.Servers()) == 0 }) {
		t.Fatal("clients that left stay with the manager")
	}
	server.Close() // which may be news to the last ones
	events := make(map[int][]string)
	for ended := false; !ended; {
		server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			if ended = err != nil; !ended {
				events[s.ClientID()] = append(events[s.ClientID()], m.Status)
			}
		})
	}
	if n := len(events); n < 1000 || n > 1100 {
		t.Errorf("events of %d clients left, want about 1024", n)
	}
	for id, got := range events {
		if !slices.Equal(got, []string{"Connected", "Disconnected"}) && !slices.Equal(got, []string{"Connected", "Closed"}) {
			t.Errorf("client %d has events %q", id, got)
		}
	}
}

// ErrClosed comes when everything has been handed over, and then to every
// caller: not while a callback holds up what follows, which would be lost if
// the others had gone by then. A limit still ends a call meanwhile.
//
// Pins doc.go, "Many clients": That is once the server was closed and what clients had sent before has been handed over
func TestErrClosedIsLast(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		const n = 200
		p := s.pair(t)
		m := p.server.ServerManager
		noError(t, "Write", writeRising(p.client, n))
		synctest.Wait() // all of it has arrived

		var mu sync.Mutex
		var all []delivery
		note := func(s *ipc.Server, msg *ipc.Message, err error) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, delivery{s, msg, err})
		}
		release := make(chan struct{})
		_, first := call(func() error { // reads once, and no more
			m.Read(func(s *ipc.Server, msg *ipc.Message, err error) {
				<-release
				note(s, msg, err)
			})
			return nil
		})
		synctest.Wait()
		reads := managerReads(m, note)
		var others []func() error
		for _, read := range reads {
			returned, wait := call(read)
			wantBlocked(t, "a call beside a callback", returned)
			others = append(others, wait)
		}
		noError(t, "Close", p.server.Close())
		time.Sleep(time.Second)
		synctest.Wait()
		if len(all) > 0 {
			t.Errorf("the callbacks got %v beside one that has not returned", all)
		}

		start := time.Now()
		var got []delivery
		m.ReadTimed(time.Minute, nothing, collect(&got))
		wantElapsed(t, "ReadTimed", start, time.Minute)
		if len(got) != 1 || got[0].message != nothing {
			t.Errorf("ReadTimed: callback got %v, want the time-out", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantError(t, "ReadContext", m.ReadContext(ctx, collect(&got)), context.DeadlineExceeded)
		wantElapsed(t, "ReadTimed and ReadContext", start, 2*time.Minute)

		close(release)
		first()
		for _, wait := range others {
			noError(t, "a call beside a callback", wait())
		}
		if len(all) != n+1+len(reads) {
			t.Fatalf("the callbacks got %d messages, events and errors, want %d", len(all), n+1+len(reads))
		}
		for i, d := range all {
			switch {
			case i < n:
				if d.server != p.peer || d.err != nil {
					t.Fatalf("callback %d got %v, want a message", i, d)
				}
				wantSame(t, d.message, i+1, payload(i, i))
			case i == n:
				if d.server != p.peer || d.String() != "Closed" {
					t.Errorf("callback %d got %v, want the event Closed", i, d)
				}
			case d.server != p.server || d.message != nil || !errors.Is(d.err, ipc.ErrClosed):
				t.Errorf("callback %d got %v, want ErrClosed", i, d)
			}
		}
	})
}

// managerReads returns functions that read until ErrClosed, two of each kind.
// They return nil if that is how it ended.
func managerReads(m *ipc.ServerManager, callback func(*ipc.Server, *ipc.Message, error)) (reads []func() error) {
	const long = 1e9 * time.Second
	for _, read := range []func(func(*ipc.Server, *ipc.Message, error)) error{
		func(f func(*ipc.Server, *ipc.Message, error)) error { m.Read(f); return nil },
		func(f func(*ipc.Server, *ipc.Message, error)) error { m.ReadTimed(long, nil, f); return nil },
		func(f func(*ipc.Server, *ipc.Message, error)) error { return m.ReadContext(context.Background(), f) },
	} {
		untilClosed := func() error {
			for {
				var last error
				err := read(func(s *ipc.Server, msg *ipc.Message, err error) {
					last = err
					callback(s, msg, err)
				})
				if err != nil && last == nil {
					return fmt.Errorf("ReadContext: %w, and the callback did not get it", err)
				}
				if last != nil {
					return nil
				}
			}
		}
		reads = append(reads, untilClosed, untilClosed)
	}
	return reads
}

// The event of each client comes before ErrClosed, also if the client's Server
// is closed just when the listening one is.
func TestEventsBeforeErrClosed(t *testing.T) {
	begin(t)
	const n = 8
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	for range rounds {
		c := rawCrowd(t, n)
		var closing sync.WaitGroup
		for _, peer := range c.peers {
			closing.Go(func() { peer.Close() })
		}
		closing.Go(func() { c.server.Close() })
		closed := 0
		for ended := false; !ended; {
			for _, d := range readManager(t, c.server.ServerManager) {
				if ended = d.err != nil; !ended && d.String() == "Closed" {
					closed++
				}
			}
		}
		closing.Wait()
		if closed != n {
			t.Fatalf("ErrClosed after the events of %d clients, want %d", closed, n)
		}
		for _, raw := range c.raws {
			raw.Close()
		}
	}
}

// rawCrowd is a crowd whose clients are raw.
func rawCrowd(t *testing.T, n int) (c struct {
	server *ipc.Server
	peers  []*ipc.Server
	raws   []*wireConn
}) {
	t.Helper()
	route := unixRoute(t)
	c.server = unixMulti.startServer(t, route)
	for range n {
		raw := route.dial(t)
		raw.openClient()
		c.raws = append(c.raws, raw)
		c.peers = append(c.peers, unixMulti.join(t, c.server))
	}
	return c
}
