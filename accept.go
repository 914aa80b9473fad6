package ipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

const (
	// The pause after a failed Accept doubles from minAcceptPause up to
	// maxAcceptPause.
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// listening is the part of a Server that accepts connections. Its goroutines
// are accept, and one for each connection, which does the handshake and then
// serves the client; all of them end with the Server.
type listening struct {
	config    ServerConfig
	listener  net.Listener
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	tasks     sync.WaitGroup
	admission admission
	slots     chan struct{} // one for each unfinished handshake
	failures  throttle      // of the log
	shared    spares        // of all sessions

	acceptMu   sync.Mutex             // guards what follows
	unfinished map[*net.Conn]struct{} // in the handshake; nil once Close has begun
	lastID     int
	departed   Stats // sums of the clients that have left
}

func newListening(config ServerConfig, l net.Listener) *listening {
	ctx, cancel := context.WithCancel(context.Background())
	return &listening{
		config:     config,
		listener:   l,
		ctx:        ctx,
		cancel:     cancel,
		admission:  admission{free: config.MaxClients, unlimited: config.MaxClients == 0},
		slots:      make(chan struct{}, maxUnfinished),
		unfinished: make(map[*net.Conn]struct{}),
	}
}

// accept accepts connections until Close. After a failure, of descriptors say,
// it pauses and tries again.
func (s *Server) accept() {
	pause := minAcceptPause
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		netConn, err := s.listener.Accept()
		switch {
		case err == nil:
			pause = minAcceptPause
			s.tasks.Add(1)
			go s.handle(netConn)
			continue
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			// The program has closed its Listener: no client can ever come.
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

// stopAccepting removes the socket, ends the handshakes and lets no new one
// begin. ctx bounds what closing their connections takes.
func (s *Server) stopAccepting(ctx context.Context) {
	s.cancel()
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.logf(slog.LevelWarn, "closing the listener", slog.Any("error", err))
	}
	s.acceptMu.Lock()
	conns := s.unfinished
	s.unfinished = nil
	s.acceptMu.Unlock()
	for netConn := range conns {
		s.tasks.Go(func() { closeContext(ctx, *netConn) })
	}
}

// handle does the handshake on a connection and serves it.
func (s *Server) handle(netConn net.Conn) {
	c, peer, err := s.handshake(netConn)
	<-s.slots
	if err != nil {
		s.handshakeFailed(netConn, peer, err)
		s.tasks.Done()
		return
	}
	c.in.busyPoll = s.config.BusyPoll
	c.exchange.server = true
	if s.config.MultiMode {
		c.out.writeTimeout = s.config.WriteTimeout
		// A fresh goroutine has a small stack, which it will keep for long.
		go s.serveClient(c)
		return
	}
	s.serveSingle(c)
}

// handshake does the server's side of the handshake, for which the client needs
// a place. With an error none is taken.
func (s *Server) handshake(netConn net.Conn) (*conn, peerInfo, error) {
	s.acceptMu.Lock()
	if s.unfinished == nil {
		s.acceptMu.Unlock()
		return nil, peerInfo{}, ErrClosed
	}
	s.unfinished[&netConn] = struct{}{}
	s.acceptMu.Unlock()
	defer func() {
		s.acceptMu.Lock()
		defer s.acceptMu.Unlock()
		delete(s.unfinished, &netConn)
	}()

	deadline := time.Now().Add(s.config.HandshakeTimeout)
	ctx, cancel := context.WithDeadline(s.ctx, deadline)
	peer, err := authorize(ctx, netConn, s.config.Authorize)
	cancel()
	if err != nil {
		return nil, peer, err
	}
	n, err := s.negotiate(netConn, deadline)
	if err != nil {
		return nil, peer, err
	}
	if peer.err != nil && s.config.Authorize == nil && !errors.Is(peer.err, errors.ErrUnsupported) {
		// Some clients on Windows can be identified once something was read.
		peer.peer, peer.err = peerOf(netConn)
	}
	return newConn(netConn, peer, n), peer, nil
}

// negotiate exchanges the steps of the handshake.
func (s *Server) negotiate(netConn net.Conn, deadline time.Time) (n wire.Negotiated, err error) {
	admitted := false
	defer func() {
		if admitted && err != nil {
			s.admission.release()
		}
	}()
	netConn.SetDeadline(deadline)
	offer := wire.Server{Encrypt: s.config.Encryption, MaxMsgSize: s.config.MaxMsgSize, Secrets: wire.System}
	n, err = offer.Handshake(netConn, func() error {
		left := time.Until(deadline) // waiting does not count
		if err := s.admission.acquire(netConn); err != nil {
			return err
		}
		admitted = true
		netConn.SetDeadline(time.Now().Add(left))
		return nil
	})
	if err == nil {
		netConn.SetDeadline(time.Time{})
	}
	return n, err
}

// handshakeFailed counts a connection that failed before it was established,
// before its peer can notice, closes it and logs why.
func (s *Server) handshakeFailed(netConn net.Conn, peer peerInfo, err error) {
	if s.ctx.Err() != nil {
		closeConn(netConn)
		return // it was Close that ended it
	}
	s.mu.Lock()
	s.stats.HandshakeFailures++
	s.mu.Unlock()
	closeConn(netConn)
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

// authorize asks the kernel which process is at the other end of netConn and,
// where allow is set, lets it decide. It fails closed: a peer that the kernel
// does not report is refused.
func authorize(ctx context.Context, netConn net.Conn, allow func(Peer) error) (peerInfo, error) {
	var info peerInfo
	info.peer, info.err = peerOf(netConn)
	if allow == nil {
		return info, nil
	}
	if info.err != nil {
		return info, unauthorized(info.err)
	}
	_, err := runContext(ctx, func() (struct{}, error) {
		err := allow(info.peer)
		if err != nil {
			err = unauthorized(err)
		}
		return struct{}{}, err
	}, func(struct{}) {})
	return info, err
}

// unauthorized returns the error of a refusal, unless the reason that an Authorize
// gave is one already.
func unauthorized(reason error) error {
	if errors.Is(reason, ErrUnauthorized) {
		return reason
	}
	return fmt.Errorf("%w: %w", ErrUnauthorized, reason)
}

// runContext runs f, which is the program's and may take as long as it likes, in
// a goroutine of its own. When ctx ends first it returns at once; late is then
// called with what f returns.
func runContext[T any](ctx context.Context, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	results := make(chan result)
	go func() {
		v, err := f()
		select {
		case results <- result{v, err}:
		case <-ctx.Done():
			if err == nil {
				late(v)
			}
		}
	}()
	select {
	case r := <-results:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// admission has the places that clients can have at once. The connections that
// wait for one do so in their Read, first come first served: a client that goes
// away meanwhile is noticed by that.
type admission struct {
	unlimited bool

	mu      sync.Mutex // guards what follows
	free    int
	held    int // bytes of unread messages, of clients that have left
	waiting []*net.Conn
}

// acquire waits for a place for netConn.
func (a *admission) acquire(netConn net.Conn) error {
	a.mu.Lock()
	if a.available() {
		a.free--
		a.mu.Unlock()
		return nil
	}
	netConn.SetReadDeadline(time.Time{})
	a.waiting = append(a.waiting, &netConn)
	a.mu.Unlock()

	var b [1]byte
	n, err := readSome(netConn, b[:])

	granted := !a.cancel(&netConn)
	switch {
	case granted && timedOut(err):
		return nil
	case granted:
		a.release()
	}
	if n > 0 {
		return detailf(ErrProtocol, "the client went on with the handshake before its turn")
	}
	return fmt.Errorf("waiting for a place: %w", err)
}

// available reports whether a client can have a place now.
func (a *admission) available() bool {
	return (a.unlimited || a.free > 0) && a.held <= maxHeld
}

// cancel removes netConn from those that wait, and reports whether it was there.
func (a *admission) cancel(netConn *net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.waiting, netConn)
	if i < 0 {
		return false
	}
	a.waiting = slices.Delete(a.waiting, i, i+1)
	return true
}

// release gives a place back.
func (a *admission) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free++
	a.grant()
}

// charge adds to the bytes that the clients that have left hold.
func (a *admission) charge(bytes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held += bytes
	a.grant()
}

// grant gives the places there are to the connections that have waited longest.
func (a *admission) grant() {
	for len(a.waiting) > 0 && a.available() {
		a.free--
		(*a.waiting[0]).SetReadDeadline(longAgo)
		a.waiting = slices.Delete(a.waiting, 0, 1)
	}
}
