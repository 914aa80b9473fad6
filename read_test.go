package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// The tests here are about the wake-ups of the reader. The timer that lets the
// loop read when no caller does is there for programs that do not read; it must
// not hide a wake-up that is missing, so it is set to never here.
const never = time.Hour

// hangs is no expectation of speed: what takes so long hangs.
const hangs = 10 * time.Second

// readerServer is a server whose clients are raw connections.
type readerServer struct {
	*Server
	t *testing.T
}

func startReaderServer(t *testing.T, delay time.Duration, multi bool) readerServer {
	t.Helper()
	if !multi {
		needDirect(t)
	}
	dir := shortDir(t)
	s, err := StartServer(&ServerConfig{Name: "r", SocketDir: dir, MultiMode: multi, loopDelay: delay})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return readerServer{s, t}
}

// dial connects a client that is not ours, and does its handshake.
func (s readerServer) dial() net.Conn {
	s.t.Helper()
	c, err := dialSocket(s.t.Context(), s.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if _, err := new(wire.Client).Handshake(silentConn{c}); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// connect is dial, after which the event Connected has been read. It also
// returns the Server that the client talks to.
func (s readerServer) connect() (*Server, net.Conn) {
	s.t.Helper()
	c := s.dial()
	var server *Server
	inTime(s.t, "Connected", func() {
		s.ServerManager.Read(func(client *Server, _ *Message, _ error) { server = client })
	})
	return server, c
}

// send sends messages of the types given, each with size bytes of data, in one
// write.
func send(t *testing.T, c net.Conn, size int, msgTypes ...int) {
	t.Helper()
	var frames []byte
	for _, msgType := range msgTypes {
		frame := make([]byte, wire.HeaderSize+size)
		wire.PutHeader(frame, msgType, size)
		frames = append(frames, frame...)
	}
	if _, err := c.Write(frames); err != nil {
		t.Error(err)
	}
}

// needDirect skips a test in which a caller reads the socket itself.
func needDirect(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("callers do not read the socket themselves on Windows")
	}
}

// inTime fails the test if f hangs.
func inTime(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(hangs):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
}

// wantType reads one message or event.
func wantType(t *testing.T, s *session, want int) *Message {
	t.Helper()
	m, err := s.Read()
	if err != nil || m.MsgType != want {
		t.Errorf("read %v, %v, want type %d", m, err, want)
	}
	return m
}

// state returns what f says about the reader of s, under the lock.
func state[T any](s *session, f func(*reader) T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f(&s.conn.in)
}

// awaitRole waits until the reader of s is in the role that is wanted, which
// announces itself by nothing else.
func awaitRole(t *testing.T, s *session, want role) {
	t.Helper()
	if want == caller {
		needDirect(t)
	}
	inTime(t, fmt.Sprint("role ", want), func() {
		for state(s, func(r *reader) role { return r.role }) != want {
			runtime.Gosched()
		}
	})
}

// Callers that wait in Read beside each other take turns at the socket.
func TestCallersTakeTurns(t *testing.T) {
	s := startReaderServer(t, never, false)
	server, c := s.connect()
	const n = 200
	got := make(chan int, n)
	var reading sync.WaitGroup
	for range 3 {
		reading.Go(func() {
			for {
				m, err := server.Read()
				if err != nil {
					return
				}
				if m.MsgType > 0 {
					got <- m.MsgType
				}
			}
		})
	}
	inTime(t, "Read", func() {
		for i := range n {
			send(t, c, 0, i+1)
			if m := <-got; m != i+1 {
				t.Errorf("got message %d, want %d", m, i+1)
			}
		}
	})
	inTime(t, "Close", func() { server.Close(); reading.Wait() })
}

// A caller whose context or time ends leaves the socket to the next one.
func TestCallerLeavesTheSocket(t *testing.T) {
	s := startReaderServer(t, never, false)
	server, c := s.connect()
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		var first, second sync.WaitGroup
		first.Go(func() {
			if m, err := server.ReadContext(ctx); !errors.Is(err, context.Canceled) {
				t.Error(m, err)
			}
		})
		awaitRole(t, &server.session, caller)
		second.Go(func() { wantType(t, &server.session, 7) })
		cancel()
		inTime(t, "ReadContext", first.Wait)
		awaitRole(t, &server.session, caller)
		send(t, c, 0, 7)
		inTime(t, "Read", second.Wait)

		if m, err := server.ReadTimed(time.Microsecond, nil); m != TimeoutMessage || err != nil {
			t.Fatal(m, err)
		}
		if m, err := server.ReadTimed(0, nil); m != TimeoutMessage || err != nil {
			t.Fatal(m, err)
		}
	}
}

// The end of a context may come when its caller has just left the socket, and
// another goroutine reads: nothing is lost by that.
func TestLateInterrupt(t *testing.T) {
	s := startReaderServer(t, never, false)
	server, c := s.connect()
	for range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		send(t, c, 0, 1)
		m, err := server.ReadContext(ctx)
		if err != nil { // cancelled before the message was seen
			m, err = server.Read()
		}
		if err != nil || m.MsgType != 1 {
			t.Fatal(m, err)
		}
	}
}

// A caller takes the role from the loop that has it, without a message that
// would make the loop look up.
func TestCallerInterruptsTheLoop(t *testing.T) {
	s := startReaderServer(t, time.Millisecond, false)
	server, c := s.connect()
	for range 20 {
		awaitRole(t, &server.session, loop) // the time has passed
		got := make(chan struct{})
		go func() {
			defer close(got)
			wantType(t, &server.session, 3)
		}()
		awaitRole(t, &server.session, caller)
		send(t, c, 0, 3)
		inTime(t, "Read", func() { <-got })
	}
}

// Two callers interrupt the loop at once, and each gets a message.
func TestCallersInterruptTheLoop(t *testing.T) {
	s := startReaderServer(t, time.Millisecond, false)
	server, c := s.connect()
	for range 20 {
		awaitRole(t, &server.session, loop)
		server.mu.Lock()
		server.delay = never // from here on no timer helps
		server.mu.Unlock()
		var reading sync.WaitGroup
		for range 2 {
			reading.Go(func() { wantType(t, &server.session, 3) })
		}
		awaitRole(t, &server.session, caller)
		send(t, c, 0, 3)
		send(t, c, 0, 3)
		inTime(t, "Read", reading.Wait)
		server.mu.Lock()
		server.delay = time.Millisecond
		server.conn.in.timing = false // what never comes
		server.conn.in.startTimer()
		server.mu.Unlock()
	}
}

// The end of a connection is noticed by the caller that reads, and the loop,
// which sleeps, is told.
func TestLossIsNoticedByTheCaller(t *testing.T) {
	s := startReaderServer(t, never, false)
	for range 20 {
		server, c := s.connect()
		go func() {
			awaitRole(t, &server.session, caller)
			c.Close()
		}()
		inTime(t, "Read", func() {
			if m := wantType(t, &server.session, eventType); m.Status != Disconnected.String() {
				t.Error(m)
			}
		})
	}
}

// Close ends the read of a caller, and a loop that sleeps.
func TestCloseWakesTheReader(t *testing.T) {
	for _, reading := range []bool{false, true} {
		t.Run(fmt.Sprint("a caller reads: ", reading), func(t *testing.T) {
			s := startReaderServer(t, never, false)
			server, _ := s.connect()
			var end sync.WaitGroup
			if reading {
				end.Go(func() {
					if m := wantType(t, &server.session, eventType); m.Status != Closed.String() {
						t.Error(m)
					}
				})
				awaitRole(t, &server.session, caller)
			}
			inTime(t, "Close", func() {
				if err := server.Close(); err != nil {
					t.Error(err)
				}
				end.Wait()
			})
		})
	}
}

// A loop that sleeps with a full inbox goes on when there is room.
func TestRoomWakesTheLoop(t *testing.T) {
	const size, n = 30 << 10, 3 * inboxBound / (30 << 10)
	for _, multi := range []bool{false, true} {
		t.Run(fmt.Sprint("MultiMode: ", multi), func(t *testing.T) {
			s := startReaderServer(t, time.Millisecond, multi)
			server, c := s.connect()
			var sending sync.WaitGroup
			sending.Go(func() {
				for i := range n {
					send(t, c, size, i+1)
				}
			})
			inTime(t, "a full inbox", func() {
				full := func() bool {
					server.mu.Lock()
					defer server.mu.Unlock()
					return server.full
				}
				for !full() {
					runtime.Gosched()
				}
			})
			if held := state(&server.session, func(r *reader) role { return r.role }); held != none {
				t.Errorf("the loop sleeps in role %d", held)
			}
			inTime(t, "Read", func() {
				for i := range n {
					wantType(t, &server.session, i+1)
				}
				sending.Wait()
			})
		})
	}
}

// With a full inbox a caller that waits for something else than a message finds
// the reader free. Nothing is read, as there is no room, until there is.
func TestCallerBesideAFullInbox(t *testing.T) {
	s := startReaderServer(t, time.Millisecond, false)
	server, c := s.connect()
	const size, n = 30 << 10, 3 * inboxBound / (30 << 10)
	go func() {
		for i := range n {
			send(t, c, size, i+1)
		}
	}()
	inTime(t, "a full inbox", func() {
		for full := false; !full; runtime.Gosched() {
			server.mu.Lock()
			full = server.full
			server.mu.Unlock()
		}
	})
	all := make(chan error, 1)
	go func() {
		server.mu.Lock()
		defer server.mu.Unlock()
		all <- server.waitFor(new(waitLimit), nil, nil, func() bool { return server.stats.MessagesIn == n })
	}()
	inTime(t, "waitFor", func() {
		for i := range n {
			wantType(t, &server.session, i+1)
		}
		if err := <-all; err != nil {
			t.Error(err)
		}
	})
}

// After a failed write what has arrived is still read, though no caller is about
// or the last one has just left.
func TestArrivedIsReadAfterAFailedWrite(t *testing.T) {
	for _, reading := range []bool{false, true} {
		t.Run(fmt.Sprint("a caller reads: ", reading), func(t *testing.T) {
			s := startReaderServer(t, never, false)
			server, c := s.connect()
			left := make(chan struct{})
			if reading {
				go func() {
					defer close(left)
					wantType(t, &server.session, 1)
				}()
				awaitRole(t, &server.session, caller)
			}
			server.mu.Lock()
			conn := server.conn
			server.mu.Unlock()
			conn.writeFailed(io.ErrShortWrite)
			send(t, c, 0, 1)
			if reading {
				<-left
			}
			send(t, c, 0, 2)
			inTime(t, "Disconnected", func() { <-conn.done })
			if !reading {
				wantType(t, &server.session, 1)
			}
			wantType(t, &server.session, 2)
			wantType(t, &server.session, eventType)
		})
	}
}

// When no caller has been in Read for the delay the loop reads, and it does not
// while callers come and go.
//
// Pins doc.go, "Reading": since it then reads the socket itself
func TestLoopReadsWhenNoCallerDoes(t *testing.T) {
	s := startReaderServer(t, time.Millisecond, false)
	server, c := s.connect()
	send(t, c, 0, 1)
	inTime(t, "the loop", func() {
		for server.Stats().MessagesIn == 0 {
			runtime.Gosched()
		}
	})
	wantType(t, &server.session, 1)
	awaitRole(t, &server.session, loop) // again
	c.Close()
	inTime(t, "Disconnected", func() {
		for server.StatusCode() != Disconnected {
			runtime.Gosched()
		}
	})
}

// A caller that interrupts the loop, and leaves before it gets the role, leaves
// the socket to the loop again.
func TestLoopGoesOnAfterAShortWait(t *testing.T) {
	s := startReaderServer(t, time.Millisecond, false)
	server, c := s.connect()
	for range 50 {
		awaitRole(t, &server.session, loop)
		before := server.Stats().MessagesIn
		server.mu.Lock()
		server.await(&waitLimit{timed: true, deadline: longAgo}, false, nil, nil)
		server.mu.Unlock()
		send(t, c, 0, 1)
		inTime(t, "the loop", func() {
			for server.Stats().MessagesIn == before {
				runtime.Gosched()
			}
		})
		wantType(t, &server.session, 1)
	}
}

// A caller that was at the socket for longer than the loop waits for leaves it
// to the loop all the same.
func TestLoopGoesOnAfterALongRead(t *testing.T) {
	s := startReaderServer(t, time.Millisecond, false)
	server, c := s.connect()
	for range 10 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			wantType(t, &server.session, 1)
		}()
		awaitRole(t, &server.session, caller)
		inTime(t, "the timer", func() {
			for !state(&server.session, func(r *reader) bool { return r.idle || r.role != caller }) {
				runtime.Gosched()
			}
		})
		send(t, c, 0, 1)
		inTime(t, "Read", func() { <-done })
		awaitRole(t, &server.session, loop)
	}
}

// A poll looks at the socket.
func TestPollLooks(t *testing.T) {
	s := startReaderServer(t, never, false)
	server, c := s.connect()
	send(t, c, 0, 1)
	inTime(t, "ReadTimed", func() {
		for m := TimeoutMessage; m == TimeoutMessage; {
			var err error
			if m, err = server.ReadTimed(0, nil); err != nil {
				t.Error(err)
			}
		}
	})
}

// The same when a caller has interrupted the loop after the write had failed, and
// leaves: with a message, or because its context has ended.
func TestArrivedIsReadAfterTheLastCaller(t *testing.T) {
	for _, message := range []bool{false, true} {
		t.Run(fmt.Sprint("with a message: ", message), func(t *testing.T) {
			s := startReaderServer(t, never, false)
			server, c := s.connect()
			server.mu.Lock()
			conn := server.conn
			conn.writeErr = io.ErrShortWrite // without the timer that ends the connection
			conn.in.wakeLoop()
			before := server.reads
			server.mu.Unlock()
			awaitRole(t, &server.session, loop)

			ctx, cancel := context.WithCancel(t.Context())
			left := make(chan struct{})
			go func() {
				defer close(left)
				if m, err := server.ReadContext(ctx); message && (err != nil || m.MsgType != 1) || !message && err == nil {
					t.Errorf("read %v, %v", m, err)
				}
			}()
			inTime(t, "the call", func() {
				for state(&server.session, func(r *reader) uint64 { return r.conn.session.reads }) == before {
					runtime.Gosched()
				}
			})
			if message {
				send(t, c, 0, 1)
			} else {
				cancel()
			}
			inTime(t, "ReadContext", func() { <-left })
			cancel()
			send(t, c, 0, 2)
			c.Close()
			inTime(t, "the end of the connection", func() { <-conn.done })
			wantType(t, &server.session, 2)
			wantType(t, &server.session, eventType)
		})
	}
}

// Whenever the loop takes the socket, a goroutine that is in Read gets each
// message, and the loss, beside others that come and go.
func TestLoopReadsAtAnyMoment(t *testing.T) {
	for range 20 {
		s := startReaderServer(t, never, false)
		server, c := s.connect()
		// kick makes the loop read as soon as no caller does.
		kick := func() {
			server.mu.Lock()
			defer server.mu.Unlock()
			if conn := server.conn; conn != nil {
				conn.in.idle = true
				conn.in.wakeLoop()
			}
		}
		got := make(chan int, 100)
		stop := make(chan struct{})
		var staying, passing sync.WaitGroup
		staying.Go(func() {
			for {
				m, err := server.Read()
				if err != nil {
					return
				}
				got <- m.MsgType
			}
		})
		for i := range 3 {
			passing.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					d := rand.N(300 * time.Microsecond)
					var m *Message
					var err error
					if i == 0 {
						ctx, cancel := context.WithTimeout(t.Context(), d)
						m, err = server.ReadContext(ctx)
						cancel()
					} else {
						m, err = server.ReadTimed(d, nil)
					}
					if err == nil && m != TimeoutMessage {
						got <- m.MsgType
					}
					time.Sleep(rand.N(200 * time.Microsecond))
				}
			})
		}
		want := func(msgType int) {
			inTime(t, fmt.Sprint("message ", msgType), func() {
				if m := <-got; m != msgType {
					t.Errorf("read type %d, want %d", m, msgType)
				}
			})
		}
		for i := 1; i <= 60; i++ {
			for range rand.IntN(3) {
				kick()
			}
			time.Sleep(rand.N(100 * time.Microsecond))
			var kicking sync.WaitGroup
			if rand.IntN(2) == 0 {
				kicking.Go(kick)
			}
			if i == 40 { // from here on only one reads
				close(stop)
				inTime(t, "passing callers", passing.Wait)
			}
			send(t, c, 0, i)
			want(i)
			kicking.Wait()
		}
		kick()
		c.Close()
		want(eventType)
		inTime(t, "Close", func() { server.Close(); staying.Wait() })
	}
}

// Callers of the manager with limits and without, beside clients that come and go
// and callbacks that close their Server or all: order is kept, no two callbacks
// have the same client, nothing is unread when ErrClosed comes, and every call
// ends. No timer helps.
func TestManagerCallersAndClose(t *testing.T) {
	for range 25 {
		for _, multi := range []bool{false, true} {
			t.Run(fmt.Sprint("MultiMode: ", multi), func(t *testing.T) { callAndClose(t, multi) })
		}
	}
}

func callAndClose(t *testing.T, multi bool) {
	const n = 200
	clients := map[bool]int{false: 1, true: 5}[multi]
	s := startReaderServer(t, never, multi)
	var sending sync.WaitGroup
	for range clients {
		c := s.dial()
		sending.Go(func() {
			defer c.Close()
			for i := 1; i <= n; i++ {
				if _, err := c.Write(frameOf(i)); err != nil {
					return // it was closed
				}
				if rand.IntN(20) == 0 {
					time.Sleep(rand.N(200 * time.Microsecond))
				}
			}
			time.Sleep(rand.N(10 * time.Millisecond))
		})
	}

	h := &handed{t: t, last: map[*Server]int{}, busy: map[*Server]bool{}}
	closeAt, inCallback := int64(rand.IntN(n*clients)+1), rand.IntN(2) == 0
	var calls atomic.Int64
	var calling sync.WaitGroup
	callback := func(c *Server, m *Message, err error) {
		if !h.enter(c, m, err) {
			return
		}
		defer h.leave(c)
		if rand.IntN(50) == 0 {
			time.Sleep(rand.N(300 * time.Microsecond))
		}
		switch n := calls.Add(1); {
		case n == closeAt && inCallback:
			s.Close()
		case n == closeAt:
			calling.Go(func() { s.Close() })
		case multi && rand.IntN(400) == 0:
			c.Close()
		}
	}
	for i := range 4 {
		calling.Go(func() {
			for {
				var last error
				f := func(c *Server, m *Message, err error) { last = err; callback(c, m, err) }
				d := rand.N(300 * time.Microsecond)
				switch i {
				case 0, 1:
					s.ServerManager.Read(f)
				case 2:
					s.ServerManager.ReadTimed(d, nil, f)
				case 3:
					ctx, cancel := context.WithTimeout(t.Context(), d)
					s.ServerManager.ReadContext(ctx, f)
					cancel()
				}
				if last != nil {
					if !errors.Is(last, ErrClosed) {
						t.Error(last)
					}
					return
				}
			}
		})
	}
	inTime(t, "a client", sending.Wait)
	inTime(t, "Close", func() { s.Close() })
	inTime(t, "a call", calling.Wait)
}

func frameOf(msgType int) []byte {
	b := make([]byte, wire.HeaderSize)
	wire.PutHeader(b, msgType, 0)
	return b
}

// handed is what callbacks have got.
type handed struct {
	t    *testing.T
	mu   sync.Mutex
	last map[*Server]int
	busy map[*Server]bool
}

// enter is the start of a callback. It returns false if there is no more to it.
func (h *handed) enter(c *Server, m *Message, err error) bool {
	if m == TimeoutMessage {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		for c := range h.last {
			c.mu.Lock()
			if !c.in.empty() {
				h.t.Error("ErrClosed while something is unread")
			}
			c.mu.Unlock()
		}
		return false
	}
	if h.busy[c] {
		h.t.Error("two callbacks have the same client")
	}
	h.busy[c] = true
	if m.MsgType < 0 {
		h.last[c] += 0
	} else if h.last[c]++; m.MsgType != h.last[c] {
		h.t.Errorf("message %d, want %d", m.MsgType, h.last[c])
	}
	return true
}

func (h *handed) leave(c *Server) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy[c] = false
}
