package ipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

const (
	// minPause is the pause before the second attempt to connect, and the least
	// before each later one: a program that means seconds by RetryTimer: 20,
	// which are nanoseconds, does not make a hot loop.
	minPause = 5 * time.Millisecond

	// settled is how long a connection must last, if no frame comes, for the
	// pauses to start anew: a server that drops each client at once must not
	// make a hot loop.
	settled = time.Second

	// permissionGrace is how long after the socket was bound a refused permission
	// may be that of a server which has not yet opened it to others.
	permissionGrace = 250 * time.Millisecond

	// placeGrace is how long a server may take to give a client a place before
	// the log says that the client waits for one.
	placeGrace = time.Second
)

// Why a handshake that was given up had not ended.
var (
	errNoAnswer = errors.New("the connection is not answered: is the server busy, stopped, or not one of this protocol?")
	errNoPlace  = errors.New("the server has no place for this client: is it in single mode, or at MaxClients?")
)

// A Client is connected to a server. It reconnects automatically until it is
// closed. All methods may be called at once from any goroutine.
//
//	Connecting ─► Connected ─► Reconnecting ─► Timeout
//	                  ▲             │
//	                  └─────────────┘      any other ─► Closing ─► Closed
type Client struct {
	session

	config ClientConfig
	path   string
	began  time.Time

	// One goroutine, run, owns the connection, the pause, and all changes of
	// the status but the last ones, which are Close's.
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned

	pause     time.Duration // before the next attempt; 0 is at once
	closeOnce sync.Once
	closeErr  error
	unsent    int // messages, when a Timeout ended it
}

// StartClient connects to the server called config.Name, waiting for it if
// need be, and returns when the connection can be used, or with [ErrTimeout]
// after config.Timeout. The events Connecting and Connected are the first that
// Read returns.
//
// The server may learn of the client a moment later: it counts among
// [ServerManager.Servers], and gets what is Broadcast, from the event Connected on
// the server's side on. A client that must not miss a Broadcast asks the server
// something by Request first.
//
// A server that is not there is tried again; one that has no place yet is waited
// for, which the log says at level info. These failures are final, and returned at
// once:
//
//   - the server speaks another version: [ErrVersion];
//   - it does not encrypt, and the client insists on that: [ErrEncryptionRequired];
//   - the config's own Authorize refuses it: [ErrUnauthorized];
//   - what only a person can mend, such as a missing permission. As a server sets the
//     permissions of its socket after it has made it, that is tried again in the first
//     250 ms of a socket.
//
// A server whose Authorize refuses this client does not say so: it looks like one
// that is closing, and is tried again. The log, and the error of a Timeout, say that
// this may be so.
//
// The Client reconnects by itself when the connection is lost, until Close. A
// nil config and one that cannot work are errors that match [fs.ErrInvalid]
// where no other sentinel fits.
func StartClient(config *ClientConfig) (*Client, error) {
	return StartClientContext(context.Background(), config)
}

// StartClientContext is StartClient until ctx ends; it then returns an error
// that matches ctx.Err(). Once it has returned, ctx has no influence on the
// Client.
func StartClientContext(ctx context.Context, config *ClientConfig) (*Client, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ipc: start client: %w", err)
	}
	c := &Client{config: cfg, done: make(chan struct{}), began: time.Now()}
	name := cfg.Name
	if cfg.Dial == nil {
		if c.path, err = socketPath(cfg.SocketDir, cfg.Name); err != nil {
			return nil, fmt.Errorf("ipc: start client: %w", err)
		}
		name = c.path
	} else if name == "" {
		name = "(unnamed)"
	}
	c.init(name, cfg.Logger, Connecting)
	c.out.resend = true
	c.direct = cfg.Handler == nil
	c.spares = new(spares)
	c.delay = cfg.loopDelay
	c.mu.Lock()
	c.event(Connecting, nil)
	c.mu.Unlock()
	conn, err := c.connect(ctx, c.giveUp)
	if err != nil {
		return nil, c.explain("connect to", err)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if f := cfg.Handler; f != nil {
		c.setHandler(func(m *Message) { f(c, m) })
	}
	c.attach(conn)
	go c.run(conn)
	return c, nil
}

// Close sends what Write has accepted, for 1 s at most, and ends the Client:
// all calls that wait return, and no goroutine, descriptor or timer is left, but
// for a Handler that runs: Close does not wait for it.
// It returns nil if the kernel has everything that was accepted, else an error
// that says how many messages it does not have. A Client that is not connected
// closes at once. What had arrived before can still be read; then come the event
// Closed and [ErrClosed]. (Over connections other than Unix and TCP sockets, what had
// not been taken from the connection yet is lost.)
//
// It may be called more than once, from any goroutine, and returns the same
// every time. On a nil Client it does nothing.
func (c *Client) Close() error {
	if c == nil {
		return nil
	}
	c.closeOnce.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeFlush)
		defer cancel()
		end := c.closed()
		c.beginClose(end)
		c.cancel()
		unsent := c.awaitLoss(c.hangUp(ctx, end))
		<-c.done
		c.finish(end)
		c.closeErr = c.unsentError(unsent + c.unsent)
		c.logf(slog.LevelInfo, "client closed")
	})
	return c.closeErr
}

// run keeps the client connected, first by conn, until Close or a Timeout. It is
// the own goroutine of each connection.
func (c *Client) run(conn *conn) {
	for conn != nil {
		c.logf(slog.LevelInfo, "connected", conn.peer.attrs()...)
		conn.resume = func() { c.resume(conn) }
		if !conn.serve() {
			return
		}
		conn = c.reconnect(conn)
	}
	close(c.done)
}

// resume is run in the place of another goroutine that was busy with the Handler.
func (c *Client) resume(conn *conn) {
	if conn.serve() {
		c.run(c.reconnect(conn))
	}
}

// reconnect takes a lost connection away, and returns the next one, or nil at the
// end.
func (c *Client) reconnect(lost *conn) *conn {
	again := c.lose(lost)
	close(lost.done)
	if !again {
		return nil
	}
	c.logf(slog.LevelInfo, "connection lost", slog.Any("reason", lost.err))
	next, err := c.connect(c.ctx, c.report())
	if err != nil {
		c.timeOut(err)
		return nil
	}
	c.mu.Lock()
	c.stats.Reconnects++
	c.mu.Unlock()
	if !c.attach(next) {
		closeConn(next.netConn)
		return nil
	}
	return next
}

// lose takes a lost connection away, and reports whether there is to be
// another.
func (c *Client) lose(conn *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.in.settled || time.Since(conn.began) >= settled {
		c.pause = 0
	}
	c.detach(conn)
	if c.closing {
		return false
	}
	c.event(ReConnecting, nil)
	return true
}

// timeOut ends a client that could not reconnect. If Close is the reason, it
// is Close that does so.
func (c *Client) timeOut(err error) {
	if !errors.Is(err, ErrTimeout) {
		return
	}
	err = c.explain("reconnect to", err)
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	c.out.refuse(err)
	c.unsent = c.out.end(false)
	c.err = err
	c.event(Timeout, err)
	c.mu.Unlock()
	c.logf(slog.LevelError, "gave up reconnecting", slog.Any("error", err))
}

// connect makes a connection, however many attempts that takes, until ctx ends
// or the Timeout passes; if that is negative, one attempt. After each failure it
// gives up if stop returns an error. The log tells each new reason at level info.
func (c *Client) connect(ctx context.Context, stop func(error) error) (*conn, error) {
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.config.Timeout > 0 {
		bounded, cancel = context.WithTimeout(bounded, c.config.Timeout)
		defer cancel()
	}
	var last error
	reason := ""
	for {
		if err := c.backOff(bounded); err != nil {
			return nil, c.connectError(ctx, last)
		}
		conn, err := c.attempt(bounded)
		if err == nil {
			return conn, nil
		}
		if bounded.Err() != nil {
			if last == nil || !errors.Is(err, bounded.Err()) {
				last = err
			}
			return nil, c.connectError(ctx, last)
		}
		last = err
		if err := stop(err); err != nil {
			return nil, err
		}
		if c.config.Timeout < 0 {
			return nil, c.connectError(ctx, last)
		}
		level := slog.LevelDebug
		if text := err.Error(); text != reason {
			reason, level = text, slog.LevelInfo
		}
		c.logf(level, "waiting for the server", slog.Any("error", err))
	}
}

// connectError says why connecting was given up: ctx has ended, or else the
// Timeout has passed. last is what kept the client from being connected until
// then, nil if that is not known.
func (c *Client) connectError(ctx context.Context, last error) error {
	end, text := ErrTimeout, "timed out trying to connect"
	switch err := ctx.Err(); {
	case err != nil:
		end, text = err, err.Error()
	case c.ctx != nil:
		text = "timed out trying to re-connect"
	}
	if last == nil || last == end {
		return detailf(end, "%s", text)
	}
	return detailf(errors.Join(end, last), "%s: %v", text, last)
}

// backOff waits before the next attempt, and makes the pause after it longer.
func (c *Client) backOff(ctx context.Context) error {
	pause := c.pause
	c.pause = max(min(2*pause, c.config.RetryTimer), minPause)
	if pause == 0 {
		return ctx.Err()
	}
	// Clients that lost the same server should not come back all at once.
	least := max(pause/2, minPause)
	t := time.NewTimer(least + rand.N(pause-least+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt makes one attempt to connect.
func (c *Client) attempt(ctx context.Context) (*conn, error) {
	netConn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	peer, err := authorize(ctx, netConn, c.config.Authorize)
	var n wire.Negotiated
	if err == nil {
		n, err = c.negotiate(ctx, netConn)
	}
	if err != nil {
		c.mu.Lock()
		c.stats.HandshakeFailures++
		c.mu.Unlock()
		closeConn(netConn)
		return nil, err
	}
	conn := newConn(netConn, peer, n)
	conn.in.busyPoll = c.config.BusyPoll
	return conn, nil
}

// negotiate does the client's side of the handshake. It returns when the server
// has given the client a place.
func (c *Client) negotiate(ctx context.Context, netConn net.Conn) (wire.Negotiated, error) {
	stop := context.AfterFunc(ctx, func() { closeConn(netConn) })
	unanswered, over := errNoAnswer, func() {}
	ask := wire.Client{RequireEncryption: c.config.Encryption, Secrets: wire.System, Waiting: func() {
		unanswered, over = errNoPlace, c.logWait()
	}}
	n, err := ask.Handshake(netConn)
	over()
	if !stop() {
		// It is about to be closed, or is.
		return wire.Negotiated{}, unanswered
	}
	if err == nil {
		netConn.SetDeadline(time.Time{}) // Dial may have left one
	}
	return n, err
}

// logWait has the log say that the client waits for a place, once that takes
// longer than placeGrace. The caller calls over when the wait is over; no line is
// logged after that.
func (c *Client) logWait() (over func()) {
	logged := make(chan struct{})
	t := time.AfterFunc(placeGrace, func() {
		defer close(logged)
		c.logf(slog.LevelInfo, "waiting for a place: the server is in single mode and has a client, or is at MaxClients")
	})
	return func() {
		if !t.Stop() {
			<-logged
		}
	}
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if c.config.Dial == nil {
		return dialSocket(ctx, c.path)
	}
	return runContext(ctx,
		func() (net.Conn, error) {
			conn, err := c.config.Dial(ctx)
			if err == nil && conn == nil {
				err = invalid("ClientConfig.Dial returned no connection")
			}
			return conn, err
		},
		func(late net.Conn) { late.Close() })
}

// finalReasons are those for which no further attempt is of use, unless it is
// to another server.
var finalReasons = []error{ErrVersion, ErrEncryptionRequired, ErrUnauthorized, errors.ErrUnsupported}

// finalReason returns which of them err has, or nil.
func finalReason(err error) error {
	for _, reason := range finalReasons {
		if errors.Is(err, reason) {
			return reason
		}
	}
	return nil
}

// giveUp returns err if it is of no use for StartClient to go on after it.
func (c *Client) giveUp(err error) error {
	if finalReason(err) != nil {
		return err
	}
	var op *net.OpError
	switch {
	case c.config.Dial != nil || !errors.As(err, &op) || op.Op != "dial" || op.Timeout() || retryDial(err):
		return nil // it may pass
	case errors.Is(err, syscall.EACCES) && time.Since(c.began) < permissionGrace && c.isNewSocket():
		return nil
	}
	return err
}

// isNewSocket reports whether the server's socket may have been bound a moment ago.
func (c *Client) isNewSocket() bool {
	info, err := os.Stat(c.path)
	return err == nil && time.Since(info.ModTime()) < permissionGrace
}

// report returns a function that tells of each new reason for which a server
// is of no use, and never gives up: the next server may be another one.
func (c *Client) report() func(error) error {
	var told error
	return func(err error) error {
		if reason := finalReason(err); reason != nil && reason != told {
			told = reason
			c.mu.Lock()
			c.event(Error, c.explain("reconnect to", err))
			c.mu.Unlock()
		}
		return nil
	}
}
