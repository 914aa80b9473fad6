package ipc

import (
	"context"
	"sync"
	"time"
)

// largeSize is where a message is no longer copied: Write waits until the
// kernel has it.
const largeSize = 32 << 10

// outbox holds what has been accepted and the kernel does not have yet.
//
// Write appends frames to the last segment of a queue. Whoever finds no flush
// running starts one; it gives all that has gathered to the kernel in one
// system call, again and again until nothing is left, and ends. So a stream
// costs far less than one call per message, and an idle outbox has neither
// goroutine nor memory. A flush is a goroutine, or the caller itself: a Write
// that answers does not wake another thread for one small frame, and a large
// message is written from the caller's own slice.
//
// mu guards all fields. While a flush is in a system call the segments
// queue[head:head+flight] are its own.
type outbox struct {
	owner *endpoint // for what a failed flush sets off
	keep  bool      // survives a lost connection (a client's does)

	mu      sync.Mutex
	changed signal // of anything that somebody waits for here

	phase  phase
	link   *link  // while phase is joined
	broken bool   // a write on link has failed
	losses uint64 // of connections
	max    int    // largest Data; a Client learns it from its server
	err    error  // why nothing is accepted any more

	queue    []segment
	head     int
	flight   int
	off      int // bytes of queue[head] that link has taken, as they are sent
	overhead int // bytes that sealing adds to each frame
	cost     int // of the frames in the queue, for outboxBound
	flushing bool
	bounded  bool // link has a write deadline

	entered  uint64 // frames that were ever queued
	left     uint64 // of them, those that are no longer
	lostFrom uint64 // the frames after lostFrom and up to lostTo were dropped
	lostTo   uint64 // with their connection
	unsent   int    // how many of them the last connection took with it

	messages, bytes uint64 // accepted, for Stats
}

// phase is what a Write finds.
type phase uint8

const (
	expecting phase = iota // the first connection: Write waits for it
	joined
	parted // from the connection: Write fails, WriteContext waits
)

// segment is a run of whole frames.
type segment struct {
	head   []byte // before body; only for a large message
	body   []byte
	frames int
	gone   int    // frames that were here; Flush still counts them
	chunk  *chunk // to give back; nil if body is not ours alone
	large  *large // whose message it is, if it is not copied
}

func (s *segment) size() int { return len(s.head) + len(s.body) }

func (s *segment) cost() int {
	if s.large != nil {
		return 0 // it takes no memory of ours
	}
	return s.size() + s.frames*(messageCost-headerSize)
}

// vacate leaves an empty segment in the place of a large message, so that what
// was queued later is still counted as later.
func (s *segment) vacate() {
	s.head, s.body = nil, nil
	s.gone, s.frames = s.frames, 0
}

// large is a message whose Write waits until the kernel has it.
type large struct {
	header [headerSize]byte
	size   int
	cancel error         // withdraw it, if no byte has left
	done   chan struct{} // closed when it has left the queue, with err
	err    error
}

// maxFlight is how many segments one system call is given: more than a socket
// holds, and not so much that a Write would wait long for the room of what the
// kernel has taken already.
const maxFlight = 4

// maxIdleQueue is the longest queue whose memory an idle outbox keeps.
const maxIdleQueue = 16

// chunk is the memory of a segment that gathers small frames. The first of an
// empty queue is a small one, so that a thousand slow clients with a message
// each are no burden.
type chunk struct {
	b    []byte
	pool *sync.Pool
}

const smallChunkSize = 4 << 10

var (
	smallChunks = chunkPool(smallChunkSize)
	chunks      = chunkPool(2 * largeSize)
)

func chunkPool(size int) *sync.Pool {
	p := new(sync.Pool)
	p.New = func() any { return &chunk{make([]byte, 0, size), p} }
	return p
}

func getChunk(first bool, need int) *chunk {
	if first && need <= smallChunkSize {
		return smallChunks.Get().(*chunk)
	}
	return chunks.Get().(*chunk)
}

// patience says which connection a Write waits for.
type patience bool

const (
	forFirst patience = false
	forAny   patience = true
)

// write accepts a message, or says why not. It waits for room and, as far as
// patience goes, for a connection, until ctx ends. A message that answers may
// be given to the kernel by the caller.
func (o *outbox) write(ctx context.Context, p patience, msgType int, data []byte, answers bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.admit(ctx, p, len(data)); err != nil {
		return err
	}
	if len(data) >= largeSize {
		return o.writeLarge(ctx, msgType, data)
	}
	o.append(msgType, data)
	o.messages++
	o.bytes += uint64(len(data))
	switch {
	case o.flushing || o.broken:
	case answers && o.link.raw != nil && len(o.queue)-o.head == 1:
		o.flushNow()
	default:
		o.startFlush()
	}
	return nil
}

// admit waits until a message of size bytes may be queued.
func (o *outbox) admit(ctx context.Context, p patience, size int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	losses := o.losses
	for {
		switch {
		case o.err != nil:
			return o.err
		case (o.phase == joined || !o.keep) && size > o.max:
			return tooLarge(size, o.max)
		case p == forFirst && (o.phase == parted || o.losses != losses || o.broken && !o.keep):
			return o.notConnected()
		case o.phase == joined && (o.keep || !o.broken) && (size >= largeSize || o.hasRoom(size)):
			return nil
		}
		if !o.wait(ctx.Done()) {
			return ctx.Err()
		}
	}
}

func tooLarge(size, limit int) error {
	return detailf(ErrMsgTooLarge, "%d bytes: message exceeds maximum message length of %d", size, limit)
}

// hasRoom reports whether the bound admits a message of size bytes. An empty
// outbox admits any.
func (o *outbox) hasRoom(size int) bool {
	return o.cost == 0 || o.cost+size+messageCost <= outboxBound
}

func (o *outbox) notConnected() error {
	status := Disconnected
	if o.keep {
		status = ReConnecting
	}
	return detailf(ErrNotConnected, "cannot write under current status: %s", status)
}

// wait waits, without mu, for a change, or returns false once stop is closed.
func (o *outbox) wait(stop <-chan struct{}) bool {
	changed := o.changed.wait()
	o.mu.Unlock()
	defer o.mu.Lock()
	select {
	case <-changed:
		return true
	case <-stop:
		return false
	}
}

// append queues a copy of a message.
func (o *outbox) append(msgType int, data []byte) {
	need := headerSize + len(data)
	s := o.open(need)
	n := len(s.body)
	s.body = s.body[:n+need]
	putHeader(s.body[n:], msgType, len(data))
	copy(s.body[n+headerSize:], data)
	s.frames++
	o.entered++
	o.cost += len(data) + messageCost
}

// open returns a segment at the end of the queue with need bytes of room.
func (o *outbox) open(need int) *segment {
	if n := len(o.queue); n > o.head+o.flight {
		s := &o.queue[n-1]
		if s.chunk != nil && cap(s.body)-len(s.body) >= need {
			return s
		}
	}
	c := getChunk(o.head == len(o.queue), need)
	o.queue = append(o.queue, segment{body: c.b, chunk: c})
	return &o.queue[len(o.queue)-1]
}

// push queues a segment that is not gathered.
func (o *outbox) push(s segment) {
	o.queue = append(o.queue, s)
	o.entered += uint64(s.frames)
	o.cost += s.cost()
}

// writeLarge queues a message without copying it, and returns when it has
// left the queue.
func (o *outbox) writeLarge(ctx context.Context, msgType int, data []byte) error {
	m := &large{size: len(data), done: make(chan struct{})}
	putHeader(m.header[:], msgType, len(data))
	o.push(segment{head: m.header[:], body: data, frames: 1, large: m})
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.withdraw(m, ctx.Err())
		})
		defer stop()
	}
	mine := !o.flushing && !o.broken
	o.flushing = o.flushing || mine
	o.mu.Unlock()
	if mine {
		o.flush(m)
	}
	<-m.done
	o.mu.Lock()
	return m.err
}

// withdraw takes m out of the queue for the reason err. If some of it has
// left, the rest is copied, and it counts as accepted.
func (o *outbox) withdraw(m *large, err error) {
	for i := o.head; i < len(o.queue); i++ {
		s := &o.queue[i]
		switch {
		case s.large != m:
		case i < o.head+o.flight:
			// How much has left is known when the flush is back.
			m.cancel = err
			if o.link != nil {
				o.bounded = true
				o.link.conn.SetWriteDeadline(longAgo)
			}
		case i == o.head && o.off > 0:
			o.adopt(s)
		default:
			if i == o.head && o.link != nil {
				o.link.sealer.drop()
			}
			s.vacate()
			o.finish(s, err)
		}
	}
}

// adopt makes the message of a waiting Write the outbox's own.
func (o *outbox) adopt(s *segment) {
	b := make([]byte, 0, s.size())
	s.body = append(append(b, s.head...), s.body...)
	s.head = nil
	o.finish(s, nil)
	o.cost += s.cost()
}

// finish ends the Write that waits for a segment.
func (o *outbox) finish(s *segment, err error) {
	if err == nil {
		o.messages++
		o.bytes += uint64(s.large.size)
	}
	s.large.err = err
	close(s.large.done)
	s.large = nil
}

// startFlush starts a flush beside the caller.
func (o *outbox) startFlush() {
	o.flushing = true
	go o.owner.flushFunc()
}

// flushNow gives the only frame in the queue to the kernel, as far as it takes
// it without waiting. A flush does the rest, and meets the error if there was
// one.
func (o *outbox) flushNow() {
	o.flushing = true
	o.flight = 1
	l, segs := o.link, o.queue[o.head:]
	o.mu.Unlock()
	n := l.sendNow(segs)
	o.mu.Lock()
	o.settle(n)
	o.endFlush()
}

// endFlush ends the flush that the caller had, or leaves it to a goroutine if
// there is more to do.
func (o *outbox) endFlush() {
	if o.flushable() {
		o.startFlush()
		return
	}
	o.flushing = false
	if o.bounded && o.link != nil {
		o.bounded = false
		o.link.conn.SetWriteDeadline(time.Time{})
	}
	o.changed.wake()
}

func (o *outbox) flushable() bool {
	return o.link != nil && !o.broken && o.head < len(o.queue)
}

// flush gives the queue to the kernel until nothing is left or, if until is
// not nil, until that message has left.
func (o *outbox) flush(until *large) {
	o.mu.Lock()
	l := o.link
	var failed error
	for failed == nil && o.flushable() && !(until != nil && until.ended()) {
		segs, off := o.take(), o.off
		o.mu.Unlock()
		n, err := l.send(segs, off)
		o.mu.Lock()
		o.settle(n)
		failed = o.judge(n, err)
	}
	o.broken = o.broken || failed != nil
	o.endFlush()
	o.mu.Unlock()
	if failed != nil {
		o.owner.writeFailed(l, failed)
	}
}

func (m *large) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// take returns what the next system call writes: a large message, or what is
// before the next one, up to maxFlight.
func (o *outbox) take() []segment {
	segs := o.queue[o.head:]
	segs = segs[:min(len(segs), maxFlight)]
	for i := range segs {
		if segs[i].large != nil {
			segs = segs[:max(i, 1)]
			break
		}
	}
	o.flight = len(segs)
	switch t := o.link.writeTimeout; {
	case t > 0:
		o.bounded = true
		o.link.conn.SetWriteDeadline(time.Now().Add(t))
	case o.bounded: // by a withdrawal that came too late
		o.bounded = false
		o.link.conn.SetWriteDeadline(time.Time{})
	}
	return segs
}

// judge says whether err, from a write that took n bytes, is the end of the
// connection. It is not if the write was interrupted to withdraw a message, or
// has taken something before its deadline passed.
func (o *outbox) judge(n int, err error) error {
	if o.link == nil || err != nil && !timedOut(err) {
		return err
	}
	withdrawn := false
	if o.head < len(o.queue) {
		if m := o.queue[o.head].large; m != nil && m.cancel != nil {
			withdrawn = true
			o.withdraw(m, m.cancel)
		}
	}
	switch {
	case err == nil || withdrawn || n > 0:
		return nil
	case o.link.writeTimeout > 0:
		return detailf(ErrTimeout, "timed out: the peer has taken nothing for %v", o.link.writeTimeout)
	}
	return err
}

// settle takes n more bytes that the kernel has taken into account.
func (o *outbox) settle(n int) {
	o.flight = 0
	o.off += n
	for o.head < len(o.queue) {
		s := &o.queue[o.head]
		wire := s.size() + s.frames*o.overhead
		if o.off < wire {
			o.settlePart(s)
			break
		}
		o.off -= wire
		o.remove(s)
	}
	if o.head == len(o.queue) {
		o.head = 0
		o.queue = o.queue[:0]
		if cap(o.queue) > maxIdleQueue {
			o.queue = nil
		}
	} else if o.head > len(o.queue)/2 {
		n := copy(o.queue, o.queue[o.head:])
		clear(o.queue[n:])
		o.queue = o.queue[:n]
		o.head = 0
	}
	o.changed.wake()
}

// settlePart removes the frames of s that the kernel has whole.
func (o *outbox) settlePart(s *segment) {
	if s.frames < 2 {
		return
	}
	before := s.cost()
	for n := frameSize(s.body); o.off >= n+o.overhead; n = frameSize(s.body) {
		s.body = s.body[n:]
		s.frames--
		o.left++
		o.off -= n + o.overhead
	}
	o.cost += s.cost() - before
}

// remove takes s, which is at the head, off the queue.
func (o *outbox) remove(s *segment) {
	o.left += uint64(s.frames + s.gone)
	o.cost -= s.cost()
	if s.large != nil {
		o.finish(s, nil)
	}
	if s.chunk != nil {
		s.chunk.pool.Put(s.chunk)
	}
	*s = segment{}
	o.head++
}

// offer queues a message of a broadcast if there is a connection with room,
// and never waits. frame, if it is not nil, is the message as a frame that
// all clients share.
func (o *outbox) offer(msgType int, data, frame []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.err != nil:
		return o.err
	case o.phase != joined || o.broken:
		return o.notConnected()
	case !o.hasRoom(len(data)):
		return ErrFull
	case frame != nil:
		o.push(segment{body: frame, frames: 1})
	default:
		o.append(msgType, data)
	}
	o.messages++
	o.bytes += uint64(len(data))
	if !o.flushing {
		o.startFlush()
	}
	return nil
}

// attach gives the outbox a connection. It drops the messages that are over
// the limit of the new peer, and returns an error for each.
func (o *outbox) attach(l *link) []error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.phase = joined
	o.link = l
	before := o.max
	o.max = l.dec.max
	o.overhead = 0
	if l.sealer.crypt != nil {
		o.overhead = sealOverhead
	}
	var tooLarge []error
	if len(o.queue) > 0 && o.max < before {
		tooLarge = o.dropTooLarge()
	}
	if o.flushable() {
		o.startFlush()
	}
	o.changed.wake()
	return tooLarge
}

// dropTooLarge removes the frames over the limit from the queue.
func (o *outbox) dropTooLarge() (errs []error) {
	for i := range o.queue[o.head:] {
		s := &o.queue[o.head+i]
		o.cost -= s.cost()
		kept := s.body[:0:0]
		for b := s.body; len(b) > 0; {
			n := frameSize(b)
			if size := n - headerSize; size <= o.max {
				kept = append(kept, b[:n]...)
			} else {
				s.frames--
				s.gone++
				errs = append(errs, detailf(ErrMsgTooLarge,
					"queued message of %d bytes dropped: the new server's maximum message length is %d", size, o.max))
			}
			b = b[n:]
		}
		if len(kept) < len(s.body) {
			s.body, s.chunk = kept, nil
		}
		o.cost += s.cost()
	}
	return errs
}

// detach takes the connection away. It returns when the last flush on it has,
// and only then may another be attached.
func (o *outbox) detach(l *link) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.phase = parted
	o.link = nil
	o.losses++
	o.changed.wake()
	for o.flushing {
		o.wait(nil)
	}
	l.sealer.drop()
	o.broken = false
	o.bounded = false
	for i := o.head; i < len(o.queue); i++ {
		s := &o.queue[i]
		switch {
		case s.large == nil:
		case o.keep && i == o.head && o.off > 0:
			o.adopt(s)
		default:
			err := s.large.cancel
			if err == nil {
				err = o.notConnected()
			}
			s.vacate()
			o.finish(s, err)
		}
	}
	o.off = 0
	if !o.keep {
		o.unsent = o.drop()
	}
	o.settle(0) // withdrawn messages at the head are nothing to flush
}

// drop empties the queue and returns how many messages were in it.
func (o *outbox) drop() int {
	n, from := 0, o.left
	for o.head < len(o.queue) {
		s := &o.queue[o.head]
		n += s.frames
		o.remove(s)
	}
	if n > 0 {
		o.lostFrom, o.lostTo = from, o.left
	}
	o.off = 0
	o.settle(0)
	return n
}

// refuse ends the acceptance of messages. Writes that wait fail with err, and
// large ones of which nothing has left.
func (o *outbox) refuse(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	for i := o.head; i < len(o.queue); i++ {
		if m := o.queue[i].large; m != nil {
			o.withdraw(m, err)
		}
	}
	o.changed.wake()
}

// drain waits until everything is with the kernel, the connection is lost, or
// late is closed.
func (o *outbox) drain(late <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for (o.flushing || o.flushable()) && o.wait(late) {
	}
}

// end drops what is left, once there is no connection any more.
func (o *outbox) end() (unsent int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.drop()
}

// lastUnsent returns how many messages the last connection took with it.
func (o *outbox) lastUnsent() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.unsent
}

// refused returns why nothing is accepted any more, or nil.
func (o *outbox) refused() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// flushed waits until everything accepted before is with the kernel.
func (o *outbox) flushed(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	for target := o.entered; ; {
		switch {
		case o.lostFrom < target && target <= o.lostTo:
			if o.err != nil {
				return o.err
			}
			return detailf(ErrNotConnected, "messages were dropped with their connection")
		case o.left >= target:
			return nil
		}
		if !o.wait(ctx.Done()) {
			return ctx.Err()
		}
	}
}
