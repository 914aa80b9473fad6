package ipc

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/race"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// handling calls the Handler of a session with each message and event, in
// order, one call at a time.
//
//	      handOver: the loop has read messages, or finds some in the inbox
//	idle ─────────────────────────────────────────────────────────────────► busy
//	  ▲   handOverInbox: there is an event, and no connection                │
//	  └──────────────────────────────────────────────── the inbox is empty ──┘
//
// The connection's own goroutine calls the Handler itself, with messages where
// they lie in the read buffer; the reader gets another buffer. While it is busy it
// does nothing else for the connection. When something else is to be done (the
// connection has ended, or the Handler has run for loopDelay), a stand-in
// takes over: a goroutine that resumes what the connection's own one does, and
// reads into the inbox. The one that was busy then hands over the inbox, too, and
// ends.
//
// session.mu guards the fields up to the blank line. The others do not change.
type handling struct {
	busy  bool   // a goroutine calls the Handler
	conn  *conn  // whose own goroutine that is; nil if it is none, or replaced
	count uint64 // calls of handOver
	watch *watch // nil if its timer does not run
	held  int    // bytes that the Handler is being lent

	call func(*Message) // the Handler; nil if the program reads
}

// errGoexit is why a connection ends whose Handler has ended its goroutine.
var errGoexit = errors.New("the Handler called runtime.Goexit")

// setHandler has call called with what s receives.
func (s *session) setHandler(call func(*Message)) {
	s.handling.call = call
	s.noRead = ErrHandler
}

// wants reports whether the inbox should be handed over, and is not.
func (h *handling) wants(in *inbox) bool { return h.call != nil && !h.busy && !in.empty() }

// startHandling has the inbox handed over to the Handler, if that is not under
// way. mu is held.
func (s *session) startHandling() {
	h := &s.handling
	switch {
	case !h.wants(&s.in):
	case s.conn != nil && s.conn.err == nil:
		s.conn.in.wakeLoop()
	default:
		h.busy = true
		go s.handOverInbox(nil)
	}
}

// handOverInbox hands over what is left of a batch, if it is not nil, and then
// what is in the inbox. It has a goroutine of its own.
func (s *session) handOverInbox(rest *lentBatch) {
	h := &s.handling
	returned := false
	defer func() { s.endHandling(returned, nil, rest) }()
	if rest != nil {
		h.lend(rest, &s.answer)
	}
	s.mu.Lock()
	s.drainInbox()
	s.stopHandling()
	s.mu.Unlock()
	returned = true
}

// handOver hands over the messages of b, if it is not nil, and then what is in
// the inbox. It is called by the connection's own goroutine, and reports whether
// that still is the connection's own, and no stand-in. session.mu is held, but not
// while the Handler runs.
func (c *conn) handOver(b *lentBatch) (own bool) {
	s := c.session
	h := &s.handling
	h.busy, h.conn = true, c
	if c.err != nil || s.asking.waiting() {
		c.takeOver() // the last messages came with the end, or a Request needs what comes
	} else {
		s.watchHandler()
	}
	returned := false
	defer func() { s.endHandling(returned, c, b) }()
	if b != nil {
		h.held = len(b.data)
		if b.buf != nil {
			h.held = readBufferSize
		}
		s.mu.Unlock()
		h.lend(b, &s.answer)
		s.mu.Lock()
	}
	s.drainInbox()
	own = h.conn == c
	s.stopHandling()
	returned = true
	return own
}

// stopHandling records that no goroutine calls the Handler any more. mu is held.
func (s *session) stopHandling() {
	h := &s.handling
	h.busy, h.conn, h.held = false, nil, 0
	s.checkDrained()
}

// drainInbox hands over what is in the inbox until that is empty.
func (s *session) drainInbox() {
	for m := s.pop(); m != nil; m = s.pop() {
		s.handling.held = len(m.Data)
		s.mu.Unlock()
		data, lease, r := m.Data, m.lease, m.request()
		m.lease = nil // the Handler cannot release what it is lent
		s.handling.callWith(m, r)
		poison(m, data)
		if lease != nil {
			lease.end()
		}
		s.mu.Lock()
	}
}

// endHandling is deferred around calls of the Handler. If they have not returned,
// one has ended the goroutine (or panicked, which ends the process): that ends the
// connection, c if it is not nil and otherwise the one that there is, and another
// goroutine hands over what is left of b and of the inbox.
func (s *session) endHandling(returned bool, c *conn, b *lentBatch) {
	if !returned {
		s.handlerExited(c, b)
	}
}

//go:noinline
func (s *session) handlerExited(c *conn, b *lentBatch) {
	var rest lentBatch
	if b != nil {
		rest = *b
	}
	if c == nil {
		s.mu.Lock()
		c = s.conn
		s.mu.Unlock()
	}
	go func() {
		if c != nil {
			ctx, cancel := context.WithTimeout(context.Background(), lingerTime)
			c.end(ctx, errGoexit)
			cancel()
		}
		s.handOverInbox(&rest)
	}()
}

// takeOver starts a stand-in for the connection's own goroutine, if that is busy
// with the Handler. session.mu is held.
func (c *conn) takeOver() {
	if h := &c.session.handling; h.conn == c {
		h.conn = nil
		go c.resume()
	}
}

// watch is the timer that has a stand-in take over. A session has one while its
// Handler is called, and for a while after that.
type watch struct {
	session *session
	timer   *time.Timer
	seen    uint64 // handling.count when it was started
}

// watchHandler starts the timer unless it runs. Where it runs it looks at later
// calls, too, so that a call costs no timer.
func (s *session) watchHandler() {
	h := &s.handling
	h.count++
	if h.watch != nil {
		return
	}
	w, ok := s.spares.watches.Get().(*watch)
	if !ok {
		w = new(watch)
	}
	w.session, w.seen = s, h.count
	h.watch = w
	if ok {
		w.timer.Reset(s.delay)
	} else {
		w.timer = time.AfterFunc(s.delay, w.fire)
	}
}

// fire is what the timer does. In the end an idle connection has no timer.
func (w *watch) fire() {
	s := w.session
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.handling
	switch {
	case h.watch != w:
		return // unwatchHandler came first
	case h.count != w.seen:
		w.seen = h.count
		w.timer.Reset(s.delay)
		return
	case h.conn != nil:
		h.conn.takeOver()
	}
	h.watch = nil
	w.session = nil
	s.spares.watches.Put(w)
}

// unwatchHandler stops the timer. mu is held.
func (s *session) unwatchHandler() {
	h := &s.handling
	if w := h.watch; w != nil && w.timer.Stop() {
		w.session = nil
		s.spares.watches.Put(w)
	}
	h.watch = nil
}

// lentBatch is what one read brought, as the Handler gets it: whole frames in a
// read buffer, or one large message.
type lentBatch struct {
	frames   []byte // in buf, opened
	sealed   bool
	buf      *readBuffer
	controls []control
	large    bool
	msgType  int // of the large message
	data     []byte
	pooled   *pooled  // of data; nil if it is not pooled
	request  *request // if the large message is one
	messages int
	bytes    int // of Data
	count    int // of frames, control frames too
}

// lend calls the Handler with the messages of b, and gives their memory back. b is
// what is left of it before each call.
func (h *handling) lend(b *lentBatch, answer *atomic.Bool) {
	answer.Store(false) // until the last message is lent
	for b.messages > 0 && len(b.frames) > 0 {
		msgType, data, size := wire.Opened(b.frames, b.sealed)
		b.frames = b.frames[size:]
		var r *request
		if msgType == wire.ControlType {
			if !wire.IsRequest(data) {
				continue
			}
			msgType, r = b.nextRequest()
			data = data[wire.ControlSize:]
		}
		if b.messages--; b.messages == 0 {
			answer.Store(true)
		}
		h.one(&b.buf.lent, msgType, data, r)
	}
	if b.large {
		b.large = false
		answer.Store(true)
		h.one(new(Message), b.msgType, b.data, b.request)
	}
	if b.pooled != nil {
		b.pooled.put()
		b.pooled = nil
	}
	if b.buf != nil {
		b.buf.put()
		b.buf = nil
	}
}

// nextRequest returns the type of the next request among the frames of b, and the
// request.
func (b *lentBatch) nextRequest() (msgType int, r *request) {
	for b.controls[0].request == nil {
		b.controls = b.controls[1:]
	}
	msgType, r = int(b.controls[0].N), b.controls[0].request
	b.controls = b.controls[1:]
	return msgType, r
}

// one calls the Handler with one message, which is put into m.
func (h *handling) one(m *Message, msgType int, data []byte, r *request) {
	*m = Message{MsgType: msgType, Data: data}
	h.callWith(m, r)
	poison(m, data)
}

// callWith calls the Handler with m, which is r if that is not nil. A request that
// has been cancelled meanwhile is only ended.
func (h *handling) callWith(m *Message, r *request) {
	if r == nil {
		h.call(m)
		return
	}
	if !r.cancelled.Load() {
		m.lease = &r.lease
		h.call(m)
	}
	r.returned()
}

// poison overwrites a message that the Handler was lent, in programs built with
// the race detector, so that tests catch a Handler that keeps one without Clone.
func poison(m *Message, data []byte) {
	if !race.Enabled {
		return
	}
	for i := range data {
		data[i] = 0xdb
	}
	*m = Message{}
}
