package ipc

import (
	"sync"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

const (
	// readBufferSize is what one read from the socket can bring: a message
	// of 64 KiB with its header, or many small ones.
	readBufferSize = 68 << 10

	// A frame that filled the read buffer gets its memory at once if it is
	// no larger than this, else in doubling steps, as its bytes arrive.
	wholeFrame = maxPooled
)

// recvBuffer collects the bytes of one connection until they are whole frames,
// and copies those into messages. It belongs to the goroutine with the reader's
// role. While it holds no part of a frame it owns no memory.
type recvBuffer struct {
	dec      wire.Decoder
	exchange *exchange // takes the control frames
	buf      *readBuffer
	big      *bigFrame // the frame that outgrew buf, while it is being read
	err      error     // the peer has broken the rules: nothing after that counts
}

// readBuffer holds the bytes [r:w], which have been read and not decoded.
//
// That b comes last is not by chance: at the start of a page, where a buffer of
// its own would lie, the kernel's copy out of a socket takes up to five times as
// long on some processors (rep movsb on AMD, where the target is 0 to 16 bytes
// behind the source within a page).
type readBuffer struct {
	r, w     int
	slabs    [][]Message // spare, for the next batch
	controls []control   // the same
	lent     Message     // what a Handler gets of it
	b        [readBufferSize]byte
}

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// free returns the memory that the next bytes of the connection go to.
func (q *recvBuffer) free() []byte {
	if q.big != nil {
		return q.big.free()
	}
	if q.buf == nil {
		q.buf = readBuffers.Get().(*readBuffer)
	}
	return q.buf.b[q.buf.w:]
}

// release gives the read buffer back, unless it holds a part of a frame.
func (q *recvBuffer) release() {
	if b := q.buf; b != nil && b.r == b.w {
		q.buf = nil
		b.put()
	}
}

func (b *readBuffer) put() {
	b.r, b.w = 0, 0
	b.lent = Message{}
	clear(b.controls)
	readBuffers.Put(b)
}

// reset gives all memory back; a part of a frame is lost.
func (q *recvBuffer) reset() {
	q.big = nil
	if q.buf != nil {
		q.buf.r = q.buf.w
		q.release()
	}
}

// decode takes the n bytes that have arrived at free into account and returns
// the messages that are complete now. With an error, which is final, it returns
// those before it. The batch's list of slabs is used again by the next call.
func (q *recvBuffer) decode(n int) (batch, error) {
	var out batch
	switch {
	case q.err != nil:
	case q.big != nil:
		q.err = q.fillBig(n, &out)
	default:
		q.err = q.fillBuffer(n, &out)
	}
	q.exchange.endRead(out.frames)
	return out, q.err
}

// cut is decode for a Handler: it returns the whole frames where they lie, and
// gives them away, with their memory. With an error, which is final, it returns
// those before it.
func (q *recvBuffer) cut(n int) (b lentBatch, err error) {
	switch {
	case q.err != nil:
	case q.big != nil:
		q.err = q.cutBig(n, &b)
	default:
		q.err = q.cutBuffer(n, &b)
	}
	q.exchange.endRead(b.count)
	return b, q.err
}

// control takes a control frame, with messages and frames before it in the same
// read. Its Kind is 0 if there is nothing to be done for it. The payload of a
// request is not copied; that of a reply is, unless its memory is its own.
func (q *recvBuffer) control(data []byte, messages, frames int, own *ownMemory) (control, error) {
	c, err := q.exchange.check(data, frames == 0 && !q.exchange.began)
	f := control{Control: c, at: messages}
	if err != nil {
		return f, err
	}
	switch c.Kind {
	case wire.Request:
		f.request = newRequest(&c)
		return f, nil
	case wire.Reply, wire.Part:
		f.reply = newReply(int(c.N), c.Payload, own)
	case wire.Error:
		f.err = finalError(&c)
	}
	f.Payload = nil
	return f, nil
}

// ownMemory is that of a big frame. A nil *ownMemory says that a frame lies in the
// read buffer.
type ownMemory struct {
	pooled *pooled // nil if it is not pooled
}

// newReply returns the message of a reply. Its data is copied, unless its memory is
// its own.
func newReply(msgType int, data []byte, own *ownMemory) *Message {
	switch {
	case own != nil:
		return &newLarge(msgType, data, own.pooled)[0]
	case len(data) <= slabBytes:
		return &Message{MsgType: msgType, Data: append(make([]byte, 0, len(data)), data...)}
	}
	p := getPooled(len(data))
	copy(p.b, data)
	return &newLarge(msgType, p.b, p)[0]
}

func (q *recvBuffer) cutBuffer(n int, out *lentBatch) error {
	b := q.buf
	b.w += n
	rest := b.b[b.r:b.w]
	out.controls = b.controls[:0]
	var err error
	for {
		msgType, data, size, nextErr := q.dec.Next(rest)
		if err = nextErr; err != nil || size == 0 {
			break
		}
		rest = rest[size:]
		if msgType == wire.ControlType {
			if data, err = q.cutControl(data, out); err != nil {
				break
			}
		}
		out.count++
		if data != nil {
			out.messages++
			out.bytes += len(data)
		}
	}
	b.controls = out.controls
	end := b.w - len(rest)
	if out.messages > 0 {
		out.buf, out.frames, out.sealed = b, b.b[b.r:end], q.dec.Cipher != nil
		q.buf = nil
		if len(rest) > 0 && err == nil {
			q.buf = readBuffers.Get().(*readBuffer)
			q.buf.w = copy(q.buf.b[:], rest)
		}
		return err
	}
	b.r = end
	if err != nil {
		return err
	}
	return q.compact()
}

// cutControl takes a control frame of the read buffer. It returns the data of a
// message, if it is a request's.
func (q *recvBuffer) cutControl(data []byte, out *lentBatch) ([]byte, error) {
	f, err := q.control(data, out.messages, out.count, nil)
	payload := f.Payload
	f.Payload = nil
	switch {
	case err != nil:
		return nil, err
	case f.Kind == 0 && wire.IsRequest(data):
		wire.Ignore(data) // lend sees it, too
	case f.Kind != 0:
		out.controls = append(out.controls, f)
	}
	return payload, nil
}

func (q *recvBuffer) cutBig(n int, out *lentBatch) error {
	msgType, data, pooled, err := q.advanceBig(n)
	if err != nil || data == nil {
		return err
	}
	if msgType == wire.ControlType {
		f, err := q.control(data, 0, 0, &ownMemory{pooled})
		if err != nil {
			return err
		}
		msgType, data, out.request = int(f.N), f.Payload, f.request
		f.Payload = nil
		if f.Kind != 0 {
			out.controls = append(out.controls, f)
		}
	}
	out.count = 1
	if data != nil {
		out.large, out.msgType, out.data, out.pooled = true, msgType, data, pooled
		out.messages, out.bytes = 1, len(data)
	}
	return nil
}

func (q *recvBuffer) fillBuffer(n int, out *batch) error {
	b := q.buf
	b.w += n
	out.slabs, out.controls = b.slabs[:0], b.controls[:0]
	err := q.frames(out)
	out.closeSlab()
	b.slabs, b.controls = out.slabs, out.controls
	if err != nil {
		return err
	}
	return q.compact()
}

// frames copies the messages of the whole frames in the read buffer to out.
func (q *recvBuffer) frames(out *batch) error {
	b := q.buf
	rest := b.b[b.r:b.w]
	for {
		msgType, data, size, err := q.dec.Next(rest)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		rest = rest[size:]
		if msgType != wire.ControlType {
			out.copy(msgType, data, len(rest)/size)
		} else if err := q.copyControl(data, out, len(rest)/size, nil); err != nil {
			return err
		}
		out.frames++
	}
	b.r = b.w - len(rest)
	return nil
}

// copyControl adds a control frame to out, and the message of a request. Its data
// is copied, unless its memory is its own. About more of its size follow.
func (q *recvBuffer) copyControl(data []byte, out *batch, more int, own *ownMemory) error {
	f, err := q.control(data, out.messages, out.frames, own)
	if err != nil || f.Kind == 0 {
		return err
	}
	if f.request != nil {
		var m *Message
		if own != nil {
			m = out.large(int(f.N), f.Payload, own.pooled)
		} else {
			m = out.copy(int(f.N), f.Payload, more)
		}
		f.request.attach(m)
		f.Payload = nil
	}
	out.controls = append(out.controls, f)
	return nil
}

// compact moves the part of a frame that is left in the read buffer to its
// start. If it fills the buffer, it gets memory of its own.
func (q *recvBuffer) compact() error {
	b := q.buf
	b.w = copy(b.b[:], b.b[b.r:b.w])
	b.r = 0
	if b.w < len(b.b) {
		return nil
	}
	n, err := q.dec.Length(b.b[:])
	if err != nil {
		return err
	}
	if q.dec.Cipher != nil {
		q.big = newBigFrame(0, n, b.b[wire.LengthSize:])
	} else {
		msgType, err := wire.ParseType(b.b[wire.LengthSize:])
		if err != nil {
			return err
		}
		q.big = newBigFrame(msgType, n-wire.TypeSize, b.b[wire.HeaderSize:])
	}
	b.r = b.w
	q.release()
	return nil
}

// bigFrame is a frame that is read straight into memory of its own. Its body
// is what follows the length or, in a frame that is not sealed, the type.
type bigFrame struct {
	msgType int     // if it is not sealed
	body    []byte  // what there is memory for
	n       int     // bytes of body that have arrived
	size    int     // of the whole body
	pooled  *pooled // of body, if the frame is no larger than wholeFrame
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

func (f *bigFrame) free() []byte {
	if f.n == len(f.body) {
		// The sum of two lengths may be too much for an int of 32 bits.
		grown := make([]byte, len(f.body)+min(len(f.body), f.size-len(f.body)))
		copy(grown, f.body)
		f.body = grown
	}
	return f.body[f.n:]
}

// fillBig takes n more bytes of the big frame into account, and adds its
// message to out if it is whole.
func (q *recvBuffer) fillBig(n int, out *batch) error {
	msgType, data, pooled, err := q.advanceBig(n)
	if err != nil || data == nil {
		return err
	}
	if msgType != wire.ControlType {
		out.large(msgType, data, pooled)
	} else if err := q.copyControl(data, out, 0, &ownMemory{pooled}); err != nil {
		return err
	}
	out.frames++
	return nil
}

// advanceBig takes n more bytes of the big frame into account, and returns it,
// with the memory of data, if it is whole. Otherwise data is nil.
func (q *recvBuffer) advanceBig(n int) (msgType int, data []byte, memory *pooled, err error) {
	f := q.big
	f.n += n
	if f.n < f.size {
		return 0, nil, nil, nil
	}
	q.big = nil
	if q.dec.Cipher == nil {
		return f.msgType, f.body, f.pooled, nil
	}
	msgType, data, err = q.dec.Body(f.body)
	return msgType, data, f.pooled, err
}
