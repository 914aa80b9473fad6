package ipc

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"time"
)

const (
	// ownReadDelay is how long nobody may be in Read before the connection's
	// own goroutine reads, so that a loss is noticed and the inbox fills up.
	ownReadDelay = 20 * time.Millisecond

	// lingerTime is how long what has arrived may still be read after a
	// write has failed.
	lingerTime = 100 * time.Millisecond

	// yieldAfter is how long a reader with BusyPoll tries before it lets others
	// have the processor each time: one of them may be the peer. Sooner would
	// keep two that can have a processor each on one.
	yieldAfter = 20 * time.Microsecond

	// maxEmptyReads is how often in a row a connection may have nothing to
	// say for itself.
	maxEmptyReads = 100

	// wideBuffer is what a Unix socket is told to hold of large messages, so
	// that the two sides can work at the same time: the default of Linux,
	// 208 KiB, makes them take turns. It counts its bookkeeping, too, and
	// doubles the figure for that. What the kernel holds is lost with the
	// peer, hence not more than pays, and not for small messages.
	wideBuffer = 1 << 20
)

// role says who reads from a link's connection: one at a time.
type role uint8

const (
	vacant role = iota
	caller      // of Read: it is woken by the kernel itself
	owner       // the link's own goroutine
)

// link is one connection of an endpoint, from the end of its handshake to its
// loss. Its own goroutine runs endpoint.serve and is the only one to clear it
// away.
//
// Where callers may read (shared), the reader's role is taken by whoever waits
// in Read, and by the own goroutine when nobody has been there for
// ownReadDelay; a caller that comes back asks for it with a deadline in the
// past. Else the own goroutine has it all the time, and so it has, but for calls
// of Read in a callback, where a manager has other clients, too.
//
// The endpoint's mutex guards the fields down to the first blank line, and the
// manager's the one behind it. Those of the next block never change, those from
// dec on belong to the role, and those from sealer on to the flush.
type link struct {
	role     role
	turn     uint64      // counts the reads, so that a late kick hits nobody else
	deadline time.Time   // the read deadline of conn, as last set
	seen     uint64      // endpoint.reads when the timer was last set
	timed    bool        // idle is running
	err      error       // why the link ended; nil while it lives
	writeErr error       // why writing failed; reading goes on for lingerTime
	linger   *time.Timer // ends the link after a failed write
	frames   uint64      // received

	cut bool // the manager has interrupted a caller: conn's deadline is longAgo

	shared bool // callers may read
	conn   net.Conn
	raw    *rawConn      // of conn; nil where bytes have to go through conn's methods
	poke   chan struct{} // wakes the own goroutine; nil if not shared
	idle   *time.Timer   // fires to see whether callers still read; nil if not shared
	done   chan struct{} // closed when the own goroutine is through
	peer   peerInfo
	start  time.Time

	dec      decoder
	busyPoll time.Duration
	fresh    bool // a frame has come since the last busyRead

	sealer       sealer
	writeTimeout time.Duration // over 0: how long the socket may take nothing
	wide         bool          // the socket's buffer is for large messages
	vec          [][]byte      // scratch of send
	parts        net.Buffers   // and of what it calls
}

// peerInfo is the answer to Peer, asked once.
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

// newLink returns the link of a connection whose handshake is done; c is nil if
// it is not encrypted.
func newLink(conn net.Conn, maxMsgSize int, c *crypt) *link {
	return &link{
		conn:   conn,
		raw:    newRawConn(conn),
		done:   make(chan struct{}),
		start:  time.Now(),
		dec:    decoder{max: maxMsgSize, crypt: c},
		sealer: sealer{crypt: c},
	}
}

// share lets callers read from a new link, if its kind of connection allows it.
func (l *link) share() {
	if l.raw != nil {
		l.shared = true
		l.poke = make(chan struct{}, 1)
		l.idle = time.NewTimer(ownReadDelay)
		l.timed = true
	}
}

// errNothingYet is what a fill that does not wait returns when nothing has
// arrived.
var errNothingYet = errors.New("nothing has arrived")

// fill reads once and decodes. It waits for the first byte if wait is set, up
// to the read deadline. What it returns with an error came before the error.
// Only whoever has the role may call it.
func (l *link) fill(wait bool) (batch, error) {
	var n int
	var err error
	switch {
	case l.raw == nil:
		n, err = readSome(l.conn, l.dec.space())
	case wait && l.fresh:
		n, err = l.busyRead()
	default:
		n, err = l.raw.read(&l.dec, wait)
	}
	if n == 0 {
		if err == nil {
			err = io.EOF
		}
		return batch{}, err
	}
	got, decodeErr := l.dec.decode(n)
	l.fresh = l.busyPoll > 0 && got.frames > 0
	if decodeErr != nil {
		err = decodeErr
	}
	return got, err
}

// readSome is a Read that does not return nothing without a reason: by the rules
// of io.Reader that is not the end.
func readSome(conn net.Conn, b []byte) (n int, err error) {
	for range maxEmptyReads {
		if n, err = conn.Read(b); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// busyRead tries for as long as BusyPoll says, and only then waits. It looks at
// the deadline every time, so that it is as easy to interrupt as a wait.
func (l *link) busyRead() (int, error) {
	l.fresh = false
	for start := time.Now(); time.Since(start) < l.busyPoll; {
		if n, err := l.raw.read(&l.dec, false); err != errNothingYet {
			return n, err
		}
		if time.Since(start) > yieldAfter {
			yield()
		}
	}
	return l.raw.read(&l.dec, true)
}

// setDeadline sets the read deadline if it is another one. The endpoint's
// mutex is held. It is only for links with raw set.
func (l *link) setDeadline(t time.Time) {
	if !t.Equal(l.deadline) {
		l.deadline = t
		l.conn.SetReadDeadline(t) // fails only on a closed connection
	}
}

// kick makes whoever reads look up. The endpoint's mutex is held.
func (l *link) kick() { l.setDeadline(longAgo) }

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// wakeOwner makes the own goroutine look at the link's state. The endpoint's
// mutex is held.
func (l *link) wakeOwner() {
	select {
	case l.poke <- struct{}{}:
	default: // it is nil, or about to look anyway
	}
}

// watch sees to it that the own goroutine takes the role when callers stay
// away. The endpoint's mutex is held.
func (l *link) watch(reads uint64) {
	if !l.timed {
		l.timed = true
		l.seen = reads
		l.idle.Reset(ownReadDelay)
	}
}

// fail ends the link: the first reason counts. It wakes whoever reads, and
// the own goroutine, which does the rest. The endpoint's mutex is held; where
// raw is nil, hangUp has to follow without it.
func (l *link) fail(err error) {
	if l.err != nil {
		return
	}
	l.err = err
	if l.raw != nil {
		l.kick()
	}
	l.wakeOwner()
}

// hangUp wakes an own goroutine that is in conn.Read, which no kick reaches.
func (l *link) hangUp() {
	if l.raw == nil {
		l.conn.Close()
	}
}

// send gives the segments to the kernel, from the byte at off on, and returns
// how many bytes it took. It blocks up to the write deadline. Where that
// bounds how long the peer takes nothing, it returns as soon as something was
// taken.
func (l *link) send(segs []segment, off int) (int, error) {
	if segs[0].size() == 0 {
		return 0, nil // a withdrawn message; some connections deliver an empty write
	}
	if segs[0].chunk == nil {
		l.widen()
	}
	if l.sealer.crypt != nil {
		b := l.sealer.next(segs)
		n, err := l.sendPart(b)
		l.sealer.sent(n)
		return n, err
	}
	if l.writeTimeout > 0 {
		return l.sendSome(&segs[0], off)
	}
	vec := l.vec[:0]
	for _, s := range segs {
		for _, part := range [...][]byte{s.head, s.body} {
			if off < len(part) {
				vec = append(vec, part[off:])
				off = 0
			} else {
				off -= len(part)
			}
		}
	}
	defer clear(vec)
	l.vec = vec[:0]
	if l.raw != nil && len(vec) > 1 {
		// Only here: net.Buffers looks through a type that embeds one of
		// the net package's, past that type's own Write.
		l.parts = vec
		n, err := l.parts.WriteTo(l.conn)
		return int(n), err
	}
	sum := 0
	for _, part := range vec {
		n, err := l.conn.Write(part)
		sum += n
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// widen prepares the socket for large messages.
func (l *link) widen() {
	if l.wide {
		return
	}
	l.wide = true
	if c, ok := l.conn.(*net.UnixConn); ok {
		c.SetWriteBuffer(wideBuffer) // as far as the system allows
	}
}

// sendSome gives some of s to the kernel, from the byte at off on.
func (l *link) sendSome(s *segment, off int) (int, error) {
	if off >= len(s.head) {
		return l.sendPart(s.body[off-len(s.head):])
	}
	// A header on its own would wake the peer for nothing.
	c := chunks.Get().(*chunk)
	defer chunks.Put(c)
	b := append(c.b, s.head[off:]...)
	b = append(b, s.body[:min(len(s.body), largeSize)]...)
	return l.sendPart(b)
}

// sendPart gives b to the kernel, or some of it where that is to be noticed.
func (l *link) sendPart(b []byte) (int, error) {
	if l.raw != nil && l.writeTimeout > 0 {
		return l.raw.write(b, true)
	}
	if l.writeTimeout > 0 {
		// The deadline is for this piece: what is larger might take longer
		// although the peer reads all the time.
		b = b[:min(len(b), largeSize)]
	}
	return l.conn.Write(b)
}

// sendNow gives as much of a segment to the kernel as it takes at once. raw is
// not nil.
func (l *link) sendNow(segs []segment) int {
	b := segs[0].body
	if l.sealer.crypt != nil {
		b = l.sealer.next(segs)
	}
	n, _ := l.raw.write(b, false) // a flush will meet the error
	if l.sealer.crypt != nil {
		l.sealer.sent(n)
	}
	return n
}

// timedOut reports whether err is a passed deadline, so that the connection
// lives.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
