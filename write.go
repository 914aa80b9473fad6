package ipc

import (
	"context"
	"sync"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// Write sends a message of type msgType, 1 to 2147483647, and returns when it
// is accepted: queued, in order, and sent as soon as possible. It copies data,
// which the caller may use again at once. A program that exits then, without Close
// or Flush, loses what is still queued, which may be all of it.
//
// It waits while the outbox (4 MiB) has no room, and on a Server that has not
// had its first client yet, for the client. A message of 32 KiB or more is not
// copied: Write then returns when the kernel has all of it.
//
// Errors: [ErrReservedType], [ErrMsgTooLarge]; [ErrNotConnected] if the connection
// is lost, also while Write waits for room, and on a Server between two clients;
// the error that Read ends with, such as [ErrClosed], once this Server or Client is
// finished; [ErrMultiMode] on a MultiMode server. On the Server of a client in
// MultiMode that leaves, or has left, the error matches both ErrNotConnected and
// ErrClosed. With an error nothing was sent.
//
// A Server notices that its client has gone when writing fails. From then on Write
// returns its error, while the status is still Connected and Read still returns what
// the client had sent, for 100 ms at most; then comes the event Disconnected.
//
// What was accepted is sent once, in order. A Client keeps what the kernel has
// not taken whole when the connection is lost, and sends it after the
// reconnect, unless it is over the new server's MaxMsgSize, which an Error event
// tells; what the kernel had taken and the server had not read is lost with the
// server. A Server drops what it had accepted for a client that left:
// the next one may be another.
func (s *session) Write(msgType int, data []byte) error {
	return s.write(context.Background(), waitForFirst, msgType, data)
}

// WriteContext is Write, but waits until ctx ends for a connection and for
// room, and then returns ctx.Err(), with nothing sent. Once the first bytes of
// a large message have left, ctx no longer ends it: the rest is copied, and it
// counts as accepted. Over TLS, and on Windows, the connection is lost with it then,
// since writes cannot be interrupted there: a Client sends the message again, and
// on a Server it is lost with the connection.
func (s *session) WriteContext(ctx context.Context, msgType int, data []byte) error {
	return s.write(ctx, waitReconnect, msgType, data)
}

// Flush returns when everything accepted before has been given to the kernel, or
// ctx.Err() when ctx ends. It does not tell whether the peer has read it. While the
// connection of a Client is lost it waits for the next one, if anything is queued.
// On a Server it returns [ErrNotConnected] if the client left before the kernel had
// everything. A Client keeps its messages then, but not its replies to requests: it
// returns ErrNotConnected if one of them was lost with the connection.
func (s *session) Flush(ctx context.Context) error {
	return s.explain("flush", s.out.awaitSent(ctx))
}

func (s *session) write(ctx context.Context, p patience, msgType int, data []byte) error {
	if err := checkType(msgType); err != nil {
		return s.explain("write", err)
	}
	if s.misuse != nil {
		return s.explain("write", s.misused(s.misuse))
	}
	answers := s.answer.Load() && s.answer.CompareAndSwap(true, false)
	if err := s.out.write(ctx, p, msgType, data, answers); err != nil {
		if err == ctx.Err() {
			return err
		}
		return s.explain("write", err)
	}
	return nil
}

func checkType(msgType int) error {
	switch {
	case msgType > 0 && int64(msgType) <= wire.MaxType:
		return nil
	case msgType == 0:
		return ErrReservedType
	}
	return detailf(ErrReservedType, "message type %d is reserved: want 1 to %d", msgType, wire.MaxType)
}

// outbox accepts messages and keeps their order. Its queue has what the kernel
// does not have yet; flush.go gives it to the kernel.
//
// mu guards all fields but the first two, which do not change.
type outbox struct {
	session *session // for what a failed flush sets off
	resend  bool     // what a lost connection has not sent goes to the next one

	mu      sync.Mutex
	changed signal // of anything that a goroutine waits for here

	phase  phase
	conn   *conn  // nil unless phase is connected
	losses uint64 // of connections
	max    int    // largest Data; a Client learns it from its server
	err    error  // why nothing is accepted any more

	queue    sendQueue
	flushing bool      // a flush is under way: at most one
	broken   bool      // a write on conn has failed
	deadline time.Time // the write deadline of conn, as last set
	late     bool      // it has passed in the last write, which yet has taken something

	waits   map[*sentWait]struct{} // calls of Flush
	dropSeq uint64                 // queue.queuedSeq when messages were last dropped
	unsent  int                    // messages that the last connection took with it
}

// phase is what a Write finds.
type phase uint8

const (
	notYet    phase = iota // Write waits for the first connection
	connected              //
	lost                   // Write fails, WriteContext waits
)

// patience says which connection a Write waits for.
type patience bool

const (
	waitForFirst  patience = false
	waitReconnect patience = true
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
	alone := o.queue.empty()
	o.queue.append(msgType, data)
	switch {
	case o.flushing || o.broken:
	case answers && alone && o.conn.raw != nil:
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
		case (o.phase == connected || !o.resend) && size > o.max:
			return tooLarge(size, o.max)
		case p == waitForFirst && (o.phase == lost || o.losses != losses || o.broken && !o.resend):
			return o.lostError()
		case o.phase == connected && (o.resend || !o.broken) && (size >= largeSize || o.queue.hasRoom(size)):
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

// notConnected says that nothing can be written to this connection, or that there
// is none.
func (o *outbox) notConnected() error {
	status := Disconnected
	switch {
	case o.phase == connected: // what has come is still read
		return detailf(ErrNotConnected, "cannot write under current status: %s: a write to the connection has failed", Connected)
	case o.resend:
		status = ReConnecting
	}
	return detailf(ErrNotConnected, "cannot write under current status: %s", status)
}

// lostError is notConnected for the caller of a Write. To the Server of a client no
// other connection will come, so the error matches ErrClosed before that client has
// left as it does afterwards.
func (o *outbox) lostError() error { return o.session.final(o.notConnected()) }

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

// writeLarge queues a message without copying it, and returns when it has
// left the queue.
func (o *outbox) writeLarge(ctx context.Context, msgType int, data []byte) error {
	m := o.queue.appendLarge(msgType, data)
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.cancel(m, ctx.Err())
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

// cancel takes m, if it is still queued, back for the reason err, unless some
// of it has left.
func (o *outbox) cancel(m *large, err error) {
	q := &o.queue
	for i := q.head; i < len(q.segs); i++ {
		if q.segs[i].large != m {
			continue
		}
		if i < q.head+q.flight {
			// How much has left is known when the flush is back.
			m.cancel = err
			o.setDeadline(longAgo)
			return
		}
		if i == q.head && q.off == 0 && o.conn != nil {
			o.conn.out.sealer.discard()
		}
		q.withdraw(i, err)
		return
	}
}

// offer queues a message of a broadcast if there is a connection with room,
// and never waits. frame, if it is not nil, is the message as a frame that
// all clients share.
func (o *outbox) offer(msgType int, data, frame []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.err != nil && o.session.id == 0:
		return o.err
	case o.err != nil: // the client's Server is closed: that of the call is not
		return detailf(ErrNotConnected, "cannot write under current status: %s", Disconnected)
	case o.phase != connected || o.broken:
		return o.notConnected()
	case !o.queue.hasRoom(len(data)):
		return ErrFull
	case frame != nil:
		o.queue.appendFrame(frame, len(data))
	default:
		o.queue.append(msgType, data)
	}
	if !o.flushing {
		o.startFlush()
	}
	return nil
}

// attach gives the outbox a connection, to which it sends what a lost one has
// not taken. It drops the messages that are over the limit of the new peer, and
// returns an error for each.
func (o *outbox) attach(c *conn) []error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.phase = connected
	o.conn = c
	before := o.max
	o.max = c.in.recv.dec.MaxMsgSize
	o.queue.overhead = 0
	if c.out.sealer.cipher != nil {
		o.queue.overhead = wire.SealOverhead
	}
	var dropped []error
	if o.max < before {
		for _, size := range o.queue.dropLarger(o.max) {
			dropped = append(dropped, detailf(ErrMsgTooLarge,
				"queued message of %d bytes dropped: the new server's maximum message length is %d", size, o.max))
		}
	}
	if o.flushable() {
		o.startFlush()
	}
	o.changed.wake()
	return dropped
}

// detach takes the connection away. It returns when the last flush on it has,
// and only then may another be attached. Control frames go with the connection; the
// ids of requests among them, which have not been sent, are returned.
func (o *outbox) detach(c *conn) (requests map[uint64]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.phase = lost
	o.conn = nil
	o.losses++
	o.changed.wake()
	for o.flushing {
		o.wait(nil)
	}
	c.out.sealer.discard()
	o.broken = false
	o.deadline = time.Time{}
	o.late = false
	o.queue.restart(o.resend, o.lostError())
	sent := o.queue.sentSeq
	requests, o.unsent = o.queue.dropControl()
	if o.unsent > 0 {
		o.markDropped(sent)
		if o.resend {
			o.dropSeq = 0 // a later Flush is for the next connection
		}
	}
	if !o.resend {
		o.unsent += o.drop()
	}
	o.queue.advance(0) // withdrawn messages at the head are nothing to flush
	o.changed.wake()
	return requests
}

// drop empties the queue and returns how many messages were in it.
func (o *outbox) drop() int {
	sent := o.queue.sentSeq
	n := o.queue.drop()
	if n > 0 {
		o.markDropped(sent)
	}
	o.changed.wake()
	return n
}

// markDropped tells the calls of Flush that something was dropped which came after
// the first sent frames.
func (o *outbox) markDropped(sent uint64) {
	o.dropSeq = o.queue.queuedSeq
	for w := range o.waits {
		w.dropped = w.dropped || sent < w.target
	}
}

// refuse ends the acceptance of messages. Writes that wait fail with err, and
// large ones of which nothing has left.
func (o *outbox) refuse(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	for i := o.queue.head; i < len(o.queue.segs); i++ {
		if m := o.queue.segs[i].large; m != nil {
			o.cancel(m, err)
		}
	}
	o.changed.wake()
}

// refused returns why nothing is accepted any more, or nil.
func (o *outbox) refused() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// accepted returns how many messages, and bytes of them, have been accepted.
func (o *outbox) accepted() (messages, bytes uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queue.messages, o.queue.bytes
}

// drain waits until everything is with the kernel, the connection is lost, or
// late is closed.
func (o *outbox) drain(late <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for (o.flushing || o.flushable()) && o.wait(late) {
	}
}

// end drops what is left, once there is no connection any more. It returns how
// many messages that were and, with last, those that the last connection took
// with it.
func (o *outbox) end(last bool) (unsent int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	unsent = o.drop()
	if last {
		unsent += o.unsent
	}
	return unsent
}

// sentWait is a call of Flush.
type sentWait struct {
	target  uint64 // it waits until as many frames have left the queue
	dropped bool   // some of them were dropped
}

// awaitSent waits until everything accepted before is with the kernel.
func (o *outbox) awaitSent(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	w := &sentWait{target: o.queue.queuedSeq}
	w.dropped = w.target > 0 && w.target == o.dropSeq
	if o.waits == nil {
		o.waits = make(map[*sentWait]struct{})
	}
	o.waits[w] = struct{}{}
	defer delete(o.waits, w)
	for {
		switch {
		case w.dropped && o.err != nil:
			return o.err
		case w.dropped:
			return detailf(ErrNotConnected, "messages were dropped with their connection")
		case o.queue.sentSeq >= w.target:
			return nil
		}
		if !o.wait(ctx.Done()) {
			return ctx.Err()
		}
	}
}
