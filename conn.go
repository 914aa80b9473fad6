package ipc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// lingerTime is how long the rest of a failed connection may take: what has
// arrived is still read after a write has failed, and a TLS connection sends
// its last alert.
const lingerTime = 100 * time.Millisecond

// conn is one connection of a session, from the end of its handshake to its
// loss; session says which steps that has. Its own goroutine runs serve, and is
// the only one that retires it. A stand-in may replace it: see handling.
//
// session.mu guards the fields up to the first blank line. Those after it do not
// change. in belongs to the reader, as its comment says, out to the flush.
type conn struct {
	err      error       // why the connection ended; nil while it lives
	writeErr error       // why writing failed; reading goes on for lingerTime
	linger   *time.Timer // ends the connection after a failed write

	session *session
	netConn net.Conn
	raw     *rawConn // of netConn; nil where bytes have to go through its methods
	peer    peerInfo
	began   time.Time
	done    chan struct{} // closed when the session has let go of the connection
	resume  func()        // what the connection's own goroutine does: serve, and what follows

	in       reader
	out      sender
	exchange exchange
}

// peerInfo is what Peer returns; it is asked once.
type peerInfo struct {
	peer Peer
	err  error
}

// attrs returns the peer for a log line, if it is known.
func (p peerInfo) attrs() []slog.Attr {
	if p.err != nil {
		return nil
	}
	return []slog.Attr{slog.Any("peer", p.peer)}
}

// newConn returns the connection of which a handshake has negotiated n. It is
// no session's before start.
func newConn(netConn net.Conn, peer peerInfo, n wire.Negotiated) *conn {
	c := &conn{
		netConn: netConn,
		raw:     newRawConn(netConn),
		peer:    peer,
		began:   time.Now(),
		done:    make(chan struct{}),
	}
	c.in.conn = c
	c.in.recv.dec = wire.Decoder(n)
	c.in.recv.exchange = &c.exchange
	if n.MaxMsgSize < wire.ControlSize {
		c.exchange.peer = knowsNone // no announcement would be a valid frame
	}
	c.out.sealer.cipher = n.Cipher
	return c
}

// start makes c a connection of s.
func (c *conn) start(s *session) {
	c.session = s
	if s.direct && c.raw != nil {
		c.in.direct = true
		c.in.timer = time.NewTimer(s.delay)
		c.in.timing = true
	}
}

// fail ends the connection: the first reason counts. It wakes the goroutine
// that reads, and the connection's own, which does the rest. session.mu is held;
// where raw is nil, a close has to follow without it.
func (c *conn) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.in.interrupt()
	c.in.wakeLoop()
	c.takeOver()
}

// end is fail for goroutines other than the reader. ctx bounds what closing
// takes.
func (c *conn) end(ctx context.Context, err error) {
	s := c.session
	s.mu.Lock()
	c.fail(err)
	var half halfCloser
	if c.raw == nil && errors.Is(c.err, ErrClosed) && c.linger == nil && ctx.Err() == nil {
		if half = overTCP(c.netConn); half != nil {
			c.linger = time.AfterFunc(lingerTime, func() { closeNow(c.netConn) })
		}
	}
	s.mu.Unlock()
	switch {
	case c.raw != nil:
	case half != nil:
		half.CloseWrite() // the reader gets the end when the peer closes as well
	default:
		closeContext(ctx, c.netConn) // wakes a reader that interrupt does not reach
	}
}

// halfCloser is a connection of which the one direction can be closed.
type halfCloser interface{ CloseWrite() error }

// overTCP returns a connection that may be TCP, or TLS over it, as a halfCloser,
// and nil for others.
func overTCP(netConn net.Conn) halfCloser {
	switch c := netConn.(type) {
	case *net.TCPConn:
		return c
	case interface {
		halfCloser
		NetConn() net.Conn
	}:
		return c
	}
	return nil
}

// partWays is the end of a connection that Close ends: it tells the peer that
// nothing more comes, and drops what the peer still sends, until that has closed
// as well or lingerTime has passed. TCP resets a connection that is closed while
// something is unread, and then forgets what it has not yet sent.
func (c *conn) partWays() {
	half := overTCP(c.netConn)
	if half == nil {
		return
	}
	timer := time.AfterFunc(lingerTime, func() { closeNow(c.netConn) })
	defer timer.Stop()
	if half.CloseWrite() == nil {
		c.netConn.SetReadDeadline(time.Time{}) // which interrupt has set
		io.Copy(io.Discard, c.netConn)
	}
}

// closeContext closes a connection. TLS may wait for 5 s to send an alert
// (crypto/tls), and a deadline of ours does not bound that: when ctx ends, the
// connection below it is closed.
func closeContext(ctx context.Context, netConn net.Conn) {
	if outer, ok := netConn.(interface{ NetConn() net.Conn }); ok {
		stop := context.AfterFunc(ctx, func() { outer.NetConn().Close() })
		defer stop()
	}
	netConn.Close()
}

// closeNow closes a connection at once.
func closeNow(netConn net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // the time is over
	closeContext(ctx, netConn)
}

// closeConn closes a connection within lingerTime.
func closeConn(netConn net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), lingerTime)
	defer cancel()
	closeContext(ctx, netConn)
}

// writeFailed is called by a flush that could not write. What has arrived may
// still be read; the end of that, or of lingerTime, ends the connection.
func (c *conn) writeFailed(err error) {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.err != nil || c.writeErr != nil {
		return
	}
	c.writeErr = err
	c.linger = time.AfterFunc(lingerTime, func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // the time is over
		c.end(ctx, err)
	})
	c.in.wakeLoop()
}

// serve is what the connection's own goroutine does. It returns true when the
// connection has ended and has been retired, and false when another goroutine is
// the connection's own now.
func (c *conn) serve() (own bool) {
	c.session.mu.Lock()
	own = c.in.loop()
	c.session.mu.Unlock()
	if own {
		c.retire()
	}
	return own
}

// retire closes a connection that has ended, and takes it from the outbox. No
// goroutine reads or flushes any more when it returns.
func (c *conn) retire() {
	s := c.session
	s.mu.Lock()
	c.in.quiesce()
	if c.linger != nil {
		c.linger.Stop()
	}
	closed := errors.Is(c.err, ErrClosed)
	s.mu.Unlock()
	if closed && c.raw != nil {
		c.readRest()
	}
	if closed {
		c.partWays()
	}
	closeConn(c.netConn)
	c.markUnsent(s.out.detach(c))
	c.in.recv.reset()
}

// readRest takes what had arrived before a Close into the inbox, as far as there
// is room.
func (c *conn) readRest() {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	late := time.Now().Add(lingerTime) // a peer may send faster than we read
	for s.hasRoom() && time.Now().Before(late) {
		if err := c.in.read(time.Time{}, false); err != nil {
			return
		}
	}
}

// timedOut reports whether err is a passed deadline, so that the connection
// lives.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)
