package ipc

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"
)

// waitLimit says how long a call waits. The zero value has no limit.
type waitLimit struct {
	ctx      context.Context
	timed    bool
	d        time.Duration
	deadline time.Time // once start has been called
}

// errExpired is the end of a timed wait.
var errExpired = errors.New("nothing came in time")

func (w *waitLimit) start() {
	if w.timed && w.deadline.IsZero() {
		w.deadline = time.Now().Add(w.d)
	}
}

// err returns why the limit has passed, or nil.
func (w *waitLimit) err() error {
	if w.timed && (w.d <= 0 || !time.Now().Before(w.deadline)) {
		return errExpired
	}
	if w.ctx != nil {
		return w.ctx.Err()
	}
	return nil
}

// wait waits for a or b, and no longer than the limit. It reports whether it was
// a that ended the wait.
func (w *waitLimit) wait(a, b <-chan struct{}) bool {
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
	if timeout == nil && done == nil && b == nil {
		<-a // a select takes twice as long
		return true
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

// waitFor waits until ready returns true, for anything that a connection may
// bring. It returns the session's end if that comes first, or why limit has
// passed; a limit that has passed before still looks at the socket once. A call of
// Read waits for any change; one of Request waits as w in list, and is woken alone.
// mu is held, but not while it waits; ready is called with mu.
func (s *session) waitFor(limit *waitLimit, w *waiter, list *waiters, ready func() bool) error {
	limit.start()
	defer s.offerReader() // the caller may have been the one that reads
	for !ready() {
		if s.err != nil {
			return s.err
		}
		passed := limit.err()
		if passed == nil || passed == errExpired {
			s.await(limit, passed != nil, w, list)
		}
		if passed != nil && !ready() {
			return passed
		}
	}
	return nil
}

// await lets something happen that waitFor may wait for: the caller reads the
// socket itself if it can, and otherwise waits for the goroutine that does. A
// poll does not wait.
func (s *session) await(limit *waitLimit, poll bool, w *waiter, list *waiters) {
	if w != nil && !poll {
		s.reads++ // as next does for Read
	}
	var r *reader // if the caller may read
	if c := s.conn; c != nil && c.err == nil && c.in.direct {
		r = &c.in
	}
	switch {
	case r != nil && r.role == none && s.checkRoom():
		r.readAsCaller(limit, poll)
	case poll:
	case r != nil && r.role == loop && r.conn.writeErr == nil: // or the loop reads on
		r.idle = false
		r.interrupt()
		s.awaitChange(limit, w, list)
		r.rearm() // the caller may leave without having read
	default:
		s.awaitChange(limit, w, list)
	}
}

func (s *session) awaitChange(limit *waitLimit, w *waiter, list *waiters) {
	if w != nil {
		s.awaitTurn(limit, w, list)
		return
	}
	changed := s.changed.wait()
	s.roomMade() // as in awaitTurn
	s.mu.Unlock()
	defer s.mu.Lock()
	limit.wait(changed, nil)
}

// awaitTurn waits until w is woken. Where the goroutine that would read is busy
// with the Handler, a stand-in reads.
func (s *session) awaitTurn(limit *waitLimit, w *waiter, list *waiters) {
	if c := s.handling.conn; c != nil {
		c.takeOver()
	}
	list.add(w)
	s.roomMade() // there may be some already, of which the loop was not told yet
	s.mu.Unlock()
	woken := limit.wait(w.woken, nil)
	s.mu.Lock()
	if w.list != nil {
		list.remove(w)
	} else {
		list.woken--
		if !woken {
			<-w.woken
		}
	}
	if w.offered {
		w.offered, s.asking.offered = false, false
	}
}

// yield lets the goroutines run that a read has woken, if they are several: what
// they send now is then answered together. 64 goroutines in Request make a fifth
// more calls by that on one processor.
func (s *session) yield() {
	if s.asking != nil && s.asking.forReply.woken > 1 {
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
}

// offerReader wakes a Request that waits, to read the connection, if callers read
// it and none does. It follows each time that a goroutine may have left the role
// of the reader to others.
func (s *session) offerReader() {
	a, c := s.asking, s.conn
	if !a.waiting() || a.offered || c == nil || c.err != nil || !c.in.direct || c.in.role != none || !s.checkRoom() {
		return
	}
	list := &a.forReply
	if list.empty() {
		list = &a.forPlace
	}
	w := list.next()
	w.offered, a.offered = true, true
	w.wake()
}

// unread is what counts for the bound of the inbox.
func (s *session) unread() int {
	if s.asking == nil {
		return s.in.cost
	}
	return s.in.cost + s.asking.partsCost
}

// hasRoom reports whether the bound of the inbox admits more. An empty inbox admits
// a message of any size.
func (s *session) hasRoom() bool { return s.unread() < inboxBound }

// checkRoom is hasRoom for a goroutine that would read: if there is none, roomMade
// wakes it.
func (s *session) checkRoom() bool {
	s.full = !s.hasRoom()
	return !s.full
}

// roomMade follows when something has been taken that counts for the bound.
func (s *session) roomMade() {
	enough := inboxBound / 2 // for the loop, which need not be woken for each message
	if s.asking.waiting() || s.changed != nil {
		enough = inboxBound
	}
	if !s.full || s.unread() >= enough {
		return
	}
	s.full = false
	s.changed.wake()
	if s.conn != nil {
		s.conn.in.wakeLoop()
	}
	s.offerReader()
}

// waiter is a goroutine that waits in one of a session's lists, and is woken
// alone. session.mu guards it.
type waiter struct {
	woken   chan struct{} // has room for one
	list    *waiters      // nil if it does not wait
	index   int           // in list, unless that is in order
	offered bool          // it was woken to read the connection
}

func newWaiter() waiter { return waiter{woken: make(chan struct{}, 1)} }

// wake wakes w, if it waits.
func (w *waiter) wake() {
	if w.list != nil {
		w.list.woken++
		w.list.remove(w)
		w.woken <- struct{}{}
	}
}

// waiters is a list of them.
type waiters struct {
	list    []*waiter
	inOrder bool // the first that waits is the first to be woken; otherwise it costs less
	woken   int  // goroutines that have been woken and do not run yet
}

func (l *waiters) empty() bool { return len(l.list) == 0 }

func (l *waiters) add(w *waiter) {
	w.list, w.index = l, len(l.list)
	l.list = append(l.list, w)
}

func (l *waiters) remove(w *waiter) {
	if l.inOrder {
		i := slices.Index(l.list, w)
		l.list = slices.Delete(l.list, i, i+1)
		w.list = nil
		return
	}
	last := len(l.list) - 1
	moved := l.list[last]
	l.list[w.index] = moved
	moved.index = w.index
	l.list[last] = nil
	l.list = l.list[:last]
	w.list = nil
}

// next returns the one to be woken next. The list is not empty.
func (l *waiters) next() *waiter {
	if l.inOrder {
		return l.list[0]
	}
	return l.list[len(l.list)-1]
}

func (l *waiters) wakeOne() {
	if !l.empty() {
		l.next().wake()
	}
}

func (l *waiters) wakeAll() {
	all := l.list
	l.list = nil
	l.woken += len(all)
	for _, w := range all {
		w.list = nil
		w.woken <- struct{}{}
	}
}
