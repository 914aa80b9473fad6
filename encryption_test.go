package ipc

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"weak"
)

// What follows up to the first test lets the tests outside the package reach
// what only it can see.

// Draw makes the library draw these keys, in this order, and this nonce prefix
// each time, until the test ends. It returns how many keys have been drawn.
// Whatever uses them has to be closed before.
func Draw(t testing.TB, prefix byte, keys ...*ecdh.PrivateKey) (drawn func() int) {
	before := randomSecrets
	t.Cleanup(func() { randomSecrets = before })
	n := 0
	randomSecrets = &secrets{
		key: func() (*ecdh.PrivateKey, error) {
			if n == len(keys) {
				return nil, errors.New("no more keys")
			}
			n++
			return keys[n-1], nil
		},
		prefix: func() (p [prefixSize]byte) {
			copy(p[:], bytes.Repeat([]byte{prefix}, prefixSize))
			return p
		},
	}
	return func() int { return n }
}

// linkOf returns the connection of a Server or Client that has one, and that
// sends nothing.
func linkOf(e any) *link {
	var o *outbox
	switch e := e.(type) {
	case *Server:
		o = &e.out
	case *Client:
		o = &e.out
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.link
}

// SetNonceCount sets how many nonces a Server or Client has made with its
// prefix on its present connection, over which it sends nothing.
func SetNonceCount(e any, n uint64) { linkOf(e).sealer.crypt.count = n }

// KeyInMemory returns a function that reports whether anything still holds the
// key of e's present connection.
func KeyInMemory(e any) func() bool {
	key := weak.Make(linkOf(e).sealer.crypt)
	return func() bool {
		runtime.GC()
		return key.Value() != nil
	}
}

// testCrypt returns one side of a connection. All sides have the same key.
func testCrypt(t testing.TB, prefix func() [prefixSize]byte) *crypt {
	t.Helper()
	c, err := newCrypt(bytes.Repeat([]byte{7}, 48), &secrets{prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// upwards returns prefixes that count from 1.
func upwards() func() [prefixSize]byte {
	var n uint64
	return func() (p [prefixSize]byte) {
		n++
		binary.BigEndian.PutUint64(p[:], n)
		return p
	}
}

// The count runs to its very end, and goes on from 0 with another prefix.
func TestNoncesCount(t *testing.T) {
	c := testCrypt(t, upwards())
	peer := testCrypt(t, upwards())
	for _, at := range []uint64{0, 1, 2, 255, 256, 1<<31 - 1, 1 << 31, 1<<32 - 2, 1<<32 - 1} {
		c.count = at
		sealed := c.appendSealed([]byte("before"), []byte("plain"))
		nonce := sealed[len("before"):][:nonceSize]
		if prefix, count := binary.BigEndian.Uint64(nonce), binary.BigEndian.Uint32(nonce[prefixSize:]); prefix != 1 || uint64(count) != at {
			t.Errorf("nonce %d has prefix %d and count %d", at, prefix, count)
		}
		if plain, err := peer.open(sealed[len("before"):]); err != nil || string(plain) != "plain" {
			t.Errorf("nonce %d: opened %q (%v)", at, plain, err)
		}
	}
	for want := range uint64(3) {
		nonce := c.appendSealed(nil, nil)[:nonceSize]
		if prefix, count := binary.BigEndian.Uint64(nonce), binary.BigEndian.Uint32(nonce[prefixSize:]); prefix != 2 || uint64(count) != want {
			t.Errorf("nonce %d after the end has prefix %d and count %d", want, prefix, count)
		}
	}
}

// Prefixes come from the system, and differ.
func TestPrefixesAreRandom(t *testing.T) {
	seen := make(map[[prefixSize]byte]bool)
	for range 1000 {
		p := randomSecrets.prefix()
		if seen[p] {
			t.Fatalf("prefix %x came twice", p)
		}
		seen[p] = true
	}
}

// sealedFrame returns a frame as a peer sends it.
func sealedFrame(c *crypt, msgType int, data []byte) []byte {
	plain := make([]byte, headerSize, headerSize+len(data))
	putHeader(plain, msgType, len(data))
	plain = append(plain, data...)[lengthSize:]
	return c.appendSealed(appendLength(nil, len(plain)), plain)
}

const testMaxMsgSize = 128 << 10

// decodeAll gives wire to a new decoder, as much at once as it takes, and
// returns what that delivers.
func decodeAll(c *crypt, wire []byte) (delivered []Message, err error) {
	d := decoder{max: testMaxMsgSize, crypt: c}
	defer d.reset()
	for len(wire) > 0 && err == nil {
		n := copy(d.space(), wire)
		wire = wire[n:]
		var got batch
		got, err = d.decode(n)
		for _, slab := range got.slabs {
			delivered = append(delivered, slab...)
		}
		d.rest()
	}
	return delivered, err
}

// damagedSizes are those of Data in frames that are damaged: frames that fit
// into the read buffer, that fill it, and that outgrow it.
var damagedSizes = []int{0, 1, 300, slabBytes + 1, readBufferSize, 100_000}

// damageAt returns where to damage n bytes: anywhere or, if they are many, at
// the beginning and the end.
func damageAt(n int) []int {
	var all []int
	for i := range n {
		if n < 1000 || i < 40 || i >= n-20 {
			all = append(all, i)
		}
	}
	return all
}

func wantRejected(t *testing.T, what string, wire []byte) {
	t.Helper()
	delivered, err := decodeAll(testCrypt(t, upwards()), wire)
	if len(delivered) > 0 {
		t.Fatalf("%s: type %d, %d bytes delivered", what, delivered[0].MsgType, len(delivered[0].Data))
	}
	if !errors.Is(err, ErrProtocol) {
		t.Fatalf("%s: error %v, want ErrProtocol", what, err)
	}
}

func TestFlippedBits(t *testing.T) {
	c := testCrypt(t, upwards())
	for _, size := range damagedSizes {
		frame := sealedFrame(c, 3, make([]byte, size))
		if delivered, err := decodeAll(testCrypt(t, upwards()), slices.Clone(frame)); err != nil || len(delivered) != 1 {
			t.Fatalf("whole frame of %d bytes: %d messages (%v)", size, len(delivered), err)
		}
		for _, at := range damageAt(len(frame)) {
			for bit := range 8 {
				if size > 1000 && bit != at%8 {
					continue
				}
				flipped := slices.Clone(frame)
				flipped[at] ^= 1 << bit
				if at < lengthSize { // it may want more now
					flipped = append(flipped, make([]byte, testMaxMsgSize)...)
				}
				wantRejected(t, fmt.Sprintf("%d bytes with bit %d of byte %d flipped", size, bit, at), flipped)
			}
		}
	}
}

// A seal is cut at its end, and its length is right for what is left.
func TestCutSeals(t *testing.T) {
	c := testCrypt(t, upwards())
	for _, size := range damagedSizes {
		frame := sealedFrame(c, 3, make([]byte, size))
		for _, left := range damageAt(len(frame) - lengthSize) {
			cut := slices.Clone(frame[:lengthSize+left])
			binary.BigEndian.PutUint32(cut, uint32(left))
			wantRejected(t, fmt.Sprintf("%d bytes, %d of the seal left", size, left), cut)
		}
	}
}

// Whatever a seal of the right key holds, less than a type is no frame, and a
// type over the highest is none either.
func TestSealedNonsense(t *testing.T) {
	c := testCrypt(t, upwards())
	for n := range typeSize {
		wantRejected(t, "a seal with half a type", c.appendSealed(appendLength(nil, n), make([]byte, n)))
	}
	for _, msgType := range []uint32{1 << 31, 1<<32 - 1} {
		plain := binary.BigEndian.AppendUint32(nil, msgType)
		wantRejected(t, "a seal with a negative type", c.appendSealed(appendLength(nil, len(plain)), plain))
	}
}

// A frame may arrive in two pieces, wherever it is torn.
func TestTornSeals(t *testing.T) {
	c := testCrypt(t, upwards())
	data := []byte("some data")
	wire := slices.Concat(sealedFrame(c, 1, data), sealedFrame(c, 0, data), sealedFrame(c, 2, nil), sealedFrame(c, 3, data))
	for at := range wire {
		d := decoder{max: testMaxMsgSize, crypt: testCrypt(t, upwards())}
		var types []int
		for _, part := range [][]byte{wire[:at], wire[at:]} {
			got, err := d.decode(copy(d.space(), part))
			if err != nil {
				t.Fatalf("torn at %d: %v", at, err)
			}
			for _, slab := range got.slabs {
				for _, m := range slab {
					types = append(types, m.MsgType)
				}
			}
		}
		d.rest()
		if !slices.Equal(types, []int{1, 2, 3}) || d.buf != nil {
			t.Fatalf("torn at %d: messages of types %v, want 1, 2, 3; buffer kept: %t", at, types, d.buf != nil)
		}
	}
}

// What the kernel has not taken of a sealed frame is not sealed again, and
// frames are not sealed before their turn.
func TestSealerKeepsTheRest(t *testing.T) {
	var frames []byte
	const n = 500
	for i := range n {
		frame := make([]byte, headerSize+i)
		putHeader(frame, i+1, i)
		frames = append(frames, frame...)
	}
	for _, step := range []int{1, 7, 1000, 1 << 20} {
		s := sealer{crypt: testCrypt(t, upwards())}
		o := outbox{overhead: sealOverhead}
		o.push(segment{body: frames, frames: n})
		var wire []byte
		for o.head < len(o.queue) {
			rest := s.next(o.queue[o.head:])
			if len(rest) > sealChunk {
				t.Fatalf("%d bytes sealed at once, want %d at most", len(rest), sealChunk)
			}
			k := min(step, len(rest))
			wire = append(wire, rest[:k]...)
			s.sent(k)
			o.settle(k)
		}
		delivered, err := decodeAll(testCrypt(t, upwards()), wire)
		if err != nil || len(delivered) != n {
			t.Fatalf("in steps of %d bytes: %d messages (%v), want %d", step, len(delivered), err, n)
		}
		for i, m := range delivered {
			if m.MsgType != i+1 || len(m.Data) != i {
				t.Fatalf("in steps of %d bytes: message %d has type %d, %d bytes", step, i, m.MsgType, len(m.Data))
			}
		}
		if s.crypt.count != n {
			t.Errorf("in steps of %d bytes: %d seals for %d frames", step, s.crypt.count, n)
		}
		if s.buf != nil || s.rest != nil {
			t.Errorf("in steps of %d bytes: an idle sealer keeps a buffer", step)
		}
	}
}
