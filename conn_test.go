package ipc

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// keyInMemory returns a function that reports whether anything still holds the
// key of the present connection of s.
func keyInMemory(t *testing.T, s *session) func() bool {
	t.Helper()
	c := currentConn(s)
	if c == nil || c.in.recv.dec.Cipher == nil || c.out.sealer.cipher != c.in.recv.dec.Cipher {
		t.Fatal("there is no encrypted connection")
	}
	key := weak.Make(c.out.sealer.cipher)
	return func() bool {
		runtime.GC()
		return key.Value() != nil
	}
}

// wantGone fails if the key stays.
func wantGone(t *testing.T, what string, inMemory func() bool) {
	t.Helper()
	if !becomes(func() bool { return !inMemory() }) {
		t.Errorf("%s: the key outlives its connection", what)
	}
}

// swapMessages sends a message of each size in both directions.
func swapMessages(t *testing.T, a, b *session) {
	t.Helper()
	for _, size := range []int{0, 100, largeSize, 200_000} {
		for range 2 {
			if err := a.Write(1, content(size, size)); err != nil {
				t.Fatal(err)
			}
			if m := nextData(t, b); !bytes.Equal(m.Data, content(size, size)) {
				t.Fatalf("%d bytes arrive, want %d", len(m.Data), size)
			}
			a, b = b, a
		}
	}
}

// The key of a connection is gone with it, on both sides, whichever has ended it,
// while both go on.
func TestKeysDieWithTheirConnection(t *testing.T) {
	server := newServer(t, ServerConfig{Encryption: true})
	client := newClientOf(t, server, ClientConfig{Encryption: true, Timeout: hangs})
	swapMessages(t, &client.session, &server.session)
	keys := map[string]func() bool{
		"server": keyInMemory(t, &server.session), "client": keyInMemory(t, &client.session),
	}
	for name, inMemory := range keys {
		if !inMemory() {
			t.Fatalf("%s: the key of a connection that lives is not in memory", name)
		}
	}

	// The connection is lost, and comes again.
	currentConn(&server.session).netConn.Close()
	for _, want := range []Status{ReConnecting, Connected} {
		if got := nextEvent(t, &client.session); got != want.String() {
			t.Fatalf("event %s, want %s", got, want)
		}
	}
	swapMessages(t, &client.session, &server.session)
	for name, inMemory := range keys {
		wantGone(t, name+", lost", inMemory)
	}

	// Close ends it.
	keys = map[string]func() bool{
		"server": keyInMemory(t, &server.session), "client": keyInMemory(t, &client.session),
	}
	wantClose(t, client)
	for name, inMemory := range keys {
		wantGone(t, name+", closed", inMemory)
	}
	runtime.KeepAlive(server)
	runtime.KeepAlive(client)
}

// Nor does an unread message of a client that has left hold the key, or an unsent
// one of a lost connection.
func TestKeysDieBeforeWhatIsQueued(t *testing.T) {
	server := newServer(t, ServerConfig{Encryption: true, MultiMode: true})
	client := newClientOf(t, server, ClientConfig{Encryption: true})
	var here *Server
	server.ServerManager.Read(func(c *Server, _ *Message, _ error) { here = c })
	if err := client.Write(1, content(1, 20_000)); err != nil {
		t.Fatal(err)
	}
	if !becomes(func() bool { return here.Stats().MessagesIn == 1 }) {
		t.Fatal("no message arrives")
	}
	atServer, atClient := keyInMemory(t, &here.session), keyInMemory(t, &client.session)
	wantClose(t, here) // the client reconnects
	wantGone(t, "server", atServer)
	wantGone(t, "client", atClient)
	if m, err := here.Read(); err != nil || len(m.Data) != 20_000 {
		t.Errorf("%+v, %v: want the message", m, err)
	}
}

// After a write has failed, what has arrived can still be read for lingerTime, and
// then the connection ends.
func TestReadingGoesOnAfterAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := newServer(t, ServerConfig{Listener: l})
		client, server := net.Pipe()
		broken := &brokenConn{Conn: server, whole: 10} // of the handshake
		l.conns <- broken
		if err := join(client); err != nil {
			t.Fatal(err)
		}
		nextEvent(t, &s.session)
		if err := s.Write(1, []byte("fails")); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		synctest.Wait()
		if err := s.Write(1, nil); !errors.Is(err, ErrNotConnected) {
			t.Errorf("Write on a broken connection: %v, want ErrNotConnected", err)
		}
		for i := range 3 {
			time.Sleep(lingerTime / 4)
			if _, err := client.Write(plainFrame(uint32(i+7), nil)); err != nil {
				t.Fatal(err)
			}
			if m := nextData(t, &s.session); m.MsgType != i+7 {
				t.Errorf("message %d, want %d", m.MsgType, i+7)
			}
		}
		if got := nextEvent(t, &s.session); got != Disconnected.String() {
			t.Errorf("event %s, want Disconnected", got)
		}
		if passed := time.Since(begin); passed != lingerTime {
			t.Errorf("the connection ends after %v, want %v", passed, lingerTime)
		}
		s.Close()
	})
}

// brokenConn is a connection that fails to write after some bytes.
type brokenConn struct {
	net.Conn
	whole int // bytes that can be written
}

func (c *brokenConn) Write(b []byte) (int, error) {
	if c.whole -= len(b); c.whole < 0 {
		return 0, errors.New("broken")
	}
	return c.Conn.Write(b)
}

// What had arrived before a Close can be read after it, on either side, even if
// no goroutine has read the socket.
func TestCloseReadsTheRest(t *testing.T) {
	needDirect(t)
	server := newServer(t, ServerConfig{loopDelay: time.Hour})
	client := newClientOf(t, server, ClientConfig{loopDelay: time.Hour})
	if got := nextEvent(t, &server.session); got != Connected.String() {
		t.Fatal(got)
	}
	const n = 100
	for i := range n {
		if err := client.Write(i+1, content(i, i*10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if server.Stats().MessagesIn > 0 {
		t.Fatal("the server has read, and nothing asked for it")
	}
	wantClose(t, server)
	for i := range n {
		if m, err := server.Read(); err != nil || m.MsgType != i+1 || len(m.Data) != i*10 {
			t.Fatalf("%+v, %v, want message %d", m, err, i+1)
		}
	}
	if got := nextEvent(t, &server.session); got != Closed.String() {
		t.Errorf("event %s, want Closed", got)
	}
	if c := currentConn(&server.session); c != nil {
		t.Error("the connection is kept")
	}
}

// A connection that is lost within a frame keeps none of its memory.
func TestLossWithinAFrame(t *testing.T) {
	for _, size := range []int{100, 2 * readBufferSize} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			s := newServer(t, ServerConfig{Listener: l})
			client := l.dial()
			if err := join(client); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			c := currentConn(&s.session)
			if _, err := client.Write(plainFrame(1, make([]byte, size))[:size]); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if c.in.recv.buf == nil && c.in.recv.big == nil {
				t.Error("no part of the frame is held")
			}
			client.Close()
			<-c.done
			if c.in.recv.buf != nil || c.in.recv.big != nil {
				t.Error("the part of the frame is kept")
			}
			s.Close()
		})
	}
}

// A connection over another one, as TLS is, may take its time for closing. When
// that is over the one below it is closed.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, _ := net.Pipe()
		outer := &slowToClose{Conn: inner, inner: &closeNotifier{Conn: inner, closed: make(chan struct{})}}
		ctx, cancel := context.WithTimeout(t.Context(), lingerTime)
		defer cancel()
		begin := time.Now()
		closeContext(ctx, outer)
		if passed := time.Since(begin); passed != lingerTime {
			t.Errorf("closing took %v, want %v", passed, lingerTime)
		}

		// One that does not need it is left alone by a later end of ctx.
		quick := &closeNotifier{Conn: inner, closed: make(chan struct{})}
		ctx, cancel = context.WithCancel(t.Context())
		closeContext(ctx, quickToClose{Conn: inner, inner: quick})
		cancel()
		synctest.Wait()
		select {
		case <-quick.closed:
			t.Error("the connection below was closed after all")
		default:
		}
	})
}

type closeNotifier struct {
	net.Conn
	closed chan struct{}
}

func (c *closeNotifier) Close() error {
	close(c.closed)
	return nil
}

type slowToClose struct {
	net.Conn
	inner *closeNotifier
}

func (c *slowToClose) NetConn() net.Conn { return c.inner }

func (c *slowToClose) Close() error {
	<-c.inner.closed
	return nil
}

type quickToClose struct {
	net.Conn
	inner *closeNotifier
}

func (c quickToClose) NetConn() net.Conn { return c.inner }
func (c quickToClose) Close() error      { return nil }
