package ipc

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sched"
)

const (
	// loopDelay is how long no goroutine may call Read, or a Handler may run,
	// before the connection is read by a goroutine of its own, so that a loss is
	// noticed and the inbox fills up.
	loopDelay = 20 * time.Millisecond

	// yieldAfter is how long a reader with BusyPoll tries before it lets other
	// threads have the processor each time: the peer may be one of them. Sooner
	// would keep two that can have a processor each on one.
	yieldAfter = 20 * time.Microsecond

	// maxEmptyReads is how many reads in a row may return nothing before they
	// count as io.ErrNoProgress.
	maxEmptyReads = 100
)

// Read returns the next message or event. It waits for one without a limit.
//
// An error means that this Server or Client is finished, and it is the same
// error every time: [ErrClosed] after Close, [ErrTimeout] after a Client could
// not reconnect in time. What goes wrong without ending it is an event with
// Status "Error". On a MultiMode server it is [ErrMultiMode].
//
// Any number of goroutines may call it at once; each message goes to one.
func (s *session) Read() (*Message, error) {
	return s.next(waitLimit{})
}

// ReadTimed is Read for at most d: if nothing came, it returns onTimeout, or
// [TimeoutMessage] if that is nil, and no error. What comes later is not lost:
// the next call returns it. With d of 0 or less it returns at once.
func (s *session) ReadTimed(d time.Duration, onTimeout *Message) (*Message, error) {
	m, err := s.next(waitLimit{timed: true, d: d})
	if err == errExpired {
		if onTimeout == nil {
			onTimeout = TimeoutMessage
		}
		return onTimeout, nil
	}
	return m, err
}

// ReadContext is Read until ctx ends; it then returns ctx.Err(). The
// connection is not touched by that, and nothing is lost.
func (s *session) ReadContext(ctx context.Context) (*Message, error) {
	return s.next(waitLimit{ctx: ctx})
}

// Messages returns an iterator over what ReadContext returns: messages and
// events with a nil error and, last, the error that ended it with a nil
// message.
func (s *session) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m, err := s.ReadContext(ctx)
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// next returns the next message or event.
func (s *session) next(limit waitLimit) (*Message, error) {
	if s.noRead != nil {
		return nil, s.explain("read", s.misused(s.noRead))
	}
	if limit.ctx != nil && limit.ctx.Err() != nil {
		return nil, limit.ctx.Err()
	}
	s.mu.Lock()
	s.reads++
	if m := s.pop(); m != nil {
		s.mu.Unlock()
		return m, nil
	}
	defer s.mu.Unlock()
	for {
		if err := s.waitFor(&limit, nil, nil, func() bool { return !s.in.empty() }); err != nil {
			return nil, err
		}
		if m := s.pop(); m != nil {
			return m, nil
		}
	}
}

// pop takes the next message or event from the inbox. Requests that have been
// cancelled meanwhile are skipped. mu is held.
func (s *session) pop() *Message {
	for {
		m := s.popAny()
		if m == nil || m.lease == nil || !m.lease.request.isOver() {
			return m
		}
		m.Release()
	}
}

func (s *session) popAny() *Message {
	if m := s.in.popInner(); m != nil {
		return m
	}
	m := s.in.pop()
	if m == nil {
		return nil
	}
	if s.in.empty() {
		s.answer.Store(true)
	}
	s.roomMade()
	s.checkDrained()
	return m
}

// checkDrained tells, once, that no message of a client that has left is unread,
// and none is being handled. mu is held.
func (s *session) checkDrained() {
	if s.drained != nil && !s.handling.busy && s.in.hasEventsOnly() {
		s.drained()
		s.drained = nil
	}
}

// role says which goroutine reads a connection.
type role uint8

const (
	none   role = iota
	caller      // a goroutine in waitFor: the kernel wakes the one that waits
	loop        // the connection's own goroutine
)

// reader decides which goroutine reads a connection, and reads. A goroutine
// acquires the role for one read, and releases it after that:
//
//	        acquire           acquire
//	caller ◄─────── none ──────────────► loop
//	       ───────►      ◄──────────────
//	        release           release
//
// Where the connection is direct, callers read. A caller that finds the role
// taken by the loop interrupts it, and by another caller, waits; each release
// wakes all that wait.
//
// The loop reads when it may: always where the connection is not direct, and
// otherwise once no goroutine has called Read for loopDelay, until one does. It
// sleeps without the role, so a full inbox keeps no caller from reading. It is
// woken by wakeLoop, and by the timer, which runs when callers have left: see
// rearm.
//
// session.mu guards the fields up to the first blank line; those of the next
// block do not change, and the rest belongs to the goroutine with the role.
type reader struct {
	role     role
	deadline int64  // the read deadline of the connection, as last set, in ns since 1970; 0 is none
	idle     bool   // no goroutine has called Read for loopDelay
	timing   bool   // the timer runs
	seen     uint64 // session.reads when it was started
	woken    signal // of the loop
	settled  bool   // a frame has come that is no control frame

	conn   *conn
	direct bool        // callers may read: session.direct, where the connection allows it
	timer  *time.Timer // nil if the connection is not direct

	recv     recvBuffer
	busyPoll time.Duration
	fresh    bool // a frame has come since the last busyRead
}

// acquire takes the role. It must be none.
func (r *reader) acquire(role role) { r.role = role }

// release gives the role back, and wakes those that wait for it.
func (r *reader) release() {
	r.role = none
	r.conn.session.changed.wake()
	if r.direct && !r.idle {
		r.rearm()
	}
}

// rearm has the loop read in time if no caller does. It follows each time that a
// caller has, or may have, left.
func (r *reader) rearm() {
	switch {
	case r.role != none:
	case r.conn.err != nil || r.conn.writeErr != nil:
		r.wakeLoop() // at once
	default:
		r.startTimer()
	}
}

// interrupt makes the goroutine that reads return without a message. It then
// looks at what it waits for, and may read again: an interrupt that comes late,
// and hits another goroutine, costs no more than that.
func (r *reader) interrupt() {
	if r.conn.raw != nil && r.role != none {
		r.setDeadline(longAgo)
	}
}

// setDeadline sets the read deadline if it is another one.
func (r *reader) setDeadline(t time.Time) {
	ns := int64(0) // a time.Time would be 16 bytes more for each idle connection
	if !t.IsZero() {
		ns = t.UnixNano()
	}
	if ns != r.deadline {
		r.deadline = ns
		r.conn.netConn.SetReadDeadline(t) // fails only on a closed connection
	}
}

// wakeLoop makes the loop look at the state, if it sleeps.
func (r *reader) wakeLoop() { r.woken.wake() }

// startTimer starts the time after which the loop reads if no caller does.
func (r *reader) startTimer() {
	if !r.timing {
		r.timing = true
		r.seen = r.conn.session.reads
		r.timer.Reset(r.conn.session.delay)
	}
}

// readAsCaller reads once in the caller's goroutine, up to limit. A poll does
// not wait.
func (r *reader) readAsCaller(limit *waitLimit, poll bool) {
	r.acquire(caller)
	r.idle = false
	deadline := limit.deadline
	if poll {
		deadline = time.Time{} // one that has passed would keep it from looking
	}
	if ctx := limit.ctx; ctx != nil && ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			r.conn.session.mu.Lock()
			defer r.conn.session.mu.Unlock()
			r.interrupt()
		})
		defer stop()
	}
	r.read(deadline, !poll)
	r.idle = false // however long it took
	r.conn.session.yield()
	r.release()
}

// loop reads for as long as the connection lives, whenever it may, and calls the
// Handler, if there is one. It is run by the connection's own goroutine, with
// session.mu, and reports whether that still is the connection's own.
func (r *reader) loop() (own bool) {
	s := r.conn.session
	for r.conn.err == nil {
		switch {
		case s.handling.wants(&s.in):
			if !r.conn.handOver(nil) {
				return false
			}
		case !r.loopMayRead():
			s.offerReader()
			r.sleep()
		case s.handling.call != nil && !s.handling.busy:
			r.acquire(loop)
			got := r.readLent()
			r.release()
			if got.messages > 0 && !r.conn.handOver(&got) {
				return false
			}
		default:
			r.acquire(loop)
			r.read(time.Time{}, true)
			r.release()
		}
	}
	return true
}

// loopMayRead reports whether the loop should read now. If a full inbox is what
// keeps it from that, pop wakes it.
func (r *reader) loopMayRead() bool {
	s := r.conn.session
	if r.role != none || r.direct && !r.idle && r.conn.writeErr == nil {
		return false
	}
	return s.checkRoom()
}

// sleep waits, without session.mu, until the loop is woken or the timer fires.
func (r *reader) sleep() {
	s := r.conn.session
	var fired <-chan time.Time
	if r.timer != nil {
		fired = r.timer.C
	}
	woken := r.woken.wait()
	s.mu.Unlock()
	select {
	case <-woken:
		s.mu.Lock()
	case <-fired:
		s.mu.Lock()
		r.timing = false
		if r.idle = r.seen == s.reads; !r.idle {
			r.startTimer()
		}
	}
}

// quiesce waits, without session.mu, until no goroutine reads. It is called by
// the connection's own one when the connection has ended.
func (r *reader) quiesce() {
	s := r.conn.session
	for r.role != none {
		changed := s.changed.wait()
		s.mu.Unlock()
		<-changed
		s.mu.Lock()
	}
	if r.timer != nil {
		r.timer.Stop()
	}
}

// read reads once, without session.mu, and adds what came to the inbox. With
// wait it waits until deadline. The goroutine has the role.
func (r *reader) read(deadline time.Time, wait bool) error {
	s := r.conn.session
	if r.conn.raw != nil {
		r.setDeadline(deadline)
	}
	s.mu.Unlock()
	got, err := r.fill(wait)
	s.mu.Lock()
	r.enqueue(got, err)
	r.recv.release()
	return err
}

// readLent is read for the Handler: what came is not added to the inbox.
func (r *reader) readLent() lentBatch {
	s := r.conn.session
	if r.conn.raw != nil {
		r.setDeadline(time.Time{})
	}
	s.mu.Unlock()
	var got lentBatch
	n, err := r.receive(true)
	if n > 0 {
		var cutErr error
		got, cutErr = r.recv.cut(n)
		r.fresh = r.busyPoll > 0 && got.count > 0
		err = cmp.Or(cutErr, err)
	}
	s.mu.Lock()
	count, applyErr := r.conn.apply(got.controls, got.messages)
	if applyErr != nil {
		got.messages, got.large = count, got.large && count > 0
		err = applyErr
	}
	r.count(got.controls, got.messages, got.bytes)
	r.recv.release() // and with it what holds got.controls, if there is no message
	r.failOn(err)
	return got
}

// count records what a read brought.
func (r *reader) count(controls []control, messages, bytes int) {
	r.settled = r.settled || messages > requests(controls)
	stats := &r.conn.session.stats
	stats.MessagesIn += uint64(messages)
	stats.BytesIn += uint64(bytes)
}

// failOn ends the connection if err, of a read, is the end of it.
func (r *reader) failOn(err error) {
	if err != nil && err != errNothingYet && (r.conn.raw == nil || !timedOut(err)) {
		r.conn.fail(err) // where raw is nil no deadline is ours
	}
}

// enqueue adds one read's messages to the inbox. An error of the connection
// ends it.
func (r *reader) enqueue(got batch, err error) {
	s := r.conn.session
	if count, applyErr := r.conn.apply(got.controls, got.messages); applyErr != nil {
		got.truncate(count)
		err = applyErr
	}
	r.count(got.controls, got.messages, got.bytes)
	if got.messages > 0 {
		s.in.add(&got)
		s.notify()
	}
	clear(got.slabs) // the read buffer keeps the lists, not what is in them
	clear(got.controls)
	r.failOn(err)
}

// errNothingYet is what a read that does not wait returns when nothing has
// arrived.
var errNothingYet = errors.New("nothing has arrived")

// receive reads once. It waits for the first byte if wait is set, up to the read
// deadline. Without a byte there is an error.
func (r *reader) receive(wait bool) (n int, err error) {
	switch raw := r.conn.raw; {
	case raw == nil:
		n, err = readSome(r.conn.netConn, r.recv.free())
	case wait && r.fresh:
		n, err = r.busyRead()
	default:
		n, err = raw.read(&r.recv, wait)
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// fill reads once and decodes. What it returns with an error came before the
// error.
func (r *reader) fill(wait bool) (batch, error) {
	n, err := r.receive(wait)
	if n == 0 {
		return batch{}, err
	}
	got, decodeErr := r.recv.decode(n)
	r.fresh = r.busyPoll > 0 && got.frames > 0
	if decodeErr != nil {
		err = decodeErr
	}
	return got, err
}

// readSome is a Read that does not return 0 bytes without an error: by the
// rules of io.Reader that is not the end.
func readSome(conn net.Conn, b []byte) (n int, err error) {
	for range maxEmptyReads {
		if n, err = conn.Read(b); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// busyRead tries for as long as BusyPoll says, and only then waits. It looks at
// the deadline every time, so interrupt ends it as it ends a wait.
func (r *reader) busyRead() (int, error) {
	r.fresh = false
	for start := time.Now(); time.Since(start) < r.busyPoll; {
		if n, err := r.conn.raw.read(&r.recv, false); err != errNothingYet {
			return n, err
		}
		if time.Since(start) > yieldAfter {
			sched.Yield()
		}
	}
	return r.conn.raw.read(&r.recv, true)
}
