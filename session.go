package ipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// session is what Server and Client share: one end of an exchange of messages
// that may outlive its connection. It has the status, the events, what is
// unread and what is unsent. Which connection it has is decided by its owner:
// Client.run, or the goroutine of a Server that serves a connection.
//
// A connection comes with attach and goes in three steps:
//
//	conn.fail  a goroutine that notices the end (the reader, a flush that could
//	           not write, Close) records it, and wakes the connection's own
//	           goroutine
//	retire     that goroutine waits until no goroutine reads, closes the
//	           connection, and waits until none flushes
//	detach     the owner says what the loss means: Disconnected, Reconnecting …
//
// Lock order: a goroutine that holds one of these mutexes may lock those to the
// right of it.
//
//	listening.acceptMu → session.mu → outbox.mu, ServerManager.mu, admission.mu
//
// No mutex is held while a goroutine waits or user code runs, but for the
// methods of a net.Conn that set deadlines, and Err of a Context.
type session struct {
	socket string // for errors and the log
	log    *slog.Logger
	id     int           // of a client's Server in MultiMode
	misuse error         // what writing and Peer return on a MultiMode server
	noRead error         // what reading returns there, and where a Handler reads
	direct bool          // callers of Read read the socket themselves
	delay  time.Duration // see loopDelay
	out    outbox
	answer atomic.Bool // the newest message has been read, and not been answered

	mu      sync.Mutex // guards what follows, up to the blank line
	status  Status
	in      inbox
	changed signal // of the inbox, the connection, the reader's role, or the end
	conn    *conn  // nil while there is none
	reads   uint64 // calls of Read, to see whether the program reads
	full    bool   // the inbox had no room for what could be read
	closing bool   // Close has begun
	err     error  // the end: what every call returns once the inbox is empty
	stats   counts

	handling handling
	asking   *asking // nil before the first request; mu guards it, and what is in it
	spares   *spares // does not change

	flushFunc func() // outbox.flush, stored once so that starting it allocates nothing

	// In a manager: who is told that the inbox has turned non-empty. listed
	// says that the manager knows, until it is through with the inbox; it and
	// drained are guarded by mu.
	manager *ServerManager
	server  *Server
	listed  bool
	drained func() // called once, when the messages of a client that has left are read
}

// spares has what is used again by a Server and all its clients, or by a Client:
// timers and channels belong to one synctest bubble.
type spares struct {
	watches sync.Pool // of *watch
	calls   sync.Pool // of *call
}

// init prepares s, which must not move afterwards.
func (s *session) init(socket string, log *slog.Logger, status Status) {
	s.socket = socket
	s.log = log
	s.status = status
	s.flushFunc = func() { s.out.flush(nil) }
	s.out.session = s
}

// Status returns the status as text.
func (s *session) Status() string { return s.StatusCode().String() }

// StatusCode returns the status. It is that of the newest event but for Error,
// which need not have been read yet; Listening and Closing have no event. A Server
// whose client can no longer be written to is Connected for up to 100 ms more, while
// what that client had sent is read; see Write.
func (s *session) StatusCode() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Peer returns the process at the other end of the connection, as the kernel
// reports it. It is [ErrNotConnected] while there is no connection,
// [ErrMultiMode] on a MultiMode server, and matches [errors.ErrUnsupported]
// where the kernel does not tell. In single mode the process may be another one
// than the sender of the message that was read last.
func (s *session) Peer() (Peer, error) {
	if s.misuse != nil {
		return Peer{}, s.explain("peer", s.misused(s.misuse))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return Peer{}, s.explain("peer", detailf(ErrNotConnected, "no peer under current status: %s", s.status))
	}
	return s.conn.peer.peer, s.explain("peer", s.conn.peer.err)
}

// Stats returns the counts since the start. Those of a MultiMode server are the
// sums over all its clients.
func (s *session) Stats() Stats {
	s.mu.Lock()
	stats := s.stats.public(s.asking)
	s.mu.Unlock()
	stats.MessagesOut, stats.BytesOut = s.out.accepted()
	return stats
}

// misused returns the error of a call that this session does not have, which is
// misuse, and its end if that has come.
func (s *session) misused(misuse error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return detailf(errors.Join(misuse, s.err), "%v (closed)", misuse)
	}
	return misuse
}

// explain adds to err what was being done, and with which socket.
func (s *session) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	if err == s.out.refused() {
		return err // which says it already
	}
	return fmt.Errorf("ipc: %s %s: %w", op, s.name(), err)
}

// name returns the name of this session, for errors.
func (s *session) name() string {
	if s.id == 0 {
		return s.socket
	}
	return fmt.Sprintf("%s client %d", s.socket, s.id)
}

func (s *session) logf(level slog.Level, msg string, attrs ...slog.Attr) {
	logEvent(s.log, level, msg, s.socket, s.id, attrs...)
}

// notify tells all that may wait for it that there is something to read: the
// callers of Read, and the Handler or the manager.
func (s *session) notify() {
	s.answer.Store(false)
	s.changed.wake()
	switch {
	case s.handling.call != nil:
		s.startHandling()
	case s.manager != nil && !s.listed:
		s.listed = true
		s.manager.enqueue(s.server)
	}
}

// event queues an event, and sets the status that it reports.
func (s *session) event(status Status, err error) {
	if status != Error {
		s.status = status
	}
	s.in.addEvent(Message{Err: err, MsgType: eventType, Status: status.String()})
	s.notify()
	s.asking.wakeAll() // the connection or the end may be what a Request waits for
}

// attach makes c the session's connection, and reports whether one is still
// wanted.
func (s *session) attach(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.err != nil {
		return false
	}
	c.start(s)
	s.conn = c
	s.event(Connected, nil)
	for _, err := range s.out.attach(c) {
		s.event(Error, s.explain("resend to", err))
	}
	return true
}

// detach takes away a connection that has been retired, and reports what was
// wrong with it if it did not just end. mu is held.
func (s *session) detach(c *conn) {
	s.conn = nil
	s.unwatchHandler()
	c.endExchange()
	reason := c.err
	if c.writeErr != nil {
		reason = c.writeErr // came first
	}
	if errors.Is(reason, ErrProtocol) || errors.Is(reason, ErrTimeout) {
		s.event(Error, s.explain("connection to", reason))
	}
}

// final returns err, of a connection that is lost, which is the end of the Server
// of a client.
func (s *session) final(err error) error {
	if s.id == 0 {
		return err
	}
	return detailf(errors.Join(err, ErrClosed), "%v: the connection to this client has ended", err)
}

// closed is what calls return after Close.
func (s *session) closed() error { return fmt.Errorf("ipc: %s: %w", s.name(), ErrClosed) }

// beginClose is the start of Close: no connection and no message is accepted
// any more.
func (s *session) beginClose(end error) {
	s.mu.Lock()
	s.closing = true
	if s.err == nil {
		s.status = Closing
	} else {
		end = s.err // which came first
	}
	s.out.refuse(end)
	s.asking.wakeAll()
	s.mu.Unlock()
}

// hangUp is the first step of the end, the signal: it lets what was accepted be
// sent, until ctx ends, and then ends the connection. It returns that
// connection, nil if there was none. beginClose comes before it.
func (s *session) hangUp(ctx context.Context, end error) *conn {
	s.out.drain(ctx.Done())
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil {
		c.end(ctx, end)
	}
	return c
}

// awaitLoss is the second step of the end: it waits until the connection that
// hangUp returned is gone, and returns how many accepted messages the kernel
// has not taken. finish comes after it.
func (s *session) awaitLoss(c *conn) (unsent int) {
	if c != nil {
		<-c.done
	}
	return s.out.end(c != nil)
}

// unsentError is what Close returns.
func (s *session) unsentError(unsent int) error {
	if unsent == 0 {
		return nil
	}
	return fmt.Errorf("ipc: close %s: %d accepted messages could not be sent", s.name(), unsent)
}

// finish records the terminal error of Close, if the session has not ended
// before.
func (s *session) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.event(Closed, nil)
	}
}

// closeFlush bounds the time that Close spends on sending what was accepted.
const closeFlush = time.Second

// signal wakes all goroutines that wait for a change of what a mutex guards.
// The mutex is held for both calls.
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
