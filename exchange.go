package ipc

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// exchange is the requests over one connection: ours, which wait for the peer's
// replies, and the peer's. The control frames that carry them come through check,
// by the reader as it decodes, and then through apply, in order with the messages
// of the same read.
//
// The fields up to the first blank line belong to the goroutine with the reader's
// role, those of the last block are guarded by session.mu.
type exchange struct {
	began     bool   // a frame has come
	announced bool   // the peer's announcement has come
	deaf      bool   // an announcement no longer counts: a client's is its first frame
	server    bool   // whether this is the server's side; does not change
	lastIn    uint64 // id of the newest request of the peer

	issued atomic.Uint64 // id of our newest request
	open   atomic.Int64  // requests of the peer that have no final frame

	peer     knowledge
	places   uint16      // how many of our requests the peer accepts unanswered
	timer    *time.Timer // ends the wait for the peer's announcement; nil if none waits
	calls    map[uint64]*call
	requests map[uint64]*request
}

// knowledge is what is known of the peer.
type knowledge uint8

const (
	unknown       knowledge = iota // its announcement may still come
	knowsRequests                  // it has come
	knowsNone                      // it has not come in time, or cannot come
)

// announceWait is how long a connection may be open before a peer that has not
// announced itself is taken for one that knows no requests.
const announceWait = 5 * time.Second

// control is a control frame that has been read, with a copy of its payload.
type control struct {
	wire.Control
	at      int      // how many messages of the same read came before it
	request *request // of a wire.Request; its message is in the batch
	reply   *Message // of a wire.Reply or wire.Part
	err     error    // of a wire.Error
}

// check parses a control frame. It returns a Kind of 0 for one that is to be
// ignored. first says whether it is the first frame of the connection.
func (x *exchange) check(data []byte, first bool) (wire.Control, error) {
	c, err := wire.ParseControl(data)
	switch {
	case !x.announced && (c.Kind != wire.Announce || x.server && !first):
		return wire.Control{}, nil
	case err != nil:
		return wire.Control{}, err
	}
	switch c.Kind {
	case wire.Announce:
		if x.announced {
			return wire.Control{}, nil
		}
		x.announced = true
	case wire.Request:
		if c.ID <= x.lastIn {
			return c, detailf(ErrProtocol, "request %d after request %d", c.ID, x.lastIn)
		}
		x.lastIn = c.ID
		if x.open.Add(1) > wire.MaxRequests {
			return c, detailf(ErrProtocol, "more than %d unanswered requests", wire.MaxRequests)
		}
	case wire.Cancel:
		if c.ID == 0 || c.ID > x.lastIn {
			return c, detailf(ErrProtocol, "cancel of request %d, which has not come", c.ID)
		}
	case wire.Reply, wire.Part, wire.Error:
		if c.ID == 0 || c.ID > x.issued.Load() {
			return c, detailf(ErrProtocol, "reply to request %d, which was not sent", c.ID)
		}
	}
	return c, nil
}

// endRead follows each read that brought frames.
func (x *exchange) endRead(frames int) {
	if frames > 0 && !x.began {
		x.began = true
		x.deaf = x.server && !x.announced
	}
}

// finalError returns the error that an Error frame stands for.
func finalError(c *wire.Control) error {
	if c.N == 0 {
		return ErrNoReply
	}
	return &ReplyError{Code: int(c.N), Text: strings.ToValidUTF8(string(c.Payload), "\uFFFD")}
}

// apply does what the control frames of one read ask for. It returns how many of
// the read's messages count, which are all unless a frame breaks the rules.
// session.mu is held.
func (c *conn) apply(controls []control, messages int) (int, error) {
	x := &c.exchange
	if x.deaf && x.peer == unknown {
		c.setPeer(knowsNone)
	}
	for i := range controls {
		if err := c.applyOne(&controls[i]); err != nil {
			return controls[i].at, err
		}
	}
	return messages, nil
}

func (c *conn) applyOne(f *control) error {
	s, x := c.session, &c.exchange
	switch f.Kind {
	case wire.Announce:
		x.places = uint16(min(f.N, wire.MaxRequests))
		if x.server {
			s.out.announce(c)
		}
		if x.places > 0 {
			c.setPeer(knowsRequests)
		} else {
			c.setPeer(knowsNone)
		}
	case wire.Request:
		s.ask().in++
		f.request.conn = c
		f.request.lent = s.handling.call != nil
		if x.requests == nil {
			x.requests = make(map[uint64]*request)
		}
		x.requests[f.ID] = f.request
	case wire.Cancel:
		if r := x.requests[f.ID]; r != nil {
			r.cancel()
		}
	case wire.Part:
		call := x.calls[f.ID]
		switch {
		case call == nil:
		case !call.parts:
			return detailf(ErrProtocol, "a part for request %d, which does not welcome parts", f.ID)
		case !call.abandoned:
			s.addPart(call, f.reply)
			call.wake()
		}
	case wire.Reply, wire.Error:
		if call := x.calls[f.ID]; call != nil {
			c.endCall(call, f)
		}
	}
	return nil
}

// endCall takes the final frame of a call.
func (c *conn) endCall(call *call, f *control) {
	s := c.session
	delete(c.exchange.calls, call.id)
	s.asking.forPlace.wakeOne()
	if call.abandoned {
		return
	}
	call.ended = true
	call.err = f.err
	switch {
	case f.Kind == wire.Reply && f.N > 0 && call.parts:
		s.addPart(call, f.reply)
	case f.Kind == wire.Reply && f.N > 0:
		s.countReply(f.reply)
		call.reply = f.reply
	case f.Kind == wire.Reply && !call.parts:
		call.err = ErrNoReply
	}
	if call.err == ErrNoReply {
		s.asking.unanswered++
		call.err = detailf(ErrNoReply, "the peer has ended the request without a reply: "+
			"its Handler has to reply, or to clone the request, before it returns")
	}
	call.wake()
}

// setPeer records what is now known of the peer, and wakes those that wait for
// it.
func (c *conn) setPeer(k knowledge) {
	x := &c.exchange
	x.peer = k
	if x.timer != nil {
		x.timer.Stop()
		x.timer = nil
	}
	c.session.asking.wakeAll()
}

// awaitPeer bounds the wait for the peer's announcement.
func (c *conn) awaitPeer() {
	x := &c.exchange
	if x.timer != nil {
		return
	}
	// An announcement that has arrived is given the time to be read.
	left := max(time.Until(c.began.Add(announceWait)), lingerTime)
	x.timer = time.AfterFunc(left, func() {
		s := c.session
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case x.peer != unknown || s.conn != c:
		case !s.hasRoom(): // it may lie behind what is not read for that
			x.timer.Reset(announceWait)
		default:
			c.setPeer(knowsNone)
			c.in.interrupt() // a Request that reads the connection itself
		}
	})
}

// markUnsent notes which of our requests had not left when the connection was
// retired.
func (c *conn) markUnsent(ids map[uint64]bool) {
	if len(ids) == 0 {
		return
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	for id, call := range c.exchange.calls {
		call.unsent = ids[id]
	}
}

// endExchange ends the requests over a connection that has been retired.
// session.mu is held.
func (c *conn) endExchange() {
	s, x := c.session, &c.exchange
	if x.timer != nil {
		x.timer.Stop()
	}
	for _, call := range x.calls {
		if call.abandoned {
			continue
		}
		call.ended = true
		switch again := s.out.resend && !s.closing; {
		case call.unsent && again:
			s.asking.out-- // it is counted again when it is sent
		case call.unsent:
			s.asking.out--
			call.err = s.lostError()
		default:
			s.asking.unanswered++
			how := "lost"
			if s.closing {
				how = "closed"
			}
			call.err = detailf(errors.Join(ErrNoReply, s.lostError()), "no reply: the connection was %s after the request was sent", how)
		}
		call.wake()
	}
	x.calls = nil
	for _, r := range x.requests {
		if !r.cancelled.Load() {
			s.asking.unanswered++
		}
		r.endContext()
	}
	x.requests = nil
}

// lostError says why the connection of a request is no more.
func (s *session) lostError() error {
	if s.closing {
		return ErrClosed
	}
	status := Disconnected
	switch {
	case s.status == Listening: // for the first client
		status = Listening
	case s.out.resend:
		status = ReConnecting
	}
	return detailf(ErrNotConnected, "cannot request under current status: %s", status)
}

// addPart queues a part for its call.
func (s *session) addPart(c *call, m *Message) {
	s.countReply(m)
	s.asking.partsCost += len(m.Data) + messageCost
	c.queue.Push(m)
}

// countReply counts a reply that has come.
func (s *session) countReply(m *Message) {
	s.stats.MessagesIn++
	s.stats.BytesIn += uint64(len(m.Data))
}

// requests returns how many of the frames are requests.
func requests(controls []control) (n int) {
	for i := range controls {
		if controls[i].Kind == wire.Request {
			n++
		}
	}
	return n
}

// queueResult says what has become of a control frame.
type queueResult uint8

const (
	accepted queueResult = iota
	full                 // there is no room now
	gone                 // its connection takes nothing any more
)

// control queues a control frame for c, and for no other connection, with a copy
// of data, or frame, which has it already. It waits for nothing; kick has to
// follow. With force it needs no room. An empty outbox takes a frame of any size.
func (o *outbox) control(c *conn, f *wire.Control, data, frame []byte, force bool) queueResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.conn != c || o.broken || o.err != nil:
		return gone
	case !force && !o.queue.hasRoom(len(data)+wire.ControlSize):
		return full
	case frame != nil:
		wire.PutControlHeader(frame, f, len(data))
		o.queue.push(segment{body: frame, frames: 1})
	default:
		o.queue.appendControl(f, data)
	}
	if f.Kind != wire.Cancel && f.Kind != wire.Error && f.N > 0 {
		o.queue.count(len(data)) // what the program at the other end gets as a message
	}
	return accepted
}

// announce queues the announcement that this side knows requests.
func (o *outbox) announce(c *conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn != c || o.broken {
		return
	}
	o.queue.appendAnnouncement()
	if !o.flushing {
		o.startFlush()
	}
}

// awaitRoom waits until c may have room for size bytes, takes nothing any more, or
// stop is closed.
func (o *outbox) awaitRoom(stop <-chan struct{}, c *conn, size int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.conn == c && !o.broken && o.err == nil && !o.queue.hasRoom(size) && o.wait(stop) {
	}
}

// withdraw takes the request id, queued for c, back, and reports whether it could:
// nothing of it has left then, and nothing will.
func (o *outbox) withdraw(c *conn, id uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn != c {
		return false
	}
	// A segment that is in flight, or has been sealed in part, does not change.
	fixed := o.queue.flight
	if fixed == 0 && len(c.out.sealer.pending) > 0 {
		fixed = maxFlight
	}
	if !o.queue.withdrawRequest(id, fixed) {
		return false
	}
	if !o.flushing {
		o.queue.advance(0)
	}
	o.changed.wake()
	return true
}
