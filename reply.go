package ipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// request is a request of the peer, which is to get one final frame over the
// connection that it came by:
//
//	open ──Reply, ReplyError, ReplyEnd──────────────► answered
//	  │  ──the Handler returns──► "no reply" ───────►
//	  │ the peer cancels it
//	  ▼
//	cancelled ──► "no reply" ───────────────────────►
//
// The "no reply" to a cancelled one is sent at once, or when the Handler returns
// that is being lent the request: so a peer cannot have more of them handled at a
// time than it has places.
//
// session.mu guards the fields after the blank line; those before do not change
// once it has been read, but for lease.
type request struct {
	conn  *conn
	id    uint64
	parts bool  // they are welcome
	lease lease // for messages that have no memory to give back

	answered  atomic.Bool // this and the next are read without it
	cancelled atomic.Bool
	lent      bool // to a Handler, which answers by returning
	ctx       context.Context
	endCtx    context.CancelFunc
}

func newRequest(c *wire.Control) *request {
	r := &request{id: c.ID, parts: c.Flags&wire.PartsWelcome != 0}
	r.lease.request = r
	return r
}

// attach makes m the message of r.
func (r *request) attach(m *Message) {
	if m.lease == nil {
		m.lease = &r.lease
	}
	m.lease.request = r
}

// request returns the request that m is, or nil.
func (m *Message) request() *request {
	if m == nil || m.lease == nil {
		return nil
	}
	return m.lease.request
}

// IsRequest reports whether the peer waits for a reply to the message.
func (m *Message) IsRequest() bool { return m.request() != nil }

// Context returns the context of a request. It ends when the peer cancels the
// request, when it has its final reply, and when its connection is lost. Of a
// message that is no request it is [context.Background].
func (m *Message) Context() context.Context {
	r := m.request()
	if r == nil {
		return context.Background()
	}
	s := r.conn.session
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.context()
}

// Reply answers a request with its only reply, or with the last of several parts.
// It may be called by any goroutine, once, and returns when the reply is accepted,
// as Write does; it copies data. data may have 16 bytes less than MaxMsgSize.
//
// The reply goes over the connection that the request came by, or not at all.
// Errors, with which nothing is sent: [ErrNotAsked] if the message is no request,
// or has its final reply; [ErrNotConnected] if the connection is lost; one that
// matches [context.Canceled] if the peer has cancelled the request;
// [ErrReservedType] and [ErrMsgTooLarge], after which the request can still be
// answered.
//
// A Handler that returns without having replied to a request, or cloned it,
// answers that there is no reply. Where a program reads, every request must be
// replied to: the peer waits for that.
func (m *Message) Reply(msgType int, data []byte) error {
	return m.answer(wire.Reply, msgType, data)
}

// ReplyPart sends one of several replies. Only a request by RequestParts can have
// them: [ErrNotAsked] says that it is another, which can still be answered by Reply.
// After the last part comes ReplyEnd, unless the last one was sent by Reply, or
// ReplyError. Each part may be as large as a reply, and is copied and waits for room
// as that does. Other errors are those of Reply.
func (m *Message) ReplyPart(msgType int, data []byte) error {
	return m.answer(wire.Part, msgType, data)
}

// ReplyEnd ends a reply in parts: there is nothing after the last one. Errors are
// those of ReplyPart.
func (m *Message) ReplyEnd() error {
	r := m.request()
	if r == nil || !r.parts {
		return r.explain(ErrNotAsked)
	}
	return r.explain(r.send(&wire.Control{Kind: wire.Reply}, nil))
}

// ReplyError answers a request with an error, which the peer's Request returns as
// a [*ReplyError]. code is the program's, 1 to 2147483647; others are
// [ErrReservedType]. Other errors are those of Reply.
func (m *Message) ReplyError(code int, text string) error {
	if code == 0 || checkType(code) != nil {
		return m.request().explain(detailf(ErrReservedType, "code %d is reserved: want 1 to %d", code, wire.MaxType))
	}
	return m.answer(wire.Error, code, []byte(text))
}

// answer is Reply, and what is like it.
func (m *Message) answer(kind wire.Kind, n int, data []byte) error {
	r := m.request()
	if r == nil || kind == wire.Part && !r.parts {
		return r.explain(ErrNotAsked)
	}
	if err := checkType(n); err != nil {
		return r.explain(err)
	}
	return r.explain(r.send(&wire.Control{Kind: kind, N: uint32(n)}, data))
}

// explain adds to err, of a reply, what was being done. r may be nil.
func (r *request) explain(err error) error {
	if err == nil {
		return nil
	}
	if r == nil {
		return fmt.Errorf("ipc: reply: %w", err)
	}
	s := r.conn.session
	s.logf(slog.LevelDebug, "reply refused", slog.Uint64("request", r.id), slog.Any("error", err))
	return s.explain("reply to", err)
}

// send sends a reply when there is room for it.
func (r *request) send(f *wire.Control, data []byte) error {
	s := r.conn.session
	if most := r.conn.in.recv.dec.MaxMsgSize - wire.ControlSize; len(data) > most {
		return detailf(ErrMsgTooLarge, "%d bytes: a reply exceeds its maximum length of %d: raise MaxMsgSize, or reply in parts", len(data), most)
	}
	var frame []byte
	if len(data) >= largeSize {
		frame = newControlFrame(data)
	}
	for {
		var stop <-chan struct{}
		s.mu.Lock()
		out, err := r.trySend(f, data, frame)
		if out == full && !isNone(f) {
			stop = r.context().Done()
		}
		s.mu.Unlock()
		switch out {
		case accepted:
			s.out.kick(s.answer.Load() && s.answer.CompareAndSwap(true, false))
			return nil
		case gone:
			return err
		}
		s.out.awaitRoom(stop, r.conn, len(data)+wire.ControlSize)
	}
}

// trySend queues a reply if that can be done now; if it cannot be done at all it
// says gone, and why. mu is held.
func (r *request) trySend(f *wire.Control, data, frame []byte) (queueResult, error) {
	c := r.conn
	s, x := c.session, &c.exchange
	switch {
	case r.cancelled.Load() && !isNone(f):
		return gone, detailf(context.Canceled, "the peer has cancelled the request")
	case r.answered.Load():
		return gone, ErrNotAsked
	case s.conn != c || c.err != nil || c.writeErr != nil:
		return gone, r.lostError()
	}
	f.ID = r.id
	if f.Final() {
		x.open.Add(-1) // before the peer can know
	}
	out := s.out.control(c, f, data, frame, false)
	switch {
	case out == accepted && f.Final():
		r.answered.Store(true)
		r.endContext()
		delete(x.requests, r.id)
		if isNone(f) && !r.cancelled.Load() {
			s.asking.unanswered++
		}
	case f.Final():
		x.open.Add(1)
	}
	if out == gone {
		return gone, r.lostError()
	}
	return out, nil
}

func (r *request) lostError() error {
	err := ErrNotConnected
	if r.conn.session.closing {
		err = errors.Join(ErrNotConnected, ErrClosed)
	}
	return detailf(err, "the connection of the request has ended")
}

// isNone reports whether f says that there is no reply.
func isNone(f *wire.Control) bool { return f.Kind == wire.Error && f.N == 0 }

// sendNone ends r without a reply.
func (r *request) sendNone() { r.send(&wire.Control{Kind: wire.Error}, nil) }

// cancel is what the peer's Cancel does. It is called by the reader, which waits
// for nothing.
func (r *request) cancel() {
	s := r.conn.session
	if r.cancelled.Swap(true) {
		return
	}
	s.asking.cancelled++
	r.endContext()
	if r.lent {
		return // until the Handler returns
	}
	switch out, _ := r.trySend(&wire.Control{Kind: wire.Error}, nil, nil); out {
	case accepted:
		s.out.kick(false)
	case full:
		go r.sendNone()
	}
}

// returned is called when the Handler has returned that was lent r.
func (r *request) returned() {
	if r.answered.Load() {
		return
	}
	s := r.conn.session
	s.mu.Lock()
	lent := r.lent
	s.mu.Unlock()
	if !lent {
		return // it was cloned
	}
	if !r.cancelled.Load() {
		s.logf(slog.LevelDebug, "the Handler returned without a reply", slog.Uint64("request", r.id))
	}
	r.sendNone()
}

// keep is called when a message of r is cloned: a Handler that is lent r no
// longer answers by returning.
func (r *request) keep() {
	s := r.conn.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.cancelled.Load() {
		r.lent = false
	}
}

// isOver reports whether r, which may be nil, has been cancelled and needs no
// Handler to end it.
func (r *request) isOver() bool { return r != nil && r.cancelled.Load() && !r.lent }

// context returns the context of r, which is made when it is asked for.
func (r *request) context() context.Context {
	if r.ctx == nil {
		r.ctx, r.endCtx = context.WithCancel(context.Background())
		if r.cancelled.Load() || r.answered.Load() || r.conn.err != nil {
			r.endCtx()
		}
	}
	return r.ctx
}

func (r *request) endContext() {
	if r.endCtx != nil {
		r.endCtx()
	}
}
