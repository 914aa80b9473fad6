package ipc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

const (
	// maxUnfinished bounds the handshakes that run beside each other, and
	// the clients that wait for a place; more wait in the backlog.
	maxUnfinished = 256

	// The pause after a failed Accept doubles from minAcceptPause up to
	// maxAcceptPause.
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// Server is the named end of conversations. In single mode it talks to one
// client at a time, in MultiMode it stands for all clients and each of them
// has a Server of its own, which ServerManager hands out. All methods may be
// called at once from any goroutine.
//
//	single mode   Listening ─► Connected ─► Disconnected ─► Connected …
//	MultiMode     Listening
//	  a client's               Connected ─► Disconnected
//	                                         any other ─► Closing ─► Closed
//
// In single mode, while a program still handles what a client sent before it
// left, the next one may be Connected, and an answer would reach it. Where
// that matters use MultiMode, in which a Server never changes its client.
type Server struct {
	endpoint

	// ServerManager reads from all clients, and writes to all. It is never
	// nil, and the same for a MultiMode server and all its clients' Servers.
	ServerManager *ServerManager

	addr      net.Addr
	closeOnce sync.Once
	closeErr  error
	queue     queueState

	*listening // nil on a client's Server
}

// listening is what a Server has that listens. Its goroutines are accept, and
// one for each connection, which shakes hands and then serves the client; all
// of them end with the Server.
type listening struct {
	config   ServerConfig
	listener net.Listener
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	places   places
	slots    chan struct{} // one for each unfinished handshake
	failures throttle      // of the log

	lock       sync.Mutex
	unfinished map[*net.Conn]struct{} // nil once Close has begun
	lastID     int
	gone       Stats // sums of the clients that have left
}

// StartServer starts a server called config.Name and returns when clients can
// connect. It fails with [ErrInUse] if a live server has the name, and with
// [ErrName] if no socket can have it; the socket of a server that was killed
// is taken over. A nil config and one that cannot work are errors that match
// [fs.ErrInvalid] where no other sentinel fits. What the system refuses, such as
// a missing folder or an unknown group, keeps the system's error.
func StartServer(config *ServerConfig) (*Server, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ipc: start server: %w", err)
	}
	listener, name, err := listen(&cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{
		addr: listener.Addr(),
		listening: &listening{
			config:     cfg,
			listener:   listener,
			places:     places{free: cfg.MaxClients, unlimited: cfg.MaxClients == 0},
			slots:      make(chan struct{}, maxUnfinished),
			unfinished: make(map[*net.Conn]struct{}),
		},
	}
	s.init(name, cfg.Logger, Listening, false)
	s.out.max = cfg.MaxMsgSize
	s.ServerManager = newManager(s)
	if cfg.MultiMode {
		s.misuse = ErrMultiMode
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.tasks.Go(s.accept)
	s.logf(slog.LevelInfo, "listening")
	return s, nil
}

// listen returns where to accept from, and what to call it.
func listen(c *ServerConfig) (net.Listener, string, error) {
	if c.Listener != nil {
		name := c.Name
		if name == "" {
			name = c.Listener.Addr().String()
		}
		if l, ok := c.Listener.(*net.UnixListener); ok {
			l.SetUnlinkOnClose(false) // whoever made it may keep it elsewhere too
		}
		return c.Listener, name, nil
	}
	path, err := sockfile.Path(c.SocketDir, c.Name)
	if err != nil {
		return nil, "", fmt.Errorf("ipc: start server: %w", err)
	}
	perm, err := permissions(c)
	if err != nil {
		return nil, "", fmt.Errorf("ipc: start server: %w", err)
	}
	l, err := listenSocket(path, perm, c.Logger)
	return l, path, err
}

// permissions returns those that c asks for.
func permissions(c *ServerConfig) (sockfile.Perm, error) {
	perm := sockfile.Perm{Mode: 0o600, GID: -1}
	switch {
	case c.UnmaskPermissions:
		perm.Mode = 0o777
	case c.Mode != 0:
		perm.Mode = c.Mode & fs.ModePerm
	}
	if c.Group == "" {
		return perm, nil
	}
	var err error
	perm.GID, err = sockfile.LookupGroup(c.Group)
	return perm, err
}

// ClientID returns the number of the client that this Server talks to in
// MultiMode: 1, 2, 3 …, in the order of joining, never used again. In single
// mode, and on the Server that stands for all clients, it is 0.
func (s *Server) ClientID() int { return s.id }

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.addr }

// Flush returns when everything accepted before has been given to the kernel,
// or ctx.Err() when ctx ends. It does not tell whether the peer has read it. It is
// [ErrNotConnected] if the client left before it was given everything. On a
// MultiMode server it flushes all clients, and joins their errors.
func (s *Server) Flush(ctx context.Context) error {
	if s.misuse == nil {
		return s.endpoint.Flush(ctx)
	}
	if err := s.out.refused(); err != nil {
		return err
	}
	clients := s.ServerManager.Servers()
	errs := make([]error, len(clients))
	each(clients, func(i int, c *Server) { errs[i] = c.Flush(ctx) })
	return errors.Join(errs...)
}

// each calls f for all clients at once, and returns when all have returned.
func each(clients []*Server, f func(i int, c *Server)) {
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() { f(i, c) })
	}
	wg.Wait()
}

// Stats returns the counts since the start. Those of a MultiMode server sum
// over all its clients.
func (s *Server) Stats() Stats {
	sum := s.endpoint.Stats()
	if s.misuse == nil {
		return sum
	}
	s.lock.Lock()
	sum.add(s.gone)
	clients := s.ServerManager.Servers()
	s.lock.Unlock()
	for _, c := range clients {
		sum.add(c.endpoint.Stats())
	}
	return sum
}

// Close sends what Write has accepted, for 1 s at most (in MultiMode to all
// clients together), and ends the Server: its socket file is removed, all
// calls that wait return, and no goroutine, descriptor or timer is left. It
// returns nil if the kernel has everything that was accepted, else an error
// that says how many messages it does not have; those for a client that has
// left before do not count. What had arrived can still be read, or over anything
// but Unix and TCP sockets what had been taken from the connection; then come the
// event Closed and [ErrClosed].
//
// On a client's Server it ends the connection to that client only. It may be
// called more than once, from any goroutine and from a callback, and returns
// the same every time.
func (s *Server) Close() error {
	late, cancel := context.WithTimeout(context.Background(), closeFlush)
	defer cancel()
	return s.closeBy(late.Done())
}

// closeBy is Close that stops sending when late is closed.
func (s *Server) closeBy(late <-chan struct{}) error {
	s.closeOnce.Do(func() {
		end := s.closed()
		s.beginClose(end)
		if s.listening != nil {
			s.stopAccepting()
		}
		var err error
		if s.misuse != nil {
			err = s.closeClients(late)
		}
		unsent := s.shut(late, end)
		if s.listening != nil {
			s.tasks.Wait()
		}
		s.finish(Closed, end)
		if s.listening != nil {
			s.ServerManager.end(end)
			s.logf(slog.LevelInfo, "server closed")
		} else {
			s.ServerManager.departed(s)
		}
		s.closeErr = errors.Join(err, s.unsentError(unsent))
	})
	return s.closeErr
}

// closeClients closes the Servers of all clients at once.
func (s *Server) closeClients(late <-chan struct{}) error {
	clients := s.ServerManager.Servers()
	errs := make([]error, len(clients))
	each(clients, func(i int, c *Server) { errs[i] = c.closeBy(late) })
	return errors.Join(errs...)
}

// stopAccepting removes the socket, ends the handshakes and lets no new one
// begin.
func (s *Server) stopAccepting() {
	s.cancel()
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.logf(slog.LevelWarn, "closing the listener", slog.Any("error", err))
	}
	s.lock.Lock()
	conns := s.unfinished
	s.unfinished = nil
	s.lock.Unlock()
	for conn := range conns {
		(*conn).Close()
	}
}

// accept accepts connections until Close. A failure, of descriptors say, is
// waited out.
func (s *Server) accept() {
	pause := minAcceptPause
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
			pause = minAcceptPause
			s.tasks.Go(func() { s.handle(conn) })
			continue
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			// Somebody else has closed the listener: nobody can ever come.
			s.logf(slog.LevelError, "the listener was closed", slog.Any("error", err))
			go s.Close()
			return
		}
		<-s.slots
		s.logf(slog.LevelError, "cannot accept a connection", slog.Any("error", err), slog.Duration("pause", pause))
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
		}
		pause = min(2*pause, maxAcceptPause)
	}
}

// handle takes a connection through its handshake and serves it.
func (s *Server) handle(conn net.Conn) {
	l, peer, err := s.shakeHands(conn)
	<-s.slots
	if err != nil {
		s.handshakeFailed(conn, peer, err)
		return
	}
	l.peer = peer
	l.busyPoll = s.config.BusyPoll
	if s.config.MultiMode {
		// A fresh goroutine has a small stack, which it will keep for long.
		s.tasks.Go(func() { s.serveClient(l) })
	} else {
		s.serveSingle(l)
	}
}

// shakeHands does the handshake. With an error no place is taken.
func (s *Server) shakeHands(conn net.Conn) (*link, peerInfo, error) {
	s.lock.Lock()
	if s.unfinished == nil {
		s.lock.Unlock()
		return nil, peerInfo{}, ErrClosed
	}
	s.unfinished[&conn] = struct{}{}
	s.lock.Unlock()
	defer func() {
		s.lock.Lock()
		defer s.lock.Unlock()
		delete(s.unfinished, &conn)
	}()

	deadline := time.Now().Add(s.config.HandshakeTimeout)
	ctx, cancel := context.WithDeadline(s.ctx, deadline)
	peer, err := authorize(ctx, conn, s.config.Authorize)
	cancel()
	if err != nil {
		return nil, peer, err
	}
	placed := false
	l, err := welcome(conn, &s.config, randomSecrets, deadline, func() error {
		err := s.places.take(conn)
		placed = err == nil
		return err
	})
	if err != nil {
		if placed {
			s.places.release()
		}
		return nil, peer, err
	}
	return l, peer, nil
}

// handshakeFailed counts a connection that came to nothing, before its peer can
// notice, closes it and logs why.
func (s *Server) handshakeFailed(conn net.Conn, peer peerInfo, err error) {
	if s.ctx.Err() != nil {
		conn.Close()
		return // it was Close that ended it
	}
	s.mu.Lock()
	s.stats.HandshakeFailures++
	s.mu.Unlock()
	conn.Close()
	held, ok := s.failures.admit(time.Now())
	if !ok {
		return
	}
	attrs := append(peer.attrs(), slog.Any("error", err))
	if held > 0 {
		attrs = append(attrs, slog.Int("repeated", held))
	}
	s.logf(slog.LevelWarn, "handshake failed", attrs...)
}

// serveSingle serves the one client of single mode.
func (s *Server) serveSingle(l *link) {
	defer s.places.release()
	defer close(l.done)
	if !s.attach(l) {
		l.conn.Close()
		return
	}
	s.logf(slog.LevelInfo, "client connected", l.peer.attrs()...)
	s.serve(l)
	s.mu.Lock()
	s.part(l)
	if !s.closing {
		s.event(Disconnected, nil)
	}
	s.mu.Unlock()
	s.logf(slog.LevelInfo, "client disconnected", slog.Any("reason", l.err))
}

// serveClient serves one client of MultiMode.
func (s *Server) serveClient(l *link) {
	defer s.places.release()
	defer close(l.done)
	c := s.newClient()
	if !s.admit(c, l) {
		l.conn.Close()
		return
	}
	c.logf(slog.LevelInfo, "client connected", l.peer.attrs()...)
	c.serve(l)
	s.dismiss(c, l)
	c.logf(slog.LevelInfo, "client disconnected", slog.Any("reason", l.err))
}

// newClient returns the Server of a client that is not known yet.
func (s *Server) newClient() *Server {
	c := &Server{ServerManager: s.ServerManager, addr: s.addr}
	c.init(s.socket, s.log, NotConnected, false)
	c.out.max = s.config.MaxMsgSize
	c.server = c
	return c
}

// admit gives a client its number and makes it known.
func (s *Server) admit(c *Server, l *link) bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.unfinished == nil {
		return false
	}
	s.lastID++
	c.id = s.lastID
	if s.ServerManager.empty() {
		l.share()
	}
	c.attach(l) // before anybody can find it among the Servers, and write to it
	if before := s.ServerManager.add(c); before != nil {
		before.readAlone()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.manager = s.ServerManager
	c.notify() // of Connected
	return true
}

// dismiss takes leave of a client whose link has been cleared away.
func (s *Server) dismiss(c *Server, l *link) {
	s.lock.Lock()
	s.ServerManager.remove(c)
	s.gone.add(c.endpoint.Stats())
	s.lock.Unlock()
	end := fmt.Errorf("ipc: %s has left: %w: %w", c.name(), ErrNotConnected, ErrClosed)
	c.mu.Lock()
	c.part(l)
	if unread := c.in.cost; unread > 0 {
		unread += departedCost
		s.places.hold(unread)
		c.drained = func() { s.places.hold(-unread) }
	}
	closing := c.closing
	if !closing { // else Close tells
		c.err = end // in one step, so that every call says the same
		c.out.refuse(end)
		c.event(Disconnected, nil)
	}
	c.mu.Unlock()
	if !closing {
		s.ServerManager.departed(c)
	}
}

// departedCost is what a client that has left takes beside its messages.
const departedCost = 2 << 10

// maxHeld is how many bytes of unread messages the clients that have left may
// hold. While there are more, nobody new gets a place: who does not read costs
// the clients their progress, and not the process its memory.
const maxHeld = 64 << 20

// places are those that clients can have at once. The connections that wait
// for one do so in conn.Read, first come first served: a client that goes away
// meanwhile is noticed by that.
type places struct {
	unlimited bool

	mu      sync.Mutex
	free    int
	held    int
	waiting []*net.Conn
}

// take waits for a place for conn.
func (p *places) take(conn net.Conn) error {
	p.mu.Lock()
	if p.available() {
		p.free--
		p.mu.Unlock()
		return nil
	}
	conn.SetReadDeadline(time.Time{})
	p.waiting = append(p.waiting, &conn)
	p.mu.Unlock()

	var b [1]byte
	n, err := conn.Read(b[:])

	granted := !p.leave(&conn)
	switch {
	case granted && timedOut(err):
		return nil
	case granted:
		p.release()
	}
	if n > 0 {
		return detailf(ErrProtocol, "the client went on with the handshake before its turn")
	}
	return fmt.Errorf("waiting for a place: %w", err)
}

// available reports whether somebody can have a place now.
func (p *places) available() bool {
	return (p.unlimited || p.free > 0) && p.held <= maxHeld
}

// leave takes conn out of those who wait, and reports whether it was there.
func (p *places) leave(conn *net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiting, conn)
	if i < 0 {
		return false
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	return true
}

// release gives a place back.
func (p *places) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	p.grant()
}

// hold adds to the bytes that the clients that have left hold.
func (p *places) hold(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held += bytes
	p.grant()
}

// grant gives the places there are to whoever has waited longest.
func (p *places) grant() {
	for len(p.waiting) > 0 && p.available() {
		p.free--
		(*p.waiting[0]).SetReadDeadline(longAgo)
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}
