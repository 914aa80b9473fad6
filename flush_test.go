//go:build unix

package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// takingConn is a connection that takes room bytes, as they are, and then fails.
type takingConn struct {
	net.Conn // nil: nothing else is called
	room     int
	taken    []byte
	writes   []int  // their sizes
	last     []byte // the last one
}

func (c *takingConn) Write(b []byte) (int, error) {
	c.writes = append(c.writes, len(b))
	c.last = b
	n := min(len(b), c.room)
	c.taken = append(c.taken, b[:n]...)
	c.room -= n
	if n < len(b) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// testSegments are segments as takeOff returns them.
func testSegments() []segment {
	var q sendQueue
	q.append(1, content(1, 10))
	q.append(2, nil)
	q.appendFrame(plainFrame(3, content(3, 20)), 20)
	q.appendLarge(4, content(4, 30))
	q.withdraw(2, nil)
	q.appendFrame(plainFrame(5, content(5, 1)), 1)
	return q.takeOff()
}

// What has left of the segments is not sent again, and what a write took before it
// failed is counted.
func TestSendAll(t *testing.T) {
	segs := testSegments()
	all := queued(segs, 0)
	for off := range len(all) {
		for room := range len(all) - off + 1 {
			netConn := &takingConn{room: room}
			c := newConn(netConn, peerInfo{}, wire.Negotiated{})
			n, err := c.out.send(c, segs, off)
			if n != room || !bytes.Equal(netConn.taken, all[off:off+room]) {
				t.Fatalf("from %d on, with room for %d: %d bytes are said to have left, %d have", off, room, n, len(netConn.taken))
			}
			if full := room == len(all)-off; full != (err == nil) {
				t.Fatalf("from %d on, with room for %d: %v", off, room, err)
			}
			if len(c.out.parts) != 0 || slices.ContainsFunc(c.out.parts[:cap(c.out.parts)], func(b []byte) bool { return b != nil }) {
				t.Fatal("what was sent is kept")
			}
		}
	}
}

// So it is where all segments go to the kernel in one call.
func TestSendAllAtOnce(t *testing.T) {
	segs := testSegments()
	all := queued(segs, 0)
	a, b := unixPair(t)
	c := newConn(a, peerInfo{}, wire.Negotiated{})
	if c.raw == nil {
		t.Skip("bytes go through the methods of the connection here")
	}
	for off := range len(all) {
		n, err := c.out.send(c, segs, off)
		if err != nil || n != len(all)-off {
			t.Fatalf("from %d on: %d bytes have left, and %v", off, n, err)
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, all[off:]) {
			t.Fatalf("from %d on: other bytes arrive, and %v", off, err)
		}
	}

	// Of more than the socket holds, what has left before the deadline counts.
	var q sendQueue
	for i := range maxFlight {
		q.appendFrame(plainFrame(1, content(i, 1<<20)), 1<<20)
	}
	segs = q.takeOff()
	a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := c.out.send(c, segs, 5)
	a.Close()
	got, _ := io.ReadAll(b)
	if !timedOut(err) || n == 0 || n != len(got) || !bytes.Equal(got, queued(segs, 0)[5:5+n]) {
		t.Errorf("%d bytes have left, and %v; %d arrived", n, err, len(got))
	}
}

// With a writeTimeout a call is for a part of the first segment, which is not too
// large for the deadline. A header does not go alone.
func TestSendSome(t *testing.T) {
	const size = 100_000
	var q sendQueue
	q.appendLarge(1, content(1, size))
	large := q.takeOff()
	var small sendQueue
	small.append(1, []byte("small"))
	small.appendFrame(plainFrame(2, []byte("another")), 7)
	for _, tt := range []struct {
		name string
		segs []segment
		off  int
		want int // bytes of the one write
	}{
		{"large", large, 0, wire.HeaderSize + largeSize},
		{"rest of the header", large, 3, wire.HeaderSize - 3 + largeSize},
		{"last of the header", large, wire.HeaderSize - 1, 1 + largeSize},
		{"data", large, wire.HeaderSize, largeSize},
		{"more data", large, wire.HeaderSize + 10, largeSize},
		{"last data", large, wire.HeaderSize + size - 10, 10},
		{"small", small.takeOff(), 0, wire.HeaderSize + 5},
		{"rest of small", small.takeOff(), 4, wire.HeaderSize + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, room := range []int{0, 1, tt.want - 1, tt.want, 2 * size} {
				netConn := &takingConn{room: room}
				c := newConn(netConn, peerInfo{}, wire.Negotiated{})
				c.out.writeTimeout = time.Second
				n, err := c.out.send(c, tt.segs, tt.off)
				// A header and what goes with it are one write, which may be cut.
				took := 0
				for _, w := range netConn.writes {
					took += w
				}
				if len(netConn.writes) != 1 || took > tt.want || took < min(tt.want, largeSize) {
					t.Fatalf("writes of %v bytes, want one of %d", netConn.writes, tt.want)
				}
				if head := tt.segs[0].head; tt.off >= len(head) && &netConn.last[0] != &tt.segs[0].body[tt.off-len(head)] {
					t.Fatal("data that goes without a header was copied")
				}
				if n != min(room, took) || (err == nil) != (n == took) {
					t.Fatalf("%d bytes have left, and %v", n, err)
				}
				if got := queued(tt.segs, 0)[tt.off:][:n]; !bytes.Equal(netConn.taken, got) {
					t.Fatal("other bytes have left")
				}
			}
		})
	}
}

// An empty segment, of a withdrawn message, is no write.
func TestSendNothing(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second} {
		netConn := &takingConn{}
		c := newConn(netConn, peerInfo{}, wire.Negotiated{})
		c.out.writeTimeout = timeout
		if n, err := c.out.send(c, []segment{{gone: 1}}, 0); n != 0 || err != nil || len(netConn.writes) > 0 {
			t.Errorf("%d bytes, and %v, in %d writes", n, err, len(netConn.writes))
		}
	}
}

// sendNow gives the kernel what it takes, and waits for nothing.
func TestSendNow(t *testing.T) {
	cipher, peer := sealedPair(t)
	for _, n := range []wire.Negotiated{{}, {Cipher: cipher}} {
		a, b := unixPair(t)
		c := newConn(a, peerInfo{}, n)
		if c.raw == nil {
			t.Skip("bytes go through the methods of the connection here")
		}
		q := sendQueue{}
		if n.Cipher != nil {
			q.overhead = wire.SealOverhead
		}
		const size = 30_000
		sent := 0
		for range 1000 { // more than the kernel takes
			q.append(1, content(sent, size))
			k := c.out.sendNow(c, q.segs[q.head:])
			q.advance(k)
			if !q.empty() {
				break
			}
			sent++
		}
		if q.empty() {
			t.Fatal("the kernel takes everything")
		}
		c.out.sealer.discard()
		a.Close()
		stream, err := io.ReadAll(b)
		if err != nil {
			t.Fatal(err)
		}
		r := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: size}}
		if n.Cipher != nil {
			r.dec.Cipher = peer
		}
		got, err := feed(t, r, stream, nil)
		if err != nil || len(got) != sent {
			t.Errorf("%d messages arrive, and %v, want %d", len(got), err, sent)
		}
		r.reset()
		if k := c.out.sendNow(c, testSegments()); k != 0 {
			t.Errorf("%d bytes were given to a closed connection", k)
		}
		c.out.sealer.discard()
	}
}

// A flush leaves no deadline behind: the next write may be one that does not
// wait.
func TestFlushTakesItsDeadlineBack(t *testing.T) {
	server := newServer(t, ServerConfig{MultiMode: true, WriteTimeout: time.Hour})
	client := newClientOf(t, server, ClientConfig{})
	var here *Server
	server.ServerManager.Read(func(c *Server, _ *Message, _ error) { here = c })
	if err := here.Write(1, make([]byte, 10*largeSize)); err != nil {
		t.Fatal(err)
	}
	nextData(t, &client.session)
	idle := func() bool {
		here.out.mu.Lock()
		defer here.out.mu.Unlock()
		return !here.out.flushing && here.out.deadline.IsZero()
	}
	if !becomes(idle) {
		t.Error("the deadline of a write outlives its flush")
	}
}

// What the kernel has not taken of a sealed frame is not sealed again, and frames
// are not sealed before their turn.
func TestSealerKeepsTheRest(t *testing.T) {
	const n = 500
	size := func(i int) int { // that of the last is small, and could be put in before its turn
		if i < n/3 {
			return n - i
		}
		return i % 20
	}
	var frames []byte
	for i := range n {
		frames = append(frames, plainFrame(uint32(i+1), make([]byte, size(i)))...)
	}
	for _, step := range []int{1, 7, 1000, 1 << 20} {
		ours, peer := sealedPair(t)
		s := sealer{cipher: ours}
		q := sendQueue{overhead: wire.SealOverhead}
		// Three segments, one of which is withdrawn.
		third := 0
		for i := range n / 3 {
			third += wire.HeaderSize + size(i)
		}
		q.push(segment{body: frames[:third], frames: n / 3})
		q.appendLarge(1, make([]byte, largeSize))
		q.withdraw(1, nil)
		q.push(segment{body: frames[third:], frames: n - n/3})
		var stream []byte
		for !q.empty() {
			rest := s.next(q.takeOff())
			if len(rest) > sealChunk {
				t.Fatalf("%d bytes sealed at once, want %d at most", len(rest), sealChunk)
			}
			if again := s.next(q.segs[q.head:]); &again[0] != &rest[0] || len(again) != len(rest) {
				t.Fatal("what is pending is sealed again")
			}
			k := min(step, len(rest))
			stream = append(stream, rest[:k]...)
			s.consume(k)
			q.advance(k)
		}
		wantNonces(t, stream, n)
		got, err := feed(t, &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: n, Cipher: peer}}, stream, nil)
		if err != nil || len(got) != n {
			t.Fatalf("in steps of %d bytes: %d messages (%v), want %d", step, len(got), err, n)
		}
		for i, m := range got {
			if m.MsgType != i+1 || len(m.Data) != size(i) {
				t.Fatalf("in steps of %d bytes: message %d has type %d, %d bytes", step, i, m.MsgType, len(m.Data))
			}
		}
		if s.buf != nil || s.pending != nil {
			t.Errorf("in steps of %d bytes: an idle sealer keeps a buffer", step)
		}
	}
}

// wantNonces checks that the frames of stream are n, and that their nonces count
// on from that of the one before: none was sealed for nothing, or twice. One has
// been used by the handshake at most.
func wantNonces(t *testing.T, stream []byte, n int) {
	t.Helper()
	var last uint32
	for i := range n {
		count := binary.BigEndian.Uint32(stream[wire.LengthSize+8:])
		if i > 0 && count != last+1 || count > uint32(i+1) {
			t.Fatalf("frame %d has nonce %d, after %d", i, count, last)
		}
		last = count
		stream = stream[wire.FrameSize(stream):]
	}
	if len(stream) > 0 {
		t.Fatalf("%d bytes more than %d frames", len(stream), n)
	}
}

// A large message is sealed alone and at once, and so is a frame over sealChunk.
// A sealer that is told to forgets what is pending.
func TestSealerOfLargeMessages(t *testing.T) {
	ours, peer := sealedPair(t)
	for _, size := range []int{largeSize, sealChunk, 1 << 20, maxPooled - 100, maxPooled, maxPooled + 1} {
		for _, shared := range []bool{false, true} {
			s := sealer{cipher: ours}
			q := sendQueue{overhead: wire.SealOverhead}
			if shared {
				q.appendFrame(plainFrame(9, content(9, size)), size)
			} else {
				q.appendLarge(9, content(9, size))
			}
			lost := s.next(q.takeOff())
			if len(lost) != wire.HeaderSize+size+wire.SealOverhead {
				t.Fatalf("%d bytes are pending, want a frame with %d", len(lost), size)
			}
			if pooled := s.buf != nil; pooled != (cap(lost) <= maxPooled) {
				t.Errorf("%d bytes: the memory is pooled: %t", size, pooled)
			}
			s.consume(1)
			s.discard() // of a lost connection
			if s.pending != nil || s.buf != nil {
				t.Fatal("what is discarded is kept")
			}
			var stream []byte
			for !q.empty() {
				b := s.next(q.takeOff())
				stream = append(stream, b...)
				s.consume(len(b))
				q.advance(len(b))
			}
			r := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: size, Cipher: peer}}
			got, err := feed(t, r, stream, nil)
			if err != nil {
				t.Fatal(err)
			}
			wantMessages(t, got, []Message{{MsgType: 9, Data: content(9, size)}})
		}
	}
}

// slowPeer joins a server in a bubble of synctest, and returns the client's end
// and the client's Server.
func slowPeer(t *testing.T, config ServerConfig) (net.Conn, *Server) {
	l := newPipeListener()
	config.Listener = l
	s := newServer(t, config)
	netConn := l.dial()
	if err := join(netConn); err != nil {
		t.Fatal(err)
	}
	var client *Server
	s.ServerManager.Read(func(c *Server, _ *Message, _ error) { client = c })
	return netConn, client
}

// A client that takes nothing for the WriteTimeout is dropped, and one that takes
// some before each time is not, however slow it is.
func TestWriteTimeout(t *testing.T) {
	for _, size := range []int{100, largeSize - 1, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const timeout = 10 * time.Second
				netConn, client := slowPeer(t, ServerConfig{MultiMode: true, WriteTimeout: timeout})
				written := make(chan error, 1)
				go func() { written <- client.Write(7, content(7, size)) }()
				// It takes pieces, with a second to spare each.
				took, piece := 0, 4096
				for took < wire.HeaderSize+size/2 {
					time.Sleep(timeout - time.Second)
					k, err := netConn.Read(make([]byte, piece))
					if err != nil {
						t.Fatalf("after %d bytes: %v", took, err)
					}
					took += k
				}
				synctest.Wait()
				if took == wire.HeaderSize+size { // a small one may have gone whole
					client.Write(7, content(7, size))
				}
				begin := time.Now()
				event, _ := client.Read()
				if event == nil || event.Status != Error.String() || !errors.Is(event.Err, ErrTimeout) {
					t.Fatalf("%+v, want an Error event of ErrTimeout", event)
				}
				// The clock is for a piece of 32 KiB here, of which some may have
				// been taken. What has arrived is read for lingerTime.
				if passed := time.Since(begin); passed < timeout || passed > 2*timeout+lingerTime {
					t.Errorf("dropped after %v, want %v to twice that", passed, timeout)
				}
				if size >= largeSize {
					if err := <-written; !errors.Is(err, ErrNotConnected) && err != nil {
						t.Errorf("Write: %v", err)
					}
				}
				netConn.Close()
				client.ServerManager.Close()
			})
		})
	}
}

// stuckConn takes a byte late, at its deadline, and then reports that again without
// trying, as TLS does.
type stuckConn struct {
	net.Conn
	whole    int // bytes that can be written before
	deadline time.Time
	stuck    bool
}

func (c *stuckConn) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *stuckConn) Write(b []byte) (int, error) {
	if c.whole >= len(b) {
		c.whole -= len(b)
		return c.Conn.Write(b)
	}
	if c.stuck {
		return 0, os.ErrDeadlineExceeded
	}
	c.stuck = true
	time.Sleep(time.Until(c.deadline))
	return 1, os.ErrDeadlineExceeded
}

// A connection that can write no more after a deadline has passed ends by the
// WriteTimeout, too.
func TestWriteTimeoutOfStuckConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := newServer(t, ServerConfig{Listener: l, MultiMode: true, WriteTimeout: time.Second})
		client, server := net.Pipe()
		l.conns <- &stuckConn{Conn: server, whole: 2 + wire.HeaderSize} // the handshake
		if err := join(client); err != nil {
			t.Fatal(err)
		}
		var here *Server
		s.ServerManager.Read(func(c *Server, _ *Message, _ error) { here = c })
		begin := time.Now()
		if err := here.Write(1, []byte("a message")); err != nil {
			t.Fatal(err)
		}
		if m, err := here.Read(); err != nil || m.Status != Error.String() || !errors.Is(m.Err, ErrTimeout) {
			t.Errorf("%+v, %v, want an Error event of ErrTimeout", m, err)
		}
		if passed := time.Since(begin); passed != time.Second+lingerTime {
			t.Errorf("it ends after %v", passed)
		}
		client.Close()
		s.Close()
	})
}

// A Write beside one that gives its message to the kernel itself does not touch
// what that has in flight, and follows it.
func TestWriteBesideFlushNow(t *testing.T) {
	server := newServer(t, ServerConfig{loopDelay: time.Hour})
	client := newClientOf(t, server, ClientConfig{})
	if err := client.Write(1, nil); err != nil {
		t.Fatal(err)
	}
	nextData(t, &server.session)                      // so the next Write answers
	if err := server.Flush(t.Context()); err != nil { // its announcement
		t.Fatal(err)
	}
	raw, o := currentConn(&server.session).raw, &server.out
	write := raw.writeStep
	beside := false
	raw.writeStep = func(fd uintptr) bool {
		raw.writeStep = write
		beside = true
		if err := server.Write(3, []byte("beside")); err != nil {
			t.Error(err)
		}
		o.mu.Lock()
		if o.queue.flight != 1 || len(o.queue.segs) != 2 || o.queue.segs[0].frames != 1 {
			t.Errorf("%d of %d segments are in flight, the first with %d frames", o.queue.flight, len(o.queue.segs), o.queue.segs[0].frames)
		}
		o.mu.Unlock()
		return write(fd)
	}
	if err := server.Write(2, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	if !beside {
		t.Error("an answer is not written by its Write")
	}
	for want := 2; want <= 3; want++ {
		if m := nextData(t, &client.session); m.MsgType != want {
			t.Errorf("message %d, want %d", m.MsgType, want)
		}
	}
}

// Only a large message makes the kernel's buffer wide, and only the sender's.
func TestWideBuffer(t *testing.T) {
	server := newServer(t, ServerConfig{})
	client := newClientOf(t, server, ClientConfig{})
	nextEvent(t, &server.session)

	sendBuffer := func(s *session) int {
		t.Helper()
		raw, err := currentConn(s).netConn.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if ctlErr := raw.Control(func(fd uintptr) {
			n, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
		}); ctlErr != nil || err != nil {
			t.Fatal(ctlErr, err)
		}
		return n
	}
	before := sendBuffer(&client.session)
	deliver := func(size int) {
		t.Helper()
		if err := client.Write(1, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if m := nextData(t, &server.session); len(m.Data) != size {
			t.Fatalf("%d bytes arrive, want %d", len(m.Data), size)
		}
	}
	for range 100 {
		deliver(largeSize - 1)
	}
	if n := sendBuffer(&client.session); n != before {
		t.Errorf("%d bytes after small messages, %d before", n, before)
	}
	deliver(largeSize)
	if n := sendBuffer(&client.session); n <= before {
		t.Errorf("%d bytes after a large message, %d before", n, before)
	}
	if n := sendBuffer(&server.session); n != before {
		t.Errorf("%d bytes in the direction without a large message, %d before", n, before)
	}
}

// unixPair returns two Unix sockets that are connected with each other until
// the end of the test.
func unixPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	path := filepath.Join(shortDir(t), "pair")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return dialled.(*net.UnixConn), accepted.(*net.UnixConn)
}
