package ipc

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// Message is what Read returns: a message of the peer, or an event of this
// library.
//
// A Message and its Data belong to whoever read them; nothing else uses them.
type Message struct {
	// Err says what went wrong, on an event with Status "Error" or "Timeout"
	// and on TimeoutMessage. It is nil for the messages of a peer.
	Err error

	// MsgType is over 0 for a message of the peer, -1 for an event, and 2 for
	// TimeoutMessage.
	MsgType int

	// Data is what the peer wrote; empty for events.
	Data []byte

	// Status, on an event, is the Status that the connection has reached, as
	// text, or "Error".
	Status string

	lease *lease // of Data, if Data is pooled
}

// TimeoutMessage is what ReadTimed returns if nothing came and the caller
// named no message of its own. It is shared: compare with it, do not change
// it. Compare before looking at MsgType, which is 2, as a message's may be.
var TimeoutMessage = &Message{MsgType: 2, Err: &errs.Sentinel{Text: "timed_out", Also: ErrTimeout}}

// eventType is the MsgType of events.
const eventType = -1

// Release gives the memory of a large message back for the next one. It is
// optional: a program that streams large messages saves the garbage collector
// most of its work by it. Large is over 4 KiB, up to 4 MiB. Data, and every slice of
// it, is invalid afterwards.
// Releasing twice, through a copy of the Message too, and releasing a small
// message, an event or nil does nothing.
func (m *Message) Release() {
	if m != nil && m.lease != nil {
		m.lease.end()
	}
}

// A lease is one message's hold on a pooled buffer. It is never reused, so a
// Release that comes late or twice cannot touch the buffer's next user.
type lease struct {
	buf   *pooled
	ended atomic.Bool
}

func (l *lease) end() {
	if l.ended.CompareAndSwap(false, true) {
		l.buf.put()
	}
}

// Data over minPooled bytes has a buffer of its own, pooled by size in classes
// of four to the doubling, so that at most a fifth of a buffer is wasted.
const (
	minPooled     = 4 << 10
	maxPooled     = 4 << 20
	classesPerLog = 4
)

var pools [classesPerLog * 10]sync.Pool // 10 doublings from minPooled to maxPooled

// pooled is a buffer of one of the pools.
type pooled struct {
	b     []byte
	class int
}

// sizeClass returns the class of the buffers that n bytes go into, over
// minPooled and up to maxPooled, and the size of those buffers.
func sizeClass(n int) (class, size int) {
	log := bits.Len(uint(n-1)) - 1 // 2^log < n <= 2^(log+1)
	step := 1 << log / classesPerLog
	steps := (n - 1<<log + step - 1) / step
	return (log-(bits.Len(minPooled)-1))*classesPerLog + steps - 1, 1<<log + steps*step
}

// getPooled returns a buffer of n bytes.
func getPooled(n int) *pooled {
	c, size := sizeClass(n)
	p, ok := pools[c].Get().(*pooled)
	if !ok {
		p = &pooled{b: make([]byte, size), class: c}
	}
	p.b = p.b[:n]
	return p
}

func (p *pooled) put() { pools[p.class].Put(p) }

// largeMessage is a Message with a buffer of its own, in one allocation.
type largeMessage struct {
	slab  [1]Message
	lease lease
}

// newLarge returns the slab of a message whose data lies in p.
func newLarge(msgType int, data []byte, p *pooled) []Message {
	m := &largeMessage{slab: [1]Message{{MsgType: msgType, Data: data}}}
	if p != nil {
		m.lease.buf = p
		m.slab[0].lease = &m.lease
	}
	return m.slab[:]
}

// batch is what one read brought: messages in slabs, and their sums.
//
// Small messages share a slab of structs and a slab of data. Both are small,
// so that a message that is kept keeps only a few KiB alive.
type batch struct {
	slabs    [][]Message // full, or of a message with a buffer of its own
	open     []Message   // the slab that is being filled
	data     []byte      // the unused part of its data
	messages int
	bytes    int // of Data
	frames   int // control messages too
}

const (
	slabMessages = 28 // with what the allocator adds, just under 2 KiB
	slabBytes    = minPooled
)

// hasRoom reports whether a message of n bytes fits into the slab that is being
// filled.
func (b *batch) hasRoom(n int) bool {
	return len(b.open) < cap(b.open) && n <= len(b.data)
}

// openSlab starts a slab for a message of n bytes, of whose size about more
// follow.
func (b *batch) openSlab(n, more int) {
	b.closeSlab()
	size := min(1+more, slabMessages, slabBytes/max(n, 1))
	b.open = make([]Message, 0, size)
	b.data = make([]byte, size*n)
}

// small adds a message with a copy of data, for which there is room.
func (b *batch) small(msgType int, data []byte) {
	own := b.data[:len(data):len(data)]
	b.data = b.data[len(data):]
	copy(own, data)
	n := len(b.open)
	b.open = b.open[:n+1]
	m := &b.open[n] // zero, as it was allocated
	m.MsgType = msgType
	m.Data = own
	b.count(data)
}

// closeSlab ends the slab that is being filled.
func (b *batch) closeSlab() {
	if len(b.open) > 0 {
		b.slabs = append(b.slabs, b.open)
		b.open = nil
	}
}

// large adds a message whose data lies in p.
func (b *batch) large(msgType int, data []byte, p *pooled) {
	b.closeSlab()
	b.slabs = append(b.slabs, newLarge(msgType, data, p))
	b.count(data)
}

func (b *batch) count(data []byte) {
	b.messages++
	b.bytes += len(data)
}

// The wire format: a frame is its length, 4 bytes, then a type, 4 bytes, and
// data. Numbers are big-endian.
const (
	lengthSize = 4
	typeSize   = 4
	headerSize = lengthSize + typeSize

	maxType = 1<<31 - 1
)

func putHeader(b []byte, msgType, size int) {
	binary.BigEndian.PutUint32(b, uint32(typeSize+size))
	binary.BigEndian.PutUint32(b[lengthSize:], uint32(msgType))
}

// frameSize returns the length of the plain frame that b starts with.
func frameSize(b []byte) int {
	return lengthSize + int(binary.BigEndian.Uint32(b))
}

// decoder turns the bytes of one connection into messages. It belongs to
// whoever has the reader's role (see link). While no part of a frame is here
// it owns no memory.
type decoder struct {
	max   int    // largest Data that the peer may send
	crypt *crypt // nil if the connection is not encrypted

	buf *readBuffer
	big *bigFrame // the frame that outgrew buf, while it is being read
	err error     // the peer has broken the rules: nothing after that counts
}

const (
	// readBufferSize is what one read from the socket can bring: a message
	// of 64 KiB with its header, or many small ones.
	readBufferSize = 68 << 10

	// A frame that filled the read buffer gets its memory at once if it is
	// no larger than this, else in doubling steps, as its bytes arrive.
	wholeFrame = maxPooled
)

// readBuffer holds the bytes [r:w], which have been read and not decoded.
//
// That b comes last is not by chance: at the start of a page, where a buffer of
// its own would lie, the kernel's copy out of a socket takes up to five times as
// long on some processors (rep movsb on AMD, where the target is 0 to 16 bytes
// behind the source within a page).
type readBuffer struct {
	r, w  int
	slabs [][]Message // spare, for the next batch
	b     [readBufferSize]byte
}

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// bigFrame is a frame that is read straight into memory of its own. Its body
// is what follows the length or, in a frame that is not sealed, the type.
type bigFrame struct {
	msgType int     // if it is not sealed
	body    []byte  // what there is memory for
	n       int     // bytes of body that have arrived
	size    int     // of the whole body
	pooled  *pooled // of body, if the frame is no larger than wholeFrame
}

// space returns where the next bytes of the connection go.
func (d *decoder) space() []byte {
	if d.big != nil {
		return d.big.space()
	}
	if d.buf == nil {
		d.buf = readBuffers.Get().(*readBuffer)
	}
	return d.buf.b[d.buf.w:]
}

// rest gives the buffer back, unless it holds a part of a frame.
func (d *decoder) rest() {
	if b := d.buf; b != nil && b.r == b.w {
		d.buf = nil
		b.r, b.w = 0, 0
		readBuffers.Put(b)
	}
}

// reset gives everything back; a part of a frame is lost.
func (d *decoder) reset() {
	d.big = nil
	if d.buf != nil {
		d.buf.r = d.buf.w
		d.rest()
	}
}

// decode takes the n bytes that have arrived at space into account and returns
// the messages that are complete now. With an error, which is final, it returns
// those before it. The batch's list of slabs is used again by the next call.
func (d *decoder) decode(n int) (batch, error) {
	var out batch
	switch {
	case d.err != nil:
	case d.big != nil:
		d.err = d.fillBig(n, &out)
	default:
		d.err = d.fillBuffer(n, &out)
	}
	return out, d.err
}

func (d *decoder) fillBuffer(n int, out *batch) error {
	b := d.buf
	b.w += n
	out.slabs = b.slabs[:0]
	err := d.frames(out)
	out.closeSlab()
	b.slabs = out.slabs
	if err != nil {
		return err
	}
	return d.keep()
}

// frames decodes the whole frames in the read buffer.
func (d *decoder) frames(out *batch) error {
	b := d.buf
	rest := b.b[b.r:b.w]
	for len(rest) >= lengthSize {
		n := binary.BigEndian.Uint32(rest)
		if !d.allows(n) {
			return d.badLength(n)
		}
		if uint(len(rest)-lengthSize) < uint(n) {
			break
		}
		size := lengthSize + int(n)
		body := rest[lengthSize:size]
		rest = rest[size:]
		if d.crypt != nil {
			var err error
			if body, err = d.crypt.open(body); err != nil {
				return err
			}
		}
		msgType, err := parseType(body)
		if err != nil {
			return err
		}
		data := body[typeSize:]
		out.frames++
		switch {
		case msgType == 0:
			// A control message: there are none that we know.
		case len(data) <= slabBytes:
			if !out.hasRoom(len(data)) {
				out.openSlab(len(data), len(rest)/size)
			}
			out.small(msgType, data)
		default:
			p := getPooled(len(data))
			copy(p.b, data)
			out.large(msgType, p.b, p)
		}
	}
	b.r = b.w - len(rest)
	return nil
}

// keep makes room behind the part of a frame that is left in the read buffer.
func (d *decoder) keep() error {
	b := d.buf
	b.w = copy(b.b[:], b.b[b.r:b.w])
	b.r = 0
	if b.w < len(b.b) {
		return nil
	}
	n := binary.BigEndian.Uint32(b.b[:])
	if !d.allows(n) {
		return d.badLength(n)
	}
	if d.crypt != nil {
		d.big = newBigFrame(0, int(n), b.b[lengthSize:])
	} else {
		msgType, err := parseType(b.b[lengthSize:])
		if err != nil {
			return err
		}
		d.big = newBigFrame(msgType, int(n)-typeSize, b.b[headerSize:])
	}
	b.r = b.w
	d.rest()
	return nil
}

// limits returns the smallest and the largest length that a frame may have.
func (d *decoder) limits() (least, most uint32) {
	least = typeSize
	if d.crypt != nil {
		least += sealOverhead
	}
	return least, least + uint32(d.max)
}

// allows reports whether a frame may have this length. It is asked before
// anything is allocated for the frame.
func (d *decoder) allows(length uint32) bool {
	least, most := d.limits()
	return least <= length && length <= most
}

func (d *decoder) badLength(length uint32) error {
	least, most := d.limits()
	return detailf(ErrProtocol, "frame of %d bytes, want %d to %d", length, least, most)
}

func parseType(b []byte) (int, error) {
	t := binary.BigEndian.Uint32(b)
	if t > maxType {
		return 0, badType(t)
	}
	return int(t), nil
}

// badType is apart so that parseType can be inlined.
//
//go:noinline
func badType(t uint32) error {
	return detailf(ErrProtocol, "message type %d, want 0 to %d", t, maxType)
}

// newBigFrame starts a frame whose body has size bytes, of which head are
// here.
func newBigFrame(msgType, size int, head []byte) *bigFrame {
	f := &bigFrame{msgType: msgType, size: size}
	if size <= wholeFrame {
		f.pooled = getPooled(size)
		f.body = f.pooled.b
	} else {
		f.body = make([]byte, 2*len(head))
	}
	f.n = copy(f.body, head)
	return f
}

func (f *bigFrame) space() []byte {
	if f.n == len(f.body) {
		// The sum of two lengths may be too much for an int of 32 bits.
		grown := make([]byte, len(f.body)+min(len(f.body), f.size-len(f.body)))
		copy(grown, f.body)
		f.body = grown
	}
	return f.body[f.n:]
}

// fillBig takes n more bytes of the big frame into account, and delivers it if
// it is whole.
func (d *decoder) fillBig(n int, out *batch) error {
	f := d.big
	f.n += n
	if f.n < f.size {
		return nil
	}
	d.big = nil
	msgType, data := f.msgType, f.body
	if d.crypt != nil {
		body, err := d.crypt.open(f.body)
		if err != nil {
			return err
		}
		if msgType, err = parseType(body); err != nil {
			return err
		}
		data = body[typeSize:]
	}
	out.frames++
	if msgType != 0 {
		out.large(msgType, data, f.pooled)
	}
	return nil
}
