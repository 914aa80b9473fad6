package ipc

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// fuzzedServer is a server that serves one connection after another.
type fuzzedServer struct {
	*Server
	path     string
	sealed   bool
	sessions int
}

const fuzzedMaxMsgSize = 256 << 10

func newFuzzedServer(f *testing.F, sealed, multi bool) *fuzzedServer {
	if runtime.GOOS == "windows" {
		f.Skip("one direction of a named pipe cannot be closed")
	}
	path := filepath.Join(shortDir(f), "fuzz")
	l, err := net.Listen("unix", path)
	if err != nil {
		f.Fatal(err)
	}
	s := newServer(f, ServerConfig{Listener: l, Encryption: sealed, MultiMode: multi, MaxMsgSize: fuzzedMaxMsgSize})
	return &fuzzedServer{Server: s, path: path, sealed: sealed}
}

// dial connects a peer. It waits until the one before it has left its place: a
// peer that does not wait for the steps of the server must not have to wait for
// a place either.
func (s *fuzzedServer) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	for free := s.config.MultiMode; !free; runtime.Gosched() {
		s.admission.mu.Lock()
		free = s.admission.free > 0
		s.admission.mu.Unlock()
	}
	netConn, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	netConn.SetDeadline(time.Now().Add(hangs))
	return netConn.(*net.UnixConn)
}

// open goes through the client's side of the handshake, and returns what the
// frames of a sealed connection are made with.
func (s *fuzzedServer) open(t *testing.T, netConn net.Conn) *wire.Cipher {
	t.Helper()
	client := wire.Client{RequireEncryption: s.sealed, Secrets: wire.System}
	n, err := client.Handshake(silentConn{netConn})
	if err != nil {
		t.Fatal("a good peer:", err)
	}
	return n.Cipher
}

// session reads the events and messages of one connection.
func (s *fuzzedServer) session(t *testing.T) (messages []Message, protocolError bool) {
	t.Helper()
	var events []string
	for len(events) == 0 || events[len(events)-1] != Disconnected.String() {
		s.ServerManager.ReadTimed(hangs, nil, func(_ *Server, m *Message, err error) {
			switch {
			case m == TimeoutMessage:
				t.Fatalf("the session does not end: %v, %d messages", events, len(messages))
			case err != nil:
				t.Fatal(err)
			case m.MsgType == eventType:
				events = append(events, m.Status)
				protocolError = protocolError || errors.Is(m.Err, ErrProtocol)
			default:
				messages = append(messages, *m)
			}
		})
	}
	want := []string{"Connected", "Disconnected"}
	if protocolError {
		want = []string{"Connected", "Error", "Disconnected"}
	}
	if !slices.Equal(events, want) {
		t.Fatalf("events %q, want %q", events, want)
	}
	return messages, protocolError
}

// say sends a stream in pieces, in a goroutine, and closes that half of the
// connection. A server that has had enough may not let it.
func say(netConn *net.UnixConn, stream, pieces []byte) (said <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; len(stream) > 0; i++ {
			n := min(len(stream), piece(pieces, i))
			if _, err := netConn.Write(stream[:n]); err != nil {
				return
			}
			stream = stream[n:]
		}
		netConn.CloseWrite()
	}()
	return done
}

const publicKeySize = 97

// opened reports whether stream is a handshake that the server accepts, and
// returns what follows it.
func (s *fuzzedServer) opened(stream []byte) (frames []byte, ok bool) {
	size := 2
	if s.sealed {
		size += publicKeySize
	}
	if len(stream) < size || stream[0] != 0 || stream[size-1] != 0 {
		return nil, false
	}
	if s.sealed {
		if _, err := ecdh.P384().NewPublicKey(stream[1 : size-1]); err != nil {
			return nil, false
		}
	}
	return stream[size:], true
}

// startsWithControl reports whether the first of the plain frames is a control
// frame.
func startsWithControl(frames []byte) bool {
	return len(frames) >= wire.HeaderSize && binary.BigEndian.Uint32(frames[wire.LengthSize:]) == wire.ControlType
}

func FuzzSession(f *testing.F) {
	var servers []*fuzzedServer
	for _, sealed := range []bool{false, true} {
		for _, multi := range []bool{false, true} {
			servers = append(servers, newFuzzedServer(f, sealed, multi))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, script, pieces []byte) {
		s := servers[kind&3]
		greets := kind&4 != 0 // a peer that goes through the handshake as it should
		netConn := s.dial(t)
		defer netConn.Close()
		frame := plainFrame
		var c *wire.Cipher
		if greets {
			if c = s.open(t, netConn); c != nil {
				frame = func(msgType uint32, data []byte) []byte { return sealedFrame(c, msgType, data) }
			}
		}
		stream := play(script, frame)
		if greets { // an announcement would count as the first frame only
			stream = append(frame(1, nil), stream...)
		}
		frames, joined := stream, true
		if !greets {
			frames, joined = s.opened(stream)
		}
		said := say(netConn, stream, pieces)
		if joined {
			got, failed := s.session(t)
			want, v := refDecode(frames, fuzzedMaxMsgSize)
			if s.sealed {
				want, v = refOpen(c, frames, fuzzedMaxMsgSize)
			}
			if !startsWithControl(frames) { // which FuzzRequests is for
				wantMessages(t, got, want)
				if failed != (v == bad) && v != unsure {
					t.Fatalf("protocol error %t, verdict %d", failed, v)
				}
			}
		}
		// The server closes the connection in any case.
		if _, err := io.Copy(io.Discard, netConn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the server keeps the connection")
		}
		<-said

		// And serves the next. With keys that takes its time.
		if s.sessions++; s.sealed && s.sessions%16 != 0 {
			return
		}
		good := s.dial(t)
		defer good.Close()
		hello := plainFrame(7, []byte("hello"))
		if c := s.open(t, good); c != nil {
			hello = sealedFrame(c, 7, []byte("hello"))
		}
		<-say(good, hello, nil)
		got, failed := s.session(t)
		wantMessages(t, got, []Message{{MsgType: 7, Data: []byte("hello")}})
		if failed {
			t.Fatal("a good peer made a protocol error")
		}
	})
}

// This file has what several of the tests inside the package need.

// wantClose closes c, and fails if that does.
func wantClose(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// shortDir returns a folder for sockets, which is removed at the end of the test.
// The path of t.TempDir may be too long for them.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newServer starts a server until the end of the test. Its name and its folder,
// and a silent log, are added to config.
func newServer(t testing.TB, config ServerConfig) *Server {
	t.Helper()
	config.Logger = slog.New(slog.DiscardHandler)
	if config.Listener == nil && config.SocketDir == "" {
		config.SocketDir = shortDir(t)
	}
	config.Name = "test"
	s, err := StartServer(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newClientOf starts a client of s until the end of the test.
func newClientOf(t testing.TB, s *Server, config ClientConfig) *Client {
	t.Helper()
	config.Name, config.SocketDir = "test", s.config.SocketDir
	config.Logger = slog.New(slog.DiscardHandler)
	c, err := StartClient(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// currentConn returns the connection that s has, or nil.
func currentConn(s *session) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// nextEvent reads up to the next event, and returns its status.
func nextEvent(t testing.TB, s *session) string {
	t.Helper()
	for {
		m, err := s.ReadTimed(hangs, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case m == TimeoutMessage:
			t.Fatal("no event comes")
		case m.MsgType == eventType:
			return m.Status
		}
	}
}

// nextData reads up to the next message that is not an event.
func nextData(t testing.TB, s *session) *Message {
	t.Helper()
	for {
		m, err := s.ReadTimed(hangs, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case m == TimeoutMessage:
			t.Fatal("no message comes")
		case m.MsgType != eventType:
			return m
		}
	}
}

// becomes reports whether condition becomes true.
func becomes(condition func() bool) bool {
	for end := time.Now().Add(hangs); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if condition() {
			return true
		}
	}
	return condition()
}

// pipeListener is a listener that is handed its connections, or errors.
type pipeListener struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
	close  func()
}

func newPipeListener() *pipeListener {
	closed := make(chan struct{})
	return &pipeListener{make(chan net.Conn), make(chan error), closed, sync.OnceFunc(func() { close(closed) })}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.errs:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close()
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// dial connects a client by a net.Pipe, which works in a bubble of synctest.
func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// dialContext is dial for a ClientConfig.
func (l *pipeListener) dialContext(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join does the client's side of the handshake, and returns what ends it.
func join(netConn net.Conn) error {
	client := wire.Client{Secrets: wire.System}
	_, err := client.Handshake(silentConn{netConn})
	return err
}

// silentConn keeps the announcement of a handshake back, as clients do that know
// no requests.
type silentConn struct{ net.Conn }

func (c silentConn) Write(b []byte) (int, error) {
	if b[0] != 0 {
		return c.Conn.Write(b)
	}
	if _, err := c.Conn.Write(b[:1]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// sealedPair returns the ciphers of the two ends of a connection.
func sealedPair(t testing.TB) (a, b *wire.Cipher) {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	served := make(chan wire.Negotiated, 1)
	go func() {
		offer := wire.Server{Encrypt: true, MaxMsgSize: 1, Secrets: wire.System}
		n, err := offer.Handshake(there, func() error { return nil })
		if err != nil {
			t.Error(err)
			there.Close()
		}
		served <- n
	}()
	ask := wire.Client{RequireEncryption: true, Secrets: wire.System}
	n, err := ask.Handshake(here)
	if err != nil {
		t.Fatal(err)
	}
	return n.Cipher, (<-served).Cipher
}

func plainFrame(msgType uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(wire.TypeSize+len(data)))
	return append(binary.BigEndian.AppendUint32(b, msgType), data...)
}

// sealedFrame returns a frame as a peer sends it that seals with c.
func sealedFrame(c *wire.Cipher, msgType uint32, data []byte) []byte {
	return c.AppendFrame(nil, plainFrame(msgType, nil), data)
}

// Scripts. A fuzzer that is to find what large frames do should not have to
// write them out: a script says what bytes a peer sends.

// scriptSizes are the sizes of Data in the frames of a script: around the
// bounds that recvBuffer knows.
var scriptSizes = [32]int{
	0, 1, 2, 3, 4, 8, 16, 28, 100, 250, 1000, slabBytes - 1, slabBytes, slabBytes + 1, slabBytes + 60, 10_000,
	largeSize - 1, largeSize, largeSize + 1, 64 << 10, readBufferSize - 8, readBufferSize - 4, readBufferSize - 2,
	readBufferSize - 1, readBufferSize, readBufferSize + 1, 100_000, 150_000, 200_000, 256 << 10, 256<<10 + 1, wholeFrame + 10,
}

// maxScript bounds what a script stands for.
const maxScript = wholeFrame + 1<<20

// play returns what script stands for. A byte below 0x80 is followed by so many
// bytes that are sent as they are; another one is a frame, of the size that its
// low bits choose and the 4 bytes of type that follow, made by frame.
func play(script []byte, frame func(msgType uint32, data []byte) []byte) (stream []byte) {
	for len(script) > 0 && len(stream) < maxScript {
		op := script[0]
		script = script[1:]
		if op < 0x80 {
			n := min(int(op), len(script))
			stream = append(stream, script[:n]...)
			script = script[n:]
			continue
		}
		var msgType [4]byte
		script = script[copy(msgType[:], script):]
		size := scriptSizes[op&31]
		stream = append(stream, frame(binary.BigEndian.Uint32(msgType[:]), bytes.Repeat([]byte{op ^ msgType[3]}, size))...)
	}
	return stream
}

// piece returns the size of the i-th piece in which a stream arrives: the bytes
// of pieces in turn, the larger of them in thousands. After some it is all.
func piece(pieces []byte, i int) int {
	if len(pieces) == 0 || i >= 500 {
		return maxScript
	}
	if p := int(pieces[i%len(pieces)]); p >= 200 {
		return (p - 199) * 1000
	} else {
		return p + 1
	}
}

// verdict says what a stream of frames has to come to.
type verdict int

const (
	fine   verdict = iota // or it goes on
	bad                   // against the rules
	unsure                // an unfinished frame whose type is against the rules, which may be noticed
)

// refDecode is the reference for plain frames: the messages in stream, and what
// it comes to.
func refDecode(stream []byte, most uint32) (messages []Message, v verdict) {
	for len(stream) >= 4 {
		n := binary.BigEndian.Uint32(stream)
		if n < 4 || uint64(n) > 4+uint64(most) {
			return messages, bad
		}
		wrong := len(stream) >= 8 && stream[4]&0x80 != 0
		if uint64(len(stream)) < 4+uint64(n) {
			if wrong {
				return messages, unsure
			}
			return messages, fine
		}
		if wrong {
			return messages, bad
		}
		if t := binary.BigEndian.Uint32(stream[4:]); t != 0 {
			messages = append(messages, Message{MsgType: int(t), Data: stream[8 : 4+n]})
		}
		stream = stream[4+n:]
	}
	return messages, fine
}

// refOpen is refDecode for sealed frames; without c, none opens.
func refOpen(c *wire.Cipher, stream []byte, most int) (messages []Message, v verdict) {
	for len(stream) >= 4 {
		n := int64(binary.BigEndian.Uint32(stream))
		if n < wire.TypeSize+wire.SealOverhead || n > wire.TypeSize+wire.SealOverhead+int64(most) {
			return messages, bad
		}
		if int64(len(stream)) < 4+n {
			return messages, fine
		}
		if c == nil {
			return messages, bad
		}
		plain, err := c.Open(bytes.Clone(stream[4 : 4+n]))
		if err != nil || plain[0]&0x80 != 0 {
			return messages, bad
		}
		if t := binary.BigEndian.Uint32(plain); t != 0 {
			messages = append(messages, Message{MsgType: int(t), Data: plain[4:]})
		}
		stream = stream[4+n:]
	}
	return messages, fine
}

// wantMessages checks what was delivered.
func wantMessages(t testing.TB, got, want []Message) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].MsgType != want[i].MsgType || !bytes.Equal(got[i].Data, want[i].Data) {
			t.Fatalf("message %d has type %d and %d bytes, want type %d and %d bytes, the same", i,
				got[i].MsgType, len(got[i].Data), want[i].MsgType, len(want[i].Data))
		}
	}
}
