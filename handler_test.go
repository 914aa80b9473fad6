package ipc

import (
	"fmt"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// A program may be tested in bubbles of synctest and outside of them: a timer of
// a bubble must not be used elsewhere.
func TestHandlerInBubbles(t *testing.T) {
	exchange := func(t *testing.T) {
		l := newPipeListener()
		events := make(chan string, 3)
		server, err := StartServer(&ServerConfig{Listener: l, Handler: func(_ *Server, m *Message) { events <- m.Status }})
		if err != nil {
			t.Fatal(err)
		}
		client, err := StartClient(&ClientConfig{Name: "pipe", Dial: l.dialContext})
		if err != nil {
			t.Fatal(err)
		}
		<-events
		time.Sleep(2 * loopDelay) // the timer fires
		client.Close()
		<-events
		server.Close()
	}
	for range 5 {
		synctest.Test(t, exchange)
		exchange(t)
	}
}

// handled is a server with a Handler, which waits for step before each message
// and tells of each message and event after it.
type handled struct {
	readerServer
	step chan func(*Server) // what the Handler does with the next message
	got  chan string
}

func startHandled(t *testing.T, delay time.Duration, multi bool) handled {
	t.Helper()
	h := handled{step: make(chan func(*Server)), got: make(chan string, 1000)}
	dir := shortDir(t)
	s, err := StartServer(&ServerConfig{Name: "r", SocketDir: dir, MultiMode: multi, loopDelay: delay, Handler: h.handle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h.readerServer = readerServer{s, t}
	return h
}

func (h handled) handle(s *Server, m *Message) {
	if m.MsgType == eventType {
		h.got <- m.Status
		return
	}
	h.got <- fmt.Sprint(m.MsgType)
	if f := <-h.step; f != nil {
		f(s)
	}
}

// connect connects a raw client, and returns its Server.
func (h handled) connect() (*Server, net.Conn) {
	h.t.Helper()
	c := h.dial()
	h.want("Connected")
	if !h.config.MultiMode {
		return h.Server, c
	}
	servers := h.ServerManager.Servers()
	return servers[len(servers)-1], c
}

// want waits for these calls.
func (h handled) want(calls ...string) {
	h.t.Helper()
	for _, want := range calls {
		inTime(h.t, "the Handler", func() {
			if got := <-h.got; got != want {
				h.t.Errorf("the Handler got %s, want %s", got, want)
			}
		})
	}
}

// let has the Handler do f with the message that it has, and return.
func (h handled) let(f func(*Server)) {
	h.t.Helper()
	inTime(h.t, "the Handler", func() { h.step <- f })
}

// awaitState waits for a condition that announces itself by nothing else.
// It is looked at with the lock of s.
func awaitState(t *testing.T, what string, s *session, condition func() bool) {
	t.Helper()
	inTime(t, what, func() {
		for {
			s.mu.Lock()
			ok := condition()
			s.mu.Unlock()
			if ok {
				return
			}
			runtime.Gosched()
		}
	})
}

// connOf returns the connection of s.
func connOf(s *Server) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// eachMode runs test in both modes.
func eachMode(t *testing.T, test func(t *testing.T, multi bool)) {
	for _, multi := range []bool{false, true} {
		t.Run(fmt.Sprint("MultiMode: ", multi), func(t *testing.T) { test(t, multi) })
	}
}

// frames are messages of these types, without data.
func frames(msgTypes ...int) []byte {
	var b []byte
	for _, msgType := range msgTypes {
		b = append(b, make([]byte, wire.HeaderSize)...)
		wire.PutHeader(b[len(b)-wire.HeaderSize:], msgType, 0)
	}
	return b
}

// A connection may end with the read that brought the messages which are being
// handled. It is taken away meanwhile, and a Handler that closes it does not wait
// for a timer.
func TestHandlerOfTheLastBatch(t *testing.T) {
	eachMode(t, func(t *testing.T, multi bool) {
		h := startHandled(t, never, multi)
		server, c := h.connect()
		conn := connOf(server)
		c.Write(append(frames(1, 2), 0, 0, 0, 0)) // a frame cannot have no type
		h.want("1")
		inTime(t, "the end of the connection", func() { <-conn.done })
		inTime(t, "Close", func() { h.let(func(s *Server) { s.Close() }) })
		h.want("2")
		h.let(nil)
		h.want("Error", "Disconnected")
		if !multi {
			h.want("Closed")
		}
	})
}

// A Handler that ends its goroutine ends the connection, also where a stand-in
// reads and a deadline does not wake it. What had arrived is handed over, with
// nothing left out.
func TestHandlerExitsLate(t *testing.T) {
	l := newPipeListener()
	h := handled{step: make(chan func(*Server)), got: make(chan string, 100)}
	server, err := StartServer(&ServerConfig{Listener: l, loopDelay: time.Millisecond, Handler: h.handle})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	h.readerServer = readerServer{Server: server, t: t}
	c, err := l.dialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := new(wire.Client).Handshake(silentConn{c}); err != nil {
		t.Fatal(err)
	}
	c.Write(frames(1, 2, 3))
	h.want("Connected", "1")
	c.Write(frames(4, 5)) // which a stand-in reads
	awaitRole(t, &server.session, loop)
	awaitState(t, "the stand-in", &server.session, func() bool { return server.stats.MessagesIn == 5 && server.conn.in.role == loop })
	h.let(func(*Server) { runtime.Goexit() })
	inTime(t, "the end of the connection", func() { c.Read(make([]byte, 1)) })
	for _, m := range []string{"2", "3", "4", "5"} {
		h.want(m)
		h.let(nil)
	}
	h.want("Disconnected")
}

// The Handler may end every goroutine that calls it.
func TestHandlerAlwaysExits(t *testing.T) {
	eachMode(t, func(t *testing.T, multi bool) {
		h := startHandled(t, never, multi)
		_, c := h.connect()
		c.Write(frames(1, 2, 3))
		for _, m := range []string{"1", "2", "3"} {
			h.want(m)
			h.let(func(*Server) { runtime.Goexit() })
		}
		h.want("Disconnected")
		inTime(t, "Close", func() { h.Close() })
	})
}

// What the Handler of a client that has left is still lent counts as unread, until
// its last call has returned, so that clients which come, send and go are not
// without bound.
func TestHandlerHoldsUpAdmission(t *testing.T) {
	h := startHandled(t, time.Millisecond, true)
	held := func() int {
		h.admission.mu.Lock()
		defer h.admission.mu.Unlock()
		return h.admission.held
	}
	const clients = 3
	for range clients {
		server, c := h.connect()
		c.Write(frames(1, 2))
		h.want("1")
		conn := connOf(server)
		c.Close()
		inTime(t, "the end of the connection", func() { <-conn.done })
	}
	// On a busy machine a stand-in has read for some of them, and no buffer is lent.
	if got := held(); got < readBufferSize+clients*departedCost || got > 2*clients*readBufferSize {
		t.Errorf("%d bytes held by %d clients", got, clients)
	}
	for range 2 * clients {
		h.let(nil)
	}
	inTime(t, "the last calls", func() {
		for held() != 0 {
			runtime.Gosched()
		}
	})
}

// Close does not wait for a Handler that runs, nor for a timer.
//
// Pins doc.go, "Handlers": Close, which does not wait for it
func TestCloseBesideAHandler(t *testing.T) {
	eachMode(t, func(t *testing.T, multi bool) {
		h := startHandled(t, never, multi)
		_, c := h.connect()
		c.Write(frames(1, 2))
		h.want("1")
		inTime(t, "Close", func() { h.Close() })
		h.let(nil)
		h.want("2")
		h.let(nil)
		h.want("Closed")
	})
}

// A stand-in that sleeps since the inbox is full goes on when there is room, and
// ends with the connection.
func TestStandInWithAFullInbox(t *testing.T) {
	const size, n = 30 << 10, 3 * inboxBound / (30 << 10)
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprint("Close: ", closes), func(t *testing.T) {
			h := startHandled(t, time.Millisecond, true)
			server, c := h.connect()
			go func() {
				frame := make([]byte, wire.HeaderSize+size)
				wire.PutHeader(frame, 1, size)
				for range n {
					c.Write(frame)
				}
			}()
			awaitState(t, "a full inbox", &server.session, func() bool { return server.full && server.conn.in.role == none })
			if closes {
				inTime(t, "Close", func() { server.Close() })
			}
			close(h.step)
			got := 0
			inTime(t, "the Handler", func() {
				for !closes && got < n || closes && got >= 0 {
					if m := <-h.got; m == "1" {
						got++
					} else if m == "Closed" {
						got = -1
					}
				}
			})
			server.mu.Lock()
			defer server.mu.Unlock()
			if closes && server.handling.watch != nil {
				t.Error("a timer runs after the end")
			}
		})
	}
}
