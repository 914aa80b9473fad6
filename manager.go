package ipc

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// maxTurn is how many messages of one client a turn hands over.
	maxTurn = 64

	// maxDeparted is how many clients that have left, with nothing but
	// events to show, are kept for a program that does not read.
	maxDeparted = 1024
)

// ServerManager reads from all clients of a Server, and writes to all of them.
// It works in single mode too, with the one client there is.
//
// Several goroutines may call its methods at once: each message goes to one of
// them. Clients are handled in parallel then, but never two messages of one
// client, so that its order is kept.
type ServerManager struct {
	server *Server // the one that listens

	// A client's Server with an empty inbox is nowhere; when that turns
	// non-empty (endpoint.notify) it enters the queue, once; from there one
	// goroutine takes it for a turn, at the end of which it goes to one of
	// those two places. So a call costs what is ready, however many clients
	// there are.
	//
	// A client's own goroutine reads and fills its inbox. But while there is only
	// the client that found the server empty, and nobody in the queue, a caller of
	// Read reads that client's socket itself, as in single mode: that is one thread
	// less to wake for each message. Whoever enters the queue meanwhile interrupts
	// it.
	mu      sync.Mutex
	clients map[int]*Server // connected
	only    *Server         // the one in clients, if there is just one
	reader  *link           // its link, while a caller waits there
	ready   fifo[*Server]
	spent   int // of those in the queue, that have left and have only events
	err     error

	token chan struct{} // there may be something in the queue or to read, and nobody knows
	done  chan struct{} // closed when err is set

	turn chan struct{} // in single mode: a token for whoever handles the client
}

// queueState is what the manager knows about a client's Server; its mutex
// guards it.
type queueState struct {
	queued bool
	spent  bool
}

func newManager(s *Server) *ServerManager {
	m := &ServerManager{
		server:  s,
		clients: make(map[int]*Server),
		token:   make(chan struct{}, 1),
		done:    make(chan struct{}),
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
// ReadContext of the ServerManager: in single mode that would wait for its own
// end. Once the server has been closed and everything has been read, Read no
// longer waits: callback gets the listening Server, no message, and [ErrClosed],
// once for each call. A loop around Read has to end then; from ReadContext it gets
// the error.
func (m *ServerManager) Read(callback func(*Server, *Message, error)) {
	m.read(wait{}, callback)
}

// ReadTimed is Read for at most d, not counting the time spent in callback. If
// nothing came, callback gets the listening Server, onTimeout, or
// [TimeoutMessage] if that is nil, and no error. With d of 0 or less it does
// not wait. Of a closed server see Read.
func (m *ServerManager) ReadTimed(d time.Duration, onTimeout *Message, callback func(*Server, *Message, error)) {
	if m.read(wait{timed: true, d: d}, callback) != errExpired {
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
	return m.read(wait{ctx: ctx}, callback)
}

// Servers returns the Servers of the clients that are connected, in the order
// of their ClientID. The slice is the caller's.
func (m *ServerManager) Servers() []*Server {
	if m.turn != nil {
		if m.server.StatusCode() == Connected {
			return []*Server{m.server}
		}
		return nil
	}
	m.mu.Lock()
	servers := make([]*Server, 0, len(m.clients))
	for _, s := range m.clients {
		servers = append(servers, s)
	}
	m.mu.Unlock()
	slices.SortFunc(servers, func(a, b *Server) int { return cmp.Compare(a.id, b.id) })
	return servers
}

// Broadcast writes a message to all clients that are connected. It never
// waits: a client whose outbox has no room is left out. The error joins, for
// each client that the message was not accepted for, why ([ErrFull], for one)
// and for which; the others get it. [ErrReservedType], [ErrMsgTooLarge] and
// [ErrClosed] are of the call, and then nobody gets it. It copies data, which the
// caller may use again at once.
func (m *ServerManager) Broadcast(msgType int, data []byte) error {
	if err := m.checkBroadcast(msgType, data); err != nil {
		return m.server.explain("broadcast to", err)
	}
	var frame []byte
	if len(data) >= largeSize {
		frame = make([]byte, headerSize+len(data))
		putHeader(frame, msgType, len(data))
		copy(frame[headerSize:], data)
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

// read is Read for as long as w says. It returns nil if callback got a
// message.
func (m *ServerManager) read(w wait, callback func(*Server, *Message, error)) error {
	if w.ctx != nil && w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	if m.turn != nil {
		return m.readSingle(w, callback)
	}
	w.manager = m
	w.start()
	for told := false; ; {
		over := w.over()
		if over == errExpired {
			m.readOnly(&w, true) // looks once more
		}
		ended := m.ended() // before the look, lest the last events be missed
		switch {
		case m.handOver(callback):
			return nil
		case ended != nil:
			callback(m.server, nil, ended)
			return ended
		case over != nil:
			if told {
				m.tell() // somebody else, who may read the socket
			}
			return over
		}
		told = !m.readOnly(&w, false) && w.on(m.token, m.done)
	}
}

// readOnly lets the caller read the socket of the only client, or reports that
// it should not. A poll does not wait.
func (m *ServerManager) readOnly(w *wait, poll bool) bool {
	m.mu.Lock()
	s := m.only
	m.mu.Unlock()
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.link
	if l == nil || !l.shared || l.err != nil || l.role == caller || s.listed {
		return false
	}
	s.reads++
	if l.role == owner && !poll {
		s.awaitRole(l, w)
	}
	if l.role == vacant && l.err == nil && !s.listed {
		s.readAsCaller(l, w, poll)
	}
	return true
}

// enter is called by a caller who is about to wait at the socket of l, whose
// deadline is set. It returns false if there is something to do instead. The
// mutex of the client's Server is held, as it is for leave.
func (m *ServerManager) enter(l *link) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready.len() > 0 {
		return false
	}
	m.reader = l
	return true
}

// leave is called when the wait at the socket is over.
func (m *ServerManager) leave(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reader = nil
	if l.cut {
		l.cut = false
		l.deadline = longAgo // what interrupt has set
	}
}

// interrupt makes a caller who waits at a socket look at the queue. mu is held.
func (m *ServerManager) interrupt() {
	if l := m.reader; l != nil && !l.cut {
		l.cut = true
		l.conn.SetReadDeadline(longAgo)
	}
}

// callReader reports whether a caller of Read should read the socket of s, and
// tells one.
func (m *ServerManager) callReader(s *Server) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.only != s {
		return false
	}
	m.tell()
	return true
}

// readSingle is read in single mode, where the caller reads the client's
// socket itself.
func (m *ServerManager) readSingle(w wait, callback func(*Server, *Message, error)) error {
	w.start()
	select {
	case <-m.turn:
	default:
		if !w.on(m.turn, m.done) {
			// Somebody else is handing over what is left.
			if ended := m.ended(); ended != nil {
				callback(m.server, nil, ended)
				return ended
			}
			return w.over()
		}
	}
	defer func() { m.turn <- struct{}{} }()
	if w.timed {
		w.d = time.Until(w.deadline)
	}
	msg, err := m.server.next(w)
	switch {
	case err == nil:
		callback(m.server, msg, nil)
		m.server.handOver(maxTurn-1, callback)
	case errors.Is(err, ErrClosed):
		callback(m.server, nil, err)
	}
	return err
}

// handOver gives those that are ready a turn each, and reports whether
// callback was called.
func (m *ServerManager) handOver(callback func(*Server, *Message, error)) (called bool) {
	m.mu.Lock()
	turns := m.ready.len()
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

// next takes a Server from the queue, for the caller to handle.
func (m *ServerManager) next() *Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready.len() == 0 {
		return nil
	}
	s := m.ready.pop()
	s.queue.queued = false
	if s.queue.spent {
		m.spent--
	}
	if m.ready.len() > 0 || m.only != nil && m.only != s {
		m.tell() // the only one's socket may be free to be read
	}
	return s
}

// takeTurn hands over messages of s, which the caller has taken from the
// queue.
func (s *Server) takeTurn(callback func(*Server, *Message, error)) (called bool) {
	defer s.endTurn()
	return s.handOver(maxTurn, callback)
}

// handOver hands over what is in the inbox, n messages at most.
func (s *Server) handOver(n int, callback func(*Server, *Message, error)) (called bool) {
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
	if s.in.empty() {
		s.listed = false
		if s.link != nil && s.link.shared {
			s.manager.callReader(s) // for whoever did not while this turn lasted
		}
		return
	}
	s.manager.enqueue(s)
}

// enqueue puts s at the end of the queue. Its mutex is held.
func (m *ServerManager) enqueue(s *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready.push(s)
	s.queue.queued = true
	if s.queue.spent {
		m.addSpent()
	}
	m.tell()
	m.interrupt()
}

// tell wakes one of those who wait; whoever finds more than one ready wakes
// the next.
func (m *ServerManager) tell() {
	select {
	case m.token <- struct{}{}:
	default:
	}
}

// add makes a client known. It returns the one that was the only one before.
func (m *ServerManager) add(s *Server) (before *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before = m.only
	m.clients[s.id] = s
	m.count()
	return before
}

// empty reports whether there are no clients.
func (m *ServerManager) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.clients) == 0
}

// remove takes a client that leaves out of Servers. What it has sent can still
// be read.
func (m *ServerManager) remove(s *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.clients, s.id)
	m.count()
}

// count sees whether there is one client only.
func (m *ServerManager) count() {
	m.only = nil
	if len(m.clients) == 1 {
		for _, s := range m.clients {
			m.only = s
		}
	}
}

// departed bounds what the clients that have left can take of memory.
func (m *ServerManager) departed(s *Server) {
	s.mu.Lock()
	eventsOnly := s.in.hasEventsOnly()
	s.mu.Unlock()
	if !eventsOnly {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.queue.spent {
		return // dismiss and Close may both tell
	}
	s.queue.spent = true
	if s.queue.queued {
		m.addSpent()
	}
}

// addSpent counts a departed client in the queue, and forgets the oldest if
// they are too many.
func (m *ServerManager) addSpent() {
	if m.spent++; m.spent <= maxDeparted {
		return
	}
	m.spent--
	m.ready.removeFirst(func(s *Server) bool { return s.queue.spent })
}

// ended returns the error of Close, once that has told all clients.
func (m *ServerManager) ended() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// end tells all who read that the server is closed.
func (m *ServerManager) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	close(m.done)
}
