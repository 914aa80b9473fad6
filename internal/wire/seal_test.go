package wire

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// sharedX is the secret of all ciphers of the tests that are not of a
// handshake.
var sharedX = bytes.Repeat([]byte{7}, 48)

// testCipher returns one side of a connection. All sides have the same key.
func testCipher(s *Secrets) *Cipher {
	c, err := newCipher(sharedX, s)
	if err != nil {
		panic(err)
	}
	return c
}

// upwards draws prefixes that count from 1, and these counts in turn; after
// them, 0.
func upwards(counts ...uint32) *Secrets {
	var n uint64
	return &Secrets{Nonce: func() (p [prefixSize]byte, count uint32) {
		if n < uint64(len(counts)) {
			count = counts[n]
		}
		n++
		binary.BigEndian.PutUint64(p[:], n)
		return p, count
	}}
}

// sealedFrame returns a frame as a peer with the Cipher c sends it.
func sealedFrame(c *Cipher, msgType uint32, data []byte) []byte {
	plain := append(binary.BigEndian.AppendUint32(nil, msgType), data...)
	return c.seal(binary.BigEndian.AppendUint32(nil, uint32(len(plain)+28)), plain)
}

// nonce is a nonce taken apart.
type nonce struct {
	prefix uint64
	count  uint32
}

func nonceOf(seal []byte) nonce {
	return nonce{binary.BigEndian.Uint64(seal), binary.BigEndian.Uint32(seal[8:])}
}

// The count runs to its very end, and goes on with another prefix.
func TestNoncesCount(t *testing.T) {
	c := testCipher(upwards(0, 254, 1<<31-2, 1<<32-2, 5))
	peer := testCipher(upwards())
	want := []nonce{{1, 0}, {1, 1}, {1, 2}}
	want = append(want, nonce{1, 1<<32 - 1}, nonce{2, 254}, nonce{2, 255}, nonce{2, 256})
	want = append(want, nonce{2, 1<<32 - 1}, nonce{3, 1<<31 - 2}, nonce{3, 1<<31 - 1}, nonce{3, 1 << 31})
	want = append(want, nonce{3, 1<<32 - 1}, nonce{4, 1<<32 - 2}, nonce{4, 1<<32 - 1}, nonce{5, 5}, nonce{5, 6})
	for _, want := range want {
		if want.count == 1<<32-1 && c.count < 1<<32-1 {
			c.count = 1<<32 - 1 // the many in between are made the same way
		}
		sealed := c.seal([]byte("before"), []byte("plain"))
		seal, ok := bytes.CutPrefix(sealed, []byte("before"))
		if !ok {
			t.Fatalf("%x does not start with what was there", sealed)
		}
		if got := nonceOf(seal); got != want {
			t.Fatalf("nonce %v, want %v", got, want)
		}
		if plain, err := peer.Open(seal); err != nil || string(plain) != "plain" {
			t.Fatalf("nonce %v: opened %q (%v)", want, plain, err)
		}
	}
}

// What the system draws differs each time, and counts from 0.
func TestSystemSecrets(t *testing.T) {
	prefixes := make(map[[prefixSize]byte]bool)
	for range 1000 {
		p, count := System.Nonce()
		if prefixes[p] || count != 0 {
			t.Fatalf("prefix %x with count %d, seen before: %t", p, count, prefixes[p])
		}
		prefixes[p] = true
	}
	keys := make(map[string]bool)
	for range 10 {
		key, err := System.Key()
		if err != nil {
			t.Fatal(err)
		}
		if keys[string(key.Bytes())] || key.Curve() != ecdh.P384() {
			t.Fatalf("a key that was drawn before, or of %v", key.Curve())
		}
		keys[string(key.Bytes())] = true
	}
}

// refAEAD seals and opens as PROTOCOL.md says, whatever Cipher does.
func refAEAD(t *testing.T, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// A seal is what PROTOCOL.md says, in both directions.
func TestSealsOfTheProtocol(t *testing.T) {
	key := sha256.Sum256(sharedX)
	ref := refAEAD(t, key[:])
	c := testCipher(upwards())
	for _, size := range []int{0, 1, 4, 5, 1000} {
		plain := bytes.Repeat([]byte("p"), size)
		sealed := c.seal(nil, plain)
		if len(sealed) != size+SealOverhead {
			t.Errorf("the seal of %d bytes has %d", size, len(sealed))
		}
		if got, err := ref.Open(nil, sealed[:12], sealed[12:], nil); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: opened %q (%v)", size, got, err)
		}
		nonce := []byte("any 12 bytes")
		foreign := ref.Seal(slices.Clone(nonce), nonce, plain, nil)
		got, err := c.Open(foreign)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes, sealed by others: opened %q (%v)", size, got, err)
		}
		if !sameMemory(foreign, got, 12) {
			t.Errorf("%d bytes: not opened in place", size)
		}
	}
}

// What is too short for a seal does not open, and the seal of nothing does.
func TestShortSeals(t *testing.T) {
	c := testCipher(upwards())
	sealed := c.seal(nil, nil)
	for n := range len(sealed) {
		plain, err := c.Open(slices.Clone(sealed[:n]))
		wantProtocol(t, fmt.Sprintf("%d bytes of a seal", n), err)
		if plain != nil {
			t.Errorf("%d bytes of a seal: opened %q", n, plain)
		}
	}
	if plain, err := c.Open(sealed); err != nil || len(plain) > 0 {
		t.Errorf("the seal of nothing: opened %q (%v)", plain, err)
	}
}

const testMaxMsgSize = 128 << 10

// damagedSizes are those of the data in frames that are damaged.
var damagedSizes = []int{0, 1, 300, 70_000}

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

func wantRejected(t *testing.T, what string, b []byte) {
	t.Helper()
	d := Decoder{MaxMsgSize: testMaxMsgSize, Cipher: testCipher(upwards())}
	msgType, data, size, err := d.Next(b)
	wantProtocol(t, what, err)
	if msgType != 0 || data != nil || size != 0 {
		t.Fatalf("%s: type %d, %d bytes, size %d", what, msgType, len(data), size)
	}
}

func TestFlippedBits(t *testing.T) {
	c := testCipher(upwards())
	for _, size := range damagedSizes {
		frame := sealedFrame(c, 3, make([]byte, size))
		for _, at := range damageAt(len(frame)) {
			for bit := range 8 {
				if size > 1000 && bit != at%8 {
					continue
				}
				flipped := slices.Clone(frame)
				flipped[at] ^= 1 << bit
				if at < LengthSize { // it may want more now
					flipped = append(flipped, make([]byte, testMaxMsgSize)...)
				}
				wantRejected(t, fmt.Sprintf("%d bytes with bit %d of byte %d flipped", size, bit, at), flipped)
			}
		}
		d := Decoder{MaxMsgSize: testMaxMsgSize, Cipher: c}
		if msgType, data, n, err := d.Next(frame); err != nil || msgType != 3 || len(data) != size || n != len(frame) {
			t.Fatalf("the whole frame of %d bytes: type %d, %d bytes, size %d (%v)", size, msgType, len(data), n, err)
		}
	}
}

// A seal is cut at its end, and its length is right for what is left.
func TestCutSeals(t *testing.T) {
	c := testCipher(upwards())
	for _, size := range damagedSizes {
		frame := sealedFrame(c, 3, make([]byte, size))
		for _, left := range damageAt(len(frame) - LengthSize) {
			cut := slices.Clone(frame[:LengthSize+left])
			binary.BigEndian.PutUint32(cut, uint32(left))
			wantRejected(t, fmt.Sprintf("%d bytes, %d of the seal left", size, left), cut)
		}
	}
}

// Whatever a seal of the right key holds, less than a type is no frame, and a
// type over the highest is none either.
func TestSealedNonsense(t *testing.T) {
	c := testCipher(upwards())
	for n := range TypeSize {
		b := binary.BigEndian.AppendUint32(nil, uint32(n+SealOverhead))
		wantRejected(t, "a seal with half a type", c.seal(b, make([]byte, n)))
	}
	for _, msgType := range []uint32{1 << 31, 1<<32 - 1} {
		wantRejected(t, "a seal with a negative type", sealedFrame(c, msgType, nil))
	}
}

// A frame of another connection does not open.
func TestForeignKey(t *testing.T) {
	c, err := newCipher(bytes.Repeat([]byte{8}, 48), upwards())
	if err != nil {
		t.Fatal(err)
	}
	wantRejected(t, "a frame sealed with another key", sealedFrame(c, 3, []byte("data")))
}

// plainFrames returns frames whose data have 0, 1, 2, … bytes, and the offsets
// at which they end.
func plainFrames(n int) (b []byte, ends []int) {
	for i := range n {
		b = append(b, plainFrame(uint32(i+1), bytes.Repeat([]byte{byte(i)}, i))...)
		ends = append(ends, len(b))
	}
	return b, ends
}

// AppendFrames seals as many frames as there is capacity for, to the byte, and
// neither allocates nor changes what is there.
func TestAppendFrames(t *testing.T) {
	plain, ends := plainFrames(5)
	given := bytes.Clone(plain)
	const before = "before"
	for room := range len(plain) + 5*SealOverhead + 10 {
		fit, need := 0, 0
		for i, end := range ends {
			if end+(i+1)*SealOverhead <= room {
				fit, need = i+1, end+(i+1)*SealOverhead
			}
		}
		n := 0
		if fit > 0 {
			n = ends[fit-1]
		}
		memory := bytes.Repeat([]byte("_"), len(before)+room+10)
		b := append(memory[:0:len(before)+room], before...)
		c := testCipher(upwards())
		sealed, got := c.AppendFrames(b, plain)
		if got != n || len(sealed) != len(before)+need {
			t.Fatalf("room for %d bytes: sealed %d bytes to %d, want %d to %d", room, got, len(sealed)-len(before), n, need)
		}
		if &sealed[0] != &memory[0] || string(sealed[:len(before)]) != before || string(memory[len(before)+room:]) != "__________" {
			t.Fatalf("room for %d bytes: not sealed behind what was there, within its capacity", room)
		}
		if !bytes.Equal(plain, given) {
			t.Fatalf("room for %d bytes: the plain frames were changed", room)
		}
		if c.count != uint64(fit) {
			t.Fatalf("room for %d bytes: %d nonces for %d frames", room, c.count, fit)
		}
		d := Decoder{MaxMsgSize: 10, Cipher: c}
		rest := sealed[len(before):]
		for i := range fit {
			msgType, data, size, err := d.Next(rest)
			if err != nil || msgType != i+1 || !bytes.Equal(data, bytes.Repeat([]byte{byte(i)}, i)) {
				t.Fatalf("room for %d bytes, frame %d: type %d, data %x (%v)", room, i, msgType, data, err)
			}
			rest = rest[size:]
		}
		if len(rest) > 0 {
			t.Fatalf("room for %d bytes: %d bytes behind the frames", room, len(rest))
		}
	}
	if sealed, n := testCipher(upwards()).AppendFrames([]byte(before), nil); string(sealed) != before || n != 0 {
		t.Errorf("no frames: %q, %d bytes", sealed, n)
	}
}

// AppendFrame makes the same bytes as AppendFrames, wherever head ends and
// whatever the capacity.
func TestAppendFrame(t *testing.T) {
	for _, size := range []int{0, 1, 5, 300, 70_000} {
		frame := plainFrame(3, bytes.Repeat([]byte("d"), size))
		given := bytes.Clone(frame)
		need := len(frame) + SealOverhead
		want, n := testCipher(upwards()).AppendFrames(make([]byte, 0, need), frame)
		if n != len(frame) {
			t.Fatalf("%d bytes: sealed %d bytes of %d", size, n, len(frame))
		}
		for _, head := range []int{HeaderSize, min(HeaderSize+1, len(frame)), len(frame)} {
			for _, room := range []int{0, 1, LengthSize, 20, need - 1, need, need + 1} {
				memory := bytes.Repeat([]byte("_"), 6+room+10)
				b := append(memory[:0:6+room], "before"...)
				c := testCipher(upwards())
				got := c.AppendFrame(b, frame[:head:head], frame[head:])
				if string(got[:6]) != "before" || !bytes.Equal(got[6:], want) {
					t.Fatalf("%d bytes, %d in head, room for %d: another frame than AppendFrames", size, head, room)
				}
				if inPlace := &got[0] == &memory[0]; inPlace != (room >= need) {
					t.Errorf("%d bytes, room for %d of %d: in place: %t", size, room, need, inPlace)
				}
				if string(memory[:6]) != "before" || string(memory[6+room:]) != "__________" {
					t.Errorf("%d bytes, room for %d: written outside of the capacity", size, room)
				}
				if !bytes.Equal(frame, given) {
					t.Fatalf("%d bytes, %d in head: the plain frame was changed", size, head)
				}
				if c.count != 1 {
					t.Fatalf("%d nonces for a frame", c.count)
				}
			}
		}
	}
}

// Neither sealing nor opening allocates if there is room.
func TestSealingAllocatesNothing(t *testing.T) {
	c := testCipher(upwards())
	frame := plainFrame(1, make([]byte, 1000))
	b := make([]byte, 0, len(frame)+SealOverhead)
	d := Decoder{MaxMsgSize: 1000, Cipher: c}
	for name, f := range map[string]func() []byte{
		"AppendFrame": func() []byte { return c.AppendFrame(b, frame[:HeaderSize], frame[HeaderSize:]) },
		"AppendFrames": func() []byte {
			sealed, _ := c.AppendFrames(b, frame)
			return sealed
		},
	} {
		if n := testing.AllocsPerRun(100, func() {
			if _, _, size, err := d.Next(f()); size != cap(b) || err != nil {
				t.Errorf("size %d (%v)", size, err)
			}
		}); n > 0 {
			t.Errorf("%s and Next allocate %v times", name, n)
		}
	}
}

// One goroutine may seal while another opens.
func TestSealAndOpenAtOnce(t *testing.T) {
	c := testCipher(upwards(1<<32 - 50)) // and draw in between
	peer := testCipher(upwards())
	seal := sealedFrame(peer, 1, []byte("data"))[LengthSize:]
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100 {
			if _, err := peer.Open(c.seal(nil, []byte("data"))); err != nil {
				t.Error(err)
			}
		}
	})
	for range 100 {
		if _, err := c.Open(slices.Clone(seal)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func FuzzOpen(f *testing.F) {
	f.Fuzz(func(t *testing.T, data, foreign []byte, msgType uint32, flip uint) {
		c := testCipher(upwards())
		msgType &= MaxType
		frame := sealedFrame(c, msgType, data)
		d := Decoder{MaxMsgSize: len(data), Cipher: c}
		// taken reports whether stream starts with a frame.
		taken := func(stream []byte) bool {
			got, gotData, size, err := d.Next(stream)
			if size == 0 && (got != 0 || gotData != nil) || err != nil && (size != 0 || !errors.Is(err, errs.Protocol)) {
				t.Fatalf("type %d, %d bytes, size %d (%v)", got, len(gotData), size, err)
			}
			if size > 0 && (uint32(got) != msgType || !bytes.Equal(gotData, data) || size != len(frame)) {
				t.Fatalf("type %d, %x, size %d, want type %d, %x", got, gotData, size, msgType, data)
			}
			return size > 0
		}
		if stream := slices.Concat(frame, foreign); !taken(stream) || !bytes.Equal(stream[len(frame):], foreign) {
			t.Fatal("the frame does not open, or what is behind it was changed")
		}

		// What has not been sealed with the key does not open, whether it has
		// a length that fits or not.
		if taken(bytes.Clone(foreign)) && !bytes.HasPrefix(foreign, frame) {
			t.Fatal("foreign bytes were taken for a frame")
		}
		box := foreign[:min(len(foreign), len(frame)-LengthSize)]
		stream := append(binary.BigEndian.AppendUint32(nil, uint32(len(box))), box...)
		if taken(stream) && !bytes.Equal(box, frame[LengthSize:]) {
			t.Fatal("foreign bytes were taken for a seal")
		}

		// Nor does what has been changed.
		changed := bytes.Clone(frame)
		at := flip % uint(8*len(frame))
		changed[at/8] ^= 1 << (at % 8)
		if taken(changed) {
			t.Fatal("a changed seal was opened")
		}
	})
}
