package ipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// endpoint is what Server and Client share: one end of a conversation that
// may outlive its connection. It reads, writes, and knows its status; what
// makes and replaces connections is the owner's business.
//
// A connection, a link here, comes with attach and goes in three steps:
//
//	fail       somebody notices that it is over (whoever reads, a flush that
//	           could not write, Close) and wakes the link's own goroutine
//	clearAway  that goroutine waits until nobody reads, closes it, and waits
//	           until nobody flushes
//	part       the owner then says what this means: Disconnected, Reconnecting …
//
// mu guards the status, the inbox, and the roles of the link; the outbox has a
// mutex of its own. Who needs several takes mu, then the outbox's or the
// manager's.
type endpoint struct {
	socket string // for errors and the log
	log    *slog.Logger
	id     int   // of a client's Server in MultiMode
	misuse error // what reading and writing return on a MultiMode server
	out    outbox
	answer atomic.Bool // the last message there was has been read, and not been answered

	mu      sync.Mutex
	status  Status
	in      inbox
	arrived signal // a message, an event, a link, room, the end, a free role
	link    *link  // nil while there is none
	reads   uint64 // calls of Read, to see whether callers are about
	callers int    // of Read that wait for the own goroutine's role
	full    bool   // the own goroutine waits for room
	closing bool   // Close has begun
	err     error  // the end: what every call returns once the inbox is empty
	stats   Stats

	flushFunc func() // flush, stored once so that starting it allocates nothing

	// In a manager: where the inbox's turning non-empty is told, once until
	// the manager is through with it.
	manager *ServerManager
	server  *Server
	listed  bool
	drained func() // called once the messages of a client that has left are read
}

// init prepares e, which must not move afterwards.
func (e *endpoint) init(socket string, log *slog.Logger, status Status, keep bool) {
	e.socket = socket
	e.log = log
	e.status = status
	e.flushFunc = func() { e.out.flush(nil) }
	e.out.owner = e
	e.out.keep = keep
}

// Read returns the next message or event, and waits for it as long as it
// takes.
//
// An error means that this Server or Client is finished, and it is the same
// error every time: [ErrClosed] after Close, [ErrTimeout] after a Client could
// not reconnect in time. What goes wrong without ending it is an event with
// Status "Error". On a MultiMode server it is [ErrMultiMode].
//
// Any number of goroutines may call it at once; each message goes to one.
func (e *endpoint) Read() (*Message, error) {
	return e.next(wait{})
}

// ReadTimed is Read for at most d: if nothing came, it returns onTimeout, or
// [TimeoutMessage] if that is nil, and no error. What comes later is not lost:
// the next call returns it. With d of 0 or less it returns at once.
func (e *endpoint) ReadTimed(d time.Duration, onTimeout *Message) (*Message, error) {
	m, err := e.next(wait{timed: true, d: d})
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
func (e *endpoint) ReadContext(ctx context.Context) (*Message, error) {
	return e.next(wait{ctx: ctx})
}

// Messages returns an iterator over what ReadContext returns: messages and
// events with a nil error and, last, the error that ended it with a nil
// message.
func (e *endpoint) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m, err := e.ReadContext(ctx)
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Write sends a message of type msgType, 1 to 2147483647, and returns when it
// is accepted: queued, in order, and sent without further ado. It copies data,
// which the caller may use again at once.
//
// It waits while the outbox (4 MiB) has no room, and on a Server that has not
// had its first client yet, for the client. A message of 32 KiB or more is not
// copied: Write then returns when the kernel has all of it.
//
// Errors: [ErrReservedType], [ErrMsgTooLarge]; [ErrNotConnected] while the
// connection is lost or between two clients, or once it is while Write waits;
// [ErrClosed] and others once this Server or Client is finished (with
// [ErrNotConnected], too, on the Server of a client that left); [ErrMultiMode] on a
// MultiMode server. With an error nothing was sent.
//
// What was accepted is sent once, in order. A Client keeps what the kernel has
// not taken whole when the connection is lost, and sends it after the
// reconnect, unless it is over the new server's MaxMsgSize, which an Error event
// tells; what the kernel had taken and the server had not read is lost with the
// server. A Server drops what it had accepted for a client that left:
// the next one may be somebody else.
func (e *endpoint) Write(msgType int, data []byte) error {
	return e.write(context.Background(), forFirst, msgType, data)
}

// WriteContext is Write, but waits until ctx ends for a connection and for
// room, and then returns ctx.Err(), with nothing sent. Once the first bytes of
// a large message have left, ctx no longer ends it: the rest is copied, and it
// counts as accepted. Over TLS the connection is lost with it then, since its
// writes cannot be interrupted: a Client sends the message again.
func (e *endpoint) WriteContext(ctx context.Context, msgType int, data []byte) error {
	return e.write(ctx, forAny, msgType, data)
}

// Flush returns when everything accepted before has been given to the kernel, or
// ctx.Err() when ctx ends. It does not tell whether the peer has read it. While the
// connection of a Client is lost it waits for the next one, if anything is queued.
// On a Server it is [ErrNotConnected] if the client left before it was given
// everything.
func (e *endpoint) Flush(ctx context.Context) error {
	return e.explain("flush", e.out.flushed(ctx))
}

// Status returns the status as text.
func (e *endpoint) Status() string { return e.StatusCode().String() }

// StatusCode returns the status. It is that of the newest event but for Error,
// which need not have been read yet; Listening and Closing have no event.
func (e *endpoint) StatusCode() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status
}

// Peer returns who is at the other end of the connection, as the kernel
// vouches for it. It is [ErrNotConnected] while there is none, [ErrMultiMode] on a
// MultiMode server, and matches [errors.ErrUnsupported] where the kernel does not
// tell. In single mode that need not be who sent the message read last.
func (e *endpoint) Peer() (Peer, error) {
	if err := e.misused(); err != nil {
		return Peer{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.link == nil {
		return Peer{}, e.explain("peer", detailf(ErrNotConnected, "no peer under current status: %s", e.status))
	}
	return e.link.peer.peer, e.explain("peer", e.link.peer.err)
}

// Stats returns the counts since the start. Those of a MultiMode server sum
// over all its clients.
func (e *endpoint) Stats() Stats {
	e.mu.Lock()
	s := e.stats
	e.mu.Unlock()
	e.out.mu.Lock()
	s.MessagesOut, s.BytesOut = e.out.messages, e.out.bytes
	e.out.mu.Unlock()
	return s
}

// misused returns what is wrong with a call for one client on this endpoint.
func (e *endpoint) misused() error {
	if e.misuse == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return fmt.Errorf("%w: %w", e.misuse, e.err)
	}
	return e.misuse
}

// explain adds to err what was being done, and with which socket.
func (e *endpoint) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	if err == e.out.refused() {
		return err // which says it already
	}
	return fmt.Errorf("ipc: %s %s: %w", op, e.name(), err)
}

// name says which endpoint this is, for errors.
func (e *endpoint) name() string {
	if e.id == 0 {
		return e.socket
	}
	return fmt.Sprintf("%s client %d", e.socket, e.id)
}

func (e *endpoint) logf(level slog.Level, msg string, attrs ...slog.Attr) {
	logEvent(e.log, level, msg, e.socket, e.id, attrs...)
}

// Reading.

// wait says how long a call of Read waits. The zero value is for ever.
type wait struct {
	ctx      context.Context
	timed    bool
	d        time.Duration
	deadline time.Time      // once start has been called
	manager  *ServerManager // whose Read it is, if it is for more than this client
}

// errExpired is the end of a timed wait.
var errExpired = errors.New("nothing came in time")

func (w *wait) start() {
	if w.timed {
		w.deadline = time.Now().Add(w.d)
	}
}

// over returns why the wait is over, or nil.
func (w *wait) over() error {
	if w.timed && (w.d <= 0 || !time.Now().Before(w.deadline)) {
		return errExpired
	}
	if w.ctx != nil {
		return w.ctx.Err()
	}
	return nil
}

// on waits for a or b, and reports whether it was a that ended the wait.
func (w *wait) on(a, b <-chan struct{}) bool {
	var timeout <-chan time.Time
	if w.timed {
		t := time.NewTimer(time.Until(w.deadline))
		defer t.Stop()
		timeout = t.C
	}
	var done <-chan struct{}
	if w.ctx != nil {
		done = w.ctx.Done()
	}
	select {
	case <-a:
		return true
	case <-b:
	case <-timeout:
	case <-done:
	}
	return false
}

// next returns the next message or event.
func (e *endpoint) next(w wait) (*Message, error) {
	if e.misuse != nil {
		return nil, e.explain("read", e.misused())
	}
	if w.ctx != nil && w.ctx.Err() != nil {
		return nil, w.ctx.Err()
	}
	e.mu.Lock()
	e.reads++
	if m := e.pop(); m != nil {
		e.mu.Unlock()
		return m, nil
	}
	defer e.mu.Unlock()
	w.start()
	for {
		if e.err != nil {
			return nil, e.err
		}
		over := w.over()
		poll := over == errExpired // looks once more
		if over == nil || poll {
			e.await(&w, poll)
		}
		if m := e.pop(); m != nil {
			return m, nil
		}
		if over != nil {
			return nil, over
		}
	}
}

// pop takes the next message or event from the inbox.
func (e *endpoint) pop() *Message {
	if m := e.in.popInner(); m != nil {
		return m
	}
	m := e.in.pop()
	if m == nil {
		return nil
	}
	if e.in.empty() {
		e.answer.Store(true)
	}
	if e.full && e.in.cost < inboxBound/2 {
		e.full = false
		e.arrived.wake()
	}
	if e.drained != nil && e.in.hasEventsOnly() {
		e.drained()
		e.drained = nil
	}
	return m
}

// await lets something happen that may bring a message: the caller reads the
// socket itself if it can, else it waits for whoever does. A poll does not
// wait.
func (e *endpoint) await(w *wait, poll bool) {
	l := e.link
	shared := l != nil && l.shared && l.err == nil
	switch {
	case shared && l.role == vacant:
		e.readAsCaller(l, w, poll)
	case poll:
	case shared && l.role == owner:
		e.awaitRole(l, w)
	default:
		e.awaitChange(w)
	}
}

// awaitRole waits for the own goroutine to leave its role, or for a message.
func (e *endpoint) awaitRole(l *link, w *wait) {
	e.callers++
	l.kick()
	e.awaitChange(w)
	e.callers--
	if l.role == vacant {
		e.offerRole(l)
	}
}

func (e *endpoint) awaitChange(w *wait) {
	changed := e.arrived.wait()
	e.mu.Unlock()
	defer e.mu.Lock()
	w.on(changed, nil)
}

// readAsCaller takes the reader's role for one read.
func (e *endpoint) readAsCaller(l *link, w *wait, poll bool) {
	l.role = caller
	if poll {
		l.setDeadline(time.Time{})
	} else {
		l.setDeadline(w.deadline)
	}
	l.turn++
	turn := l.turn
	if w.ctx != nil && w.ctx.Done() != nil {
		stop := context.AfterFunc(w.ctx, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if l.turn == turn && l.role == caller {
				l.kick()
			}
		})
		defer stop()
	}
	if w.manager == nil || w.manager.enter(l) {
		e.mu.Unlock()
		got, err := l.fill(!poll)
		e.mu.Lock()
		if w.manager != nil {
			w.manager.leave(l)
		}
		e.take(l, got, err)
		l.dec.rest()
	}
	l.role = vacant
	e.arrived.wake() // for those who wait for the role
	e.offerRole(l)
}

// offerRole sees to it that somebody takes the reader's role, which a caller
// does not want any more: the next one in time, or at once the own goroutine if
// callers wait for other clients, too.
func (e *endpoint) offerRole(l *link) {
	if e.manager == nil || e.manager.callReader(e.server) {
		l.watch(e.reads)
	} else {
		l.wakeOwner()
	}
}

// take takes in what a read of l brought. Whoever has the role calls it.
func (e *endpoint) take(l *link, got batch, err error) {
	l.frames += uint64(got.frames)
	if got.messages > 0 {
		e.in.add(&got)
		e.stats.MessagesIn += uint64(got.messages)
		e.stats.BytesIn += uint64(got.bytes)
		e.notify()
	}
	clear(got.slabs) // the read buffer keeps the list, not what is in it
	if err != nil && err != errNothingYet && (l.raw == nil || !timedOut(err)) {
		l.fail(err) // where raw is nil no deadline is ours
	}
}

// notify tells everybody who may wait that there is something to read.
func (e *endpoint) notify() {
	e.answer.Store(false)
	e.arrived.wake()
	if e.manager != nil && !e.listed {
		e.listed = true
		e.manager.enqueue(e.server)
	}
}

// event queues an event, and sets the status that it tells of.
func (e *endpoint) event(status Status, err error) {
	if status != Error {
		e.status = status
	}
	e.in.addEvent(Message{Err: err, MsgType: eventType, Status: status.String()})
	e.notify()
}

// serve is the own goroutine of l: it reads when no caller does, and returns
// when the link has ended and been cleared away.
func (e *endpoint) serve(l *link) {
	e.mu.Lock()
	if !l.shared {
		e.readAsOwner(l)
	}
	for l.err == nil {
		e.mu.Unlock()
		fired := false
		select {
		case <-l.idle.C:
			fired = true
		case <-l.poke:
		}
		e.mu.Lock()
		if fired {
			l.timed = false
		}
		switch {
		case l.err != nil || l.role != vacant:
		case fired && e.reads != l.seen:
			l.watch(e.reads)
		default:
			e.readAsOwner(l)
		}
	}
	e.mu.Unlock()
	e.clearAway(l)
}

// readAlone makes the own goroutine read, now that the manager's callers wait for
// other clients, too.
func (e *endpoint) readAlone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.link != nil {
		e.link.wakeOwner() // in vain if a caller reads, who will do it again
	}
}

// readAsOwner takes the reader's role until the link ends or a caller wants
// it.
func (e *endpoint) readAsOwner(l *link) {
	l.role = owner
	for l.err == nil && !(l.shared && e.callers > 0) {
		if !e.in.hasRoom() {
			e.full = true
			changed := e.arrived.wait()
			e.mu.Unlock()
			<-changed
			e.mu.Lock()
			continue
		}
		if l.raw != nil {
			l.setDeadline(time.Time{})
		}
		e.mu.Unlock()
		got, err := l.fill(true)
		e.mu.Lock()
		e.take(l, got, err)
		l.dec.rest()
	}
	l.role = vacant
	if l.shared {
		l.watch(e.reads)
	}
	e.arrived.wake()
}

// writeFailed is called by a flush that could not write to l. What has arrived
// may still be read; the end of that, or of lingerTime, ends the link.
func (e *endpoint) writeFailed(l *link, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l.err != nil || l.writeErr != nil {
		return
	}
	l.writeErr = err
	l.linger = time.AfterFunc(lingerTime, func() { e.end(l, err) })
	l.wakeOwner()
}

// end ends a link from outside, and wakes everybody who is busy with it.
func (e *endpoint) end(l *link, err error) {
	e.mu.Lock()
	l.fail(err)
	e.arrived.wake()
	e.mu.Unlock()
	l.hangUp()
}

// clearAway closes a link that has ended and takes it from the endpoint.
// Nobody reads or flushes any more when it returns.
func (e *endpoint) clearAway(l *link) {
	e.mu.Lock()
	for l.role != vacant {
		changed := e.arrived.wait()
		e.mu.Unlock()
		<-changed
		e.mu.Lock()
	}
	if l.linger != nil {
		l.linger.Stop()
	}
	if l.idle != nil {
		l.idle.Stop()
	}
	closed := errors.Is(l.err, ErrClosed)
	e.mu.Unlock()
	if closed && l.raw != nil {
		e.readRest(l)
	}
	l.conn.Close()
	e.out.detach(l)
	l.dec.reset()
}

// readRest takes in what had arrived before a Close, as far as there is room.
func (e *endpoint) readRest(l *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l.setDeadline(time.Time{})
	late := time.Now().Add(lingerTime) // a peer may send faster than we read
	for e.in.hasRoom() && time.Now().Before(late) {
		e.mu.Unlock()
		got, err := l.fill(false)
		e.mu.Lock()
		e.take(l, got, err)
		if err != nil {
			return
		}
	}
}

// attach makes l the endpoint's connection, and reports whether it is still
// wanted.
func (e *endpoint) attach(l *link) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || e.err != nil {
		return false
	}
	e.link = l
	e.event(Connected, nil)
	for _, err := range e.out.attach(l) {
		e.event(Error, err)
	}
	return true
}

// part takes away a link that has been cleared away, and tells what was wrong
// with it if it did not just end. mu is held.
func (e *endpoint) part(l *link) {
	e.link = nil
	reason := l.err
	if l.writeErr != nil {
		reason = l.writeErr // came first
	}
	if errors.Is(reason, ErrProtocol) || errors.Is(reason, ErrTimeout) {
		e.event(Error, e.explain("connection to", reason))
	}
}

// closed is what calls return after Close.
func (e *endpoint) closed() error { return fmt.Errorf("ipc: %s: %w", e.name(), ErrClosed) }

// beginClose lets nothing new in: neither a connection nor a message.
func (e *endpoint) beginClose(end error) {
	e.mu.Lock()
	e.closing = true
	if e.err == nil {
		e.status = Closing
	} else {
		end = e.err // which came first
	}
	e.mu.Unlock()
	e.out.refuse(end)
}

// shut sends what was accepted, until late is closed, ends the connection and
// returns how many messages the kernel has not taken. beginClose comes before
// it, finish after it.
func (e *endpoint) shut(late <-chan struct{}, end error) (unsent int) {
	e.out.drain(late)
	e.mu.Lock()
	l := e.link
	e.mu.Unlock()
	if l == nil {
		return e.out.end()
	}
	e.end(l, end)
	<-l.done
	return e.out.end() + e.out.lastUnsent()
}

// unsentError is what Close returns.
func (e *endpoint) unsentError(unsent int) error {
	if unsent == 0 {
		return nil
	}
	return fmt.Errorf("ipc: close %s: %d accepted messages could not be sent", e.name(), unsent)
}

// finish is the end of the endpoint, for the reason err, if it has not ended
// before.
func (e *endpoint) finish(status Status, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
		e.event(status, nil)
	}
	e.arrived.wake()
}

// Writing.

func (e *endpoint) write(ctx context.Context, p patience, msgType int, data []byte) error {
	if err := checkType(msgType); err != nil {
		return e.explain("write", err)
	}
	if e.misuse != nil {
		return e.explain("write", e.misused())
	}
	answers := e.answer.Load() && e.answer.CompareAndSwap(true, false)
	if err := e.out.write(ctx, p, msgType, data, answers); err != nil {
		if err == ctx.Err() {
			return err
		}
		return e.explain("write", err)
	}
	return nil
}

func checkType(msgType int) error {
	if msgType > 0 && int64(msgType) <= maxType {
		return nil
	}
	return reservedType(msgType)
}

func reservedType(msgType int) error {
	if msgType == 0 {
		return ErrReservedType
	}
	return detailf(ErrReservedType, "message type %d is reserved: want 1 to %d", msgType, maxType)
}

// signal wakes everybody who waits for a change of what a mutex guards. The
// mutex is held for both calls.
type signal chan struct{}

func (s *signal) wait() <-chan struct{} {
	if *s == nil {
		*s = make(chan struct{})
	}
	return *s
}

func (s *signal) wake() {
	if *s != nil {
		close(*s)
		*s = nil
	}
}
