package ipc_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// What is particular to TLS: a write that a deadline has interrupted fails ever
// after, and closing waits up to 5 s for the peer to take an alert. Both show
// with a peer that does not read.

// tlsPipeTransport is TLS over net.Pipe, which works in bubbles.
var tlsPipeTransport = transport{"tls over a pipe", tlsPipeRoute}

func tlsPipeRoute(t testing.TB) *route {
	server, client := certificate()
	client = client.Clone()
	client.ServerName = "127.0.0.1"
	return hookRoute(t,
		func() (net.Listener, error) {
			l := newPipeListener()
			return &tlsPipeListener{tls.NewListener(l, server), l}, nil
		},
		func(ctx context.Context, l net.Listener) (net.Conn, error) {
			c, err := l.(*tlsPipeListener).pipe.dial(ctx)
			if err != nil {
				return nil, err
			}
			conn := tls.Client(c, client)
			if err := conn.HandshakeContext(ctx); err != nil {
				c.Close()
				return nil, err
			}
			return conn, nil
		})
}

type tlsPipeListener struct {
	net.Listener
	pipe *pipeListener
}

// wantSoon checks that a call which started at start has not waited for the 5 s
// of crypto/tls.
func wantSoon(t *testing.T, what string, start time.Time) {
	t.Helper()
	if d := time.Since(start); d >= 3*time.Second {
		t.Errorf("%s took %v, want about 1s", what, d)
	}
}

// A WriteContext that its context has cut short costs the connection over TLS.
// That is no time-out of the peer's, and no event says so.
func TestTLSWriteContextEnds(t *testing.T) {
	for _, taken := range []int{0, 1, 40_000} {
		t.Run(fmt.Sprint(taken, " taken"), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := wireClientPair(t, setup{tlsPipeTransport, true})
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				_, wait := call(func() error { return p.WriteContext(ctx, 1, payload(1, 1<<20)) })
				p.raw.receive(taken)
				if err := wait(); taken > 0 {
					noError(t, "WriteContext", err) // the rest is copied
				} else if wantError(t, "WriteContext", err, context.DeadlineExceeded); err != nil {
					noError(t, "Write", p.Write(2, nil)) // meets the error
				}
				wantEvents(t, p, ipc.Disconnected)
				if d := time.Since(start); d > time.Second {
					t.Errorf("the connection ended after %v, want about 100ms", d)
				}
			})
		})
	}
}

// A client over TLS that takes nothing for WriteTimeout is dropped with an Error
// event, whatever it has taken before.
func TestTLSWriteTimeout(t *testing.T) {
	for _, tt := range []struct{ size, taken int }{
		{10, 0}, {largeSize, 0}, {largeSize, 1}, {largeSize, 20_000}, {largeSize, 40_000},
	} {
		t.Run(fmt.Sprint(tt.taken, " of ", tt.size), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := wireClientPair(t, setup{tlsPipeTransport, true}, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
					s.WriteTimeout = time.Minute
				})
				start := time.Now()
				_, wait := call(func() error { return p.Write(1, make([]byte, tt.size)) })
				p.raw.receive(tt.taken)
				wantErrorEvent(t, p, ipc.ErrTimeout)
				wantEvents(t, p, ipc.Disconnected)
				if late := time.Since(start) - time.Minute; late < 0 || late > time.Second {
					t.Errorf("dropped after %v, want %v", time.Minute+late, time.Minute)
				}
				if err := wait(); tt.size >= largeSize {
					wantError(t, "Write", err, ipc.ErrNotConnected)
				}
			})
		})
	}
}

// Close sends for a second at most over TLS, too, and does not wait longer for a
// peer that does not read.
func TestTLSClose(t *testing.T) {
	for _, k := range wireKinds {
		for _, taken := range []int{0, 40_000} {
			t.Run(fmt.Sprint(k.name, ", ", taken, " taken"), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					p := k.pair(t, tlsPipeTransport)
					ends := []side{p}
					raws := []*wireConn{p.raw}
					closeAll := p.Close
					if p.server != nil {
						closeAll = p.server.Close
					}
					if p.setup.multi {
						raw, peer := p.join(t)
						ends, raws = append(ends, peer), append(raws, raw)
					}
					var waits []func() error
					for i, e := range ends {
						returned, wait := call(func() error { return e.Write(1, make([]byte, 1<<20)) })
						raws[i].receive(taken)
						wantBlocked(t, "Write", returned)
						waits = append(waits, wait)
					}
					start := time.Now()
					err := closeAll()
					wantSoon(t, "Close", start)
					if (err != nil) != (taken > 0) {
						t.Errorf("Close: %v, with a message accepted: %t", err, taken > 0)
					}
					for _, wait := range waits {
						if err := wait(); taken == 0 {
							wantError(t, "Write", err, ipc.ErrClosed)
						} else {
							noError(t, "Write", err)
						}
					}
				})
			})
		}
	}
}

// The same for connections that are still in the handshake.
func TestTLSCloseEndsHandshakes(t *testing.T) {
	for _, s := range modes(tlsPipeTransport) {
		t.Run(s.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				route := s.open(t)
				server := s.startServer(t, route, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
					s.HandshakeTimeout = time.Hour
				})
				for i := range 4 { // which read nothing, or only the first step
					if raw := route.dial(t); i%2 > 0 {
						raw.want("step 1", 2, 0)
					}
				}
				synctest.Wait()
				start := time.Now()
				noError(t, "Close", server.Close())
				wantSoon(t, "Close", start)
			})
		})
	}
	// The server stops reading before step 2, or before it has sent step 4.
	for name, serve := range map[string]func(*wireConn){
		"step 2": func(raw *wireConn) { raw.send([]byte{2, 0}) },
		"step 4": func(raw *wireConn) { raw.send([]byte{2, 0}); raw.want("step 2", 0) },
	} {
		t.Run("client in "+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				route := tlsPipeRoute(t)
				ln := route.listen(t)
				ctx, cancel := context.WithCancel(t.Context())
				returned, wait := call(func() error {
					_, err := ipc.StartClientContext(ctx, &route.client)
					return err
				})
				serve(accept(t, ln))
				wantBlocked(t, "StartClientContext", returned)
				start := time.Now()
				cancel()
				wantError(t, "StartClientContext", wait(), context.Canceled)
				wantSoon(t, "the end of StartClientContext", start)
			})
		})
		t.Run("client that reconnects in "+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := wireServerPair(t, tlsPipeTransport)
				p.raw.Close()
				wantEvents(t, p, ipc.ReConnecting)
				serve(accept(t, p.ln))
				synctest.Wait()
				start := time.Now()
				noError(t, "Close", p.Close())
				wantSoon(t, "Close", start)
			})
		})
	}
}
