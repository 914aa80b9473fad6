package ipc_test

import (
	"context"
	"net"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// What a Dial may do, and what becomes of it.

// dialled is s.pair with a client whose connections go through change.
func dialled(t *testing.T, s setup, change func(ctx context.Context, c net.Conn) net.Conn, tweaks ...tweak) *pair {
	t.Helper()
	p := &pair{setup: s, route: s.open(t)}
	p.server = s.startServer(t, p.route)
	path := p.route.path()
	p.route.client.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dialAt(ctx, path)
		if err != nil {
			return nil, err
		}
		return change(ctx, c), nil
	}
	p.client = p.route.startClient(t, tweaks...)
	p.peer = s.join(t, p.server)
	return p
}

// A deadline that Dial has left on a connection does not concern the client.
func TestDialLeavesADeadline(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		var deadline time.Time
		p := dialled(t, s, func(_ context.Context, c net.Conn) net.Conn {
			deadline = time.Now().Add(100 * time.Millisecond)
			noError(t, "SetDeadline", c.SetDeadline(deadline))
			return c
		})
		for time.Now().Before(deadline) {
			m, err := p.client.ReadTimed(time.Until(deadline)+time.Millisecond, nothing)
			if err != nil || m != nothing {
				t.Fatalf("read %s, %v", describe(m), err)
			}
		}
		p.check(t)
	})
}

// The context of Dial ends when connecting has, whatever the Timeout.
func TestDialContextEnds(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Minute} {
		t.Run(timeout.String(), func(t *testing.T) {
			eachSetup(t, unixSetups[:1], func(t *testing.T, s setup) {
				var ctx context.Context
				p := dialled(t, s, func(c context.Context, conn net.Conn) net.Conn {
					ctx = c
					return conn
				}, clientTimeout(timeout))
				wantError(t, "ctx.Err", ctx.Err(), context.Canceled)
				p.check(t)
			})
		})
	}
}

// hesitant is a connection whose reads bring nothing every other time, which
// the rules of io.Reader allow.
type hesitant struct {
	net.Conn
	now bool
}

func (h *hesitant) Read(b []byte) (int, error) {
	if h.now = !h.now; h.now {
		return 0, nil
	}
	return h.Conn.Read(b)
}

func TestReadsOfNothing(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		p := dialled(t, s, func(_ context.Context, c net.Conn) net.Conn { return &hesitant{Conn: c} })
		p.check(t)
		noError(t, "Write", p.peer.Write(7, payload(1, 200_000)))
		wantMessage(t, p.client, 7, payload(1, 200_000))
	})
}

// mute is a connection that has nothing to say, again and again.
type mute struct {
	net.Conn
	said int // bytes that it may say
}

func (m *mute) Read(b []byte) (int, error) {
	if m.said == 0 {
		return 0, nil
	}
	n, err := m.Conn.Read(b[:min(len(b), m.said)])
	m.said -= n
	return n, err
}

// A connection that only ever reads nothing is lost, and not asked for ever.
func TestReadsOfNothingButNothing(t *testing.T) {
	eachSetup(t, unixSetups[:1], func(t *testing.T, s setup) {
		const handshake = 2 + 8
		mutes := 1
		p := dialled(t, s, func(_ context.Context, c net.Conn) net.Conn {
			if mutes--; mutes < 0 {
				return c
			}
			return &mute{c, handshake}
		})
		wantEvents(t, p.client, ipc.ReConnecting, ipc.Connected)
		wantEvents(t, p.server, ipc.Disconnected, ipc.Connected)
		p.check(t)
	})
}
