package ipc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"sync"
)

// A Server accepts clients under a name. In single mode it talks to one client
// at a time; in MultiMode it stands for all clients, and each of them has a
// Server of its own, which ServerManager hands out. All methods may be called at
// once from any goroutine.
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
	session

	// ServerManager reads from all clients, and writes to all. It is never
	// nil, and the same for a MultiMode server and all its clients' Servers.
	ServerManager *ServerManager

	addr      net.Addr
	closeOnce sync.Once
	closeErr  error
	queue     queueState

	*listening // nil on a client's Server
}

// StartServer starts a server called config.Name and returns when clients can
// connect. It fails with [ErrInUse] if a live server has the name, and with
// [ErrName] if no socket can have it. The socket of a server that was killed is
// taken over. If that was another user's, the error matches [fs.ErrPermission]: in
// a sticky folder such as /tmp only its owner may remove it. A nil config and one
// that cannot work are errors that match [fs.ErrInvalid] where no other sentinel
// fits. What the system refuses, such as a missing folder or an unknown group,
// keeps the system's error.
func StartServer(config *ServerConfig) (*Server, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ipc: start server: %w", err)
	}
	listener, name, err := listen(&cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: listener.Addr(), listening: newListening(cfg, listener)}
	s.init(name, cfg.Logger, Listening)
	s.direct = !cfg.MultiMode && cfg.Handler == nil
	s.spares = &s.shared
	s.delay = cfg.loopDelay
	s.out.max = cfg.MaxMsgSize
	s.ServerManager = newManager(s)
	switch {
	case cfg.MultiMode && cfg.Handler == nil:
		s.misuse, s.noRead = ErrMultiMode, ErrMultiMode
	case cfg.MultiMode:
		s.misuse, s.noRead = ErrMultiMode, ErrHandler
	case cfg.Handler != nil:
		s.setHandler(func(m *Message) { cfg.Handler(s, m) })
	}
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
		if l, ok := c.Listener.(interface{ SetUnlinkOnClose(bool) }); ok { // a Unix listener
			l.SetUnlinkOnClose(false) // its creator may keep it elsewhere, too
		}
		return c.Listener, name, nil
	}
	path, err := socketPath(c.SocketDir, c.Name)
	if err != nil {
		return nil, "", fmt.Errorf("ipc: start server: %w", err)
	}
	l, err := listenSocket(path, c)
	return l, path, err
}

// mode returns the permissions that c asks for.
func (c *ServerConfig) mode() fs.FileMode {
	switch {
	case c.UnmaskPermissions:
		return 0o777
	case c.Mode != 0:
		return c.Mode
	}
	return 0o600
}

// ClientID returns the number of the client that this Server talks to in
// MultiMode: 1, 2, 3 …, in the order of joining, never used again. In single
// mode, and on the Server that stands for all clients, it is 0.
func (s *Server) ClientID() int { return s.id }

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.addr }

// Flush returns when everything accepted before has been given to the kernel,
// or ctx.Err() when ctx ends. It does not tell whether the peer has read it. It
// returns [ErrNotConnected] if the client left before the kernel had everything. On a
// MultiMode server it flushes all clients, and joins their errors.
func (s *Server) Flush(ctx context.Context) error {
	if s.misuse == nil {
		return s.session.Flush(ctx)
	}
	if err := s.out.refused(); err != nil {
		return err
	}
	return each(s.ServerManager.Servers(), func(c *Server) error { return c.Flush(ctx) })
}

// each calls f for all clients at once, and joins their errors.
func each(clients []*Server, f func(c *Server) error) error {
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() { errs[i] = f(c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stats returns the counts since the start. Those of a MultiMode server sum
// over all its clients.
func (s *Server) Stats() Stats {
	sum := s.session.Stats()
	if s.misuse == nil {
		return sum
	}
	s.acceptMu.Lock()
	sum.add(s.departed)
	clients := s.ServerManager.Servers()
	s.acceptMu.Unlock()
	for _, c := range clients {
		sum.add(c.session.Stats())
	}
	return sum
}

// Close sends what Write has accepted, for 1 s at most (in MultiMode to all
// clients together), and ends the Server: its socket file is removed, all
// calls that wait return, and no goroutine, descriptor or timer is left, but for
// the Handlers that run: it does not wait for them. It
// returns nil if the kernel has everything that was accepted, else an error
// that says how many messages it does not have; those for a client that has
// left before do not count. What had arrived before can still be read; then come
// the event Closed and [ErrClosed]. (Over connections other than Unix and TCP sockets,
// what had not been taken from the connection yet is lost.)
//
// On a client's Server it ends the connection to that client only. It may be
// called more than once, from any goroutine and from a callback, and returns
// the same every time. On a nil Server it does nothing.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeFlush)
	defer cancel()
	return s.closeBy(ctx)
}

// closeBy is Close that stops sending when ctx ends.
func (s *Server) closeBy(ctx context.Context) error {
	s.closeOnce.Do(func() {
		if s.listening != nil {
			s.closeErr = s.closeListening(ctx)
		} else {
			s.closeErr = s.closeClient(ctx)
		}
	})
	return s.closeErr
}

// closeListening closes a Server that StartServer returned.
func (s *Server) closeListening(ctx context.Context) error {
	end := s.closed()
	s.beginClose(end)
	s.stopAccepting(ctx)
	var err error
	if s.misuse != nil {
		clients := s.ServerManager.Servers()
		err = each(clients, func(c *Server) error { return c.closeBy(ctx) })
	}
	unsent := s.awaitLoss(s.hangUp(ctx, end))
	s.tasks.Wait()
	s.finish(end)
	s.ServerManager.end(end)
	s.logf(slog.LevelInfo, "server closed")
	return errors.Join(err, s.unsentError(unsent))
}

// closeClient closes the Server of one client in MultiMode.
func (s *Server) closeClient(ctx context.Context) error {
	end := s.closed()
	s.beginClose(end)
	unsent := s.awaitLoss(s.hangUp(ctx, end))
	return s.unsentError(unsent) // leave has recorded the end
}

// serveSingle serves the one client of single mode. It is the connection's own
// goroutine.
func (s *Server) serveSingle(c *conn) {
	if !s.attach(c) {
		closeConn(c.netConn)
		s.letGo(c)
		return
	}
	s.logf(slog.LevelInfo, "client connected", c.peer.attrs()...)
	c.resume = func() {
		if !c.serve() {
			return
		}
		s.mu.Lock()
		s.detach(c)
		if !s.closing {
			s.event(Disconnected, nil)
		}
		s.mu.Unlock()
		s.logf(slog.LevelInfo, "client disconnected", slog.Any("reason", c.err))
		s.letGo(c)
	}
	c.resume()
}

// letGo gives back what an accepted connection has: a place, and a task.
func (s *Server) letGo(c *conn) {
	close(c.done)
	s.admission.release()
	s.tasks.Done()
}

// serveClient serves one client of MultiMode. It is the connection's own
// goroutine.
func (s *Server) serveClient(c *conn) {
	client := s.newClient()
	if !s.join(client, c) {
		closeConn(c.netConn)
		s.letGo(c)
		return
	}
	client.logf(slog.LevelInfo, "client connected", c.peer.attrs()...)
	c.resume = func() {
		if !c.serve() {
			return
		}
		s.leave(client, c)
		client.logf(slog.LevelInfo, "client disconnected", slog.Any("reason", c.err))
		s.letGo(c)
	}
	c.resume()
}

// newClient returns the Server of a client that is not known yet.
func (s *Server) newClient() *Server {
	client := &Server{ServerManager: s.ServerManager, addr: s.addr}
	client.init(s.socket, s.log, NotConnected)
	client.spares = s.spares
	client.delay = s.delay
	client.out.max = s.config.MaxMsgSize
	client.server = client
	if f := s.config.Handler; f != nil {
		client.setHandler(func(m *Message) { f(client, m) })
	}
	return client
}

// join gives a client its number and makes it known.
func (s *Server) join(client *Server, c *conn) bool {
	s.acceptMu.Lock()
	defer s.acceptMu.Unlock()
	if s.unfinished == nil {
		return false
	}
	s.lastID++
	client.id = s.lastID
	client.attach(c) // before it is found among the Servers, and written to
	s.ServerManager.add(client)
	client.mu.Lock()
	defer client.mu.Unlock()
	client.manager = s.ServerManager
	client.notify() // of Connected
	return true
}

// leave takes a client whose connection has been retired away.
func (s *Server) leave(client *Server, c *conn) {
	s.acceptMu.Lock()
	s.ServerManager.remove(client)
	client.mu.Lock()
	c.endExchange() // which counts
	client.mu.Unlock()
	s.departed.add(client.session.Stats())
	s.acceptMu.Unlock()
	client.mu.Lock()
	client.detach(c)
	if unread := client.in.cost + client.handling.held; unread > 0 || client.handling.call != nil {
		unread += departedCost
		s.admission.charge(unread)
		client.drained = func() { s.admission.charge(-unread) }
	}
	// In one step, so that every call says the same, and before the Server's own
	// Close takes all events for handed over.
	if client.closing {
		client.err = client.out.refused()
		client.event(Closed, nil)
	} else {
		client.err = detailf(errors.Join(ErrNotConnected, ErrClosed), "ipc: %s: the connection to this client has ended", client.name())
		client.out.refuse(client.err)
		client.event(Disconnected, nil)
	}
	client.mu.Unlock()
	s.ServerManager.setDeparted(client)
}
