package ipc

import (
	"errors"
	"net"
	"runtime"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// A flush gives what is in the queue of an outbox to the kernel: all that has
// gathered in one system call, again and again until nothing is left. So a
// stream costs far less than one call a message, and an idle outbox has neither
// goroutine nor memory.
//
// A flush is a goroutine, or the goroutine of a Write: one that answers does not
// wake another thread for one small frame, and a large message is written from
// the slice of its own Write.
//
//	idle ──startFlush, flushNow, writeLarge──► flushing ──endFlush──► idle
//	                                              │ a write failed
//	                                              ▼
//	                                           broken, until detach

// startFlush starts a flush beside the caller.
func (o *outbox) startFlush() {
	o.flushing = true
	go o.session.flushFunc()
}

// flushNow gives the only frame in the queue to the kernel, as far as it takes
// it without waiting. A flush does the rest, and meets the error if there was
// one.
func (o *outbox) flushNow() {
	o.flushing = true
	o.queue.flight = 1
	c, segs := o.conn, o.queue.segs[o.queue.head:]
	o.mu.Unlock()
	n := c.out.sendNow(c, segs)
	o.mu.Lock()
	o.advance(n)
	o.endFlush()
}

// kick has what was queued flushed: now, in the caller's goroutine, if that is all
// there is and the kernel takes it. Otherwise others are about to queue something,
// and a flush beside the caller lets them run first: 64 goroutines in Request make
// more than twice as many calls by that.
func (o *outbox) kick(now bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.flushing || !o.flushable():
	case now && o.conn.raw != nil && o.queue.single():
		o.flushNow()
	default:
		o.flushing = true
		go o.flushLater()
	}
}

func (o *outbox) flushLater() {
	runtime.Gosched()
	o.flush(nil)
}

// flush gives the queue to the kernel until nothing is left or, if until is
// not nil, until that message has left. The caller has set flushing.
func (o *outbox) flush(until *large) {
	o.mu.Lock()
	c := o.conn
	var failed error
	for failed == nil && o.flushable() && !(until != nil && until.ended()) {
		segs, off := o.queue.takeOff(), o.queue.off
		o.startClock()
		o.mu.Unlock()
		n, err := c.out.send(c, segs, off)
		o.mu.Lock()
		o.advance(n)
		failed = o.writeError(n, err)
	}
	o.broken = o.broken || failed != nil
	o.endFlush()
	o.mu.Unlock()
	if failed != nil {
		c.writeFailed(failed)
	}
}

func (o *outbox) flushable() bool {
	return o.conn != nil && !o.broken && !o.queue.empty()
}

// advance records that the connection has accepted n more bytes.
func (o *outbox) advance(n int) {
	o.queue.advance(n)
	o.changed.wake()
}

// endFlush ends the flush that the caller had, or leaves it to a goroutine if
// there is more to do.
func (o *outbox) endFlush() {
	if o.flushable() {
		o.startFlush()
		return
	}
	o.flushing = false
	o.setDeadline(time.Time{})
	o.changed.wake()
}

// startClock sets the write deadline for the next system call. It also takes
// back that of a cancel which came too late.
func (o *outbox) startClock() {
	if t := o.conn.out.writeTimeout; t > 0 {
		o.setDeadline(time.Now().Add(t))
	} else {
		o.setDeadline(time.Time{})
	}
}

// setDeadline sets the write deadline of the connection, if there is one, and
// it is another.
func (o *outbox) setDeadline(t time.Time) {
	if o.conn != nil && !t.Equal(o.deadline) {
		o.deadline = t
		o.conn.netConn.SetWriteDeadline(t) // fails only on a closed connection
	}
}

// writeError returns why err, from a write that took n bytes, is the end of the
// connection, or nil if it is not: the write was interrupted by cancel, or has
// taken something before its deadline passed.
func (o *outbox) writeError(n int, err error) error {
	if o.conn == nil || err != nil && !timedOut(err) {
		return err
	}
	cancelled := false
	if !o.queue.empty() {
		if m := o.queue.segs[o.queue.head].large; m != nil && m.cancel != nil {
			cancelled = true
			o.cancel(m, m.cancel)
		}
	}
	late := err != nil && !cancelled && !time.Now().Before(o.deadline)
	before := o.late // then TLS fails again without a try
	o.late = late && n > 0
	switch {
	case err == nil || (cancelled || n > 0) && !errors.Is(err, errs.BrokenPipe):
		return nil // BrokenPipe is a pipe's, which does not tell how much has left
	case o.conn.out.writeTimeout > 0 && (late || before):
		return detailf(ErrTimeout, "timed out: the peer has taken nothing for %v", o.conn.out.writeTimeout)
	}
	return err
}

// sender gives bytes to the kernel. It belongs to the flush that is under way.
type sender struct {
	sealer       sealer
	writeTimeout time.Duration // over 0: how long the socket may take nothing
	wide         bool          // the socket's buffer is for large messages
	parts        net.Buffers   // scratch of send, empty
}

// send gives the segments to the kernel, from the byte at off on, and returns
// how many bytes it took. It blocks up to the write deadline. With a
// writeTimeout it returns as soon as the peer has taken something.
func (s *sender) send(c *conn, segs []segment, off int) (int, error) {
	if segs[0].size() == 0 {
		return 0, nil // a withdrawn message; some connections deliver an empty write
	}
	if segs[0].chunk == nil {
		s.widen(c)
	}
	if s.sealer.cipher != nil {
		n, err := s.sendPart(c, s.sealer.next(segs))
		s.sealer.consume(n)
		return n, err
	}
	if s.writeTimeout > 0 {
		return s.sendSome(c, &segs[0], off)
	}
	return s.sendAll(c, segs, off)
}

// sendAll gives all of the segments to the kernel.
func (s *sender) sendAll(c *conn, segs []segment, off int) (int, error) {
	vec := s.parts
	for _, seg := range segs {
		for _, part := range [...][]byte{seg.head, seg.body} {
			if off < len(part) {
				vec = append(vec, part[off:])
				off = 0
			} else {
				off -= len(part)
			}
		}
	}
	defer func() {
		clear(vec)
		s.parts = vec[:0]
	}()
	if c.raw != nil && len(vec) > 1 {
		// Only here: net.Buffers looks through a type that embeds one of
		// the net package's, past that type's own Write.
		s.parts = vec
		n, err := s.parts.WriteTo(c.netConn)
		return int(n), err
	}
	sum := 0
	for _, part := range vec {
		n, err := c.netConn.Write(part)
		sum += n
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// sendSome gives some of seg to the kernel, from the byte at off on.
func (s *sender) sendSome(c *conn, seg *segment, off int) (int, error) {
	if off >= len(seg.head) {
		return s.sendPart(c, seg.body[off-len(seg.head):])
	}
	// A header on its own would wake the peer for nothing.
	k := chunks.Get().(*chunk)
	defer chunks.Put(k)
	b := append(k.b, seg.head[off:]...)
	b = append(b, seg.body[:min(len(seg.body), largeSize)]...)
	return s.sendPart(c, b)
}

// sendPart gives b to the kernel, or with a writeTimeout some of it.
func (s *sender) sendPart(c *conn, b []byte) (int, error) {
	if c.raw != nil && s.writeTimeout > 0 {
		return c.raw.write(b, true)
	}
	if s.writeTimeout > 0 {
		// The deadline is for this piece: what is larger might take longer
		// although the peer reads all the time.
		b = b[:min(len(b), largeSize)]
	}
	return c.netConn.Write(b)
}

// sendNow gives as much of the first segment to the kernel as it takes at once.
// raw is not nil.
func (s *sender) sendNow(c *conn, segs []segment) int {
	b := segs[0].body
	if s.sealer.cipher != nil {
		b = s.sealer.next(segs)
	}
	n, _ := c.raw.write(b, false) // a flush will meet the error
	if s.sealer.cipher != nil {
		s.sealer.consume(n)
	}
	return n
}

// wideBuffer is what a Unix socket is told to hold of large messages, so
// that the two sides can work at the same time: the default of Linux,
// 208 KiB, makes them take turns. It counts its bookkeeping, too, and
// doubles the figure for that. What the kernel holds is lost with the
// peer, hence not more than pays, and not for small messages.
const wideBuffer = 1 << 20

// widen prepares the socket for large messages.
func (s *sender) widen(c *conn) {
	if s.wide {
		return
	}
	s.wide = true
	if u, ok := c.netConn.(*net.UnixConn); ok {
		u.SetWriteBuffer(wideBuffer) // as far as the system allows
	}
}

// sealChunk is how much of small frames is sealed at once.
const sealChunk = 2 * largeSize

// sealer seals frames where they are sent, and keeps what the kernel has not
// taken: it cannot be sealed twice.
type sealer struct {
	cipher  *wire.Cipher // nil: nothing is sealed
	pending []byte       // sealed and not sent
	buf     *pooled      // the memory of pending, if that is not too large
}

// next returns the bytes to send next. If none are pending it seals some of
// segs, which start with the first frame that is not sealed.
func (s *sealer) next(segs []segment) []byte {
	if len(s.pending) == 0 {
		s.pending = s.seal(segs)
	}
	return s.pending
}

func (s *sealer) seal(segs []segment) []byte {
	first := &segs[0]
	if first.head != nil {
		b := s.buffer(first.size() + wire.SealOverhead)
		return s.cipher.AppendFrame(b, first.head, first.body)
	}
	b := s.buffer(max(sealChunk, wire.FrameSize(first.body)+wire.SealOverhead))
	for _, seg := range segs {
		var n int
		if b, n = s.cipher.AppendFrames(b, seg.body); n < len(seg.body) {
			break
		}
	}
	return b
}

func (s *sealer) buffer(size int) []byte {
	if size > maxPooled {
		return make([]byte, 0, size)
	}
	s.buf = getPooled(size)
	return s.buf.b[:0]
}

// consume records that the kernel has taken n bytes of what is pending.
func (s *sealer) consume(n int) {
	if s.pending = s.pending[n:]; len(s.pending) == 0 {
		s.discard()
	}
}

// discard forgets what was sealed and not sent.
func (s *sealer) discard() {
	s.pending = nil
	if s.buf != nil {
		s.buf.put()
		s.buf = nil
	}
}
