package ipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"

	"github.com/joe-at-startupmedia/golang-ipc/internal/fifo"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// ReplyError is what [Message.ReplyError] sends, and Request returns for it.
type ReplyError struct {
	Code int    // the program's, 1 to 2147483647
	Text string // for people
}

// Error returns the text and the code.
func (e *ReplyError) Error() string { return fmt.Sprintf("%s (code %d)", e.Text, e.Code) }

// Request sends a message that asks for a reply, and returns the reply. The peer
// gets it as a message of which IsRequest is true, and answers with Reply or
// ReplyError. Both sides may ask, any number of goroutines at once; replies may
// come in any order, and each goes to its Request.
//
// It waits until ctx ends: on a Client for a connection, for one of the 1,024
// places for unanswered requests of a connection, for room in the outbox, and for
// the reply. There is no other time limit. While it waits it reads the connection
// itself if no other goroutine does; messages that come meanwhile are for Read or
// the Handler. What the peer sent before the reply is in the inbox when Request
// returns. If the inbox (1 MiB) is full, the reply is not read until the program
// reads.
//
// The caller owns the reply. It copies data, which the caller may use again when
// Request returns; data may have 16 bytes less than MaxMsgSize.
//
// Errors: a [*ReplyError] is the peer's answer. An error that matches
// [ErrNoReply] means that the peer may have handled the request, any other that
// it has not. So ErrNoReply comes with [ErrNotConnected] if the connection was
// lost, and with [ErrClosed] if Close ended it, after the request was sent; alone,
// if the peer's Handler returned without a reply; with ctx.Err() if ctx ended, and
// then the peer is told: the context of its request ends. The end of ctx also
// matches [ErrFull] if the inbox was full. A request that was not sent yet when a
// Client's connection is lost waits for the next one; none is sent twice.
//
// [ErrNoRequests]: the peer knows no requests. [ErrNotConnected]: a Server has no
// client. [ErrReservedType], [ErrMsgTooLarge], [ErrMultiMode], and the end of this
// Server or Client as from Write.
//
// Two Handlers that wait, each in a Request, for the other side's Handler wait
// until ctx ends, as a Handler is not called again before it has returned: Clone
// the message, return, and go on in a goroutine. So do two programs that each have
// more to ask than an outbox (4 MiB) and an inbox hold, and answer in the goroutine
// that reads: neither has room for its replies.
func (s *session) Request(ctx context.Context, msgType int, data []byte) (*Message, error) {
	call := s.newCall(ctx, msgType, data)
	m, err := s.nextReply(call)
	if err != nil {
		return nil, s.requestError(call, err)
	}
	s.putCall(call)
	return m, nil
}

// RequestParts is Request for a reply in any number of parts: the iterator
// returns each as it comes, with a nil error. The last of them is the peer's Reply,
// or there is none after ReplyEnd. An error comes last, with a nil message: then the
// reply is not whole. Errors are those of Request.
//
// Parts that have come and are not taken yet count as unread messages: a loop that
// is slow holds up its connection, and in the end the sender. Leaving the loop
// cancels the request. The request is sent when the iteration begins; each
// iteration sends one.
func (s *session) RequestParts(ctx context.Context, msgType int, data []byte) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		call := s.newCall(ctx, msgType, data)
		call.parts = true
		defer s.leaveParts(call)
		for {
			m, err := s.nextReply(call)
			if err != nil {
				yield(nil, s.requestError(call, err))
				return
			}
			if m == nil || !yield(m, nil) {
				return
			}
		}
	}
}

// asking is what a session has for requests, of both sides, from the first one on.
type asking struct {
	// Goroutines in Request, each of which is woken alone: for a reply, and for
	// what it takes to send.
	forReply, forPlace waiters

	offered   bool // one of them was woken to read the connection
	partsCost int  // of the parts of replies that have not been taken

	in, out, cancelled, unanswered uint64 // for Stats
}

// ask returns what s has for requests. mu is held.
func (s *session) ask() *asking {
	if s.asking == nil {
		s.asking = &asking{forPlace: waiters{inOrder: true}}
	}
	return s.asking
}

// waiting reports whether a Request waits. a may be nil, as for wakeAll.
func (a *asking) waiting() bool { return a != nil && !(a.forReply.empty() && a.forPlace.empty()) }

func (a *asking) wakeAll() {
	if a != nil {
		a.forPlace.wakeAll()
		a.forReply.wakeAll()
	}
}

// call is one Request of the program.
//
//	          issue                  the final frame, or the end of the connection
//	waiting ─────────► issued ──────────────────────────────────────────► ended
//	   ▲                 │  │ ctx ends, or a loop over parts
//	   └─────────────────┘  └───────────► abandoned, until the final frame
//	   the connection ended
//	   before it was sent
//
// An abandoned call keeps its place. session.mu guards the fields after the blank
// line; the others do not change.
type call struct {
	ctx     context.Context
	msgType int
	data    []byte
	parts   bool // more than one reply is welcome

	waiter
	conn      *conn  // over which it was issued; nil while it waits for that
	id        uint64 // there
	frame     []byte // to be queued, if data is large
	ended     bool
	abandoned bool
	unsent    bool  // it has ended because its connection has, before it was sent
	err       error // why it has ended without a reply
	reply     *Message
	queue     fifo.Queue[*Message] // parts that have come
}

func (s *session) newCall(ctx context.Context, msgType int, data []byte) *call {
	c, ok := s.spares.calls.Get().(*call)
	if !ok {
		c = &call{waiter: newWaiter()}
	}
	c.ctx, c.msgType, c.data = ctx, msgType, data
	return c
}

// putCall gives c, of which nothing is known to others any more, back.
func (s *session) putCall(c *call) {
	*c = call{waiter: c.waiter}
	s.spares.calls.Put(c)
}

// hasResult reports whether nextReply has something to return.
func (c *call) hasResult() bool { return c.ended || c.queue.Len() > 0 }

// nextReply returns the next reply, or nil after the last part. Before the first
// it sends the request.
func (s *session) nextReply(c *call) (*Message, error) {
	limit := waitLimit{ctx: c.ctx}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if c.conn == nil {
			if err := s.send(c, &limit); err != nil {
				return nil, err
			}
		}
		err := c.ctx.Err()
		if err == nil || c.ended {
			err = s.waitFor(&limit, &c.waiter, &s.ask().forReply, c.hasResult)
		}
		switch {
		case err != nil && !c.ended:
			return nil, s.abandon(c, err)
		case c.queue.Len() > 0:
			m := c.queue.Pop()
			s.asking.partsCost -= len(m.Data) + messageCost
			s.roomMade()
			return m, nil
		case c.unsent && c.err == nil:
			c.conn, c.ended, c.unsent = nil, false, false
		default:
			m := c.reply
			c.reply = nil // the last part is returned once
			return m, c.err
		}
	}
}

// send queues the request of c, when it can be. mu is held, but not while it
// waits.
func (s *session) send(c *call, limit *waitLimit) error {
	switch err := checkType(c.msgType); {
	case err != nil:
		return err
	case s.misuse != nil:
		s.mu.Unlock()
		defer s.mu.Lock()
		return s.misused(s.misuse)
	}
	for {
		err := c.ctx.Err()
		var out outcome
		var why error
		if err == nil {
			err = s.waitFor(limit, &c.waiter, &s.ask().forPlace, func() bool {
				out, why = s.issue(c)
				return out != notNow
			})
		}
		switch {
		case err != nil:
			s.passPlace() // this one may have been woken for a place
			return s.markFull(err)
		case out == refused:
			s.passPlace()
			return why
		}
		conn := s.conn
		last := s.asking.forReply.woken == 0 // of those that a read has woken
		s.mu.Unlock()
		switch out {
		case issued:
			s.out.kick(last)
		case noFrame:
			c.frame = newControlFrame(c.data)
		case noRoom:
			s.out.awaitRoom(c.ctx.Done(), conn, len(c.data)+wire.ControlSize)
		}
		s.mu.Lock()
		if out == issued {
			return nil
		}
	}
}

// outcome is what issue says.
type outcome uint8

const (
	notNow  outcome = iota // there is no connection, announcement or place
	refused                // for the reason that comes with it
	noFrame                // the frame is to be made first, without mu
	noRoom                 // in the outbox
	issued
)

// issue queues the request of c if that can be done now.
func (s *session) issue(c *call) (outcome, error) {
	conn := s.conn
	switch {
	case s.err != nil:
		return refused, s.err
	case s.closing:
		return refused, s.out.refused()
	}
	if conn == nil || conn.err != nil || conn.writeErr != nil {
		if s.out.resend {
			return notNow, nil
		}
		return refused, s.final(s.lostError())
	}
	x := &conn.exchange
	most := conn.in.recv.dec.MaxMsgSize - wire.ControlSize
	switch {
	case x.peer == knowsNone:
		return refused, ErrNoRequests
	case x.peer == unknown:
		conn.awaitPeer()
		return notNow, nil
	case len(c.data) > most:
		return refused, detailf(ErrMsgTooLarge, "%d bytes: a request exceeds its maximum length of %d", len(c.data), most)
	case len(x.calls) >= int(x.places):
		return notNow, nil
	case len(c.data) >= largeSize && c.frame == nil:
		return noFrame, nil
	}
	f := wire.Control{Kind: wire.Request, N: uint32(c.msgType), ID: x.issued.Load() + 1}
	if c.parts {
		f.Flags = wire.PartsWelcome
	}
	x.issued.Store(f.ID) // before the peer can have it
	switch s.out.control(conn, &f, c.data, c.frame, false) {
	case full:
		return noRoom, nil
	case gone:
		return notNow, nil // the loss of the connection wakes this call
	}
	if x.calls == nil {
		x.calls = make(map[uint64]*call)
	}
	x.calls[f.ID] = c
	c.frame = nil // the queue has it
	c.conn, c.id = conn, f.ID
	s.asking.out++
	return issued, nil
}

// passPlace wakes a Request for a place that no read has freed. The one that waits
// may be what reads, and is in no list then.
func (s *session) passPlace() {
	if list := &s.ask().forPlace; !list.empty() {
		list.wakeOne()
	} else if s.conn != nil {
		s.conn.in.interrupt()
	}
}

// abandon gives c up, which has been issued, for the reason err. It returns what
// Request returns.
func (s *session) abandon(c *call, err error) error {
	c.abandoned = true
	c.data = nil // the program's: it may outlive the call
	s.asking.cancelled++
	if c.unsent || s.out.withdraw(c.conn, c.id) {
		delete(c.conn.exchange.calls, c.id)
		s.passPlace()
		return s.markFull(err)
	}
	// As many cancels as places can be queued, so that they need no room.
	s.out.control(c.conn, &wire.Control{Kind: wire.Cancel, ID: c.id}, nil, nil, true)
	s.out.kick(false)
	err = s.markFull(err)
	return detailf(errors.Join(err, ErrNoReply), "%v after the request was sent", err)
}

// markFull returns err, of a Request that waits no longer, which also matches
// ErrFull if a full inbox was in its way.
func (s *session) markFull(err error) error {
	if s.hasRoom() || s.err != nil {
		return err
	}
	return detailf(errors.Join(err, ErrFull), "%v while the inbox is full", err)
}

// leaveParts is the end of a loop over parts.
func (s *session) leaveParts(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c.queue.Len() > 0 {
		s.asking.partsCost -= len(c.queue.Pop().Data) + messageCost
	}
	s.roomMade()
	if c.conn != nil && !c.ended && !c.abandoned {
		s.abandon(c, context.Canceled)
	}
}

// requestError returns the error of a Request to the program.
func (s *session) requestError(c *call, err error) error {
	if e, ok := err.(*ReplyError); ok {
		return e
	}
	s.logf(slog.LevelDebug, "request failed", slog.Int("type", c.msgType), slog.Any("error", err))
	if err == c.ctx.Err() {
		return err
	}
	return s.explain("request to", err)
}

// newControlFrame returns a control frame with a copy of data. Its header is not
// written yet.
func newControlFrame(data []byte) []byte {
	frame := make([]byte, wire.ControlHeaderSize+len(data))
	copy(frame[wire.ControlHeaderSize:], data)
	return frame
}
