//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// Scripts. A fuzzer that is to find what large frames do should not have to
// write them out: a script says what bytes a peer sends.

// scriptSizes are the sizes of Data in the frames of a script: around the
// bounds that the decoder knows.
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

func plainFrame(msgType uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(typeSize+len(data)))
	return append(binary.BigEndian.AppendUint32(b, msgType), data...)
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

// The reference decoder: what a stream of frames must come to.

type verdict int

const (
	fine   verdict = iota // or it goes on
	bad                   // against the rules
	unsure                // an unfinished frame whose type is against the rules, which may be noticed
)

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

// sameMessages checks what was delivered.
func sameMessages(t *testing.T, got, want []Message) {
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

// feed gives a stream to a decoder in pieces, as a link does, and returns what
// is delivered and what ends it.
func feed(t *testing.T, d *decoder, stream, pieces []byte) (delivered []Message, err error) {
	t.Helper()
	for i := 0; len(stream) > 0 && err == nil; i++ {
		space := d.space()
		if len(space) == 0 {
			t.Fatal("the decoder has no space")
		}
		n := copy(space[:min(len(space), piece(pieces, i))], stream)
		stream = stream[n:]
		var got batch
		got, err = d.decode(n)
		count := 0
		for _, slab := range got.slabs {
			delivered = append(delivered, slab...)
			count += len(slab)
		}
		if count != got.messages {
			t.Fatalf("a batch of %d messages says that it has %d", count, got.messages)
		}
		if f := d.big; f != nil && len(f.body) > max(wholeFrame, 2*f.n) {
			t.Fatalf("memory for %d bytes, and %d have arrived", len(f.body), f.n)
		}
		d.rest()
	}
	return delivered, err
}

// stopped checks that a decoder which has met an error does not go on.
func stopped(t *testing.T, d *decoder) {
	t.Helper()
	n := copy(d.space(), plainFrame(1, []byte("behind the error")))
	if got, err := d.decode(n); err == nil || got.messages > 0 {
		t.Fatalf("%d messages after an error, and %v", got.messages, err)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Fuzz(func(t *testing.T, script, pieces []byte, most uint32) {
		most = min(most, maxMaxMsgSize)
		stream := play(script, plainFrame)
		want, v := refDecode(stream, most)
		d := &decoder{max: int(most)}
		defer d.reset()
		got, err := feed(t, d, stream, pieces)
		sameMessages(t, got, want)
		switch {
		case err != nil && !errors.Is(err, ErrProtocol):
			t.Fatal(err)
		case err != nil && v == fine || err == nil && v == bad:
			t.Fatalf("error %v, and the verdict is %d", err, v)
		case err != nil:
			stopped(t, d)
		}
		for i := range got {
			got[i].Release()
			got[i].Release()
		}
	})
}

// A decoder is broken for good, whatever it met.
func TestDecoderStopsForGood(t *testing.T) {
	c := testCrypt(t, upwards())
	forged := sealedFrame(c, 1, []byte("forged"))
	forged[20] ^= 1
	good := sealedFrame(c, 1, []byte("good"))
	for name, tt := range map[string]struct {
		crypt  *crypt
		stream []byte
	}{
		"length": {nil, slices.Concat(plainFrame(1, nil), []byte{0, 0, 0, 1}, plainFrame(1, nil))},
		"type":   {nil, slices.Concat(plainFrame(1, nil), plainFrame(1<<31, nil), plainFrame(1, nil))},
		"large":  {nil, slices.Concat(plainFrame(1, nil), plainFrame(1<<31, make([]byte, 100_000)), plainFrame(1, nil))},
		"seal":   {c, slices.Concat(good, forged, good)},
	} {
		t.Run(name, func(t *testing.T) {
			d := &decoder{max: testMaxMsgSize, crypt: tt.crypt}
			defer d.reset()
			if got, err := feed(t, d, tt.stream, nil); len(got) != 1 || err == nil {
				t.Errorf("%d messages, and %v", len(got), err)
			}
			n := copy(d.space(), good)
			if tt.crypt == nil {
				n = copy(d.space(), plainFrame(1, nil))
			}
			if got, err := d.decode(n); err == nil || got.messages > 0 {
				t.Errorf("%d messages after the error, and %v", got.messages, err)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	f.Fuzz(func(t *testing.T, data, foreign, pieces []byte, msgType uint32, flip uint) {
		c := testCrypt(t, upwards())
		msgType &= maxType
		frame := sealedFrame(c, int(msgType), data)
		open := func(stream []byte) ([]Message, error) {
			d := &decoder{max: len(data), crypt: c}
			defer d.reset()
			got, err := feed(t, d, stream, pieces)
			if err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return got, err
		}
		want := []Message{{MsgType: int(msgType), Data: data}}
		if msgType == 0 {
			want = nil
		}
		got, err := open(frame)
		sameMessages(t, got, want)
		if err != nil {
			t.Fatal(err)
		}

		// What has not been sealed with the key does not open, whether it has
		// a length that fits or not.
		got, _ = open(slices.Concat(frame, foreign))
		sameMessages(t, got, want)
		box := foreign[:min(len(foreign), len(data)+typeSize+sealOverhead)]
		got, err = open(slices.Concat(frame, binary.BigEndian.AppendUint32(nil, uint32(len(box))), box))
		sameMessages(t, got, want)
		if err == nil && len(box) > 0 && !bytes.HasPrefix(frame[lengthSize:], box) {
			t.Fatal("foreign bytes were taken for a seal")
		}

		// Nor does what has been changed after the length.
		changed := bytes.Clone(frame)
		at := flip % uint(8*(len(frame)-lengthSize))
		changed[lengthSize+at/8] ^= 1 << (at % 8)
		got, err = open(slices.Concat(changed, frame))
		sameMessages(t, got, nil)
		if err == nil {
			t.Fatal("a changed seal was opened")
		}
	})
}

// Handshakes.

// scriptedConn is a connection whose other end has said everything, and does
// not listen.
type scriptedConn struct {
	net.Conn // nil: nothing else is called
	in       []byte
	pieces   []byte
	reads    int
	writes   [][]byte
	read     int   // bytes
	before   []int // bytes that had been read before each write
}

func (c *scriptedConn) Read(b []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), piece(c.pieces, c.reads))], c.in)
	c.reads++
	c.in = c.in[n:]
	c.read += n
	return n, nil
}

func (c *scriptedConn) Write(b []byte) (int, error) {
	c.writes = append(c.writes, bytes.Clone(b))
	c.before = append(c.before, c.read)
	return len(b), nil
}

func (c *scriptedConn) SetDeadline(time.Time) error { return nil }

// wantWrites checks that the steps were these, each in a write of its own and
// none before the answer to the one before it.
func (c *scriptedConn) wantWrites(t *testing.T, before []int, sizes ...int) {
	t.Helper()
	got := make([]int, len(c.writes))
	for i, w := range c.writes {
		got[i] = len(w)
	}
	n := len(got)
	if n > len(sizes) || !slices.Equal(got, sizes[:n]) || !slices.Equal(c.before, before[:n]) {
		t.Fatalf("writes of %v bytes, after %v bytes, want %v after %v", got, c.before, sizes, before)
	}
}

// fixedKey is the n-th private key of the tests.
func fixedKey(n int) *ecdh.PrivateKey {
	b := bytes.Repeat([]byte{byte(n + 1)}, 48)
	key, err := ecdh.P384().NewPrivateKey(b)
	if err != nil {
		panic(err)
	}
	return key
}

// fixedSecrets draws fixed keys, a few of them.
func fixedSecrets(first int) *secrets {
	n := 0
	return &secrets{
		key: func() (*ecdh.PrivateKey, error) {
			if n == 5 {
				return nil, errors.New("no more keys")
			}
			n++
			return fixedKey(first + n - 1), nil
		},
		prefix: func() (p [prefixSize]byte) { return p },
	}
}

func validKey(b []byte) bool {
	_, err := ecdh.P384().NewPublicKey(b)
	return err == nil
}

// handshakeError checks the reason why a handshake has failed, and that it has
// not failed without one.
func handshakeError(t *testing.T, err, want error) {
	t.Helper()
	if (err == nil) != (want == nil) || !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// cut is the reason why a handshake of which n bytes of size have come fails.
func cut(n int) error {
	if n == 0 {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

func FuzzServerHandshake(f *testing.F) {
	f.Fuzz(func(t *testing.T, before, answers, pieces []byte, sealed bool, limit uint32) {
		// An honest key is too much to find for a fuzzer.
		in := slices.Concat(before, answers)
		if sealed && len(before) == 0 && len(answers) > 0 {
			in = slices.Concat(answers[:1], fixedKey(9).PublicKey().Bytes(), answers[1:])
		}
		conn := &scriptedConn{in: bytes.Clone(in), pieces: pieces}
		config := ServerConfig{Encryption: sealed, MaxMsgSize: int(min(limit, maxMaxMsgSize))}
		waited := 0
		l, err := welcome(conn, &config, fixedSecrets(0), time.Time{}, func() error {
			waited++
			return nil
		})

		var want error
		complete := 0
		answer := func() {
			if want != nil {
				return
			}
			if complete == len(in) {
				want = io.EOF
				return
			}
			complete++
			switch in[complete-1] {
			case 0:
			case 1:
				want = ErrVersion
			case 2:
				want = ErrEncryptionRequired
			default:
				want = ErrProtocol
			}
		}
		answer()
		if sealed && want == nil {
			switch rest := in[1:]; {
			case len(rest) < publicKeySize:
				want = cut(len(rest))
				complete = len(in)
			case !validKey(rest[:publicKeySize]):
				want = ErrProtocol
				complete += publicKeySize
			default:
				complete += publicKeySize
			}
		}
		if waits := want == nil; (waited == 1) != waits || waited > 1 {
			t.Fatalf("waited %d times for a place", waited)
		}
		answer()
		handshakeError(t, err, want)
		if conn.read != complete {
			t.Fatalf("read %d bytes, and the handshake has %d", conn.read, complete)
		}
		if sealed {
			conn.wantWrites(t, []int{0, 1, 98}, 2, publicKeySize, lengthSize+maxMsgSizeSize+sealOverhead)
		} else {
			conn.wantWrites(t, []int{0, 1}, 2, lengthSize+maxMsgSizeSize)
		}
		if err == nil && (l.dec.max != config.MaxMsgSize || (l.dec.crypt != nil) != sealed) {
			t.Fatalf("a link for %d bytes, crypt %t", l.dec.max, l.dec.crypt != nil)
		}
	})
}

func FuzzClientHandshake(f *testing.F) {
	f.Fuzz(func(t *testing.T, hello, key, limit, pieces []byte, honestKey, honestLimit, insist bool) {
		if honestKey {
			key = fixedKey(9).PublicKey().Bytes()
		}
		var opens []byte // what the seal of the limit holds, if it is one
		if honestLimit && validKey(key) {
			// Of a foreign key, X is known from the client's side.
			if x, _ := fixedKey(0).ECDH(mustKey(key)); x[0] != 0 {
				c, err := newCrypt(x, fixedSecrets(0))
				if err != nil {
					t.Fatal(err)
				}
				opens = limit
				sealed := c.appendSealed(nil, limit)
				limit = append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...)
			}
		}
		in := slices.Concat(hello, key, limit)
		conn := &scriptedConn{in: bytes.Clone(in), pieces: pieces}
		config := ClientConfig{Encryption: insist}
		l, err := joinServer(conn, &config, fixedSecrets(0))

		sealed := false
		size := maxMsgSizeSize
		want := func() error {
			switch {
			case len(in) < 2:
				return cut(len(in))
			case in[0] != 2:
				return ErrVersion
			case in[1] > 1:
				return ErrProtocol
			case in[1] == 0 && insist:
				return ErrEncryptionRequired
			}
			rest := in[2:]
			if sealed = in[1] == 1; sealed {
				size += sealOverhead
				if len(rest) < publicKeySize {
					return cut(len(rest))
				}
				if !validKey(rest[:publicKeySize]) {
					return ErrProtocol
				}
				rest = rest[publicKeySize:]
			}
			switch {
			case len(rest) < 4:
				return cut(len(rest))
			case binary.BigEndian.Uint32(rest) != uint32(size):
				return ErrProtocol
			case len(rest) < 4+size:
				return cut(len(rest) - 4)
			case !sealed:
				opens = rest[4:8]
			case !bytes.Equal(in[2:99], key) || !bytes.Equal(rest[:4+size], limit) || opens == nil:
				return ErrProtocol
			}
			return nil
		}()
		handshakeError(t, err, want)
		switch {
		case len(in) < 2:
			conn.wantWrites(t, nil)
		case errors.Is(want, ErrVersion) || errors.Is(want, ErrEncryptionRequired):
			conn.wantWrites(t, []int{2}, 1)
			if b := conn.writes[0][0]; b != map[bool]byte{true: answerVersion, false: answerEncrypted}[in[0] != 2] {
				t.Fatalf("answer %d", b)
			}
		case sealed:
			conn.wantWrites(t, []int{2, 99, 99 + 4 + size}, 1, publicKeySize, 1)
		default:
			conn.wantWrites(t, []int{2, 2 + 4 + size}, 1, 1)
		}
		if err != nil {
			return
		}
		if most := min(binary.BigEndian.Uint32(opens), maxMaxMsgSize); l.dec.max != int(most) || (l.dec.crypt != nil) != sealed {
			t.Fatalf("a link for %d bytes, want %d", l.dec.max, most)
		}
		if conn.read != len(in)-len(conn.in) || len(conn.writes[len(conn.writes)-1]) != 1 {
			t.Fatal("more was read than belongs to the handshake")
		}
	})
}

func mustKey(b []byte) *ecdh.PublicKey {
	key, err := ecdh.P384().NewPublicKey(b)
	if err != nil {
		panic(err)
	}
	return key
}

// Sessions.

// handListener is a listener that is handed its connections.
type handListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *handListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *handListener) Close() error {
	close(l.closed)
	return nil
}

func (l *handListener) Addr() net.Addr { return &net.UnixAddr{Name: "hand", Net: "unix"} }

// fuzzedServer is a server that serves one session after another.
type fuzzedServer struct {
	*Server
	listener *handListener
	sealed   bool
	sessions int
}

const fuzzedMaxMsgSize = 256 << 10

func newFuzzedServer(f *testing.F, sealed, multi bool) *fuzzedServer {
	l := &handListener{make(chan net.Conn), make(chan struct{})}
	s, err := StartServer(&ServerConfig{
		Listener: l, Encryption: sealed, MultiMode: multi, MaxMsgSize: fuzzedMaxMsgSize, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	return &fuzzedServer{Server: s, listener: l, sealed: sealed}
}

// fuzzPatience is no expectation of speed: what takes so long hangs.
const fuzzPatience = 8 * time.Second

// dial connects a peer. It waits until the one before it has left its place: a
// peer that does not wait for the steps of the server must not have to wait for
// a place either.
func (s *fuzzedServer) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	for free := s.config.MultiMode; !free; runtime.Gosched() {
		s.places.mu.Lock()
		free = s.places.free > 0
		s.places.mu.Unlock()
	}
	ends := unixPair(t)
	select {
	case s.listener.conns <- ends[1]:
	case <-time.After(fuzzPatience):
		t.Fatal("the server accepts nobody any more")
	}
	ends[0].SetDeadline(time.Now().Add(fuzzPatience))
	return ends[0].(*net.UnixConn)
}

// unixPair returns two Unix sockets that are connected with each other.
func unixPair(t *testing.T) (ends [2]net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return ends
}

// open goes through the client's side of the handshake, and returns what the
// frames of a sealed connection are made with.
func (s *fuzzedServer) open(t *testing.T, conn net.Conn) *crypt {
	t.Helper()
	config := ClientConfig{Encryption: s.sealed}
	l, err := joinServer(conn, &config, randomSecrets)
	if err != nil {
		t.Fatal("a good peer:", err)
	}
	return l.dec.crypt
}

// session reads the events and messages of one connection.
func (s *fuzzedServer) session(t *testing.T) (messages []Message, protocolError bool) {
	t.Helper()
	var events []string
	for len(events) == 0 || events[len(events)-1] != "Disconnected" {
		s.ServerManager.ReadTimed(fuzzPatience, nil, func(_ *Server, m *Message, err error) {
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
func say(conn *net.UnixConn, stream, pieces []byte) (said <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; len(stream) > 0; i++ {
			n := min(len(stream), piece(pieces, i))
			if _, err := conn.Write(stream[:n]); err != nil {
				return
			}
			stream = stream[n:]
		}
		conn.CloseWrite()
	}()
	return done
}

// opened reports whether stream is a handshake that the server accepts, and
// returns what follows it.
func (s *fuzzedServer) opened(stream []byte) (frames []byte, ok bool) {
	size := 2
	if s.sealed {
		size += publicKeySize
	}
	if len(stream) < size || stream[0] != 0 || stream[size-1] != 0 || s.sealed && !validKey(stream[1:size-1]) {
		return nil, false
	}
	return stream[size:], true
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
		conn := s.dial(t)
		defer conn.Close()
		frame := plainFrame
		var c *crypt
		if greets {
			if c = s.open(t, conn); c != nil {
				frame = func(msgType uint32, data []byte) []byte {
					return sealedFrame(c, int(msgType), data)
				}
			}
		}
		stream := play(script, frame)
		frames, joined := stream, true
		if !greets {
			frames, joined = s.opened(stream)
		}
		said := say(conn, stream, pieces)
		if joined {
			got, failed := s.session(t)
			if s.sealed {
				want, v := refOpen(c, frames)
				sameMessages(t, got, want)
				if failed != (v == bad) && v != unsure {
					t.Fatalf("protocol error %t, verdict %d", failed, v)
				}
			} else {
				want, v := refDecode(frames, fuzzedMaxMsgSize)
				sameMessages(t, got, want)
				if failed != (v == bad) && v != unsure {
					t.Fatalf("protocol error %t, verdict %d", failed, v)
				}
			}
		}
		// The server closes the connection in any case.
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
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
		sameMessages(t, got, []Message{{MsgType: 7, Data: []byte("hello")}})
		if failed {
			t.Fatal("a good peer made a protocol error")
		}
	})
}

// refOpen is refDecode for sealed frames; without c, none opens.
func refOpen(c *crypt, stream []byte) (messages []Message, v verdict) {
	for len(stream) >= 4 {
		n := int64(binary.BigEndian.Uint32(stream))
		if n < typeSize+sealOverhead || n > typeSize+sealOverhead+fuzzedMaxMsgSize {
			return messages, bad
		}
		if int64(len(stream)) < 4+n {
			return messages, fine
		}
		if c == nil {
			return messages, bad
		}
		plain, err := c.open(bytes.Clone(stream[4 : 4+n]))
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

// Configuration.

func FuzzConfig(f *testing.F) {
	f.Fuzz(func(t *testing.T, name, dir, group, level string, mode uint32, flags byte,
		maxMsgSize, maxClients, writeTimeout, handshakeTimeout, busyPoll, timeout, retry int64) {
		server := ServerConfig{
			Name: name, SocketDir: dir, Group: group, LogLevel: level, Mode: fs.FileMode(mode),
			Encryption: flags&1 != 0, UnmaskPermissions: flags&2 != 0, MultiMode: flags&4 != 0,
			MaxMsgSize: int(maxMsgSize), MaxClients: int(maxClients), WriteTimeout: time.Duration(writeTimeout),
			HandshakeTimeout: time.Duration(handshakeTimeout), BusyPoll: time.Duration(busyPoll),
		}
		client := ClientConfig{
			Name: name, SocketDir: dir, LogLevel: level, Encryption: flags&1 != 0,
			Timeout: time.Duration(timeout), RetryTimer: time.Duration(retry), BusyPoll: time.Duration(busyPoll),
		}
		if flags&8 != 0 {
			server.Logger = slog.New(slog.DiscardHandler)
			client.Logger = server.Logger
		}
		given, givenClient := server, client
		unknownLevel := !slices.Contains([]string{"", "debug", "info", "warn", "error"}, level)

		s, err := server.withDefaults()
		wrong := unknownLevel || mode != 0 && server.UnmaskPermissions || mode&^0o777 != 0 ||
			int64(server.MaxMsgSize) > 1<<31-64 || server.MaxClients < 0 || server.MaxClients > 1 && !server.MultiMode ||
			handshakeTimeout < 0 || busyPoll < 0
		if wrong != (err != nil) || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("server: error %v, and something is wrong: %t", err, wrong)
		}
		if fmt.Sprint(server) != fmt.Sprint(given) {
			t.Fatal("the caller's config was changed")
		}
		if err == nil {
			if s.MaxMsgSize < 1 || s.MaxMsgSize > maxMaxMsgSize || s.HandshakeTimeout <= 0 || s.WriteTimeout == 0 ||
				s.SocketDir == "" || s.Logger == nil || s.MaxClients < 0 || !s.MultiMode && s.MaxClients != 1 {
				t.Fatalf("what is left of the config: %+v", s)
			}
			if s.Encryption != server.Encryption || s.Name != name || dir != "" && s.SocketDir != dir {
				t.Fatalf("%+v became %+v", server, s)
			}
			checkPermissions(t, &s)
			checkPath(t, s.SocketDir, name)
		}

		c, err := client.withDefaults()
		wrong = unknownLevel || timeout < 0 || retry < 0 || busyPoll < 0
		if wrong != (err != nil) || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("client: error %v, and something is wrong: %t", err, wrong)
		}
		if fmt.Sprint(client) != fmt.Sprint(givenClient) {
			t.Fatal("the caller's config was changed")
		}
		if err == nil && (c.RetryTimer <= 0 || c.SocketDir == "" || c.Logger == nil || c.Encryption != client.Encryption) {
			t.Fatalf("what is left of the config: %+v", c)
		}
	})
}

// checkPermissions checks that a socket gets those that were asked for.
func checkPermissions(t *testing.T, c *ServerConfig) {
	t.Helper()
	perm, err := permissions(c)
	want := fs.FileMode(0o600)
	switch {
	case c.UnmaskPermissions:
		want = 0o777
	case c.Mode != 0:
		want = c.Mode
	}
	switch {
	case err == nil && perm.Mode != want:
		t.Fatalf("mode %v, want %v", perm.Mode, want)
	case err == nil && (perm.GID == -1) != (c.Group == ""):
		t.Fatalf("group %d for %q", perm.GID, c.Group)
	case err != nil && c.Group == "":
		t.Fatal(err)
	}
}

// checkPath checks that a name makes a file in its folder and nowhere else.
func checkPath(t *testing.T, dir, name string) {
	t.Helper()
	path, err := sockfile.Path(dir, name)
	if err != nil {
		if !errors.Is(err, ErrName) {
			t.Fatal(err)
		}
		if name != "" && len(dir)+len(name) < 90 && !strings.ContainsAny(name+dir, "/\x00") && name != "." && name != ".." {
			t.Fatalf("%q in %q: %v", name, dir, err)
		}
		return
	}
	if len(path) >= len(syscall.RawSockaddrUnix{}.Path) || strings.ContainsRune(path, 0) || path[0] == '@' ||
		filepath.Base(path) != name+".sock" || filepath.Dir(path) != filepath.Clean(dir) {
		t.Fatalf("%q in %q became %q", name, dir, path)
	}
}
