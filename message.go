package ipc

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// Message is what Read returns: a message of the peer, or an event of this
// library.
//
// The caller of Read owns the Message and its Data; nothing else uses them.
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

	lease *lease // of Data, if Data is pooled, and of a request
}

// String describes the message in a few words, without its data: "message of type 1,
// 12 bytes", "request of type 1, 12 bytes", "event Connected", and with Err, if there
// is one, behind that.
func (m *Message) String() string {
	if m == nil {
		return "<nil>"
	}
	kind := "message"
	if m.IsRequest() {
		kind = "request"
	}
	text := fmt.Sprintf("%s of type %d, %d bytes", kind, m.MsgType, len(m.Data))
	if m.MsgType < 0 {
		text = "event " + m.Status
	}
	if m.Err != nil {
		text = fmt.Sprintf("%s: %v", text, m.Err)
	}
	return text
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

// Clone returns a copy of the message, with a copy of Data, that is the caller's.
// A Handler that keeps a message keeps the clone of it. The clone of a request can
// be replied to; a Handler that has cloned it does not end it by returning.
func (m *Message) Clone() *Message {
	if m == nil {
		return nil
	}
	c := *m
	c.Data = bytes.Clone(m.Data)
	c.lease = nil
	if r := m.request(); r != nil {
		c.lease = &r.lease
		r.keep()
	}
	return &c
}

// A lease is one message's hold on a pooled buffer. It is never reused, so a
// Release that comes late or twice cannot touch the buffer's next user. It also
// says which request a message is.
type lease struct {
	buf     *pooled // nil: there is nothing to give back
	ended   atomic.Bool
	request *request // nil if it is none
}

func (l *lease) end() {
	if l.buf != nil && l.ended.CompareAndSwap(false, true) {
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
	frames   int // control frames too
	controls []control
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

// copy adds a message with a copy of data. About more of its size follow.
func (b *batch) copy(msgType int, data []byte, more int) *Message {
	if len(data) > slabBytes {
		p := getPooled(len(data))
		copy(p.b, data)
		return b.large(msgType, p.b, p)
	}
	if !b.hasRoom(len(data)) {
		b.openSlab(len(data), more)
	}
	return b.small(msgType, data)
}

// small adds a message with a copy of data, for which there is room.
func (b *batch) small(msgType int, data []byte) *Message {
	own := b.data[:len(data):len(data)]
	b.data = b.data[len(data):]
	copy(own, data)
	n := len(b.open)
	b.open = b.open[:n+1]
	m := &b.open[n] // zero, as it was allocated
	m.MsgType = msgType
	m.Data = own
	b.count(data)
	return m
}

// closeSlab ends the slab that is being filled.
func (b *batch) closeSlab() {
	if len(b.open) > 0 {
		b.slabs = append(b.slabs, b.open)
		b.open = nil
	}
}

// large adds a message whose data lies in p.
func (b *batch) large(msgType int, data []byte, p *pooled) *Message {
	b.closeSlab()
	slab := newLarge(msgType, data, p)
	b.slabs = append(b.slabs, slab)
	b.count(data)
	return &slab[0]
}

// truncate leaves the first n messages.
func (b *batch) truncate(n int) {
	b.messages, b.bytes = n, 0
	for i, slab := range b.slabs {
		slab = slab[:min(n, len(slab))]
		n -= len(slab)
		b.slabs[i] = slab
		for j := range slab {
			b.bytes += len(slab[j].Data)
		}
	}
	b.slabs = slices.DeleteFunc(b.slabs, func(slab []Message) bool { return len(slab) == 0 })
}

func (b *batch) count(data []byte) {
	b.messages++
	b.bytes += len(data)
}
