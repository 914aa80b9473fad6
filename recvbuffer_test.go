package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

const testMaxMsgSize = 128 << 10

// feed gives a stream to q in pieces, as a reader does, and returns what is
// delivered and what ends it.
func feed(t testing.TB, q *recvBuffer, stream, pieces []byte) (delivered []Message, err error) {
	t.Helper()
	for i := 0; len(stream) > 0 && err == nil; i++ {
		free := q.free()
		if len(free) == 0 {
			t.Fatal("there is no room for the next bytes")
		}
		n := copy(free[:min(len(free), piece(pieces, i))], stream)
		stream = stream[n:]
		var got batch
		got, err = q.decode(n)
		count, bytes := 0, 0
		for _, slab := range got.slabs {
			if len(slab) == 0 {
				t.Fatal("an empty slab")
			}
			delivered = append(delivered, slab...)
			count += len(slab)
			for _, m := range slab {
				bytes += len(m.Data)
			}
		}
		if count != got.messages || bytes != got.bytes || got.frames < count {
			t.Fatalf("a batch of %d messages with %d bytes says that it has %d, %d, in %d frames",
				count, bytes, got.messages, got.bytes, got.frames)
		}
		if f := q.big; f != nil && len(f.body) > max(wholeFrame, 2*f.n) {
			t.Fatalf("memory for %d bytes, and %d have arrived", len(f.body), f.n)
		}
		q.release()
	}
	return delivered, err
}

func FuzzDecoder(f *testing.F) {
	f.Fuzz(func(t *testing.T, script, pieces []byte, most uint32) {
		most = min(most, wire.MaxLimit)
		stream := play(script, plainFrame)
		want, v := refDecode(stream, most)
		q := &recvBuffer{exchange: &exchange{server: true, began: true}, dec: wire.Decoder{MaxMsgSize: int(most)}}
		defer q.reset()
		got, err := feed(t, q, stream, pieces)
		wantMessages(t, got, want)
		switch {
		case err != nil && !errors.Is(err, ErrProtocol):
			t.Fatal(err)
		case err != nil && v == fine || err == nil && v == bad:
			t.Fatalf("error %v, and the verdict is %d", err, v)
		case err != nil:
			n := copy(q.free(), plainFrame(1, []byte("behind the error")))
			if got, again := q.decode(n); again != err || got.messages > 0 {
				t.Fatalf("%d messages after an error, and %v, want %v", got.messages, again, err)
			}
		}
		for i := range got {
			got[i].Release()
			got[i].Release()
		}
	})
}

// Nothing counts after an error, of whatever kind: not what was read with it, and
// not what is read later.
func TestDecoderStopsForGood(t *testing.T) {
	c, peer := sealedPair(t)
	forged := sealedFrame(peer, 1, []byte("forged"))
	forged[20] ^= 1
	good := sealedFrame(peer, 1, []byte("good"))
	large := sealedFrame(peer, 1, make([]byte, 100_000))
	large[100] ^= 1
	badType := sealedFrame(peer, 1<<31, nil)
	plain := plainFrame(1, nil)
	for name, tt := range map[string]struct {
		cipher *wire.Cipher
		good   []byte
		bad    []byte
	}{
		"length":            {nil, plain, []byte{0, 0, 0, 1}},
		"type":              {nil, plain, plainFrame(1<<31, nil)},
		"large":             {nil, plain, plainFrame(1<<31, make([]byte, 100_000))},
		"length of large":   {nil, plain, plainFrame(1, make([]byte, testMaxMsgSize+1))},
		"seal":              {c, good, forged},
		"seal of large":     {c, good, large},
		"type in a seal":    {c, good, badType},
		"length of a seal":  {c, good, []byte{0, 0, 0, wire.TypeSize + wire.SealOverhead - 1}},
		"length of no seal": {c, good, sealedFrame(peer, 1, make([]byte, testMaxMsgSize+1))},
	} {
		t.Run(name, func(t *testing.T) {
			q := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: testMaxMsgSize, Cipher: tt.cipher}}
			defer q.reset()
			got, err := feed(t, q, slices.Concat(tt.good, tt.bad, tt.good), nil)
			if len(got) != 1 || !errors.Is(err, ErrProtocol) {
				t.Errorf("%d messages and %v, want the one before and ErrProtocol", len(got), err)
			}
			for range 2 {
				n := copy(q.free(), tt.good)
				if got, again := q.decode(n); again != err || got.messages > 0 || got.frames > 0 {
					t.Errorf("%d messages after the error, and %v, want %v", got.messages, again, err)
				}
			}
		})
	}
}

// A frame may arrive in two pieces, wherever it is torn. Nothing is kept when all
// of it has.
func TestTornFrames(t *testing.T) {
	c, peer := sealedPair(t)
	data := []byte("some data")
	for name, tt := range map[string]struct {
		cipher *wire.Cipher
		frame  func(msgType uint32, data []byte) []byte
	}{
		"plain":  {nil, plainFrame},
		"sealed": {c, func(msgType uint32, data []byte) []byte { return sealedFrame(peer, msgType, data) }},
	} {
		t.Run(name, func(t *testing.T) {
			stream := slices.Concat(tt.frame(1, data), tt.frame(0, data), tt.frame(2, nil), tt.frame(3, data))
			want := []Message{{MsgType: 1, Data: data}, {MsgType: 2}, {MsgType: 3, Data: data}}
			for at := 1; at < len(stream); at++ {
				q := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: testMaxMsgSize, Cipher: tt.cipher}}
				got, err := feed(t, q, bytes.Clone(stream[:at]), nil)
				if err != nil {
					t.Fatalf("torn at %d: %v", at, err)
				}
				rest, err := feed(t, q, bytes.Clone(stream[at:]), nil)
				if err != nil {
					t.Fatalf("torn at %d: %v", at, err)
				}
				wantMessages(t, append(got, rest...), want)
				if q.buf != nil || q.big != nil {
					t.Fatalf("torn at %d: memory is kept", at)
				}
			}
		})
	}
}

// Frames that fill the read buffer, just do not, or outgrow it arrive whole, in
// pieces of any size, and so does what follows them.
func TestFramesAroundTheReadBuffer(t *testing.T) {
	c, peer := sealedPair(t)
	for _, cipher := range []*wire.Cipher{nil, c} {
		overhead := wire.HeaderSize
		frame := plainFrame
		if cipher != nil {
			overhead += wire.SealOverhead
			frame = func(msgType uint32, data []byte) []byte { return sealedFrame(peer, msgType, data) }
		}
		for size := readBufferSize - overhead - 3; size <= readBufferSize-overhead+3; size++ {
			data := bytes.Repeat([]byte{byte(size)}, size)
			stream := slices.Concat(frame(1, data), frame(0, data), frame(2, []byte("behind it")))
			want := []Message{{MsgType: 1, Data: data}, {MsgType: 2, Data: []byte("behind it")}}
			for _, pieces := range [][]byte{nil, {255}, {230, 0}, {233, 199}} {
				q := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: testMaxMsgSize, Cipher: cipher}}
				got, err := feed(t, q, bytes.Clone(stream), pieces)
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				wantMessages(t, got, want)
				if q.buf != nil || q.big != nil {
					t.Fatalf("%d bytes: memory is kept", size)
				}
			}
		}
	}
}

// Memory follows the bytes that arrive, not the length that is claimed: nothing
// but the read buffer until that is full, and then all of the frame's at once
// up to wholeFrame, else at most as much again as is here.
func TestMemoryFollowsTheBytes(t *testing.T) {
	c, peer := sealedPair(t)
	for _, cipher := range []*wire.Cipher{nil, c} {
		body := wire.TypeSize // what precedes the data in the memory of its own, not counted if plain
		if cipher != nil {
			body = wire.TypeSize + wire.SealOverhead
		}
		for _, size := range []int{readBufferSize + 1, 1 << 20, wholeFrame - body, wholeFrame + 1, 3*wholeFrame + 5} {
			t.Run(fmt.Sprintf("%d bytes, sealed %t", size, cipher != nil), func(t *testing.T) {
				data := bytes.Repeat([]byte{7}, size)
				stream := plainFrame(1, data)
				own := size // bytes of the memory of its own
				if cipher != nil {
					stream = sealedFrame(peer, 1, data)
					own = len(stream) - wire.LengthSize
				}
				skipped := len(stream) - own
				q := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: size, Cipher: cipher}}
				defer q.reset()
				arrived, reads := 0, 0
				var got []Message
				for sizes := []int{0}; arrived < len(stream); {
					free := q.free()
					switch f := q.big; {
					case arrived < readBufferSize:
						if f != nil || len(free) > readBufferSize {
							t.Fatalf("memory beside the read buffer when %d bytes are here", arrived)
						}
					case own <= wholeFrame:
						if len(f.body) != own || f.pooled == nil {
							t.Fatalf("memory for %d bytes, pooled %t, want %d at once", len(f.body), f.pooled != nil, own)
						}
					default:
						if len(f.body) > 2*(arrived-skipped) || len(f.body) > own || f.pooled != nil {
							t.Fatalf("memory for %d of %d bytes when %d are here", len(f.body), own, arrived)
						}
						if last := sizes[len(sizes)-1]; len(f.body) != last {
							if last > 0 && len(f.body) != min(2*last, own) {
								t.Fatalf("memory for %d bytes after %d, want twice that", len(f.body), last)
							}
							sizes = append(sizes, len(f.body))
						}
					}
					n := copy(free[:min(len(free), 50_000)], stream[arrived:])
					arrived += n
					reads++
					b, err := q.decode(n)
					if err != nil {
						t.Fatal(err)
					}
					for _, slab := range b.slabs {
						got = append(got, slab...)
					}
					q.release()
				}
				wantMessages(t, got, []Message{{MsgType: 1, Data: data}})
				if (got[0].lease != nil) != (own <= wholeFrame) {
					t.Errorf("leased: %t", got[0].lease != nil)
				}
				if q.buf != nil || q.big != nil {
					t.Error("memory is kept")
				}
			})
		}
	}
}

// A length over the limit is refused before there is memory for it, and before
// the frame is here.
func TestClaimsAreChecked(t *testing.T) {
	for _, claim := range []uint32{0, 3, testMaxMsgSize + wire.TypeSize + 1, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		q := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: testMaxMsgSize}}
		got, err := feed(t, q, binary.BigEndian.AppendUint32(nil, claim), nil)
		if len(got) > 0 || !errors.Is(err, ErrProtocol) || q.big != nil {
			t.Errorf("%d messages and %v of a claim of %d bytes, want ErrProtocol", len(got), err, claim)
		}
		q.reset()
		if q.buf != nil {
			t.Error("reset keeps memory")
		}
	}
}

// A recvBuffer owns memory only while it holds a part of a frame, and reset takes
// that too.
func TestIdleRecvBufferOwnsNothing(t *testing.T) {
	q := recvBuffer{exchange: new(exchange)}
	q.dec.MaxMsgSize = 1 << 20
	owns := func() bool { return q.buf != nil || q.big != nil }
	wantOwns := func(what string, want bool) {
		t.Helper()
		if owns() != want {
			t.Fatalf("%s: owns memory: %t, want %t", what, owns(), want)
		}
	}
	wantOwns("new", false)
	q.release()
	q.reset()
	q.free()
	wantOwns("free", true)
	q.release() // nothing has come
	wantOwns("after a read that brought nothing", false)

	frame := plainFrame(1, []byte("data"))
	if _, err := feed(t, &q, frame, nil); err != nil {
		t.Fatal(err)
	}
	wantOwns("after a whole frame", false)
	if _, err := feed(t, &q, frame[:len(frame)-1], nil); err != nil {
		t.Fatal(err)
	}
	wantOwns("with a part of a frame", true)
	if n := len(q.free()); n != readBufferSize-len(frame)+1 {
		t.Fatalf("%d bytes are free behind a part of a frame", n)
	}
	got, err := feed(t, &q, frame[len(frame)-1:], nil)
	if err != nil {
		t.Fatal(err)
	}
	wantMessages(t, got, []Message{{MsgType: 1, Data: []byte("data")}})
	wantOwns("with the rest of it", false)

	for _, part := range [][]byte{frame[:3], plainFrame(1, make([]byte, 1<<20))[:readBufferSize+10]} {
		if _, err := feed(t, &q, part, nil); err != nil {
			t.Fatal(err)
		}
		wantOwns("with a part of a frame", true)
		q.reset()
		wantOwns("reset", false)
		if n := len(q.free()); n != readBufferSize {
			t.Fatalf("%d bytes are free after reset", n)
		}
		if got, err := feed(t, &q, frame, nil); err != nil || len(got) != 1 {
			t.Fatalf("%d messages, and %v, after reset", len(got), err)
		}
	}
}

// A part of a frame that is left is moved to the start of the read buffer, so
// that a frame which the buffer holds never needs memory of its own.
func TestRestIsMovedToTheStart(t *testing.T) {
	q := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: testMaxMsgSize}}
	defer q.reset()
	frame := plainFrame(1, bytes.Repeat([]byte{1}, readBufferSize/2))
	for i := range 20 {
		stream := slices.Concat(frame, frame)[:len(frame)+100]
		if i > 0 {
			stream = slices.Concat(frame[100:], frame[:100])
		}
		got, err := feed(t, q, stream, nil)
		if err != nil || len(got) != 1 || q.big != nil {
			t.Fatalf("frame %d: %d messages, and %v", i, len(got), err)
		}
		if n := len(q.free()); n != readBufferSize-100 {
			t.Fatalf("frame %d: %d bytes are free, want %d", i, n, readBufferSize-100)
		}
	}
}

// The messages of a batch do not share bytes: neither with the read buffer, nor
// with each other.
func TestMessagesAreCopies(t *testing.T) {
	q := &recvBuffer{exchange: new(exchange), dec: wire.Decoder{MaxMsgSize: testMaxMsgSize}}
	defer q.reset()
	var stream []byte
	var want []Message
	for i, size := range []int{5, 5, 0, 5, 300, slabBytes, slabBytes + 1, 1, 20_000} {
		data := bytes.Repeat([]byte{byte(i + 1)}, size)
		want = append(want, Message{MsgType: i + 1, Data: data})
		stream = append(stream, plainFrame(uint32(i+1), data)...)
	}
	free := q.free()
	n := copy(free, stream)
	b, err := q.decode(n)
	if err != nil {
		t.Fatal(err)
	}
	clear(free)
	var got []Message
	for _, slab := range b.slabs {
		got = append(got, slab...)
	}
	wantMessages(t, got, want)
	for i := range got {
		got[i].Data = append(got[i].Data, 0xff) // does not reach the next one's
	}
	for i := range got {
		got[i].Data = got[i].Data[:len(want[i].Data)]
	}
	wantMessages(t, got, want)
}

// Each size has a class whose buffers are large enough, and not much larger; no
// two classes have the same size, and all are used.
func TestSizeClasses(t *testing.T) {
	sizes := make([]int, len(pools))
	last := 0
	for n := minPooled + 1; n <= maxPooled; n++ {
		class, size := sizeClass(n)
		if size < n || size-n > size/5 {
			t.Fatalf("%d bytes have a buffer of %d", n, size)
		}
		if class != last && class != last+1 || class >= len(pools) {
			t.Fatalf("%d bytes have class %d, and fewer have %d", n, class, last)
		}
		if sizes[class] != 0 && sizes[class] != size {
			t.Fatalf("class %d has buffers of %d and %d bytes", class, sizes[class], size)
		}
		last = class
		sizes[class] = size
	}
	if last != len(pools)-1 || sizes[last] != maxPooled {
		t.Errorf("the last class is %d, of %d bytes, want %d, of %d", last, sizes[last], len(pools)-1, maxPooled)
	}
}

// A buffer has the length that was asked for, whichever it had before.
func TestPooledBuffers(t *testing.T) {
	for range 3 {
		for _, n := range []int{5000, 5100, minPooled + 1, 5120, maxPooled} {
			p := getPooled(n)
			if len(p.b) != n {
				t.Fatalf("%d bytes, want %d", len(p.b), n)
			}
			p.put()
		}
	}
}

// Releasing again, by whichever copy, does not give the buffer back again: it may
// be another message's by then.
func TestReleaseOnce(t *testing.T) {
	for range 50 {
		p := getPooled(5000)
		m := &newLarge(1, p.b, p)[0]
		other := *m
		m.Release()
		other.Release()
		m.Release()
		a, b := getPooled(5000), getPooled(5000)
		if a == b {
			t.Fatal("two have the same buffer")
		}
		if !m.lease.ended.Load() {
			t.Fatal("the lease has not ended")
		}
	}
	// What has no buffer of its own.
	var none *Message
	none.Release()
	TimeoutMessage.Release()
	(&Message{Data: []byte("small")}).Release()
	m := &newLarge(1, []byte("data"), nil)[0]
	m.Release()
	if string(m.Data) != "data" || m.lease != nil {
		t.Error("a message without a pooled buffer has a lease")
	}
}

// Release gives the buffer to the next message of its size.
//
// Pins doc.go, "Performance": gives the memory of a large message back for the next one
func TestReleaseGivesBack(t *testing.T) {
	again := 0
	for range 200 {
		p := getPooled(6000)
		m := &newLarge(1, p.b, p)[0]
		m.Release()
		next := getPooled(6000)
		if next == p {
			again++
		}
		next.put()
	}
	// With the race detector on, a sync.Pool loses some on purpose.
	if again < 50 {
		t.Errorf("%d of 200 buffers were used again", again)
	}
}

// A slab of small messages takes what fits, up to its bounds, and is not grown:
// its messages are pointed to.
func TestBatchSlabs(t *testing.T) {
	for _, tt := range []struct {
		size, messages int
		want           []int // messages in the slabs
	}{
		{0, 1, []int{1}},
		{0, slabMessages, []int{slabMessages}},
		{0, slabMessages + 1, []int{slabMessages, 1}},
		{slabBytes / slabMessages, slabMessages, []int{slabMessages}},
		{slabBytes / 4, 6, []int{4, 2}},
		{slabBytes/2 + 1, 2, []int{1, 1}},
		{slabBytes, 2, []int{1, 1}},
	} {
		var b batch
		for i := range tt.messages {
			if !b.hasRoom(tt.size) {
				b.openSlab(tt.size, tt.messages-i-1)
			}
			b.small(i+1, bytes.Repeat([]byte{byte(i)}, tt.size))
		}
		b.closeSlab()
		b.closeSlab()
		n := 0
		for i, slab := range b.slabs {
			if i >= len(tt.want) || len(slab) != tt.want[i] || cap(slab) != tt.want[i] {
				t.Fatalf("%d messages of %d bytes: slab %d has %d of %d", tt.messages, tt.size, i, len(slab), cap(slab))
			}
			for _, m := range slab {
				if m.MsgType != n+1 || !bytes.Equal(m.Data, bytes.Repeat([]byte{byte(n)}, tt.size)) || cap(m.Data) != tt.size {
					t.Fatalf("%d messages of %d bytes: message %d is %v", tt.messages, tt.size, n, m)
				}
				n++
			}
		}
		if n != tt.messages || b.messages != n || b.bytes != n*tt.size {
			t.Errorf("%d messages of %d bytes: %d in the slabs, counted %d with %d", tt.messages, tt.size, n, b.messages, b.bytes)
		}
	}
	// A large message between small ones keeps the order.
	var b batch
	b.openSlab(1, 10)
	b.small(1, []byte("a"))
	p := getPooled(5000)
	b.large(2, p.b, p)
	if b.hasRoom(1) {
		t.Error("a closed slab has room")
	}
	b.openSlab(1, 0)
	b.small(3, []byte("c"))
	b.closeSlab()
	for i, slab := range b.slabs {
		if len(slab) != 1 || slab[0].MsgType != i+1 {
			t.Fatalf("slab %d: %v", i, slab)
		}
	}
	if len(b.slabs) != 3 || b.messages != 3 || b.bytes != 5002 {
		t.Errorf("%d slabs of %d messages with %d bytes", len(b.slabs), b.messages, b.bytes)
	}
}

// cutLimit is the MaxMsgSize of FuzzCut: there are frames over a read buffer.
const cutLimit = 128 << 10

// cutCipher is a cipher that seals and opens.
var cutCipher = sync.OnceValue(func() *wire.Cipher {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	ask := wire.Client{Secrets: wire.System}
	go ask.Handshake(theirs)
	offer := wire.Server{Encrypt: true, MaxMsgSize: cutLimit, Secrets: wire.System}
	n, err := offer.Handshake(ours, func() error { return nil })
	if err != nil {
		panic(err)
	}
	return n.Cipher
})

// inWords is a message in a few words.
func inWords(m *Message) string {
	return fmt.Sprint(m.MsgType, " ", m.IsRequest(), " ", len(m.Data), " ", crc32.ChecksumIEEE(m.Data))
}

// A consumer takes what n more bytes bring, and says what that is.
type consumer func(q *recvBuffer, n int) ([]string, error)

func consumeDecoded(q *recvBuffer, n int) (got []string, err error) {
	b, err := q.decode(n)
	for _, slab := range b.slabs {
		for i := range slab {
			got = append(got, inWords(&slab[i]))
			slab[i].Release()
		}
	}
	got = append(got, controlsInWords(b.controls)...)
	return append(got, fmt.Sprint("counts ", b.frames, b.messages, b.bytes)), err
}

func consumeCut(q *recvBuffer, n int) (got []string, err error) {
	b, err := q.cut(n)
	counts := append(controlsInWords(b.controls), fmt.Sprint("counts ", b.count, b.messages, b.bytes))
	for i := range b.controls {
		if r := b.controls[i].request; r != nil {
			r.answered.Store(true) // there is no connection that a reply could go to
		}
	}
	h := handling{call: func(m *Message) {
		got = append(got, inWords(m))
		clear(m.Data) // it is lent, and nothing else lies there
	}}
	var answer atomic.Bool
	messages := b.messages
	h.lend(&b, &answer)
	if answer.Load() != (messages > 0) {
		got = append(got, "answer is wrong")
	}
	return append(got, counts...), err
}

// controlsInWords is what there is to be done for control frames.
func controlsInWords(controls []control) (words []string) {
	for _, f := range controls {
		if f.Payload != nil {
			words = append(words, "a payload that is not copied")
		}
		words = append(words, fmt.Sprint(f.Control, f.at, f.request != nil, f.err))
		if f.reply != nil {
			words = append(words, inWords(f.reply))
			f.reply.Release()
		}
	}
	return words
}

// receiveAll gives stream to a buffer in pieces, and to the consumers by turns.
func receiveAll(t *testing.T, cipher *wire.Cipher, stream, pieces []byte, consumers ...consumer) (got []string, err error) {
	x := new(exchange)
	x.issued.Store(3)
	q := recvBuffer{exchange: x, dec: wire.Decoder{MaxMsgSize: cutLimit, Cipher: cipher}}
	for i := 0; len(stream) > 0 && err == nil; i++ {
		free := q.free()
		if len(free) == 0 {
			t.Fatal("there is no room for the next bytes")
		}
		size := len(free)
		if len(pieces) > 0 {
			size = min(size, 1+int(pieces[i%len(pieces)])*int(pieces[i%len(pieces)]))
		}
		n := copy(free[:size], stream)
		stream = stream[n:]
		var more []string
		more, err = consumers[i%len(consumers)](&q, n)
		got = append(got, more...)
		q.release()
		if q.buf != nil && q.buf.r == q.buf.w {
			t.Fatal("a buffer is kept that holds nothing")
		}
	}
	q.reset()
	return got, err
}

// What a Handler is lent is what Read returns, however the stream is cut into
// reads, and also if what comes is copied at times, as it is while a Handler
// runs.
func FuzzCut(f *testing.F) {
	f.Add(append(frames(1, 0, 2), 0, 0, 0, 3), []byte{0}, uint32(0), byte(0), false)
	for size := range uint32(5) { // the first control frame is of each kind
		f.Add([]byte{}, []byte{7, 200}, 5*(100+size*3000)+size, byte(8|7<<4), size%2 == 0)
		f.Add([]byte{}, []byte{255}, 5*(14_000+size)+size, byte(8|5<<4), size%2 == 1)
	}
	f.Add(frames(1, 0, 2, 3), []byte{2, 1, 9}, uint32(70<<10), byte(3<<4), true)
	f.Add(append(frames(5), 0, 0, 0, 4, 255, 0, 0, 0), []byte{255}, uint32(100<<10), byte(1<<4), true)
	f.Add(bytes.Repeat(frames(1, 2, 3), 100), []byte{3, 200}, uint32(5<<10), byte(7<<4), false)
	f.Fuzz(func(t *testing.T, rest, pieces []byte, size uint32, count byte, sealed bool) {
		var cipher *wire.Cipher
		if sealed {
			cipher = cutCipher()
		}
		// Some frames that are right, of which each third is a control frame of
		// all kinds, and then what the fuzzer likes.
		var stream []byte
		if count&8 != 0 {
			if sealed {
				stream = cipher.AppendFrame(stream, wire.Announcement(), nil)
			} else {
				stream = wire.Announcement()
			}
		}
		for i := range int(count >> 4) {
			n := (int(size) + i*1000) % (cutLimit + 1)
			frame := make([]byte, wire.HeaderSize+n)
			wire.PutHeader(frame, i%3, n)
			for j := range n {
				frame[wire.HeaderSize+j] = byte(i + j)
			}
			if i%3 == 0 && n >= wire.ControlSize {
				kind := wire.Kind(2 + (i/3+int(size))%5)
				f := wire.Control{Kind: kind, Flags: byte(i), N: uint32(i), ID: uint64(i + 1)}
				wire.PutControlHeader(frame, &f, n-wire.ControlSize)
			}
			if sealed {
				stream = cipher.AppendFrame(stream, frame[:wire.HeaderSize], frame[wire.HeaderSize:])
			} else {
				stream = append(stream, frame...)
			}
		}
		stream = append(stream, rest...)
		want, wantErr := receiveAll(t, cipher, stream, pieces, consumeDecoded)
		for _, by := range [][]consumer{{consumeCut}, {consumeCut, consumeDecoded}, {consumeDecoded, consumeCut, consumeCut}} {
			got, err := receiveAll(t, cipher, stream, pieces, by...)
			if fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Errorf("error %v, want %v", err, wantErr)
			}
			if len(got) != len(want) {
				t.Fatalf("%d lines, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("line %d is %s, want %s", i, got[i], want[i])
				}
			}
		}
	})
}
