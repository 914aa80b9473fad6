package ipc_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A client goes on by itself when its server comes back, as often as it does.
func TestServerRestarts(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		for n := range 5 {
			p.check(t)
			noError(t, "Close", p.server.Close())
			p.server = p.startServer(t, p.route)
			wantEvents(t, p.client, ipc.ReConnecting, ipc.Connected)
			p.peer = p.join(t, p.server)
			if got := p.client.Stats().Reconnects; got != uint64(n+1) {
				t.Errorf("Reconnects = %d, want %d", got, n+1)
			}
		}
		p.check(t)
	})
}

// What a client had accepted arrives after the reconnect: from the first
// frame that the kernel had not got whole, in order, once. The raw server
// takes some bytes exactly, as net.Pipe holds none.
//
// Pins doc.go, "Writing": sends it after the reconnect
func TestAcceptedMessagesSurviveAReconnect(t *testing.T) {
	const n, size = 100, 20
	frame := len(encode(1, make([]byte, size)))
	for _, tt := range []struct {
		name  string
		taken []int // bytes, of one connection after another
	}{
		{"nothing taken", []int{0}},
		{"a byte", []int{1}},
		{"a head", []int{8}},
		{"all but a byte of a frame", []int{frame - 1}},
		{"a frame", []int{frame}},
		{"a frame and a byte", []int{frame + 1}},
		{"many frames", []int{50 * frame}},
		{"many frames and a half", []int{50*frame + frame/2}},
		{"several times over", []int{0, frame / 2, frame, 3*frame + 5, 0, 10 * frame, frame - 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := wireServerPair(t, pipeTransport)
				for i := range n {
					noError(t, "Write", p.Write(1, numbered(i, size)))
				}
				raw, first := p.raw, 0
				for _, taken := range tt.taken {
					for range taken / frame {
						raw.wantFrame(1, numbered(first, size))
						first++
					}
					_, err := io.ReadFull(raw, make([]byte, taken%frame))
					noError(t, "raw read", err)
					raw.Close()
					raw, _ = p.again(t)
				}
				noError(t, "Write", p.Write(2, nil))
				for ; first < n; first++ {
					raw.wantFrame(1, numbered(first, size))
				}
				raw.wantFrame(2, nil)
			})
		})
	}
}

// The next connection waits for what the last one still does: a write that
// comes back late has sent what it says, and that is not sent again.
func TestReconnectWaitsForTheLastWrite(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		stubborn := &stubbornConn{release: make(chan struct{})}
		p := wireServerPair(t, pipeTransport, func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
			dial := c.Dial
			c.Dial = func(ctx context.Context) (net.Conn, error) {
				conn, err := dial(ctx)
				if stubborn.Conn == nil {
					stubborn.Conn = conn
					return stubborn, err
				}
				return conn, err
			}
		})
		stubborn.armed.Store(true) // the handshake is over
		noError(t, "Write", p.Write(1, []byte("sent, as it turns out")))
		synctest.Wait()
		noError(t, "Write", p.Write(2, []byte("not sent")))
		p.raw.Close()

		second := background(func() *wireConn {
			raw := accept(t, p.ln)
			raw.openServer(100)
			return raw
		})
		time.Sleep(time.Minute)
		close(stubborn.release)
		raw := second()
		raw.wantFrame(2, []byte("not sent"))
		noError(t, "Write", p.Write(3, nil))
		raw.wantFrame(3, nil)
		wantEvents(t, p, ipc.ReConnecting, ipc.Connected)
	})
}

// stubbornConn has a Write that outlives Close, and then says that it has
// written everything.
type stubbornConn struct {
	net.Conn
	armed   atomic.Bool
	release chan struct{}
}

func (c *stubbornConn) Write(b []byte) (int, error) {
	if !c.armed.Load() {
		return c.Conn.Write(b)
	}
	<-c.release
	return len(b), nil
}

// Writers that do not know of the reconnect, over real sockets: what was
// accepted arrives in order and at most once, and what is missing is only
// what the first server had been given.
//
// Pins doc.go, "Writing": What Write has accepted is sent once and in order
func TestWritersAcrossReconnects(t *testing.T) {
	begin(t)
	p := wireServerPair(t, unixTransport)
	const n = 20_000
	sent := background(func() error {
		for i := range n {
			if err := p.WriteContext(context.Background(), 1, numbered(i, 100)); err != nil {
				return err
			}
		}
		return p.Write(2, nil)
	})
	next := 0
	number := func(data []byte) (i int) {
		if _, err := fmt.Sscanf(string(data[:8]), "%08d", &i); err != nil {
			t.Fatal("torn message:", err)
		}
		return i
	}
	raw := p.raw
	for round := range 5 {
		for range 500 {
			msgType, data := raw.frame()
			if msgType != 1 {
				t.Fatalf("frame of type %d in round %d", msgType, round)
			}
			if i := number(data); i != next {
				t.Fatalf("message %d in round %d, want %d", i, round, next)
			}
			next++
		}
		raw.Close()
		raw, _ = p.again(t)
		_, data := raw.frame()
		i := number(data)
		if lost := i - next; lost < 0 || lost > 1<<20/100 {
			t.Fatalf("message %d first in round %d after %d", i, round+1, next-1)
		}
		next = i + 1
	}
	for {
		msgType, data := raw.frame()
		if msgType == 2 {
			break
		}
		if i := number(data); i != next {
			t.Fatalf("message %d, want %d", i, next)
		}
		next++
	}
	if next != n {
		t.Errorf("the last message is %d, want %d", next-1, n-1)
	}
	noError(t, "Write", sent())
}

// A queued message that the next server does not allow is dropped, with an
// event, and the others arrive.
//
// Pins doc.go, "Events": is over that one's limit, and was dropped
func TestQueuedMessageOverTheNewLimit(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := wireServerPair(t, pipeTransport)
		for i, size := range []int{10, 101, 100, 20_000, 0} {
			noError(t, "Write", p.Write(i+1, make([]byte, size)))
		}
		p.raw.Close()
		wantEvents(t, p, ipc.ReConnecting)
		raw := accept(t, p.ln)
		raw.openServer(100)
		raw.wantFrame(1, make([]byte, 10))
		raw.wantFrame(3, make([]byte, 100))
		raw.wantFrame(5, nil)

		errorEvents, connected := 0, false
		for errorEvents < 2 || !connected { // in which order is not said
			switch m := next(t, p); m.Status {
			case ipc.Connected.String():
				connected = true
			case ipc.Error.String():
				wantError(t, "event", m.Err, ipc.ErrMsgTooLarge)
				errorEvents++
			default:
				t.Fatalf("read %s", describe(m))
			}
		}
		wantError(t, "Write", p.Write(1, make([]byte, 101)), ipc.ErrMsgTooLarge)
	})
}

// dialFunc is a ClientConfig.Dial.
type dialFunc = func(context.Context) (net.Conn, error)

// elsewhere is a tweak: the client dials with other, once gone is set.
func elsewhere(gone *atomic.Bool, other dialFunc) tweak {
	return func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
		dial := c.Dial
		c.Dial = func(ctx context.Context) (net.Conn, error) {
			if gone.Load() {
				return other(ctx)
			}
			return dial(ctx)
		}
	}
}

// attempts are the times of those to connect to a server that is dead.
type attempts []time.Time

func (a *attempts) dial(context.Context) (net.Conn, error) {
	*a = append(*a, time.Now())
	return nil, syscall.ECONNREFUSED
}

// want checks that the first attempt came at once, and that the pauses after
// it grow from a few milliseconds to retryTimer, and stay there.
func (a attempts) want(t *testing.T, start time.Time, retryTimer time.Duration) {
	t.Helper()
	if len(a) < 10 {
		t.Fatalf("%d attempts, want more", len(a))
	}
	if !a[0].Equal(start) {
		t.Errorf("the first attempt is after %v", a[0].Sub(start))
	}
	var pauses []time.Duration
	for i := range a[1:] {
		pauses = append(pauses, a[i+1].Sub(a[i]))
	}
	if first := pauses[0]; first <= 0 || first > 10*time.Millisecond {
		t.Errorf("the first pause is %v, want about 5ms", first)
	}
	for i, pause := range pauses {
		if pause <= 0 || pause > retryTimer {
			t.Errorf("pause %d is %v, want at most %v", i, pause, retryTimer)
		}
		if i >= 2 && pause < retryTimer/2 && pause <= pauses[i-2]/2 { // but for the jitter
			t.Errorf("pause %d is %v after %v", i, pause, pauses[i-2])
		}
	}
	if last := pauses[len(pauses)-1]; last < retryTimer/4 {
		t.Errorf("the last pause is %v, want about %v", last, retryTimer)
	}
}

// Pins doc.go, "Starting": tries again at once, after 5 ms, and then with pauses that double up to ClientConfig.RetryTimer
func TestBackOff(t *testing.T) {
	for _, tt := range []struct{ set, want time.Duration }{
		{0, 20 * time.Second}, // the default
		{time.Second, time.Second},
		{time.Minute, time.Minute},
	} {
		t.Run("start "+tt.want.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var a attempts
				start := time.Now()
				_, err := ipc.StartClient(&ipc.ClientConfig{Timeout: time.Hour, RetryTimer: tt.set, Dial: a.dial})
				wantError(t, "StartClient", err, ipc.ErrTimeout)
				a.want(t, start, tt.want)
			})
		})
		t.Run("reconnect "+tt.want.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var a attempts
				var gone atomic.Bool
				p := wireServerPair(t, pipeTransport, elsewhere(&gone, a.dial), func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
					c.RetryTimer = tt.set
				})
				time.Sleep(time.Minute) // it has lived
				gone.Store(true)
				start := time.Now()
				p.raw.Close()
				wantEvents(t, p, ipc.ReConnecting)
				time.Sleep(time.Hour)
				p.Close() // no client dials any more
				a.want(t, start, tt.want)
			})
		})
	}
}

// A server that drops each connection at once is not hammered: only a frame,
// or a second of life, makes the pauses short again.
func TestServerThatDropsAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(*wireConn)
		short bool // the pause after each such connection
	}{
		{"dropped at once", func(*wireConn) {}, false},
		{"dropped soon", func(*wireConn) { time.Sleep(900 * time.Millisecond) }, false},
		{"a frame", func(r *wireConn) { r.send(encode(1, nil)); synctest.Wait() }, true},
		{"a second of life", func(*wireConn) { time.Sleep(1100 * time.Millisecond) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := wireServerPair(t, pipeTransport, func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
					c.RetryTimer = time.Minute
				})
				raw := p.raw
				var last time.Duration
				for range 20 {
					tt.serve(raw)
					raw.Close()
					lost := time.Now()
					raw = accept(t, p.ln)
					last = time.Since(lost)
					raw.openServer(100)
				}
				if short := last < time.Second; short != tt.short {
					t.Errorf("the last pause is %v, want a short one: %t", last, tt.short)
				}
			})
		})
	}
}

// Timeout bounds the start, and each reconnect anew, to the moment.
//
// Pins doc.go, "Starting": StartClient waits for its server without a limit, or for ClientConfig.Timeout, which bounds each reconnecting, too
func TestClientTimeout(t *testing.T) {
	const timeout = 90 * time.Second
	dead := ipc.ClientConfig{
		Timeout: timeout,
		Dial:    func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
	}
	hanging := dead
	hanging.Dial = func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	mute := dead
	mute.Dial = func(context.Context) (net.Conn, error) { c, _ := net.Pipe(); return c, nil }

	for name, config := range map[string]ipc.ClientConfig{"refused": dead, "dial hangs": hanging, "server is mute": mute} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				start := time.Now()
				_, err := ipc.StartClient(&config)
				wantElapsed(t, "StartClient", start, timeout)
				wantError(t, "StartClient", err, ipc.ErrTimeout)
				wantText(t, "StartClient", err, "timed out trying to connect")
			})
		})
		t.Run(name+", with a context", func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), timeout/2)
				defer cancel()
				start := time.Now()
				_, err := ipc.StartClientContext(ctx, &config)
				wantElapsed(t, "StartClientContext", start, timeout/2)
				wantError(t, "StartClientContext", err, context.DeadlineExceeded)

				ctx, cancel = context.WithCancel(t.Context())
				defer cancel()
				returned, wait := call(func() error { _, err := ipc.StartClientContext(ctx, &config); return err })
				wantBlocked(t, "StartClientContext", returned)
				cancel()
				wantError(t, "StartClientContext", wait(), context.Canceled)
				_, err = ipc.StartClientContext(ctx, &config)
				wantError(t, "StartClientContext", err, context.Canceled)
			})
		})
		t.Run(name+", reconnecting", func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var gone atomic.Bool
				p := wireServerPair(t, pipeTransport, clientTimeout(timeout), elsewhere(&gone, config.Dial), quiet)
				for range 3 { // whose time adds up to more than Timeout
					p.raw.Close()
					wantEvents(t, p, ipc.ReConnecting)
					time.Sleep(timeout / 2)
					p.raw = accept(t, p.ln)
					p.raw.openServer(100)
					wantEvents(t, p, ipc.Connected)
				}
				gone.Store(true)
				start := time.Now()
				p.raw.Close()
				wantEvents(t, p, ipc.ReConnecting)
				returned, wait := call(func() error { return p.WriteContext(t.Context(), 1, nil) })
				wantBlocked(t, "WriteContext", returned)
				wantEvents(t, p, ipc.Timeout)
				wantElapsed(t, "giving up", start, timeout)
				wantError(t, "WriteContext", wait(), ipc.ErrTimeout)
				wantEnd(t, p, ipc.ErrTimeout)
			})
		})
	}
}

// A negative Timeout is one attempt, whose failure the error matches.
func TestOneAttempt(t *testing.T) {
	once := clientTimeout(-1)
	start := func(t *testing.T, route *route) error {
		t.Helper()
		config := route.client
		once(nil, &config)
		client, err := ipc.StartClient(&config)
		if err == nil {
			client.Close()
		}
		return err
	}
	t.Run("no socket", func(t *testing.T) {
		begin(t)
		wantError(t, "StartClient", start(t, unixRoute(t)), ipc.ErrTimeout, fs.ErrNotExist)
	})
	t.Run("dead server", func(t *testing.T) {
		begin(t)
		route := unixRoute(t)
		if !leaveStale(t, route.path()) {
			t.Skip("a dead server leaves nothing behind on this system")
		}
		defer os.Remove(route.path())
		wantError(t, "StartClient", start(t, route), ipc.ErrTimeout, syscall.ECONNREFUSED)
	})
	t.Run("count", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			var made attempts
			began := time.Now()
			wantError(t, "StartClient", start(t, &route{client: ipc.ClientConfig{Dial: made.dial}}), ipc.ErrTimeout, syscall.ECONNREFUSED)
			if len(made) != 1 {
				t.Errorf("%d attempts, want 1", len(made))
			}
			wantElapsed(t, "StartClient", began, 0)
		})
	})
	t.Run("server", func(t *testing.T) {
		eachPair(t, unixSetups, func(t *testing.T, p *pair) {
			p.check(t)
			noError(t, "Close", p.server.Close())
			wantEvents(t, p.client, ipc.ReConnecting)
			m := wantEvents(t, p.client, ipc.Timeout)
			wantText(t, "event", m.Err, "timed out trying to re-connect")
			wantEnd(t, p.client, ipc.ErrTimeout, fs.ErrNotExist)
		}, once, quiet)
	})
	t.Run("no place", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := pipeSingle.pair(t, once)
			returned, wait := call(func() error { return start(t, p.route) })
			time.Sleep(time.Hour)
			wantBlocked(t, "StartClient at a full server", returned)
			p.client.Close()
			noError(t, "StartClient", wait())
		})
	})
}

// The context of StartClientContext is about connecting only.
//
// Pins doc.go, "Starting": StartClientContext waits until a context ends
func TestContextEndsAfterTheStart(t *testing.T) {
	begin(t)
	s := unixSingle
	route := s.open(t)
	server := s.startServer(t, route)
	ctx, cancel := context.WithCancel(t.Context())
	client, err := ipc.StartClientContext(ctx, &route.client)
	noError(t, "StartClientContext", err)
	defer client.Close()
	cancel()
	wantEvents(t, client, ipc.Connecting, ipc.Connected)
	s.join(t, server)
	wantRoundTrip(t, client, server)
	server.Close()
	server = s.startServer(t, route)
	wantEvents(t, client, ipc.ReConnecting, ipc.Connected)
	s.join(t, server)
	wantRoundTrip(t, client, server)
}

// A server of another version is no end for a client that was connected: it
// says so once for each reason, and goes on trying.
//
// Pins doc.go, "Errors": StartClient returns them, or an event "Error" has them
func TestVersionDiffersAtReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := wireServerPair(t, pipeTransport)
		p.raw.Close()
		refuse := func(version byte) {
			raw := accept(t, p.ln)
			raw.send([]byte{version, 0})
			raw.want("step 2", 1)
			raw.wantDropped()
		}
		for range 5 {
			refuse(3)
		}
		raw := accept(t, p.ln)
		raw.openServer(100)
		wantEvents(t, p, ipc.ReConnecting)
		wantErrorEvent(t, p, ipc.ErrVersion)
		wantEvents(t, p, ipc.Connected)

		// After a connection it is news again.
		raw.Close()
		refuse(3)
		refuse(3)
		accept(t, p.ln).openServer(100)
		wantEvents(t, p, ipc.ReConnecting)
		wantErrorEvent(t, p, ipc.ErrVersion)
		wantEvents(t, p, ipc.Connected)
	})
}

// Close interrupts a pause, however long, and a Dial that waits; it does not
// wait for one that does not look at its context.
func TestCloseWhileReconnecting(t *testing.T) {
	for name, dial := range map[string]func(ctx context.Context, late <-chan struct{}) (net.Conn, error){
		"in a pause": func(context.Context, <-chan struct{}) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		"in Dial": func(ctx context.Context, _ <-chan struct{}) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"in a Dial that is deaf": func(_ context.Context, late <-chan struct{}) (net.Conn, error) {
			<-late
			c, _ := net.Pipe()
			return c, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				late := make(chan struct{})
				defer close(late)
				var gone atomic.Bool
				p := wireServerPair(t, pipeTransport,
					elsewhere(&gone, func(ctx context.Context) (net.Conn, error) { return dial(ctx, late) }),
					func(_ *ipc.ServerConfig, c *ipc.ClientConfig) { c.RetryTimer = time.Hour })
				noError(t, "Write", p.Write(1, []byte("lost")))
				gone.Store(true)
				p.raw.Close()
				time.Sleep(24 * time.Hour)
				start := time.Now()
				wantNumber(t, p.Close(), 1)
				wantElapsed(t, "Close", start, 0)
				wantEvents(t, p, ipc.ReConnecting, ipc.Closed)
				wantEnd(t, p, ipc.ErrClosed)
			})
		})
	}
}

// A Dial may close its own client.
func TestCloseFromDial(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var self atomic.Pointer[ipc.Client]
		p := wireServerPair(t, pipeTransport, func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
			dial := c.Dial
			c.Dial = func(ctx context.Context) (net.Conn, error) {
				if client := self.Load(); client != nil {
					if err := client.Close(); err != nil {
						t.Error("Close:", err)
					}
				}
				return dial(ctx)
			}
		})
		self.Store(p.side.(*ipc.Client))
		p.raw.Close()
		wantEvents(t, p, ipc.ReConnecting, ipc.Closed)
		wantEnd(t, p, ipc.ErrClosed)
	})
}

// A RetryTimer of a few nanoseconds, which was meant to be seconds, makes no hot
// loop: no pause is shorter than 5 ms.
func TestShortRetryTimer(t *testing.T) {
	for _, retryTimer := range []time.Duration{1, 20, time.Millisecond} {
		const n = 100
		paced := func(t *testing.T, a attempts) {
			t.Helper()
			if len(a) != n {
				t.Errorf("%d attempts, want %d", len(a), n)
			}
			for i := range a[1:] {
				if pause := a[i+1].Sub(a[i]); pause < 5*time.Millisecond {
					t.Fatalf("pause %d is %v, want at least 5ms", i, pause)
				}
			}
		}
		t.Run("start "+retryTimer.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var a attempts
				ctx, cancel := context.WithCancel(t.Context())
				_, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{
					RetryTimer: retryTimer,
					Dial: func(ctx context.Context) (net.Conn, error) {
						defer func() {
							if len(a) == n {
								cancel()
							}
						}()
						return a.dial(ctx)
					},
				})
				wantError(t, "StartClientContext", err, context.Canceled)
				paced(t, a)
			})
		})
		t.Run("reconnect "+retryTimer.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var a attempts
				var gone atomic.Bool
				enough := make(chan struct{})
				p := wireServerPair(t, pipeTransport, elsewhere(&gone, func(ctx context.Context) (net.Conn, error) {
					defer func() {
						if len(a) == n {
							close(enough)
							<-ctx.Done()
						}
					}()
					return a.dial(ctx)
				}), func(_ *ipc.ServerConfig, c *ipc.ClientConfig) { c.RetryTimer = retryTimer })
				gone.Store(true)
				p.raw.Close()
				wantEvents(t, p, ipc.ReConnecting)
				<-enough
				p.Close()
				paced(t, a)
			})
		})
	}
}
