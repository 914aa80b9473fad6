package ipc_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// refPeer is the other end of an encrypted connection, made from the
// description of the wire format and without the library. It takes a step of
// the handshake with one read, and is content with nothing else.
type refPeer struct {
	*rawConn
	key    *ecdh.PrivateKey // nil: a new one
	strips bool             // hashes X without its leading zeros, as some existing peers do
	max    uint32           // largest message: what a server tells, or was told to a client

	theirs []byte // public key of the other end
	secret []byte // that both ends have: the key of the seals
	aead   cipher.AEAD
	prefix [8]byte
	count  uint32
}

const (
	refOverhead = 12 + 16 // nonce and tag
	refMin      = refOverhead + 4
)

// numberedKey returns the n-th of a fixed series of keys.
func numberedKey(t testing.TB, n int) *ecdh.PrivateKey {
	t.Helper()
	scalar := sha512.Sum384(fmt.Appendf(nil, "key %d", n))
	key, err := ecdh.P384().NewPrivateKey(scalar[:])
	noError(t, "NewPrivateKey", err)
	return key
}

// Keys of the series, and what the X that they share with key 0 begins with.
const (
	oneZero  = 528  // 0 14
	twoZeros = 4051 // 0 0 49
	noZero   = 1
)

// step makes one read, which must give so many bytes.
func (r *refPeer) step(what string, n int) []byte {
	r.t.Helper()
	b := make([]byte, 1<<10)
	got, err := r.Read(b)
	if err != nil || got != n {
		r.t.Fatalf("%s: %d bytes with one read (%v), want %d", what, got, err, n)
	}
	return b[:n]
}

// asClient goes through the client's part of an encrypted handshake.
func (r *refPeer) asClient() {
	r.t.Helper()
	r.exchangeAsClient()
	r.takeLimit()
	r.send([]byte{0})
}

// exchangeAsClient is asClient up to step 3.
func (r *refPeer) exchangeAsClient() {
	r.t.Helper()
	r.want("step 1", 2, 1)
	r.send([]byte{0})
	r.agree(r.step("step 3", 97))
	r.send(r.key.PublicKey().Bytes())
}

// takeLimit is step 4 of a client.
func (r *refPeer) takeLimit() {
	r.t.Helper()
	step := r.step("step 4", 4+refOverhead+4)
	if n := binary.BigEndian.Uint32(step); n != refOverhead+4 {
		r.t.Fatalf("length in step 4 is %d", n)
	}
	limit, err := r.unseal(step[4:])
	noError(r.t, "opening step 4", err)
	r.max = binary.BigEndian.Uint32(limit)
}

// asServer goes through the server's part of an encrypted handshake.
func (r *refPeer) asServer() {
	r.t.Helper()
	r.exchangeAsServer()
	r.send(binary.BigEndian.AppendUint32(nil, refOverhead+4), r.seal(binary.BigEndian.AppendUint32(nil, r.max)))
	var step5 [1]byte // which frames may follow at once
	if _, err := io.ReadFull(r, step5[:]); err != nil || step5[0] != 0 {
		r.t.Fatalf("step 5: read %v (%v), want 0", step5, err)
	}
}

// exchangeAsServer is asServer up to step 3.
func (r *refPeer) exchangeAsServer() {
	r.t.Helper()
	r.send([]byte{2, 1})
	r.want("step 2", 0)
	r.makeKey()
	r.send(r.key.PublicKey().Bytes())
	r.agree(r.step("step 3", 97))
}

func (r *refPeer) makeKey() {
	if r.key == nil {
		var err error
		r.key, err = ecdh.P384().GenerateKey(rand.Reader)
		noError(r.t, "GenerateKey", err)
	}
}

// agree makes the key of the seals.
func (r *refPeer) agree(public []byte) {
	r.t.Helper()
	r.makeKey()
	r.theirs = bytes.Clone(public)
	x := r.shared(public)
	if r.strips {
		x = bytes.TrimLeft(x, "\x00")
	}
	secret := sha256.Sum256(x)
	r.secret = secret[:]
	block, err := aes.NewCipher(r.secret)
	noError(r.t, "NewCipher", err)
	r.aead, err = cipher.NewGCM(block)
	noError(r.t, "NewGCM", err)
	rand.Read(r.prefix[:])
}

// shared returns the X that the key shares with another. It takes its time, so
// it is not reckoned twice for the same keys.
func (r *refPeer) shared(public []byte) []byte {
	r.t.Helper()
	pair := [2]string{string(r.key.PublicKey().Bytes()), string(public)}
	if x, ok := sharedX.Load(pair); ok {
		return x.([]byte)
	}
	key, err := ecdh.P384().NewPublicKey(public)
	noError(r.t, "NewPublicKey", err)
	x, err := r.key.ECDH(key)
	noError(r.t, "ECDH", err)
	sharedX.Store(pair, x)
	return x
}

var sharedX sync.Map // of [2]string to []byte; parallel tests share it

// seal seals bytes with the next nonce.
func (r *refPeer) seal(plain []byte) []byte {
	nonce := binary.BigEndian.AppendUint32(r.prefix[:], r.count)
	r.count++
	return r.aead.Seal(nonce, nonce, plain, nil)
}

func (r *refPeer) unseal(sealed []byte) ([]byte, error) {
	if len(sealed) < refOverhead {
		return nil, io.ErrUnexpectedEOF
	}
	return r.aead.Open(nil, sealed[:12], sealed[12:], nil)
}

// encode is the frame of a message.
func (r *refPeer) encode(msgType int, data []byte) []byte {
	sealed := r.seal(append(binary.BigEndian.AppendUint32(nil, uint32(msgType)), data...))
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...)
}

// nextFrame reads one frame, sealed as it is.
func (r *refPeer) nextFrame() []byte {
	r.t.Helper()
	frame, err := readSealed(r)
	noError(r.t, "raw read of a frame", err)
	return frame
}

func readSealed(r io.Reader) ([]byte, error) {
	frame := make([]byte, 4)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(frame)
	if n < refMin || n > 1<<24 {
		return nil, fmt.Errorf("sealed frame of %d bytes", n)
	}
	frame = append(frame, make([]byte, n)...)
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}

// wantSealed opens a frame, which must hold this message.
func (r *refPeer) wantSealed(frame []byte, msgType int, data []byte) {
	r.t.Helper()
	plain, err := r.unseal(frame[4:])
	noError(r.t, "opening a frame", err)
	if got := int(binary.BigEndian.Uint32(plain)); got != msgType || !bytes.Equal(plain[4:], data) {
		r.t.Fatalf("frame of type %d, %d bytes, want type %d, %d bytes, the same", got, len(plain)-4, msgType, len(data))
	}
}

// wantFrame reads exactly this message.
func (r *refPeer) wantFrame(msgType int, data []byte) {
	r.t.Helper()
	r.wantSealed(r.nextFrame(), msgType, data)
}

// refPair is an endpoint of ours that is connected with a refPeer.
type refPair struct {
	rawPair
	ref *refPeer
	key *ecdh.PrivateKey // of the refPeers to come; nil: a new one each time
	max uint32           // what they say if they are servers
}

// refKinds are the kinds of endpoints that a refPeer can be connected with.
var refKinds = []struct {
	name          string
	client, multi bool
}{
	{name: "client", client: true},
	{name: "server single"},
	{name: "server multi", multi: true},
}

// newRefPair starts an endpoint of a kind and connects it. The server of ours
// encrypts; the client is not told to.
func newRefPair(t testing.TB, l *link, client, multi bool, tweaks ...tweak) *refPair {
	t.Helper()
	p := &refPair{rawPair: rawPair{link: l, client: client, setup: setup{multi: multi}, lost: ipc.Disconnected}}
	limit := ipc.ServerConfig{MaxMsgSize: defaultMaxMsgSize}
	for _, tweak := range tweaks {
		tweak(&limit, nil)
	}
	p.max = uint32(limit.MaxMsgSize)
	tweaks = append([]tweak{quiet}, tweaks...)
	if !client {
		p.server = p.setup.startServer(t, l, append(tweaks, encrypts)...)
		p.connect(t)
		return p
	}
	p.lost = ipc.ReConnecting
	p.ln = l.listen(t)
	started := background(func() *ipc.Client { return l.startClient(t, tweaks...) })
	p.accept(t)
	p.endpoint = started()
	return p
}

// encrypts is a tweak for the server only.
func encrypts(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
	if s != nil {
		s.Encryption = true
	}
}

// accept takes the next connection of a client and opens it.
func (p *refPair) accept(t testing.TB) {
	t.Helper()
	p.ref = &refPeer{rawConn: accept(t, p.ln), key: p.key, max: p.max}
	p.ref.asServer()
}

// connect gives the endpoint a connection, and reads the event.
func (p *refPair) connect(t testing.TB) {
	t.Helper()
	if p.client {
		p.accept(t)
		wantEvents(t, p, ipc.Connected)
		return
	}
	p.ref = &refPeer{rawConn: p.link.dial(t), key: p.key}
	p.ref.asClient()
	p.endpoint = p.setup.join(t, p.server)
}

// wantRefused checks that the endpoint has ended the connection for what it
// got, delivered nothing of it, and works with the next connection.
func (p *refPair) wantRefused(t testing.TB) {
	t.Helper()
	wantErrorEvent(t, p, ipc.ErrProtocol)
	wantEvents(t, p, p.lost)
	p.ref.wantDropped()
	p.ref.Close()
	p.connect(t)
}

// check shows that both directions work.
func (p *refPair) check(t testing.TB) {
	t.Helper()
	p.ref.send(p.ref.encode(42, []byte("are you there?")))
	wantMessage(t, p, 42, []byte("are you there?"))
	noError(t, "Write", p.Write(43, []byte("I am.")))
	p.ref.wantFrame(43, []byte("I am."))
}

// eachRef runs test over tr for each kind of endpoint.
func eachRef(t *testing.T, tr transport, test func(t *testing.T, p *refPair), tweaks ...tweak) {
	t.Helper()
	for _, k := range refKinds {
		t.Run(k.name, func(t *testing.T) {
			begin(t)
			test(t, newRefPair(t, tr.open(t), k.client, k.multi, tweaks...))
		})
	}
}

// eachRefBubble is eachRef in synthetic time.
func eachRefBubble(t *testing.T, test func(t *testing.T, p *refPair), tweaks ...tweak) {
	t.Helper()
	for _, k := range refKinds {
		t.Run(k.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) { test(t, newRefPair(t, pipeLink(t), k.client, k.multi, tweaks...)) })
		})
	}
}

func TestKeysWithZeros(t *testing.T) {
	public := numberedKey(t, 0).PublicKey()
	for key, zeros := range map[int]int{oneZero: 1, twoZeros: 2, noZero: 0} {
		x, err := numberedKey(t, key).ECDH(public)
		noError(t, "ECDH", err)
		if n := len(x) - len(bytes.TrimLeft(x, "\x00")); n != zeros {
			t.Errorf("X of keys 0 and %d begins with %d zeros, want %d", key, n, zeros)
		}
	}
}

// A client draws keys until X does not begin with a zero byte, and so agrees
// with servers that drop leading zeros and with those that do not.
func TestClientDrawsUntilThereIsNoZero(t *testing.T) {
	for _, strips := range []bool{false, true} {
		t.Run(fmt.Sprintf("strips=%t", strips), func(t *testing.T) {
			begin(t)
			drawn := ipc.Draw(t, 1, numberedKey(t, oneZero), numberedKey(t, twoZeros), numberedKey(t, oneZero),
				numberedKey(t, noZero), numberedKey(t, 2))
			l := unixLink(t)
			ln := l.listen(t)
			started := background(func() *ipc.Client { return l.startClient(t) })
			ref := &refPeer{rawConn: accept(t, ln), key: numberedKey(t, 0), strips: strips, max: 100}
			ref.asServer()
			p := &refPair{rawPair: rawPair{endpoint: started()}, ref: ref}
			p.check(t)
			if n := drawn(); n != 4 || !bytes.Equal(ref.theirs, numberedKey(t, noZero).PublicKey().Bytes()) {
				t.Errorf("client has drawn %d keys, want 4, and sent the last", n)
			}
		})
	}
}

// A server cannot choose the key of its client: it agrees with everybody who
// keeps the zeros, and with those who drop them where there are none. A client
// that drops some finds that it cannot open step 4, and comes again.
func TestServerKeepsZeros(t *testing.T) {
	for _, multi := range []bool{false, true} {
		s := setup{unixTransport, multi}
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			zero := numberedKey(t, 0)
			ipc.Draw(t, 1, zero, zero, zero, zero, zero, zero)
			l := s.open(t)
			server := s.startServer(t, l, quiet, encrypts)
			join := func(key int, strips bool) *refPeer {
				return &refPeer{rawConn: l.dial(t), key: numberedKey(t, key), strips: strips}
			}
			failures := uint64(0)
			for _, tt := range []struct {
				key    int
				strips bool
			}{{oneZero, false}, {noZero, true}, {oneZero, true}, {twoZeros, false}, {twoZeros, true}, {noZero, false}} {
				ref := join(tt.key, tt.strips)
				if tt.strips && tt.key != noZero {
					ref.exchangeAsClient()
					if _, err := ref.unseal(ref.step("step 4", 36)[4:]); err == nil {
						t.Error("step 4 opens with another key")
					}
					ref.Close()
					failures++
					continue
				}
				ref.asClient()
				p := &refPair{rawPair: rawPair{endpoint: s.join(t, server)}, ref: ref}
				p.check(t)
				ref.Close()
				wantEvents(t, p, ipc.Disconnected)
			}
			if !eventually(func() bool { return server.Stats().HandshakeFailures == failures }) {
				t.Errorf("HandshakeFailures = %d, want %d", server.Stats().HandshakeFailures, failures)
			}
		})
	}
}

// sameKeys makes both ends of all connections of a test have the same keys,
// which saves most of the time that many connections take. They are two by
// turns, for the day on which the first and a random one make an X with a zero.
func sameKeys(t *testing.T) {
	ipc.Draw(t, 1, slices.Repeat([]*ecdh.PrivateKey{numberedKey(t, noZero), numberedKey(t, 2)}, 1000)...)
}

// Whichever bit of a frame is flipped: the connection ends with ErrProtocol,
// and nothing of the frame or of what follows is delivered.
func TestEveryFlippedBit(t *testing.T) {
	sameKeys(t)
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		p.key = numberedKey(t, 0)
		for bit := 0; bit < 8*(4+refMin+1); bit++ {
			if !p.client && !p.setup.multi && bit%8 != bit/8%8 {
				continue // as in MultiMode
			}
			before := p.ref.encode(1, []byte("before"))
			frame := p.ref.encode(2, []byte("a"))
			frame[bit/8] ^= 1 << (bit % 8)
			// Enough follows for whatever length the frame has now.
			p.ref.send(before, frame, p.ref.encode(3, make([]byte, 500)), p.ref.encode(3, make([]byte, 500)))
			wantMessage(t, p, 1, []byte("before"))
			p.wantRefused(t)
		}
		p.check(t)
	}, maxMsgSize(1000))
}

// A seal that was cut, to a length that its frame tells, is a protocol error
// whatever is left of it.
func TestEveryCutSeal(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		for n := range refMin + 3 {
			before := p.ref.encode(1, []byte("before"))
			frame := p.ref.encode(2, []byte("abc"))[:4+n]
			binary.BigEndian.PutUint32(frame, uint32(n))
			p.ref.send(before, frame)
			wantMessage(t, p, 1, []byte("before"))
			p.wantRefused(t)
		}
		p.check(t)
	})
}

// A frame that is torn by the end of the connection is lost with it, and no
// fault of the peer's.
func TestTornSealedFrame(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		for n := range 4 + refMin + 3 {
			before := p.ref.encode(1, []byte("before"))
			p.ref.send(before, p.ref.encode(2, []byte("abc"))[:n])
			p.ref.Close()
			wantMessage(t, p, 1, []byte("before"))
			wantEvents(t, p, p.lost)
			p.connect(t)
		}
		p.check(t)
	})
}

// A frame of an earlier connection does not open on the next one, which has
// another key. Both kinds of frames can be replayed: what the endpoint has
// received, and what it has sent itself.
func TestReplayOfAnEarlierConnection(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		received := p.ref.encode(1, []byte("pay 100"))
		p.ref.send(received)
		wantMessage(t, p, 1, []byte("pay 100"))
		noError(t, "Write", p.Write(2, []byte("paid")))
		sent := p.ref.nextFrame()
		for _, frame := range [][]byte{received, sent} {
			p.ref.Close()
			wantEvents(t, p, p.lost)
			p.connect(t)
			p.check(t)
			p.ref.send(frame)
			p.wantRefused(t)
		}
		p.check(t)
	})
}

// Each connection has a key pair, a key and a nonce prefix of its own.
func TestConnectionsHaveTheirOwnKeys(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		p.key = numberedKey(t, 0) // theirs is the same each time
		seen := make(map[string]bool)
		for range 30 {
			noError(t, "Write", p.Write(1, nil))
			for _, secret := range [][]byte{p.ref.theirs, p.ref.secret, p.ref.nextFrame()[4:12]} {
				if seen[string(secret)] {
					t.Fatalf("%x came twice", secret)
				}
				seen[string(secret)] = true
			}
			p.ref.send(p.ref.encode(1, nil)) // a client comes again at once after a valid frame
			wantMessage(t, p, 1, nil)
			p.ref.Close()
			wantEvents(t, p, p.lost)
			p.connect(t)
		}
	})
}

// The key of a connection is gone with it.
func TestKeysDieWithTheConnection(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		p.check(t)
		inMemory := ipc.KeyInMemory(p.endpoint)
		if !inMemory() {
			t.Fatal("the key of a connection that lives is not in memory")
		}
		p.ref.Close()
		wantEvents(t, p, p.lost)
		if !eventually(func() bool { return !inMemory() }) {
			t.Error("the key outlives its connection")
		}
		p.connect(t)
		p.check(t)
		inMemory = ipc.KeyInMemory(p.endpoint)
		noError(t, "Close", p.Close())
		if !eventually(func() bool { return !inMemory() }) {
			t.Error("the key outlives Close")
		}
	})
}

// tap makes the one connection of a client of l go through a relay that hands
// each whole frame to see, and that of step 4 as well: the server's and the
// client's in a goroutine each. What it returns waits for the end of both.
func tap(t *testing.T, l *link, see func(fromServer bool, frame []byte)) (wait func()) {
	t.Helper()
	path := filepath.Join(l.client.SocketDir, "tap")
	ln, err := net.Listen("unix", path)
	noError(t, "listen", err)
	t.Cleanup(func() { ln.Close() })
	server := l.path()
	var relays sync.WaitGroup
	relay := func(from, to net.Conn, handshake int64, fromServer bool) {
		defer to.Close()
		defer io.Copy(io.Discard, from)
		if _, err := io.CopyN(to, from, handshake); err != nil {
			return
		}
		in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(to, 64<<10)
		defer out.Flush()
		tee := io.TeeReader(in, out)
		for {
			if in.Buffered() == 0 {
				out.Flush()
			}
			frame, err := readSealed(tee)
			if err != nil {
				return
			}
			see(fromServer, frame)
		}
	}
	l.client.Dial = func(context.Context) (net.Conn, error) {
		client, err := net.Dial("unix", path)
		if err != nil {
			return nil, err
		}
		near, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		far, err := net.Dial("unix", server)
		if err != nil {
			return nil, err
		}
		relays.Go(func() { relay(far, near, 2+97, true) })
		relays.Go(func() { relay(near, far, 1+97+1, false) })
		return client, nil
	}
	return relays.Wait
}

// Over the wire no nonce comes twice, in a direction or in both. The frames
// take all ways to the kernel: streams, large messages and answers. On the way
// both ends run out of nonces.
func TestNoncesNeverRepeat(t *testing.T) {
	const streamed, large, answers = 49_500, 20, 500 // in each direction
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		l := s.open(t)
		var seen [2]map[[12]byte]bool // from the client, from the server
		for i := range seen {
			seen[i] = make(map[[12]byte]bool)
		}
		wait := tap(t, l, func(fromServer bool, frame []byte) {
			nonces := seen[0]
			if fromServer {
				nonces = seen[1]
			}
			nonce := [12]byte(frame[4:])
			if nonces[nonce] {
				t.Errorf("nonce %x came twice", nonce)
			}
			nonces[nonce] = true
		})
		server := s.startServer(t, l, encrypts)
		client := l.startClient(t)
		peer := s.join(t, server)
		ipc.SetNonceCount(client, 1<<32-20_000)
		ipc.SetNonceCount(peer, 1<<32-30_000)

		stream := func(e endpoint) func() error {
			return background(func() error {
				for i := range streamed + large {
					size := i % 40
					if i >= streamed {
						size = 40_000
					}
					if err := e.Write(i+1, make([]byte, size)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		toServer, toClient := stream(client), stream(peer)
		received := background(func() error { return receive(client, streamed+large) })
		noError(t, "Read of the server", receive(peer, streamed+large))
		noError(t, "Read of the client", received())
		noError(t, "Write of the client", toServer())
		noError(t, "Write of the server", toClient())
		for range answers {
			noError(t, "Write", client.Write(1, []byte("question")))
			wantMessage(t, peer, 1, []byte("question"))
			noError(t, "Write", peer.Write(2, []byte("answer")))
			wantMessage(t, client, 2, []byte("answer"))
		}
		noError(t, "Close", client.Close())
		noError(t, "Close", server.Close())
		wait()

		const each = streamed + large + answers
		if len(seen[0]) != each || len(seen[1]) != each+1 {
			t.Errorf("%d nonces of the client, want %d; %d of the server, want %d", len(seen[0]), each, len(seen[1]), each+1)
		}
		for nonce := range seen[0] {
			if seen[1][nonce] {
				t.Errorf("nonce %x was used by both ends", nonce)
			}
		}
	})
}

// receive reads messages that are numbered by type.
func receive(e endpoint, n int) error {
	for i := range n {
		m, err := e.Read()
		if err != nil {
			return err
		}
		if m.MsgType != i+1 {
			return fmt.Errorf("read %s, want type %d", describe(m), i+1)
		}
	}
	return nil
}

// When the count of the nonces has run out a new prefix is drawn, which the
// other end does not notice.
func TestNonceCountRunsOut(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		const before, after = 5, 7
		ipc.SetNonceCount(p.endpoint, 1<<32-before)
		var prefixes [][]byte
		for i := range before + after {
			noError(t, "Write", p.Write(i+1, []byte("data")))
			frame := p.ref.nextFrame()
			p.ref.wantSealed(frame, i+1, []byte("data"))
			prefixes = append(prefixes, frame[4:12])
			if count := binary.BigEndian.Uint32(frame[12:]); count != uint32(i-before) {
				t.Errorf("nonce %d has count %#x, want %#x", i, count, uint32(i-before))
			}
		}
		if prefixes = slices.CompactFunc(prefixes, bytes.Equal); len(prefixes) != 2 {
			t.Errorf("prefixes %x, want two", prefixes)
		}
		p.check(t)
	})
}

// Frames of all sizes, to and from somebody who seals them one by one: in the
// read buffer, as long as that, longer, and over what is pooled. Releasing some
// does the others no harm.
func TestSealedSizes(t *testing.T) {
	sizes := []int{0, 1, 4096, 4097, 32<<10 - 1, 32 << 10, 64 << 10, 68<<10 - 36, 68<<10 - 35, 100_000, 100_000, 100_000, 5000, 5000, 5000, 4<<20 - 33, 4<<20 - 32, 4<<20 - 31, 5 << 20, 3}
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		frames := make([][]byte, len(sizes))
		for i, n := range sizes {
			frames[i] = p.ref.encode(i+1, payload(i, n))
		}
		sent := background(func() error {
			_, err := p.ref.Write(bytes.Join(frames, nil))
			return err
		})
		kept := make(map[int]*ipc.Message)
		for i, n := range sizes {
			m := next(t, p)
			wantSame(t, m, i+1, payload(i, n))
			if i%2 == 0 {
				kept[i] = m
				continue
			}
			twin := *m
			m.Release()
			twin.Release() // a second time, through a copy
		}
		noError(t, "raw write", sent())
		for i, m := range kept { // nobody else got their memory
			wantSame(t, m, i+1, payload(i, sizes[i]))
		}

		sent = background(func() error {
			for i, n := range sizes {
				if err := p.Write(i+1, payload(i, n)); err != nil {
					return err
				}
			}
			return nil
		})
		for i, n := range sizes {
			p.ref.wantFrame(i+1, payload(i, n))
		}
		noError(t, "Write", sent())
	}, maxMsgSize(5<<20))
}

// narrowLink is the named socket where the kernel takes little at once.
func narrowLink(t testing.TB) *link {
	dir := socketDir(t)
	var n atomic.Int64
	return hookLink(t,
		func() (net.Listener, error) {
			l, err := net.Listen("unix", filepath.Join(dir, fmt.Sprint(n.Add(1))))
			return narrowListener{l}, err
		},
		func(ctx context.Context, l net.Listener) (net.Conn, error) {
			var d net.Dialer
			return narrow(d.DialContext(ctx, "unix", l.Addr().String()))
		})
}

type narrowListener struct{ net.Listener }

func (l narrowListener) Accept() (net.Conn, error) { return narrow(l.Listener.Accept()) }

func narrow(c net.Conn, err error) (net.Conn, error) {
	if err == nil {
		err = c.(*net.UnixConn).SetWriteBuffer(1) // the system has a minimum
	}
	return c, err
}

// smallReads is a reader that takes little at once.
type smallReads struct{ io.Reader }

func (r smallReads) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(len(b), 700)]) }

// What the kernel takes in pieces arrives whole: sealing goes on where it
// stopped. That goes for streams, and for answers.
func TestSealedInPieces(t *testing.T) {
	eachRef(t, transport{open: narrowLink}, func(t *testing.T, p *refPair) {
		const n = 80
		size := func(i int) int { return i * i * 37 % 90_000 } // small and large ones
		sent := background(func() error {
			for i := range n {
				if err := p.Write(i+1, payload(i, size(i))); err != nil {
					return err
				}
			}
			return nil
		})
		for i := range n {
			frame, err := readSealed(smallReads{p.ref})
			noError(t, "raw read", err)
			p.ref.wantSealed(frame, i+1, payload(i, size(i)))
		}
		noError(t, "Write", sent())

		for i := range n {
			p.ref.send(p.ref.encode(i+1, nil))
			wantMessage(t, p, i+1, nil)
			noError(t, "Write", p.Write(i+1, payload(i, 20_000)))
			frame, err := readSealed(smallReads{p.ref})
			noError(t, "raw read", err)
			p.ref.wantSealed(frame, i+1, payload(i, 20_000))
		}
		noError(t, "Flush", p.Flush(t.Context()))
	})
}

// Each byte of a stream comes with a read of its own.
func TestSealedByteByByte(t *testing.T) {
	eachRefBubble(t, func(t *testing.T, p *refPair) {
		sizes := []int{0, 5, 0, 300, 4096, 4097}
		sent := background(func() error {
			for i, n := range sizes {
				for _, b := range p.ref.encode(i+1, payload(i, n)) {
					if _, err := p.ref.Write([]byte{b}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		for i, n := range sizes {
			wantMessage(t, p, i+1, payload(i, n))
		}
		noError(t, "raw write", sent())
		p.check(t)
	})
}

// A large message is withdrawn while none of its seal has left, and sent to
// its end once some has.
func TestSealedLargeMessageAndItsContext(t *testing.T) {
	for _, behind := range []bool{false, true} {
		for _, taken := range []int{0, 1, 4, 15, 16, 17, 20_000, 4 + refMin + largeSize - 1} {
			t.Run(fmt.Sprintf("%d bytes taken, behind another: %t", taken, behind), func(t *testing.T) {
				eachRefBubble(t, func(t *testing.T, p *refPair) {
					if behind {
						noError(t, "Write", p.Write(1, []byte("first")))
						synctest.Wait() // it is on its way, in a write of its own
					}
					data := bytes.Clone(payload(2, largeSize))
					ctx, cancel := context.WithCancel(t.Context())
					returned, wait := call(func() error { return p.WriteContext(ctx, 2, data) })
					wantBlocked(t, "WriteContext", returned)
					if behind && taken > 0 {
						p.ref.wantFrame(1, []byte("first"))
					}
					frame := make([]byte, 4+refMin+largeSize)
					_, err := io.ReadFull(p.ref, frame[:taken])
					noError(t, "raw read", err)
					wantBlocked(t, "WriteContext", returned)
					cancel()
					if taken == 0 {
						wantError(t, "WriteContext", wait(), context.Canceled)
						if behind {
							p.ref.wantFrame(1, []byte("first"))
						}
					} else {
						noError(t, "WriteContext", wait())
						clear(data)
						_, err = io.ReadFull(p.ref, frame[taken:])
						noError(t, "raw read", err)
						p.ref.wantSealed(frame, 2, payload(2, largeSize))
					}
					p.check(t)
				})
			})
		}
	}
}

// What a lost connection did not take whole goes over the next one, sealed
// with the next key, from the first such frame on: wherever it was cut.
func TestResentWithTheNewKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newRefPair(t, pipeLink(t), true, false)
		const n = 5
		data := func(i int) []byte { return payload(i, 3*i) }
		total := 0
		for i := range n {
			total += 4 + refMin + len(data(i))
		}
		for cut := 0; cut <= total; cut++ {
			for i := range n {
				noError(t, "Write", p.Write(i+1, data(i)))
			}
			taken := make([]byte, cut)
			_, err := io.ReadFull(p.ref, taken)
			noError(t, "raw read", err)
			synctest.Wait()
			p.ref.Close()
			whole := 0
			for in := bytes.NewReader(taken); ; whole++ {
				frame, err := readSealed(in)
				if err != nil {
					break // cut
				}
				p.ref.wantSealed(frame, whole+1, data(whole))
			}
			wantEvents(t, p, ipc.ReConnecting)
			p.connect(t)
			for i := whole; i < n; i++ {
				p.ref.wantFrame(i+1, data(i))
			}
		}
		p.check(t)
	})
}

// A large message that the end of a connection has torn is sealed anew, too.
func TestTornLargeMessageIsResentWithTheNewKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newRefPair(t, pipeLink(t), true, false)
		for _, taken := range []int{1, 4, 16, 20, 20_000, 4 + refMin + largeSize - 1} {
			returned, wait := call(func() error { return p.Write(2, payload(taken, largeSize)) })
			_, err := io.ReadFull(p.ref, make([]byte, taken))
			noError(t, "raw read", err)
			wantBlocked(t, "Write", returned)
			p.ref.Close()
			noError(t, "Write", wait())
			wantEvents(t, p, ipc.ReConnecting)
			p.connect(t)
			p.ref.wantFrame(2, payload(taken, largeSize))
			p.check(t)
		}
	})
}

// A client that does not insist follows each server: what it had queued for
// one that does not encrypt is sealed for the next, and the other way round.
func TestClientFollowsTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := rawServerPair(t, pipeTransport)
		for i := range 6 {
			noError(t, "Write", p.Write(i+1, payload(i, 50)))
		}
		raw := p.raw
		raw.wantFrame(1, payload(0, 50))
		half := func(c io.Reader) {
			_, err := io.ReadFull(c, make([]byte, 30))
			noError(t, "raw read", err)
			synctest.Wait()
		}
		half(raw)
		raw.Close()
		wantEvents(t, p, ipc.ReConnecting)

		ref := &refPeer{rawConn: accept(t, p.ln), max: 100}
		ref.asServer()
		wantEvents(t, p, ipc.Connected)
		ref.wantFrame(2, payload(1, 50))
		ref.wantFrame(3, payload(2, 50))
		half(ref)
		ref.Close()
		wantEvents(t, p, ipc.ReConnecting)

		raw = accept(t, p.ln)
		raw.openServer(100)
		wantEvents(t, p, ipc.Connected)
		for i := 3; i < 6; i++ {
			raw.wantFrame(i+1, payload(i, 50))
		}
		raw.send(encode(1, nil))
		wantMessage(t, p, 1, nil)
	})
}

// insists is a tweak for the client only.
func insists(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
	if c != nil {
		c.Encryption = true
	}
}

// A client that insists on encryption refuses a server that does not encrypt,
// at once and for good.
func TestEncryptionRequired(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := pipeLink(t)
		ln := l.listen(t)
		dials := 0
		dial := l.client.Dial
		l.client.Dial = func(ctx context.Context) (net.Conn, error) {
			dials++
			return dial(ctx)
		}
		insists(nil, &l.client)
		start := time.Now()
		started := background(func() error { return startError(ipc.StartClient(&l.client)) })
		raw := accept(t, ln)
		raw.send([]byte{2, 0})
		raw.want("step 2", 2)
		if more := raw.wantDropped(); len(more) > 0 {
			t.Errorf("client sends %v after its refusal", more)
		}
		wantError(t, "StartClient", started(), ipc.ErrEncryptionRequired)
		if waited := time.Since(start); dials != 1 || waited != 0 {
			t.Errorf("%d attempts in %v, want one, at once", dials, waited)
		}
	})
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		l := s.open(t)
		server := s.startServer(t, l, quiet)
		config := l.client
		config.Encryption = true
		_, err := ipc.StartClient(&config)
		wantError(t, "StartClient", err, ipc.ErrEncryptionRequired)
		if !eventually(func() bool { return server.Stats().HandshakeFailures == 1 }) {
			t.Errorf("HandshakeFailures = %d, want 1", server.Stats().HandshakeFailures)
		}
		wantRoundTrip(t, l.startClient(t), s.join(t, server))
	})
}

// startError drops the client of a start that is about its error.
func startError(c *ipc.Client, err error) error {
	if err == nil {
		c.Close()
	}
	return err
}

// A client that insists is not talked out of it by a server that comes back
// without encryption: it says so once, and goes on trying.
func TestNoDowngradeAtReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newRefPair(t, pipeLink(t), true, false, insists)
		p.check(t)
		noError(t, "Write", p.Write(1, []byte("secret")))
		for round := range 2 {
			p.ref.Close()
			for range 4 {
				raw := accept(t, p.ln)
				raw.send([]byte{2, 0})
				raw.want("step 2", 2)
				if more := raw.wantDropped(); len(more) > 0 {
					t.Errorf("client sends %v after its refusal", more)
				}
			}
			p.accept(t)
			wantEvents(t, p, ipc.ReConnecting)
			wantErrorEvent(t, p, ipc.ErrEncryptionRequired)
			wantEvents(t, p, ipc.Connected)
			if round == 0 {
				p.ref.wantFrame(1, []byte("secret"))
			}
			p.check(t)
		}
	})
}

// A client may say more in one write with its last step.
func TestSealedFramesWithTheHandshake(t *testing.T) {
	for _, multi := range []bool{false, true} {
		s := setup{unixTransport, multi}
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			l := s.open(t)
			server := s.startServer(t, l, encrypts)
			ref := &refPeer{rawConn: l.dial(t)}
			ref.exchangeAsClient()
			ref.takeLimit()
			ref.send([]byte{0}, ref.encode(1, []byte("one")), ref.encode(0, []byte("control")), ref.encode(0, make([]byte, 100_000)),
				ref.encode(2, payload(2, 100_000)))
			var got []delivery
			for len(got) < 3 {
				got = append(got, readManager(t, server.ServerManager)...)
			}
			if first := got[0].String(); first != "Connected" {
				t.Errorf("first comes %s, want Connected", first)
			}
			wantSame(t, got[1].message, 1, []byte("one"))
			wantSame(t, got[2].message, 2, payload(2, 100_000))
		})
	}
}

// badKeys are what no public key is.
func badKeys(t testing.TB) map[string][]byte {
	good := numberedKey(t, 1).PublicKey().Bytes()
	change := func(at int, b byte) []byte {
		bad := slices.Clone(good)
		bad[at] = b
		return bad
	}
	infinity := make([]byte, 97)
	infinity[0] = 4
	small, err := ecdh.P256().GenerateKey(rand.Reader)
	noError(t, "GenerateKey", err)
	over := append([]byte{4}, bytes.Repeat([]byte{0xff}, 96)...)
	return map[string][]byte{
		"zeros":              make([]byte, 97),
		"infinity":           infinity,
		"compressed":         change(0, 2),
		"hybrid":             change(0, 6),
		"not on the curve":   change(96, good[96]^1),
		"over the field":     over,
		"of another curve":   append(small.PublicKey().Bytes(), make([]byte, 32)...),
		"text":               bytes.Repeat([]byte("k"), 97),
		"torn":               good[:96],
		"not there":          {},
		"an unsealed step 4": {0, 0, 0, 4, 0, 0x30, 0, 0},
	}
}

// A client whose key is none, or whose last step is wrong, loses its
// connection and is told nothing more; the server goes on.
func TestBadClientKeyExchange(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		l := s.open(t)
		server := s.startServer(t, l, quiet, encrypts)
		failures := uint64(0)
		fail := func(name string, open func(*refPeer)) {
			ref := &refPeer{rawConn: l.dial(t)}
			open(ref)
			noError(t, "CloseWrite", ref.Conn.(*net.UnixConn).CloseWrite())
			if more := ref.wantDropped(); len(more) > 0 {
				t.Errorf("%s: server answers %v", name, more)
			}
			failures++
			if !eventually(func() bool { return server.Stats().HandshakeFailures == failures }) {
				t.Errorf("%s: HandshakeFailures = %d, want %d", name, server.Stats().HandshakeFailures, failures)
			}
		}
		for name, key := range badKeys(t) {
			fail(name, func(ref *refPeer) {
				ref.want("step 1", 2, 1)
				ref.send([]byte{0})
				ref.step("step 3", 97)
				ref.send(key)
			})
		}
		for _, answer := range []byte{1, 2, 3} {
			fail("an answer to step 1", func(ref *refPeer) {
				ref.want("step 1", 2, 1)
				ref.send([]byte{answer})
			})
			fail("an answer to step 4", func(ref *refPeer) {
				ref.exchangeAsClient()
				ref.takeLimit()
				ref.send([]byte{answer})
			})
		}
		ref := &refPeer{rawConn: l.dial(t)}
		ref.asClient()
		p := &refPair{rawPair: rawPair{endpoint: s.join(t, server)}, ref: ref}
		p.check(t)
	})
}

// A server whose key is none, or whose step 4 does not open, is no server for
// a client: it goes without another step, and comes again.
func TestBadServerKeyExchange(t *testing.T) {
	parallel(t)
	begin(t)
	l := unixLink(t)
	ln := l.listen(t)
	started := background(func() *ipc.Client { return l.startClient(t, quiet) })
	fail := func(name string, open func(*refPeer)) {
		ref := &refPeer{rawConn: accept(t, ln)}
		open(ref)
		noError(t, "CloseWrite", ref.Conn.(*net.UnixConn).CloseWrite())
		if more := ref.wantDropped(); len(more) > 0 {
			t.Errorf("%s: client answers %v", name, more)
		}
	}
	for name, key := range badKeys(t) {
		fail(name, func(ref *refPeer) {
			ref.send([]byte{2, 1})
			ref.want("step 2", 0)
			ref.send(key)
		})
	}
	for name, step4 := range map[string]func(*refPeer) []byte{
		"not sealed": func(*refPeer) []byte { return head(4, 1000) },
		"not sealed, of the right length": func(*refPeer) []byte {
			return append(head(refOverhead+4, 1000), make([]byte, refOverhead)...)
		},
		"sealed, of 3 bytes": func(ref *refPeer) []byte {
			return append([]byte{0, 0, 0, refOverhead + 3}, ref.seal([]byte{1, 2, 3})...)
		},
		"sealed, of 5 bytes": func(ref *refPeer) []byte {
			return append([]byte{0, 0, 0, refOverhead + 5}, ref.seal([]byte{0, 0, 1, 2, 3})...)
		},
		"a frame": func(ref *refPeer) []byte { return ref.encode(1, []byte("data")) },
		"with a flipped bit": func(ref *refPeer) []byte {
			step := append([]byte{0, 0, 0, refOverhead + 4}, ref.seal([]byte{0, 0, 1, 0})...)
			step[len(step)-17] ^= 1
			return step
		},
		"torn": func(ref *refPeer) []byte {
			return append([]byte{0, 0, 0, refOverhead + 4}, ref.seal([]byte{0, 0, 1, 0})[:31]...)
		},
		"of 4 GiB": func(*refPeer) []byte { return []byte{0xff, 0xff, 0xff, 0xff} },
	} {
		fail("step 4 "+name, func(ref *refPeer) {
			ref.exchangeAsServer()
			ref.send(step4(ref))
		})
	}
	ref := &refPeer{rawConn: accept(t, ln), max: 100}
	ref.asServer()
	p := &refPair{rawPair: rawPair{endpoint: started()}, ref: ref}
	p.check(t)
}

// A client that falls silent in the key exchange is dropped after
// HandshakeTimeout.
func TestSilentInTheKeyExchange(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		l := s.open(t)
		start := time.Now()
		s.startServer(t, l, quiet, encrypts)
		before := &refPeer{rawConn: l.dial(t)}
		before.want("step 1", 2, 1)
		before.send([]byte{0})
		before.step("step 3", 97)
		after := &refPeer{rawConn: l.dial(t)}
		after.exchangeAsClient()
		after.takeLimit()
		for _, ref := range []*refPeer{before, after} {
			ref.wantDropped()
			if waited := time.Since(start); waited != 5*time.Second {
				t.Errorf("silent client dropped after %v, want the default of 5s", waited)
			}
		}
	})
}

// No key is in the log, at any level, in any of the usual writings, whatever
// goes wrong.
func TestKeysAreNotLogged(t *testing.T) {
	for _, k := range refKinds {
		t.Run(k.name, func(t *testing.T) {
			begin(t)
			secrets := make(map[string][]byte)
			var keys []*ecdh.PrivateKey
			for n := range 10 { // three, and some for each X with a zero
				keys = append(keys, numberedKey(t, n))
				secrets[fmt.Sprint("private key ", n)] = keys[n].Bytes()
			}
			ipc.Draw(t, 1, keys...)
			var text lockedBuffer
			logger := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
			logEverywhere(t, logger)
			p := newRefPair(t, unixLink(t), k.client, k.multi, func(s *ipc.ServerConfig, c *ipc.ClientConfig) {
				if s != nil {
					s.Logger = logger
				}
				if c != nil {
					c.Logger = logger
				}
			})
			remember := func() {
				public, err := ecdh.P384().NewPublicKey(p.ref.theirs)
				noError(t, "NewPublicKey", err)
				x, err := p.ref.key.ECDH(public)
				noError(t, "ECDH", err)
				secrets[fmt.Sprint("X ", len(secrets))] = x
				secrets[fmt.Sprint("key of the seals ", len(secrets))] = p.ref.secret
			}
			remember()
			p.check(t)
			bad := p.ref.encode(1, []byte("data"))
			bad[20] ^= 1
			p.ref.send(bad)
			p.wantRefused(t)
			remember()
			p.check(t)
			p.ref.Close()
			wantEvents(t, p, p.lost)
			if k.client { // a handshake that fails
				ref := &refPeer{rawConn: accept(t, p.ln)}
				ref.exchangeAsServer()
				ref.send(make([]byte, 36))
				ref.wantDropped()
			} else {
				ref := &refPeer{rawConn: p.link.dial(t)}
				ref.exchangeAsClient()
				ref.takeLimit()
				ref.send([]byte{9})
				ref.wantDropped()
			}
			p.Close()
			if p.server != nil {
				p.server.Close()
			}

			log := strings.ToLower(text.String())
			if !strings.Contains(log, "connected") || !strings.Contains(log, "seal") {
				t.Errorf("the log does not tell what happened:\n%s", log)
			}
			for name, secret := range secrets {
				for _, part := range [][]byte{secret[:9], secret[len(secret)-9:]} {
					for _, written := range []string{
						hex.EncodeToString(part), base64.StdEncoding.EncodeToString(part), base64.URLEncoding.EncodeToString(part),
						strings.Trim(fmt.Sprint(part), "[]"), strings.Trim(fmt.Sprintf("%#v", part), "[]byte{}"), string(part),
						strings.Trim(fmt.Sprintf("%q", part), `"`),
					} {
						if strings.Contains(log, strings.ToLower(written)) {
							t.Errorf("%s is in the log:\n%s", name, log)
						}
					}
				}
			}
		})
	}
}

// logEverywhere makes logger the one that a package uses which was not told of
// any, until the test ends.
func logEverywhere(t *testing.T, logger *slog.Logger) {
	before, writer, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(logger)
	t.Cleanup(func() {
		slog.SetDefault(before)
		log.SetOutput(writer) // SetDefault has changed these two
		log.SetFlags(flags)
	})
}
