package ipc

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/fifo"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// maxTurn is how many messages of one client a turn hands over.
const maxTurn = 64

// ServerManager reads from all clients of a Server, and writes to all of them.
// It works in single mode too, with the one client there is.
//
// Several goroutines may call its methods at once: each message goes to one of
// them. Clients are handled in parallel then, but never two messages of one
// client, so that its order is kept.
type ServerManager struct {
	server *Server // the one that listens

	// A client's Server with an empty inbox is not queued. When the inbox turns
	// non-empty (session.notify) its Server is queued, once; from there one
	// goroutine takes it for a turn, after which it is queued again if there is
	// more:
	//
	//	inbox empty ──enqueue──► ready ──next──► a turn ──endTurn──► ready, or inbox empty
	//
	// So a call costs what is ready, however many clients there are.
	mu       sync.Mutex // guards what follows, up to the blank line
	clients  []*Server  // connected, in the order of their ids
	ready    fifo.Queue[*Server]
	turns    int   // under way
	departed int   // of those in ready, that have left and have only events
	err      error // of Close

	token chan struct{} // the queue may not be empty, and no caller looks
	done  chan struct{} // closed when the server is closed and everything has been handed over

	turn chan struct{} // in single mode: a token for the goroutine that handles the client
}

// queueState is what the manager records for a client's Server; its mutex
// guards it.
type queueState struct {
	queued   bool
	departed bool // it has left, and has only events
}

func newManager(s *Server) *ServerManager {
	m := &ServerManager{
		server: s,
		token:  make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	if !s.config.MultiMode {
		m.turn = make(chan struct{}, 1)
		m.turn <- struct{}{}
	}
	return m
}

// Read waits until at least one client, of those there are and those that join
// meanwhile, has a message or an event, calls callback for each that is ready,
// one after the other in the caller's goroutine, and returns. Clients take
// turns of 64 messages at most.
//
// callback gets the client's Server, which it may Read, Write and Close, and
// the message or event, with a nil error. It must not call Read, ReadTimed or
// ReadContext of the ServerManager, which may wait for its end. Once the server has been closed and everything has been read, Read no
// longer waits: callback gets the listening Server, no message, and [ErrClosed],
// once for each call. A loop around Read has to end then; from ReadContext it gets
// the error. While another goroutine's callback runs there may be more of its
// client: Read waits for it, also after Close.
func (m *ServerManager) Read(callback func(*Server, *Message, error)) {
	m.read(waitLimit{}, callback)
}

// ReadTimed is Read for at most d, not counting the time spent in callback. If
// nothing came, callback gets the listening Server, onTimeout, or
// [TimeoutMessage] if that is nil, and no error. With d of 0 or less it does
// not wait. Of a closed server see Read.
func (m *ServerManager) ReadTimed(d time.Duration, onTimeout *Message, callback func(*Server, *Message, error)) {
	if m.read(waitLimit{timed: true, d: d}, callback) != errExpired {
		return
	}
	if onTimeout == nil {
		onTimeout = TimeoutMessage
	}
	callback(m.server, onTimeout, nil)
}

// ReadContext is Read until ctx ends; it then returns ctx.Err(), without a
// call of callback. Once the server is closed it returns [ErrClosed], after
// callback got it.
func (m *ServerManager) ReadContext(ctx context.Context, callback func(*Server, *Message, error)) error {
	return m.read(waitLimit{ctx: ctx}, callback)
}

// Servers returns the Servers of the clients that are connected, in the order
// of their ClientID. The slice is the caller's. A client is among them from its
// event Connected on, which may come a moment after its StartClient has returned: a
// program that expects clients waits for those events.
func (m *ServerManager) Servers() []*Server {
	if m.turn != nil {
		if m.server.StatusCode() == Connected {
			return []*Server{m.server}
		}
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.clients)
}

// Broadcast writes a message to all clients that are connected, as of Servers:
// one of which the event Connected has not come yet is not among them. It never
// waits: a client whose outbox has no room is left out. The error joins, for
// each client that the message was not accepted for, why ([ErrFull], or
// [ErrNotConnected] if it is about to leave) and for which; the others get it. [ErrReservedType], [ErrMsgTooLarge] and
// [ErrClosed] are of the call, and then no client gets it. It copies data, which
// the caller may use again at once.
func (m *ServerManager) Broadcast(msgType int, data []byte) error {
	if err := m.checkBroadcast(msgType, data); err != nil {
		return m.server.explain("broadcast to", err)
	}
	var frame []byte
	if len(data) >= largeSize {
		frame = make([]byte, wire.HeaderSize+len(data))
		wire.PutHeader(frame, msgType, len(data))
		copy(frame[wire.HeaderSize:], data)
	}
	var errs []error
	for _, s := range m.Servers() {
		if err := s.out.offer(msgType, data, frame); err != nil {
			errs = append(errs, s.explain("broadcast to", err))
		}
	}
	return errors.Join(errs...)
}

func (m *ServerManager) checkBroadcast(msgType int, data []byte) error {
	if err := checkType(msgType); err != nil {
		return err
	}
	if limit := m.server.config.MaxMsgSize; len(data) > limit {
		return tooLarge(len(data), limit)
	}
	return m.server.out.refused()
}

// Close closes the Server, with all its clients; see [Server.Close].
func (m *ServerManager) Close() error { return m.server.Close() }

// read is Read up to limit. It returns nil if callback got a message.
func (m *ServerManager) read(limit waitLimit, callback func(*Server, *Message, error)) error {
	if m.server.config.Handler != nil {
		err := m.server.explain("read", m.server.misused(ErrHandler))
		callback(m.server, nil, err)
		return err
	}
	if limit.ctx != nil && limit.ctx.Err() != nil {
		return limit.ctx.Err()
	}
	limit.start()
	if m.turn != nil {
		return m.readSingle(limit, callback)
	}
	for {
		passed := limit.err()
		ended := m.ended()
		switch {
		case m.giveTurns(callback):
			return nil
		case ended != nil:
			callback(m.server, nil, ended)
			return ended
		case passed != nil:
			return passed
		}
		limit.wait(m.token, m.done)
	}
}

// readSingle is read in single mode, where the caller reads the client's
// socket itself.
func (m *ServerManager) readSingle(limit waitLimit, callback func(*Server, *Message, error)) error {
	select {
	case <-m.turn:
	default:
		if !limit.wait(m.turn, nil) {
			return limit.err()
		}
	}
	defer func() { m.turn <- struct{}{} }()
	msg, err := m.server.next(limit)
	switch {
	case err == nil:
		callback(m.server, msg, nil)
		m.server.deliver(maxTurn-1, callback)
	case errors.Is(err, ErrClosed):
		callback(m.server, nil, err)
	}
	return err
}

// giveTurns gives those that are ready a turn each, and reports whether
// callback was called.
func (m *ServerManager) giveTurns(callback func(*Server, *Message, error)) (called bool) {
	m.mu.Lock()
	turns := m.ready.Len()
	m.mu.Unlock()
	for ; turns > 0; turns-- {
		s := m.next()
		if s == nil {
			break
		}
		if s.takeTurn(callback) {
			called = true
		}
	}
	return called
}

// next takes a Server from the queue, for a turn of the caller's.
func (m *ServerManager) next() *Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready.Len() == 0 {
		return nil
	}
	s := m.ready.Pop()
	s.queue.queued = false
	if s.queue.departed {
		m.departed--
	}
	m.turns++
	if m.ready.Len() > 0 {
		m.wake()
	}
	return s
}

// takeTurn hands over messages of s, which the caller has taken from the
// queue.
func (s *Server) takeTurn(callback func(*Server, *Message, error)) (called bool) {
	defer s.endTurn()
	return s.deliver(maxTurn, callback)
}

// deliver hands over what is in the inbox, n messages at most.
func (s *Server) deliver(n int, callback func(*Server, *Message, error)) (called bool) {
	for ; n > 0; n-- {
		s.mu.Lock()
		msg := s.pop()
		s.mu.Unlock()
		if msg == nil {
			break
		}
		called = true
		callback(s, msg, nil)
	}
	return called
}

// endTurn puts s at the end of the queue if it has more.
func (s *Server) endTurn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = !s.in.empty()
	s.manager.endTurn(s, s.listed)
}

func (m *ServerManager) endTurn(s *Server, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turns--
	if more {
		m.push(s)
	}
	m.checkDone()
}

// enqueue puts s at the end of the queue. Its mutex is held.
func (m *ServerManager) enqueue(s *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.push(s)
}

// push is enqueue with mu held.
func (m *ServerManager) push(s *Server) {
	m.ready.Push(s)
	s.queue.queued = true
	if s.queue.departed {
		m.addDeparted()
	}
	m.wake()
}

// wake wakes one of the callers that wait. A caller that finds more than one
// Server ready wakes the next.
func (m *ServerManager) wake() {
	select {
	case m.token <- struct{}{}:
	default:
	}
}

// add makes a client known. Its id is larger than those of all others.
func (m *ServerManager) add(s *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients = append(m.clients, s)
}

// remove takes a client that leaves out of Servers. What it has sent can still
// be read.
func (m *ServerManager) remove(s *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, found := slices.BinarySearchFunc(m.clients, s.id, func(c *Server, id int) int { return cmp.Compare(c.id, id) })
	if found {
		m.clients = slices.Delete(m.clients, i, i+1)
	}
}

// setDeparted bounds the memory of clients that have left.
func (m *ServerManager) setDeparted(s *Server) {
	s.mu.Lock()
	eventsOnly := s.in.hasEventsOnly()
	s.mu.Unlock()
	if !eventsOnly {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.queue.departed = true
	if s.queue.queued {
		m.addDeparted()
	}
}

// addDeparted counts a departed client in the queue, and forgets the oldest if
// they are too many.
func (m *ServerManager) addDeparted() {
	if m.departed++; m.departed <= maxDeparted {
		return
	}
	m.departed--
	m.ready.RemoveFirst(func(s *Server) bool { return s.queue.departed })
}

// ended returns the error of Close, once everything has been handed over.
func (m *ServerManager) ended() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// end records the error of Close. All clients have got their last event.
func (m *ServerManager) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	m.checkDone()
}

// checkDone ends the waits of all callers when the server is closed and there
// is nothing to hand over: a turn that is under way may have more.
func (m *ServerManager) checkDone() {
	if m.err == nil || m.turns > 0 || m.ready.Len() > 0 {
		return
	}
	select {
	case <-m.done:
	default:
		close(m.done)
	}
}
