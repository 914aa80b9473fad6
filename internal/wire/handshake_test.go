package wire

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// scriptedConn is a connection whose other end has said everything, and does
// not listen. It records what is written.
type scriptedConn struct {
	in       []byte
	pieces   []byte // in which in arrives
	readErr  error  // what ends in; nil is io.EOF
	failAt   int    // the write that fails, counted from 1
	writeErr error  // how it fails

	reads  int
	writes [][]byte
	read   int   // bytes
	before []int // bytes that had been read before each write
}

func (c *scriptedConn) Read(b []byte) (int, error) {
	if len(c.in) == 0 {
		if c.readErr != nil {
			return 0, c.readErr
		}
		return 0, io.EOF
	}
	n := len(b)
	if len(c.pieces) > 0 {
		n = min(n, int(c.pieces[c.reads%len(c.pieces)])+1)
	}
	n = copy(b[:n], c.in)
	c.reads++
	c.in = c.in[n:]
	c.read += n
	return n, nil
}

func (c *scriptedConn) Write(b []byte) (int, error) {
	if len(c.writes)+1 == c.failAt {
		return 0, c.writeErr
	}
	c.writes = append(c.writes, bytes.Clone(b))
	c.before = append(c.before, c.read)
	return len(b), nil
}

// step is a step of the handshake that this side sends.
type step struct {
	before int // bytes of the other side that come first
	size   int
}

// wantSteps checks that what was sent were the first of steps, each with a
// write of its own and none before the answer to the one before it.
func (c *scriptedConn) wantSteps(t *testing.T, steps []step) {
	t.Helper()
	var got []step
	for i, w := range c.writes {
		got = append(got, step{c.before[i], len(w)})
	}
	if !slices.Equal(got, steps) {
		t.Fatalf("steps {bytes before, size} %v, want %v", got, steps)
	}
}

func serverSteps(sealed bool) []step {
	if sealed {
		return []step{{0, 2}, {1, 97}, {98, 36}}
	}
	return []step{{0, 2}, {1, 8}}
}

// clientSteps are those of a client, which announces itself with the last one if
// the server's limit allows it.
func clientSteps(sealed bool, limit int) []step {
	last := 1
	if limit >= 16 {
		last += 24
		if sealed {
			last += 28
		}
	}
	if sealed {
		return []step{{2, 1}, {99, 97}, {135, last}}
	}
	return []step{{2, 1}, {10, last}}
}

// wantLastStep checks what a client has sent behind its last answer, if the limit
// allows anything, with what the server has negotiated.
func wantLastStep(t *testing.T, n Negotiated, behind []byte) {
	t.Helper()
	if n.MaxMsgSize < 16 {
		if len(behind) > 0 {
			t.Fatalf("%d bytes behind the last step, and the limit is %d", len(behind), n.MaxMsgSize)
		}
		return
	}
	d := Decoder(n)
	msgType, data, size, err := d.Next(bytes.Clone(behind))
	const want = "\x01ipc\x01\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if err != nil || msgType != 0 || string(data) != want || size != len(behind) {
		t.Fatalf("%x behind the last step: type %d, %q (%v), want an announcement", behind, msgType, data, err)
	}
}

// fixedKey is the n-th private key of the tests.
func fixedKey(n int) *ecdh.PrivateKey {
	key, err := ecdh.P384().NewPrivateKey(bytes.Repeat([]byte{byte(n + 1)}, 48))
	if err != nil {
		panic(err)
	}
	return key
}

var errNoKey = errors.New("no more keys")

// keys draws these keys in turn, and the prefix of 8 bytes that are 0.
func keys(keys ...*ecdh.PrivateKey) *Secrets {
	return &Secrets{
		Key: func() (*ecdh.PrivateKey, error) {
			if len(keys) == 0 {
				return nil, errNoKey
			}
			key := keys[0]
			keys = keys[1:]
			return key, nil
		},
		Nonce: func() (p [prefixSize]byte, count uint32) { return p, 0 },
	}
}

const (
	serverKey = 0
	clientKey = 9
)

func fixedCipher(t *testing.T, prefix byte) *Cipher {
	t.Helper()
	x, err := fixedKey(serverKey).ECDH(fixedKey(clientKey).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCipher(x, &Secrets{Nonce: func() (p [prefixSize]byte, count uint32) {
		p[0] = prefix
		return p, 0
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// clientSide is all that a good client says to a server with the key serverKey.
func clientSide(sealed bool) []byte {
	if sealed {
		return slices.Concat([]byte{0}, fixedKey(clientKey).PublicKey().Bytes(), []byte{0})
	}
	return []byte{0, 0}
}

// serverSide is all that a good server says to a client with the key clientKey.
func serverSide(t *testing.T, sealed bool, limit uint32) []byte {
	t.Helper()
	payload := binary.BigEndian.AppendUint32(nil, limit)
	if !sealed {
		return slices.Concat([]byte{2, 0}, []byte{0, 0, 0, 4}, payload)
	}
	return slices.Concat([]byte{2, 1}, fixedKey(serverKey).PublicKey().Bytes(), []byte{0, 0, 0, 32}, fixedCipher(t, 1).seal(nil, payload))
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if (err == nil) != (want == nil) || !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	for _, sentinel := range []error{errs.Protocol, errs.Version, errs.EncryptionRequired} {
		if sentinel != want && errors.Is(err, sentinel) {
			t.Fatalf("error %v matches %v as well, want %v only", err, sentinel, want)
		}
	}
}

// talks checks that what was negotiated fits the other side, whose Cipher is
// peer, nil if the connection is plain.
func talks(t *testing.T, n Negotiated, peer *Cipher) {
	t.Helper()
	if (n.Cipher != nil) != (peer != nil) {
		t.Fatalf("encrypted on one side: %t, on the other: %t", n.Cipher != nil, peer != nil)
	}
	if peer == nil {
		return
	}
	for range 2 {
		if plain, err := peer.Open(n.Cipher.seal(nil, []byte("out"))); err != nil || string(plain) != "out" {
			t.Fatalf("the peer opened %q (%v)", plain, err)
		}
		if plain, err := n.Cipher.Open(peer.seal(nil, []byte("in"))); err != nil || string(plain) != "in" {
			t.Fatalf("opened %q of the peer's (%v)", plain, err)
		}
	}
}

// pipe returns a connection on which each write waits until it has been read.
// The deadline is no expectation of speed: sides that take so long wait for each
// other.
func pipe() (a, b net.Conn) {
	a, b = net.Pipe()
	a.SetDeadline(time.Now().Add(30 * time.Second))
	b.SetDeadline(time.Now().Add(30 * time.Second))
	return a, b
}

func admitAtOnce() error { return nil }

// Both sides agree, with the secrets of the system, over a connection on which
// each write waits until it has been read.
func TestHandshake(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for _, insist := range []bool{false, true} {
			for _, max := range []int{0, 1, 15, 16, 17, 3 << 20, MaxLimit} {
				if insist && !sealed {
					continue
				}
				a, b := pipe()
				type result struct {
					n      Negotiated
					err    error
					behind []byte // what the client had sent when it closed
				}
				server := make(chan result, 1)
				go func() {
					defer a.Close()
					s := Server{Encrypt: sealed, MaxMsgSize: max, Secrets: System}
					n, err := s.Handshake(a, admitAtOnce)
					behind, _ := io.ReadAll(a)
					server <- result{n, err, behind}
				}()
				c := Client{RequireEncryption: insist, Secrets: System}
				n, err := c.Handshake(b)
				b.Close()
				s := <-server
				if err != nil || s.err != nil {
					t.Fatalf("sealed %t: error %v, the server's %v", sealed, err, s.err)
				}
				if n.MaxMsgSize != max || s.n.MaxMsgSize != max {
					t.Errorf("negotiated %d and %d bytes, want %d", n.MaxMsgSize, s.n.MaxMsgSize, max)
				}
				if (n.Cipher != nil) != sealed {
					t.Errorf("encrypted: %t, want %t", n.Cipher != nil, sealed)
				}
				wantLastStep(t, s.n, s.behind)
				talks(t, n, s.n.Cipher)
			}
		}
	}
}

// Both sides know that they do not agree on encryption.
func TestEncryptionRequired(t *testing.T) {
	a, b := pipe()
	server := make(chan error, 1)
	go func() {
		defer a.Close()
		s := Server{MaxMsgSize: 10}
		_, err := s.Handshake(a, func() error {
			t.Error("admitted")
			return nil
		})
		server <- err
	}()
	c := Client{RequireEncryption: true}
	_, err := c.Handshake(b)
	b.Close()
	wantError(t, err, errs.EncryptionRequired)
	wantError(t, <-server, errs.EncryptionRequired)
}

// A server asks for a place when only the last step is left, once, and sends
// that step only if there is one.
func TestAdmission(t *testing.T) {
	errFull := errors.New("no place")
	for _, sealed := range []bool{false, true} {
		for _, want := range []error{nil, errFull} {
			steps := serverSteps(sealed)
			left := len(steps) - 1
			conn := &scriptedConn{in: clientSide(sealed)}
			s := Server{Encrypt: sealed, MaxMsgSize: 10, Secrets: keys(fixedKey(serverKey))}
			admitted := 0
			n, err := s.Handshake(conn, func() error {
				admitted++
				conn.wantSteps(t, steps[:left])
				if conn.read != steps[left].before {
					t.Errorf("%d bytes read before the client is admitted, want %d", conn.read, steps[left].before)
				}
				return want
			})
			wantError(t, err, want)
			if admitted != 1 {
				t.Errorf("asked %d times for a place", admitted)
			}
			if want != nil {
				conn.wantSteps(t, steps[:left])
				if n != (Negotiated{}) {
					t.Errorf("negotiated %+v without a place", n)
				}
				continue
			}
			conn.wantSteps(t, steps)
		}
	}
}

// handshakes are those that the tests break.
func handshakes(t *testing.T) map[string]struct {
	in    []byte
	parts []int // where in's parts start, each of which is read by itself
	steps []step
	limit int
	run   func(conn io.ReadWriter) (Negotiated, error)
} {
	type handshake = struct {
		in    []byte
		parts []int
		steps []step
		limit int
		run   func(conn io.ReadWriter) (Negotiated, error)
	}
	all := make(map[string]handshake)
	for _, sealed := range []bool{false, true} {
		clientParts, serverParts := []int{0, 1}, []int{0, 2, 6}
		if sealed {
			clientParts, serverParts = []int{0, 1, 98}, []int{0, 2, 99, 103}
		}
		all[fmt.Sprintf("server, sealed %t", sealed)] = handshake{clientSide(sealed), clientParts, serverSteps(sealed), 10, func(conn io.ReadWriter) (Negotiated, error) {
			s := Server{Encrypt: sealed, MaxMsgSize: 10, Secrets: keys(fixedKey(serverKey))}
			return s.Handshake(conn, admitAtOnce)
		}}
		for _, limit := range []int{10, 16} {
			steps := clientSteps(sealed, limit)
			all[fmt.Sprintf("client, sealed %t, limit %d", sealed, limit)] = handshake{serverSide(t, sealed, uint32(limit)), serverParts, steps, limit, func(conn io.ReadWriter) (Negotiated, error) {
				c := Client{Secrets: keys(fixedKey(clientKey))}
				return c.Handshake(conn)
			}}
		}
	}
	return all
}

// Steps may arrive in any pieces, and what follows the last is left alone.
func TestPieces(t *testing.T) {
	for name, h := range handshakes(t) {
		for _, pieces := range [][]byte{nil, {0}, {1}, {2, 0}, {50}} {
			conn := &scriptedConn{in: slices.Concat(h.in, []byte("a frame")), pieces: pieces}
			n, err := h.run(conn)
			if err != nil || n.MaxMsgSize != h.limit {
				t.Fatalf("%s, pieces %v: %d bytes (%v)", name, pieces, n.MaxMsgSize, err)
			}
			if string(conn.in) != "a frame" {
				t.Errorf("%s: %q is left, want the first frame", name, conn.in)
			}
			conn.wantSteps(t, h.steps)
		}
	}
}

// A connection that fails in or before any part or step ends the handshake,
// which says why.
func TestConnectionFails(t *testing.T) {
	errBroken := errors.New("broken")
	for name, h := range handshakes(t) {
		for n := range h.in {
			near := func(part int) bool { return part-2 <= n && n <= part+2 }
			if n < len(h.in)-2 && !slices.ContainsFunc(h.parts, near) {
				continue // a key takes its time
			}
			sent := 0
			for _, s := range h.steps {
				if s.before <= n {
					sent++
				}
			}
			for _, cause := range []error{nil, errBroken} {
				conn := &scriptedConn{in: h.in[:n:n], readErr: cause}
				got, err := h.run(conn)
				switch {
				case cause != nil:
					wantError(t, err, cause)
				case slices.Contains(h.parts, n):
					wantError(t, err, io.EOF)
				default:
					wantError(t, err, io.ErrUnexpectedEOF)
				}
				if got != (Negotiated{}) {
					t.Errorf("%s, %d bytes: negotiated %+v", name, n, got)
				}
				conn.wantSteps(t, h.steps[:sent])
			}
		}
		for i := range h.steps {
			conn := &scriptedConn{in: h.in, failAt: i + 1, writeErr: errBroken}
			got, err := h.run(conn)
			wantError(t, err, errBroken)
			if got != (Negotiated{}) {
				t.Errorf("%s, step %d fails: negotiated %+v", name, i, got)
			}
			conn.wantSteps(t, h.steps[:i])
			if conn.read != h.steps[i].before {
				t.Errorf("%s: step %d fails, and %d bytes were read, want %d", name, i, conn.read, h.steps[i].before)
			}
		}
	}
}

// What a client must not say.
func TestServerRefuses(t *testing.T) {
	good := fixedKey(clientKey).PublicKey().Bytes()
	compressed := slices.Concat([]byte{2}, good[1:])
	off := bytes.Clone(good)
	off[96] ^= 1
	for _, tt := range []struct {
		name     string
		sealed   bool
		in       []byte
		want     error
		admitted bool
		steps    int
	}{
		{"another version", false, []byte{1, 0}, errs.Version, false, 1},
		{"another version, sealed", true, []byte{1}, errs.Version, false, 1},
		{"insists on encryption", false, []byte{2, 0}, errs.EncryptionRequired, false, 1},
		{"unknown answer", false, []byte{3, 0}, errs.Protocol, false, 1},
		{"unknown answer, sealed", true, []byte{255}, errs.Protocol, false, 1},
		{"key off the curve", true, slices.Concat([]byte{0}, off, []byte{0}), errs.Protocol, false, 2},
		{"key of another form", true, slices.Concat([]byte{0}, compressed, []byte{0}), errs.Protocol, false, 2},
		{"key of zeros", true, make([]byte, 99), errs.Protocol, false, 2},
		{"unknown last answer", false, []byte{0, 3}, errs.Protocol, true, 2},
		{"last answer is version", false, []byte{0, 1}, errs.Version, true, 2},
		{"unknown last answer, sealed", true, slices.Concat([]byte{0}, good, []byte{'x'}), errs.Protocol, true, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := &scriptedConn{in: tt.in}
			s := Server{Encrypt: tt.sealed, MaxMsgSize: 10, Secrets: keys(fixedKey(serverKey))}
			admitted := false
			n, err := s.Handshake(conn, func() error {
				admitted = true
				return nil
			})
			wantError(t, err, tt.want)
			if n != (Negotiated{}) || admitted != tt.admitted {
				t.Errorf("negotiated %+v, admitted %t, want %t", n, admitted, tt.admitted)
			}
			conn.wantSteps(t, serverSteps(tt.sealed)[:tt.steps])
		})
	}
}

// What a server must not say, and what the client answers.
func TestClientRefuses(t *testing.T) {
	sealed := serverSide(t, true, 10)
	change := func(b []byte, at int, to ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], to)
		return b
	}
	for _, tt := range []struct {
		name    string
		insist  bool
		in      []byte
		want    error
		answers string // the one-byte steps, in order; k is the key
	}{
		{"older", false, []byte{1, 0}, errs.Version, "\x01"},
		{"newer, of an unknown kind", true, []byte{3, 7}, errs.Version, "\x01"},
		{"older and plain, insists", true, []byte{1, 0}, errs.Version, "\x01"},
		{"unknown kind", false, []byte{2, 2}, errs.Protocol, ""},
		{"unknown kind, insists", true, []byte{2, 255}, errs.Protocol, ""},
		{"plain, insists", true, []byte{2, 0, 0, 0, 0, 4, 0, 0, 0, 10}, errs.EncryptionRequired, "\x02"},
		{"key off the curve", false, change(sealed, 98, sealed[98]^1), errs.Protocol, "\x00"},
		{"key of another form", false, change(sealed, 2, 3), errs.Protocol, "\x00"},
		{"limit of 3 bytes", false, []byte{2, 0, 0, 0, 0, 3, 0, 0, 0}, errs.Protocol, "\x00"},
		{"limit of 5 bytes", false, []byte{2, 0, 0, 0, 0, 5, 0, 0, 0, 1, 1}, errs.Protocol, "\x00"},
		{"limit of 4 GiB", false, []byte{2, 0, 255, 255, 255, 255}, errs.Protocol, "\x00"},
		{"sealed size, plain", false, []byte{2, 0, 0, 0, 0, 32}, errs.Protocol, "\x00"},
		{"limit not sealed", false, slices.Concat(sealed[:99], []byte{0, 0, 0, 4, 0, 0, 0, 10}), errs.Protocol, "\x00k"},
		{"limit forged", false, change(sealed, len(sealed)-1, sealed[len(sealed)-1]^1), errs.Protocol, "\x00k"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := &scriptedConn{in: tt.in}
			c := Client{RequireEncryption: tt.insist, Secrets: keys(fixedKey(clientKey))}
			n, err := c.Handshake(conn)
			wantError(t, err, tt.want)
			if n != (Negotiated{}) {
				t.Errorf("negotiated %+v", n)
			}
			var answers string
			for _, w := range conn.writes {
				if len(w) == publicKeySize {
					w = []byte("k")
				}
				answers += string(w)
			}
			if answers != tt.answers {
				t.Errorf("answers %q, want %q", answers, tt.answers)
			}
		})
	}
}

// A client takes a limit that is too large for the largest, and others as they
// are.
func TestAnnouncedLimits(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for announced, want := range map[uint32]int{
			0: 0, 1: 1, 15: 15, 16: 16, 3 << 20: 3 << 20, MaxLimit - 1: MaxLimit - 1, MaxLimit: MaxLimit,
			MaxLimit + 1: MaxLimit, 1 << 31: MaxLimit, 1<<32 - 1: MaxLimit,
		} {
			c := Client{Secrets: keys(fixedKey(clientKey))}
			conn := &scriptedConn{in: serverSide(t, sealed, announced)}
			n, err := c.Handshake(conn)
			if err != nil || n.MaxMsgSize != want {
				t.Errorf("sealed %t, %d bytes announced: %d (%v), want %d", sealed, announced, n.MaxMsgSize, err, want)
			}
			conn.wantSteps(t, clientSteps(sealed, want))
			wantLastStep(t, n, conn.writes[len(conn.writes)-1][1:])
			var peer *Cipher
			if sealed {
				peer = fixedCipher(t, 2)
			}
			talks(t, n, peer)
		}
	}
}

// A side that cannot draw a key, or draws one of another curve, does not go on.
func TestKeysThatFail(t *testing.T) {
	foreign, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                string
		secrets             func() *Secrets
		want                error
		serverSent, cliSent int
	}{
		{"none", func() *Secrets { return keys() }, errNoKey, 1, 1},
		{"of another curve", func() *Secrets { return keys(foreign) }, errs.Protocol, 2, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := &scriptedConn{in: clientSide(true)}
			s := Server{Encrypt: true, MaxMsgSize: 10, Secrets: tt.secrets()}
			_, err := s.Handshake(conn, func() error {
				t.Error("admitted")
				return nil
			})
			wantError(t, err, tt.want)
			if len(conn.writes) != tt.serverSent {
				t.Errorf("the server sent %d steps, want %d", len(conn.writes), tt.serverSent)
			}
			conn = &scriptedConn{in: serverSide(t, true, 10)}
			c := Client{Secrets: tt.secrets()}
			_, err = c.Handshake(conn)
			wantError(t, err, tt.want)
			if len(conn.writes) != tt.cliSent {
				t.Errorf("the client sent %d steps, want %d", len(conn.writes), tt.cliSent)
			}
		})
	}
}

func validKey(b []byte) bool {
	_, err := ecdh.P384().NewPublicKey(b)
	return err == nil
}

// cut is the reason why a handshake fails of which n bytes of a step have come.
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
			in = slices.Concat(answers[:1], fixedKey(clientKey).PublicKey().Bytes(), answers[1:])
		}
		conn := &scriptedConn{in: bytes.Clone(in), pieces: pieces}
		s := Server{Encrypt: sealed, MaxMsgSize: int(min(limit, MaxLimit)), Secrets: keys(fixedKey(serverKey))}
		admitted := 0
		n, err := s.Handshake(conn, func() error {
			admitted++
			return nil
		})

		var want error
		complete, sent := 0, 1 // bytes of the client, and steps
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
				sent++
			case 1:
				want = errs.Version
			case 2:
				want = errs.EncryptionRequired
			default:
				want = errs.Protocol
			}
		}
		answer()
		if sealed && want == nil {
			switch rest := in[1:]; {
			case len(rest) < publicKeySize:
				want = cut(len(rest))
				complete = len(in)
			case !validKey(rest[:publicKeySize]):
				want = errs.Protocol
				complete += publicKeySize
			default:
				complete += publicKeySize
				sent++
			}
		}
		if open := want == nil; (admitted == 1) != open || admitted > 1 {
			t.Fatalf("admitted %d times", admitted)
		}
		answer()
		wantError(t, err, want)
		if conn.read != complete {
			t.Fatalf("read %d bytes, and the handshake has %d", conn.read, complete)
		}
		steps := serverSteps(sealed)
		conn.wantSteps(t, steps[:min(sent, len(steps))])
		if err != nil {
			if n != (Negotiated{}) {
				t.Fatalf("negotiated %+v with an error", n)
			}
			return
		}
		if n.MaxMsgSize != s.MaxMsgSize || (n.Cipher != nil) != sealed {
			t.Fatalf("negotiated %+v", n)
		}
	})
}

func FuzzClientHandshake(f *testing.F) {
	f.Fuzz(func(t *testing.T, hello, key, limit, pieces []byte, honestKey, honestLimit, insist bool) {
		if honestKey {
			key = fixedKey(serverKey).PublicKey().Bytes()
		}
		var opens []byte // what the seal of the limit holds, if it is one
		if public, err := ecdh.P384().NewPublicKey(key); honestLimit && err == nil {
			// Of a foreign key, X is known from the client's side.
			if x, _ := fixedKey(clientKey).ECDH(public); x[0] != 0 {
				c, err := newCipher(x, keys())
				if err != nil {
					t.Fatal(err)
				}
				opens = limit
				sealed := c.seal(nil, limit)
				limit = append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...)
			}
		}
		in := slices.Concat(hello, key, limit)
		conn := &scriptedConn{in: bytes.Clone(in), pieces: pieces}
		c := Client{RequireEncryption: insist, Secrets: keys(fixedKey(clientKey), fixedKey(clientKey+1), fixedKey(clientKey+2))}
		n, err := c.Handshake(conn)

		sealed := false
		size := limitSize
		sent := 0
		want := func() error {
			switch {
			case len(in) < 2:
				return cut(len(in))
			case in[0] != 2:
				return errs.Version
			case in[1] > 1:
				return errs.Protocol
			case in[1] == 0 && insist:
				return errs.EncryptionRequired
			}
			sent++
			rest := in[2:]
			if sealed = in[1] == 1; sealed {
				size += SealOverhead
				if len(rest) < publicKeySize {
					return cut(len(rest))
				}
				if !validKey(rest[:publicKeySize]) {
					return errs.Protocol
				}
				rest = rest[publicKeySize:]
				sent++
			}
			switch {
			case len(rest) < 4:
				return cut(len(rest))
			case binary.BigEndian.Uint32(rest) != uint32(size):
				return errs.Protocol
			case len(rest) < 4+size:
				return cut(len(rest) - 4)
			case !sealed:
				opens = rest[4:8]
			case !bytes.Equal(in[2:99], key) || !bytes.Equal(rest[:4+size], limit) || opens == nil:
				return errs.Protocol
			}
			sent++
			return nil
		}()
		wantError(t, err, want)
		if errors.Is(want, errs.Version) || errors.Is(want, errs.EncryptionRequired) {
			conn.wantSteps(t, []step{{2, 1}})
			if b := conn.writes[0][0]; b != map[bool]byte{true: answerVersion, false: answerEncrypted}[in[0] != 2] {
				t.Fatalf("answer %d", b)
			}
		} else {
			limit := 0
			if want == nil {
				limit = int(min(binary.BigEndian.Uint32(opens), MaxLimit))
			}
			conn.wantSteps(t, clientSteps(sealed, limit)[:sent])
		}
		if err != nil {
			if n != (Negotiated{}) {
				t.Fatalf("negotiated %+v with an error", n)
			}
			return
		}
		if most := min(binary.BigEndian.Uint32(opens), MaxLimit); n.MaxMsgSize != int(most) || (n.Cipher != nil) != sealed {
			t.Fatalf("negotiated %d bytes, want %d", n.MaxMsgSize, most)
		}
		if size := conn.before[sent-1]; conn.read != size || len(conn.in) != len(in)-size {
			t.Fatal("more was read than belongs to the handshake")
		}
		for i, w := range conn.writes {
			if len(w) != publicKeySize && w[0] != 0 {
				t.Fatalf("answer %d in step %d", w[0], i)
			}
		}
		wantLastStep(t, n, conn.writes[sent-1][1:])
	})
}
