package ipc_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// refPeer is the other end of an encrypted connection, made from the
// description of the wire format and without the library. It takes a step of
// the handshake with one read, and is content with nothing else.
type refPeer struct {
	*wireConn
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

// draw makes the library draw these keys, and nonces whose prefix is 8 times the
// same byte, until the test ends. drawn tells how many keys were drawn.
func draw(t testing.TB, prefix byte, keys ...*ecdh.PrivateKey) (drawn func() int) {
	var n atomic.Int64
	setSecrets(t, wire.Secrets{
		Key: func() (*ecdh.PrivateKey, error) {
			if n := int(n.Add(1)); n <= len(keys) {
				return keys[n-1], nil
			}
			return nil, errors.New("no more keys")
		},
		Nonce: func() (p [8]byte, count uint32) {
			copy(p[:], bytes.Repeat([]byte{prefix}, len(p)))
			return p, 0
		},
	})
	return func() int { return int(n.Load()) }
}

// drawCounts makes the nonces that the library draws begin with these counts,
// one after the other, and then with 0, until the test ends. drawn tells how
// many were drawn.
func drawCounts(t testing.TB, counts ...uint32) (drawn func() int) {
	var n atomic.Int64
	system := *wire.System
	setSecrets(t, wire.Secrets{
		Key: system.Key,
		Nonce: func() (prefix [8]byte, count uint32) {
			prefix, count = system.Nonce()
			if n := int(n.Add(1)); n <= len(counts) {
				count = counts[n-1]
			}
			return prefix, count
		},
	})
	return func() int { return int(n.Load()) }
}

// setSecrets replaces the source of keys and nonces of all connections until
// the test ends, so that parallel tests must not use it.
func setSecrets(t testing.TB, secrets wire.Secrets) {
	before := wire.System
	t.Cleanup(func() { wire.System = before })
	wire.System = &secrets
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
	r.takeStep5()
	if r.max >= 16 {
		r.wantFrame(0, announcement)
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

// refPair is a side of ours that is connected with a refPeer.
type refPair struct {
	wirePair
	ref *refPeer
	key *ecdh.PrivateKey // of the refPeers to come; nil: a new one each time
	max uint32           // what they say if they are servers
}

// refKinds are the kinds of sides that a refPeer can be connected with.
var refKinds = []struct {
	name          string
	client, multi bool
}{
	{name: "client", client: true},
	{name: "server single"},
	{name: "server multi", multi: true},
}

// newRefPair starts a side of a kind and connects it. The server of ours
// encrypts; the client is not told to.
func newRefPair(t testing.TB, route *route, client, multi bool, tweaks ...tweak) *refPair {
	t.Helper()
	p := &refPair{wirePair: wirePair{route: route, client: client, setup: setup{multi: multi}, lost: ipc.Disconnected}}
	limit := ipc.ServerConfig{MaxMsgSize: defaultMaxMsgSize}
	for _, tweak := range tweaks {
		tweak(&limit, nil)
	}
	p.max = uint32(limit.MaxMsgSize)
	tweaks = append([]tweak{quiet}, tweaks...)
	if !client {
		p.server = p.setup.startServer(t, route, append(tweaks, encrypts)...)
		p.connect(t)
		return p
	}
	p.lost = ipc.ReConnecting
	p.ln = route.listen(t)
	started := background(func() *ipc.Client { return route.startClient(t, tweaks...) })
	p.accept(t)
	p.side = started()
	return p
}

// accept takes the next connection of a client and opens it.
func (p *refPair) accept(t testing.TB) {
	t.Helper()
	p.ref = &refPeer{wireConn: accept(t, p.ln), key: p.key, max: p.max}
	p.ref.asServer()
}

// connect gives the side a connection, and reads the event.
func (p *refPair) connect(t testing.TB) {
	t.Helper()
	if p.client {
		p.accept(t)
		wantEvents(t, p, ipc.Connected)
		return
	}
	p.ref = &refPeer{wireConn: p.route.dial(t), key: p.key}
	p.ref.asClient()
	p.side = p.setup.join(t, p.server)
}

// wantRefused checks that the side has ended the connection for what it
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

// eachRef runs test over tr for each kind of side.
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
			inBubble(t, func(t *testing.T) { test(t, newRefPair(t, pipeRoute(t), k.client, k.multi, tweaks...)) })
		})
	}
}

// sameKeys makes both ends of all connections of a test have the same keys,
// which saves most of the time that many connections take. They are two by
// turns, for the day on which the first and a random one make an X with a zero.
func sameKeys(t *testing.T) {
	draw(t, 1, slices.Repeat([]*ecdh.PrivateKey{numberedKey(t, noZero), numberedKey(t, 2)}, 1000)...)
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

// eachSeal runs test plain and encrypted.
func eachSeal(t *testing.T, test func(t *testing.T, tweaks ...tweak)) {
	t.Run("plain", func(t *testing.T) { test(t) })
	t.Run("encrypted", func(t *testing.T) { test(t, encrypts) })
}
