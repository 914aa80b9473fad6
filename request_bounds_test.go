package ipc

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// rawClient is a connection to s after a handshake that has announced itself.
func rawClient(t *testing.T, s *Server) net.Conn {
	t.Helper()
	c, err := dialSocket(t.Context(), s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client := wire.Client{Secrets: wire.System}
	if _, err := client.Handshake(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func frameControl(f wire.Control, payload []byte) []byte {
	b := make([]byte, wire.ControlHeaderSize, wire.ControlHeaderSize+len(payload))
	wire.PutControlHeader(b, &f, len(payload))
	return append(b, payload...)
}

// Requests and replies of more than the pools hold.
func TestHugeRequest(t *testing.T) {
	server := newServer(t, ServerConfig{MaxMsgSize: 16 << 20})
	client := newClientOf(t, server, ClientConfig{})
	go func() {
		for {
			m, err := server.Read()
			if err != nil {
				return
			}
			if m.IsRequest() {
				m.Reply(1, m.Data)
			}
		}
	}()
	for _, n := range []int{4<<20 - 16, 4<<20 - 15, 4 << 20, 4<<20 + 1, 5 << 20} {
		m, err := client.Request(t.Context(), 1, make([]byte, n))
		if err != nil || len(m.Data) != n {
			t.Error(n, err)
		}
	}
}

func TestHugeReplyToAHandler(t *testing.T) {
	server := newServer(t, ServerConfig{MaxMsgSize: 16 << 20, MultiMode: true, Handler: func(_ *Server, m *Message) {
		if m.IsRequest() {
			m.Reply(1, make([]byte, 5<<20))
		}
	}})
	client := newClientOf(t, server, ClientConfig{})
	if m, err := client.Request(t.Context(), 1, nil); err != nil || len(m.Data) != 5<<20 {
		t.Error(err)
	}
}

// Cancels of one request, of which each would start a goroutine.
func TestCancelsOfOneRequest(t *testing.T) {
	server := newServer(t, ServerConfig{MultiMode: true})
	c := rawClient(t, server)
	var got *Message
	inTime(t, "request", func() {
		go func() {
			c.Write(frameControl(wire.Control{Kind: wire.Request, N: 1, ID: 1}, nil))
		}()
		for got == nil {
			server.ServerManager.Read(func(s *Server, m *Message, err error) {
				if m != nil && m.IsRequest() {
					got = m
				}
			})
		}
	})
	s := got.lease.request.conn.session
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	for s.WriteContext(ctx, 1, make([]byte, 1000)) == nil {
	}
	before := runtime.NumGoroutine()
	cancels := frameControl(wire.Control{Kind: wire.Cancel, ID: 1}, nil)
	for range 10 {
		cancels = append(cancels, cancels...)
	}
	for range 20 {
		c.Write(cancels)
	}
	c.Write(plainFrame(7, nil)) // when that is here, they have been read
	inTime(t, "the message behind the cancels", func() {
		for s.Stats().MessagesIn < 2 {
			runtime.Gosched()
		}
	})
	if n := runtime.NumGoroutine() - before; n > 100 {
		t.Errorf("%d goroutines more by cancels of one request; Stats %v", n, s.Stats())
	}
}

// A Flush that waits for a reply which goes with its connection.
func TestFlushOfADroppedReply(t *testing.T) {
	server := newServer(t, ServerConfig{})
	c := rawClient(t, server)
	c.Write(frameControl(wire.Control{Kind: wire.Request, N: 1, ID: 1}, nil))
	m := nextData(t, &server.session)
	if err := m.Reply(1, make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Flush(t.Context()); !errors.Is(err, ErrNotConnected) {
			t.Errorf("Flush of a reply that was dropped: %v", err)
		}
	})
	becomes(func() bool { server.out.mu.Lock(); defer server.out.mu.Unlock(); return len(server.out.waits) == 1 })
	c.Close()
	inTime(t, "Flush", wg.Wait)
}

// The sums of a MultiMode server have the requests that a lost connection ended.
func TestStatsOfDepartedRequests(t *testing.T) {
	server := newServer(t, ServerConfig{MultiMode: true})
	c := rawClient(t, server)
	c.Write(frameControl(wire.Control{Kind: wire.Request, N: 1, ID: 1}, nil))
	var client *Server
	inTime(t, "leave", func() {
		for client == nil {
			server.ServerManager.Read(func(s *Server, m *Message, err error) {
				if m.IsRequest() {
					client = s
				}
			})
		}
		c.Close()
		for gone := false; !gone; {
			server.ServerManager.Read(func(s *Server, m *Message, err error) { gone = gone || m.Status == "Disconnected" })
		}
	})
	if a, b := client.Stats().RequestsUnanswered, server.Stats().RequestsUnanswered; a != 1 || b != 1 {
		t.Errorf("unanswered: client's Server %d, sum %d", a, b)
	}
}

// Requests that give up while there is no room do not keep the loop from reading.
func TestRequestsThatGiveUpLetTheLoopRead(t *testing.T) {
	s := newServerRaw(t)
	s.conn.Write(wire.Announcement())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for s.client.WriteContext(ctx, 1, make([]byte, 1000)) == nil {
	}
	request := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
		defer cancel()
		s.client.Request(ctx, 1, make([]byte, 2000)) // there is no room for that
	}
	for m, _ := s.client.ReadTimed(time.Millisecond, nil); m != TimeoutMessage; { // the program reads now and then
		m, _ = s.client.ReadTimed(time.Millisecond, nil)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				request()
			}
		}
	})
	inTime(t, "a reader", func() {
		for range 60 {
			s.conn.Write(plainFrame(1, make([]byte, 10_000)))
		}
	})
	close(stop)
	wg.Wait()
}

type rawServer struct {
	client *Client
	conn   net.Conn
}

func newServerRaw(t *testing.T) rawServer {
	t.Helper()
	config, err := (&ServerConfig{Name: "test", SocketDir: shortDir(t)}).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	ln, _, err := listen(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	conns := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		offer := wire.Server{MaxMsgSize: 3 << 20, Secrets: wire.System}
		offer.Handshake(c, func() error { return nil })
		conns <- c
	}()
	client, err := StartClient(&ClientConfig{Name: "test", SocketDir: config.SocketDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c := <-conns
	t.Cleanup(func() { c.Close() })
	return rawServer{client, c}
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc >> 20)
}

// Large requests that are taken back while the peer reads nothing.
func TestMemoryOfWithdrawnRequests(t *testing.T) {
	s := newServerRaw(t)
	s.conn.Write(wire.Announcement())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for range 1000 {
		if s.client.WriteContext(ctx, 1, make([]byte, 1000)) != nil {
			break
		}
	}
	before := heap()
	data := make([]byte, 1<<20)
	for range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		if _, err := s.client.Request(ctx, 1, data); errors.Is(err, ErrNoReply) {
			t.Log(err)
		}
		cancel()
	}
	if grown := heap() - before; grown > 20 {
		t.Errorf("%d MiB more by requests that have been taken back", grown)
	}
}

// What a request that was given up keeps until the peer ends it.
func TestMemoryOfAbandonedRequests(t *testing.T) {
	s := newServerRaw(t)
	s.conn.Write(wire.Announcement())
	go func() {
		b := make([]byte, 1<<20)
		for {
			if _, err := s.conn.Read(b); err != nil {
				return
			}
		}
	}()
	before := heap()
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := s.client.Request(ctx, 1, make([]byte, 1<<20)); !errors.Is(err, ErrNoReply) {
			t.Log(err)
		}
		cancel()
	}
	if grown := heap() - before; grown > 20 {
		t.Errorf("%d MiB more by requests that have been given up", grown)
	}
}

// The place of a request that has been taken back is for one that waits for it, also
// if its goroutine reads the connection, to which nothing comes.
func TestPlaceOfAWithdrawnRequest(t *testing.T) {
	s := newServerRaw(t)
	s.conn.Write(wire.Announcement())
	session := &s.client.session
	x := &session.conn.exchange
	awaitState(t, "the announcement", session, func() bool { return x.peer == knowsRequests })
	setPlaces := func(n uint16) {
		session.mu.Lock()
		defer session.mu.Unlock()
		x.places = n
	}
	// The queue waits as it does behind what the peer does not read.
	session.out.mu.Lock()
	session.out.flushing = true
	session.out.mu.Unlock()
	defer func() {
		session.out.mu.Lock()
		defer session.out.mu.Unlock()
		session.out.endFlush()
	}()
	setPlaces(0)
	go s.client.Request(t.Context(), 1, nil)
	awaitRole(t, session, caller)
	setPlaces(1)
	ctx, cancel := context.WithCancel(t.Context())
	withdrawn := make(chan error, 1)
	go func() {
		_, err := s.client.Request(ctx, 2, nil)
		withdrawn <- err
	}()
	awaitState(t, "the request", session, func() bool { return len(x.calls) == 1 })
	cancel()
	if err := <-withdrawn; err != context.Canceled {
		t.Errorf("%v, want that it has not been sent", err)
	}
	awaitState(t, "the request that waits", session, func() bool { return len(x.calls) == 1 })
}

// A Request that waits while the inbox is full reads once there is room.
func TestRoomBelowTheBound(t *testing.T) {
	client := newFloodedClient(t, 100, 12_000)
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := client.Request(ctx, 1, nil)
		done <- err
	}()
	awaitFull(t, client)
	for range 25 {
		client.Read()
	}
	if err := <-done; err != nil {
		t.Errorf("a Request while there is room for 200 KiB: %v (ErrFull: %t)", err, errors.Is(err, ErrFull))
	}
}

func TestRequestsWithSmallLimits(t *testing.T) {
	for limit := 14; limit <= 20; limit++ {
		for _, sealed := range []bool{false, true} {
			server := newServer(t, ServerConfig{MaxMsgSize: limit, Encryption: sealed, Handler: func(_ *Server, m *Message) {
				if m.IsRequest() {
					if err := m.ReplyError(1, "much too long a text"); !errors.Is(err, ErrMsgTooLarge) {
						t.Error(err)
					}
					m.ReplyPart(1, m.Data)
					m.Reply(1, m.Data)
				}
			}})
			client := newClientOf(t, server, ClientConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := client.Request(ctx, 1, make([]byte, max(0, limit-16)))
			if limit < 16 != errors.Is(err, ErrNoRequests) || limit >= 16 && err != nil {
				t.Error(limit, err)
			}
			if limit >= 16 {
				n := 0
				for _, err := range client.RequestParts(ctx, 1, make([]byte, limit-16)) {
					n++
					if err != nil {
						t.Error(limit, err)
					}
				}
				if n != 2 {
					t.Error(n)
				}
				if _, err := client.Request(ctx, 1, make([]byte, limit-15)); !errors.Is(err, ErrMsgTooLarge) {
					t.Error(err)
				}
			}
			cancel()
			client.Close()
			server.Close()
		}
	}
}

// The room that Read makes is all that a Request waits for: no other goroutine
// reads after that.
func TestRoomAloneWakesARequest(t *testing.T) {
	const unread = 100
	client := newFloodedClient(t, unread, 12_000)
	var asking sync.WaitGroup
	asking.Go(func() {
		if m, err := client.Request(t.Context(), 1, nil); err != nil || m.MsgType != 2 {
			t.Error(m, err)
		}
	})
	awaitFull(t, client)
	for range 60 {
		client.Read()
	}
	inTime(t, "Request", asking.Wait)
}

// A Request that a Handler makes is replied to at once: another goroutine reads.
// The timer, which would have one read after a while, is an hour.
func TestRequestOfAHandler(t *testing.T) {
	server := newAnswering(t)
	done := make(chan struct{})
	newClientOf(t, server, ClientConfig{loopDelay: never, Handler: func(c *Client, m *Message) {
		if m.Status == Connected.String() {
			defer close(done)
			wantReply(t, c)
		}
	}})
	inTime(t, "Request", func() { <-done })
}

// The same for a Request that waits while a Handler begins, and takes long.
func TestRequestBesideAHandler(t *testing.T) {
	replyNow, connected, replied := make(chan struct{}), make(chan struct{}), make(chan struct{})
	server := newServer(t, ServerConfig{MultiMode: true, Handler: func(s *Server, m *Message) {
		if !m.IsRequest() {
			return
		}
		s.Write(7, nil) // calls the other Handler
		m = m.Clone()
		go func() {
			<-replyNow
			m.Reply(3, m.Data)
		}()
	}})
	client := newClientOf(t, server, ClientConfig{loopDelay: never, Handler: func(c *Client, m *Message) {
		switch {
		case m.Status == Connected.String():
			close(connected)
		case m.MsgType == 7:
			close(replyNow)
			<-replied
		}
	}})
	<-connected
	inTime(t, "Request", func() {
		wantReply(t, client)
		close(replied)
	})
}

// A request that was taken back still counts for Flush when the large message
// behind it is taken back, too.
func TestWithdrawBeforeALargeMessage(t *testing.T) {
	var q sendQueue
	q.append(1, content(1, 10))
	q.takeOff()
	f := wire.Control{Kind: wire.Request, N: 1, ID: 1}
	frame := newControlFrame(content(2, largeSize))
	wire.PutControlHeader(frame, &f, largeSize)
	q.push(segment{body: frame, frames: 1})
	q.appendLarge(2, content(3, largeSize))
	if !q.withdrawRequest(1, q.flight) {
		t.Fatal("the request is not taken back")
	}
	q.withdraw(len(q.segs)-1, context.Canceled)
	q.advance(wire.HeaderSize + 10)
	if !q.empty() || q.sentSeq != q.queuedSeq {
		t.Errorf("%d frames of %d count as gone", q.sentSeq, q.queuedSeq)
	}
}
