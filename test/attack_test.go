package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// patient is a tweak: no handshake ends by itself, and no client waits for
// ever. A side that a silent peer holds up stays so until the test fails.
func patient(s *ipc.ServerConfig, c *ipc.ClientConfig) {
	if s != nil {
		s.HandshakeTimeout = time.Hour
	}
	if c != nil {
		c.Timeout = watchdog / 4
	}
}

// wantServes shows that the server is none the worse: a good client is served
// at once, its Connected is the first event there is, and as many handshakes
// have failed as have gone wrong.
func wantServes(t testing.TB, s setup, route *route, server *ipc.Server, failures uint64) {
	t.Helper()
	if !eventually(func() bool { return server.Stats().HandshakeFailures == failures }) {
		t.Errorf("HandshakeFailures = %d, want %d", server.Stats().HandshakeFailures, failures)
	}
	client := route.startClient(t, clientTimeout(watchdog/4))
	peer := s.join(t, server)
	wantRoundTrip(t, client, peer)
	wantRoundTrip(t, peer, client)
}

// Peers that say nothing, or stop at some step, are held open, and hold no other
// client up. (In single mode the last step is left out: a client that waits there has
// the place.)
func TestSilentPeersHeldOpen(t *testing.T) {
	const silent = 200
	key := numberedKey(t, 1).PublicKey().Bytes()
	eachSeal(t, func(t *testing.T, tweaks ...tweak) {
		eachSetup(t, unixSetups, func(t *testing.T, s setup) {
			route := s.open(t)
			server := s.startServer(t, route, append(tweaks, patient)...)
			sealed := len(tweaks) > 0
			for i := range silent {
				raw := route.dial(t)
				if i%2 == 0 {
					continue
				}
				raw.receive(2)
				switch {
				case i%8 == 1 && s.multi:
					raw.send([]byte{0}) // and not a word after the server's next step
				case i%8 == 3 && sealed:
					raw.send([]byte{0}, key[:96])
				}
			}
			start := time.Now()
			wantServes(t, s, route, server, 0)
			t.Logf("a good client beside %d silent ones was served in %v", silent, time.Since(start))
		})
	})
}

// The same in synthetic time: a good client does not wait for an instant, and
// every silent one is dropped on time.
func TestSilentPeersCostNoTime(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		start := time.Now()
		var dropped sync.WaitGroup
		for range 200 {
			raw := route.dial(t)
			dropped.Go(func() { raw.wantDropped() })
		}
		wantServes(t, s, route, server, 0)
		if waited := time.Since(start); waited > 0 {
			t.Errorf("a good client waited for %v", waited)
		}
		dropped.Wait()
		if waited := time.Since(start); waited != 5*time.Second {
			t.Errorf("silent peers were dropped after %v, want the default of 5s", waited)
		}
		synctest.Wait()
		if n := server.Stats().HandshakeFailures; n != 200 {
			t.Errorf("HandshakeFailures = %d, want 200", n)
		}
	})
}

// No more than 256 handshakes are unfinished at once. Who comes then waits
// outside, until one of them is through.
func TestUnfinishedHandshakesAreBounded(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		for range 256 {
			route.dial(t) // returns when it is accepted
		}
		synctest.Wait()
		var accepted atomic.Bool
		late := background(func() *wireConn {
			raw := route.dial(t)
			accepted.Store(true)
			return raw
		})
		synctest.Wait()
		if accepted.Load() {
			t.Error("257 handshakes are unfinished")
		}
		start := time.Now()
		late().want("step 1", 2, 0)
		if waited := time.Since(start); waited != 5*time.Second {
			t.Errorf("one more was accepted after %v, want 5s, when the others had been dropped", waited)
		}
		wantServes(t, s, route, server, 256)
	})
}

// openings are the ways to go wrong before one is connected: what a peer sends
// after each step, until it leaves. The server may have enough of it earlier.
func openings(t testing.TB, sealed bool) map[string][][]byte {
	ok, garbage := []byte{0}, bytes.Repeat([]byte{0xa5}, 5000)
	m := map[string][][]byte{
		"nothing":                nil,
		"version differs":        {{1}},
		"insists on encryption":  {{2}},
		"unknown answer":         {{3}},
		"4 GiB instead":          {head(math.MaxUint32, math.MaxUint32)},
		"garbage":                {garbage},
		"text":                   {[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		"the server's own words": {{2, 0}},
		"half, then nothing":     {ok},
	}
	if !sealed {
		m["wrong last answer"] = [][]byte{ok, {1}}
		m["garbage at the end"] = [][]byte{ok, garbage}
		m["frames at the end"] = [][]byte{ok, head(math.MaxUint32, 1)}
		return m
	}
	for name, key := range badKeys(t) {
		m["key: "+name] = [][]byte{ok, key}
	}
	key := numberedKey(t, 1).PublicKey().Bytes()
	m["half a key"] = [][]byte{ok, key[:48]}
	m["wrong last answer"] = [][]byte{ok, key, {1}}
	m["garbage at the end"] = [][]byte{ok, key, garbage}
	m["nothing at the end"] = [][]byte{ok, key}
	return m
}

// leavings are the ways to leave: a Unix socket that is closed with something
// unread is reset.
var leavings = map[string]func(*wireConn){
	"reset": func(r *wireConn) { r.Close() },
	"half close": func(r *wireConn) {
		r.closeWrite()
		r.wantDropped()
	},
}

// Whatever is wrong before a peer is connected costs it the connection, counts
// as a failure, and affects no other client.
//
// Pins doc.go, "Security": loses its own connection; other peers are not affected
func TestBadOpenings(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		var tweaks []tweak
		kind, steps := "plain", []int{2, 8}
		if sealed {
			tweaks = append(tweaks, encrypts)
			kind, steps = "encrypted", []int{2, 97, 36}
		}
		t.Run(kind, func(t *testing.T) {
			eachSetup(t, unixSetups, func(t *testing.T, s setup) {
				route := s.open(t)
				server := s.startServer(t, route, append(tweaks, patient)...)
				failures := uint64(0)
				for name, answers := range openings(t, sealed) {
					for how, leave := range leavings {
						raw := route.dial(t)
						for i, answer := range answers {
							raw.receive(steps[i])
							raw.send(answer)
						}
						leave(raw)
						failures++
						if !eventually(func() bool { return server.Stats().HandshakeFailures == failures }) {
							t.Fatalf("%s, %s: HandshakeFailures = %d, want %d", name, how,
								server.Stats().HandshakeFailures, failures)
						}
					}
				}
				wantServes(t, s, route, server, failures)
			})
		})
	}
}

// The opening may come a byte at a time, and be left at any of them.
func TestOpeningLeftAtEachByte(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted %t", sealed), func(t *testing.T) {
			eachSetup(t, unixSetups, func(t *testing.T, s setup) {
				route := s.open(t)
				var tweaks []tweak
				answers := []byte{0, 0}
				if sealed {
					tweaks = append(tweaks, encrypts)
					answers = slices.Concat([]byte{0}, numberedKey(t, 1).PublicKey().Bytes(), []byte{0})
				}
				server := s.startServer(t, route, append(tweaks, patient)...)
				step := 1
				if testing.Short() {
					step = 7
				}
				failures := uint64(0)
				for n := 0; n < len(answers); n += step {
					raw := route.dial(t)
					for _, b := range answers[:n] {
						raw.send([]byte{b})
					}
					raw.Close()
					failures++
				}
				wantServes(t, s, route, server, failures)
			})
		})
	}
}

// Frames on an encrypted connection that are none, or should not be: what came
// before is read, they and all behind them are not.
func TestBadSealedFrames(t *testing.T) {
	raw := func(b []byte) func(*refPeer) []byte { return func(*refPeer) []byte { return b } }
	for name, bad := range map[string]func(*refPeer) []byte{
		"length 0":              raw(head(0, 0)),
		"length of a plain one": raw(head(4, 1)),
		"over the limit":        raw(head(defaultMaxMsgSize+refMin+1, 0)),
		"4 GiB":                 raw(head(math.MaxUint32, 0)),
		"plain":                 raw(encode(2, make([]byte, 100))),
		"type -1":               func(r *refPeer) []byte { return r.encode(-1, []byte("Closed")) },
		"type minimum":          func(r *refPeer) []byte { return r.encode(math.MinInt32, nil) },
		"large and changed": func(r *refPeer) []byte {
			b := r.encode(2, make([]byte, 500_000))
			b[400_000] ^= 1
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
				sent := slices.Concat(p.ref.encode(1, []byte("good")), bad(p.ref), p.ref.encode(3, []byte("behind")))
				written := background(func() error { _, err := p.ref.Write(sent); return err })
				wantMessage(t, p, 1, []byte("good"))
				p.wantRefused(t)
				written() // as far as it was taken
				p.check(t)
			})
		})
	}
}

// A peer that closes its half of the connection, or resets it, at whatever
// byte of a frame, is gone; what it had sent whole is read.
func TestHalfClosed(t *testing.T) {
	parallel(t)
	frame := encode(1, []byte("whole"))
	for _, how := range []string{"half close", "reset"} {
		for _, torn := range []int{0, 1, 4, 8, len(frame) - 1} {
			t.Run(fmt.Sprintf("%s after %d bytes", how, torn), func(t *testing.T) {
				eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
					if how == "reset" {
						noError(t, "Write", p.Write(9, []byte("unread when it is closed")))
						noError(t, "Flush", p.Flush(t.Context()))
					}
					p.raw.send(frame, frame[:torn])
					if how == "reset" {
						p.raw.Close()
					} else {
						p.raw.closeWrite()
						p.raw.wantDropped()
					}
					wantMessage(t, p, 1, []byte("whole"))
					raw, e := p.again(t)
					raw.send(frame)
					wantMessage(t, e, 1, []byte("whole"))
				})
			})
		}
	}
}

// Garbage at any point of a conversation: what was said before it is heard,
// and nothing that was not said.
func TestGarbageAtAnyPoint(t *testing.T) {
	parallel(t)
	rounds := 25
	if testing.Short() {
		rounds = 15
	}
	// hear reads what is left of a connection over which some messages were
	// said whole, and as many more as that were filled up with garbage.
	hear := func(t *testing.T, p *wirePair, round, whole, filled int) {
		t.Helper()
		heard := 0
		m := next(t, p)
		for ; m.MsgType > 0; m = next(t, p) {
			if heard < whole {
				wantSame(t, m, heard+1, payload(heard, round))
			}
			heard++
		}
		if heard < whole || heard > whole+filled {
			t.Fatalf("round %d: heard %d messages, and %d were said", round, heard, whole)
		}
		if m.Status == ipc.Error.String() {
			m = next(t, p)
		}
		if m.Status != p.lost.String() {
			t.Fatalf("round %d: read %s, want %v", round, describe(m), p.lost)
		}
	}
	// say sends messages up to some byte, and garbage from there on: the
	// length of a frame that none can have.
	say := func(raw *wireConn, round int, frame func(int, []byte) []byte) (whole int) {
		var said []byte
		var ends []int
		for i := range 5 {
			said = append(said, frame(i+1, payload(i, round))...)
			ends = append(ends, len(said))
		}
		cut := len(said) * round / rounds
		for whole < len(ends) && ends[whole] <= cut {
			whole++
		}
		raw.Write(slices.Concat(said[:cut], bytes.Repeat([]byte{0xff}, 100), payload(round, 100_000)))
		raw.Close()
		return whole
	}
	t.Run("plain", func(t *testing.T) {
		eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
			for round := range rounds {
				whole := say(p.raw, round, encode)
				hear(t, p, round, whole, 1)
				if p.client {
					p.raw = accept(t, p.ln)
					p.raw.openServer(defaultMaxMsgSize)
					wantEvents(t, p, ipc.Connected)
				} else {
					p.raw, p.side = p.join(t)
				}
			}
		})
	})
	t.Run("encrypted", func(t *testing.T) {
		eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
			for round := range rounds {
				whole := say(p.ref.wireConn, round, p.ref.encode)
				hear(t, &p.wirePair, round, whole, 0)
				p.connect(t)
			}
			p.check(t)
		})
	})
}

// Openings of a hostile server: none of them brings the client down, and it
// finds the good server that comes after.
func TestHostileServers(t *testing.T) {
	parallel(t)
	say := func(step1 []byte, then ...byte) func(*wireConn) {
		return func(r *wireConn) {
			r.send(step1)
			if len(then) > 0 {
				r.receive(1)
				r.send(then)
			}
		}
	}
	plain, sealed := []byte{2, 0}, []byte{2, 1}
	hostile := map[string]func(*wireConn){
		"nothing":           func(*wireConn) {},
		"one byte":          say([]byte{2}),
		"unknown kind":      say([]byte{2, 2}),
		"unknown kind 255":  say([]byte{2, 255}),
		"text":              say([]byte{2, 'H', 'T', 'T', 'P'}),
		"limit of 0 bytes":  say(plain, head(0, 0)[:4]...),
		"limit of 3 bytes":  say(plain, head(3, 0)[:7]...),
		"limit of 5 bytes":  say(plain, append(head(5, 0), 0)...),
		"limit of 4 GiB":    say(plain, head(math.MaxUint32, 0)...),
		"limit torn":        say(plain, head(4, 100)[:7]...),
		"half a key":        say(sealed, numberedKey(t, 1).PublicKey().Bytes()[:50]...),
		"key of zeros":      say(sealed, make([]byte, 97)...),
		"limit for the key": say(sealed, head(4, 100)...),
	}
	begin(t)
	route := unixRoute(t)
	ln := route.listen(t)
	started := background(func() *ipc.Client { return route.startClient(t) })
	visit := func() {
		for _, serve := range hostile {
			raw := accept(t, ln)
			serve(raw)
			raw.Close()
		}
	}
	visit() // while it starts
	raw := accept(t, ln)
	raw.openServer(defaultMaxMsgSize)
	client := started()
	raw.Close()
	wantEvents(t, client, ipc.ReConnecting)
	visit() // while it reconnects
	raw = accept(t, ln)
	raw.openServer(defaultMaxMsgSize)
	wantEvents(t, client, ipc.Connected)
	raw.send(encode(1, []byte("at last")))
	wantMessage(t, client, 1, []byte("at last"))
	if got, want := client.Stats().HandshakeFailures, uint64(2*len(hostile)); got != want {
		t.Errorf("HandshakeFailures = %d, want %d", got, want)
	}
}

// A silent server costs a client its Timeout and nothing else, at whichever
// step it falls silent. The error says what the client has waited for.
func TestSilentServers(t *testing.T) {
	for name, serve := range map[string]func(*wireConn){
		"at once":           func(*wireConn) {},
		"in step 1":         func(r *wireConn) { r.send([]byte{2}) },
		"before the key":    func(r *wireConn) { r.send([]byte{2, 1}); r.receive(1) },
		"in the key":        func(r *wireConn) { r.send([]byte{2, 1}); r.receive(1); r.send(make([]byte, 5)) },
		"before the limit":  func(r *wireConn) { r.send([]byte{2, 0}); r.receive(1) },
		"inside of a limit": func(r *wireConn) { r.send([]byte{2, 0}); r.receive(1); r.send(head(4, 0)[:5]) },
	} {
		says := "the connection is not answered"
		if strings.HasSuffix(name, "limit") {
			says = "the server has no place for this client"
		}
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				route := pipeRoute(t)
				ln := route.listen(t)
				start := time.Now()
				started := background(func() error {
					config := route.client
					config.Timeout = 7 * time.Second
					_, err := ipc.StartClient(&config)
					return err
				})
				raw := accept(t, ln)
				serve(raw)
				err := started()
				wantError(t, "StartClient", err, ipc.ErrTimeout)
				wantText(t, "StartClient", err, says)
				if waited := time.Since(start); waited != 7*time.Second {
					t.Errorf("StartClient returned after %v, want 7s", waited)
				}
				raw.wantDropped()
			})
		})
	}
}

// Memory follows the bytes that arrive, not the length that is claimed.
//
// Pins doc.go, "Security": A length is checked before memory is allocated for it
func TestClaimedMemory(t *testing.T) {
	const (
		peers   = 20
		claim   = 500 << 20
		allowed = 64 << 20
		arrives = 400 << 10 // of each frame; the kernel holds about half of it
	)
	wantCheap := func(t *testing.T, before uint64) {
		t.Helper()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if cost := m.TotalAlloc - before; cost > allowed {
			t.Errorf("%d claims of %d MiB cost %d MiB, want less than %d", peers, claim>>20, cost>>20, allowed>>20)
		} else {
			t.Logf("%d claims of %d MiB cost %d MiB in all", peers, claim>>20, cost>>20)
		}
	}
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	part := make([]byte, arrives)
	eachSeal(t, func(t *testing.T, tweaks ...tweak) {
		t.Run("server", func(t *testing.T) {
			begin(t)
			s := setup{unixTransport, true}
			route := s.open(t)
			server := s.startServer(t, route, append(tweaks, maxMsgSize(512<<20))...)
			var raws []*wireConn
			for range peers {
				raw := route.dial(t)
				raw.receive(2)
				raw.send([]byte{0})
				if len(tweaks) == 0 {
					raw.receive(8)
				} else {
					raw.receive(97)
					raw.send(numberedKey(t, 1).PublicKey().Bytes())
					raw.receive(36)
				}
				raw.send([]byte{0})
				s.join(t, server)
				raws = append(raws, raw)
			}
			before := allocated()
			for _, raw := range raws {
				raw.send(head(claim, 1), part)
			}
			wantCheap(t, before)
			if n := len(server.ServerManager.Servers()); n != peers {
				t.Errorf("%d of %d peers are still there, which have done nothing wrong yet", n, peers)
			}
		})
	})
	t.Run("client", func(t *testing.T) {
		begin(t)
		route := unixRoute(t)
		ln := route.listen(t)
		before := allocated()
		var sent []func() error
		for range peers {
			started := background(func() *ipc.Client { return route.startClient(t) })
			raw := accept(t, ln)
			raw.openServer(math.MaxUint32)
			started()
			sent = append(sent, background(func() error { _, err := raw.Write(append(head(claim, 1), part...)); return err }))
		}
		for _, sent := range sent {
			noError(t, "raw write", sent())
		}
		wantCheap(t, before+peers*arrives) // which are copies of ours
	})
}

// A peer that is refused does not get, and does not give, a single byte.
//
// Pins doc.go, "Security": Authorize is called before the first byte is exchanged
func TestAuthorizeOnTheServer(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		refusal := errors.New("not you")
		var refuse atomic.Bool
		var seen []ipc.Peer
		var mu sync.Mutex
		server := s.startServer(t, route, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) {
			c.Authorize = func(p ipc.Peer) error {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, p)
				if refuse.Load() {
					return refusal
				}
				return ipc.SameUser(p)
			}
		})
		refuse.Store(true)
		for range 3 {
			raw := route.dial(t)
			if got := raw.wantDropped(); len(got) > 0 {
				t.Errorf("a refused peer was sent %v", got)
			}
		}
		refuse.Store(false)
		wantServes(t, s, route, server, 3)
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != 4 {
			t.Errorf("Authorize was called %d times, want 4", len(seen))
		}
		for _, p := range seen {
			wantSelf(t, p)
		}
	})
}

// A server that is refused does not get a byte, and does not become another's
// by that.
func TestAuthorizeOnTheClient(t *testing.T) {
	begin(t)
	route := unixRoute(t)
	ln := route.listen(t)
	refusal := errors.New("not you")
	config := route.client
	config.Authorize = func(ipc.Peer) error { return refusal }
	started := background(func() error { _, err := ipc.StartClient(&config); return err })
	raw := accept(t, ln)
	raw.Write([]byte{2, 0}) // it may have been closed by now
	wantError(t, "StartClient", started(), ipc.ErrUnauthorized)
	if got := raw.wantDropped(); len(got) > 0 {
		t.Errorf("a refused server was sent %v", got)
	}
}

// At a reconnect it is one Error event for as long as the reason is the same,
// and the client goes on once it may.
func TestAuthorizeAtReconnect(t *testing.T) {
	begin(t)
	route := unixRoute(t)
	ln := route.listen(t)
	var refuse atomic.Bool
	var asked atomic.Int32
	started := background(func() *ipc.Client {
		return route.startClient(t, func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
			c.Authorize = func(p ipc.Peer) error {
				asked.Add(1)
				if refuse.Load() {
					return errors.New("not you")
				}
				return ipc.SameUser(p)
			}
		})
	})
	raw := accept(t, ln)
	raw.openServer(100)
	client := started()
	refuse.Store(true)
	raw.Close()
	for range 4 {
		if got := accept(t, ln).wantDropped(); len(got) > 0 {
			t.Errorf("a refused server was sent %v", got)
		}
	}
	wantEvents(t, client, ipc.ReConnecting)
	wantErrorEvent(t, client, ipc.ErrUnauthorized)
	refuse.Store(false)
	for { // some may have been asked for in between
		raw := accept(t, ln)
		raw.Write([]byte{2, 0})
		var b [1]byte
		if _, err := raw.Read(b[:]); err == nil {
			raw.send(head(4, 100))
			raw.receive(1)
			break
		}
	}
	wantEvents(t, client, ipc.Connected)
	if n := asked.Load(); n < 6 {
		t.Errorf("Authorize was asked %d times, want each time", n)
	}
}

// Where the system does not identify peers, a side that checks them refuses all.
//
// Pins doc.go, "Security": an Authorize that is set refuses all
func TestAuthorizeFailsClosed(t *testing.T) {
	for _, tr := range transports {
		if !slices.Contains([]string{"tcp", "tls", "pipe"}, tr.name) {
			continue // over a Unix socket the kernel may know
		}
		allow := func(ipc.Peer) error { t.Error("Authorize was called without a peer"); return nil }
		for _, s := range modes(tr) {
			t.Run("server "+s.String(), func(t *testing.T) {
				begin(t)
				route := s.open(t)
				server := s.startServer(t, route, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) { c.Authorize = allow })
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				connected := background(func() error {
					_, err := ipc.StartClientContext(ctx, &route.client)
					return err
				})
				if !eventually(func() bool { return server.Stats().HandshakeFailures > 0 }) {
					t.Error("HandshakeFailures = 0")
				}
				cancel()
				wantError(t, "StartClientContext", connected(), context.Canceled)
				wantStatus(t, "server", server, ipc.Listening)
			})
		}
		t.Run("client "+tr.name, func(t *testing.T) {
			begin(t)
			s := setup{transport: tr}
			route := s.open(t)
			s.startServer(t, route, quietly)
			config := route.client
			config.Authorize = allow
			_, err := ipc.StartClient(&config)
			wantError(t, "StartClient", err, ipc.ErrUnauthorized, errors.ErrUnsupported)
		})
	}
}

// quietly is the tweak quiet for a client that is not there.
func quietly(s *ipc.ServerConfig, _ *ipc.ClientConfig) { quiet(s, nil) }

// wantSelf checks a Peer that is this process.
func wantSelf(t testing.TB, p ipc.Peer) {
	t.Helper()
	want := ourselves(t)
	if p.PID == 0 && (runtime.GOOS == "freebsd" || runtime.GOOS == "dragonfly") {
		want.PID = 0 // not every version of them tells it
	}
	if p != want {
		t.Errorf("peer is %v, want %v", p, want)
	}
}

// Both ends know each other.
//
// Pins doc.go, "Elsewhere": Where there are names, Peer is known
func TestPeerOfBothEnds(t *testing.T) {
	eachPair(t, unixSetups, func(t *testing.T, p *pair) {
		for name, e := range map[string]side{"server": p.peer, "client": p.client} {
			peer, err := e.Peer()
			noError(t, "Peer of the "+name, err)
			wantSelf(t, peer)
		}
		noError(t, "Close", p.client.Close())
		wantEvents(t, p.peer, ipc.Disconnected)
		if _, err := p.peer.Peer(); !errors.Is(err, ipc.ErrNotConnected) {
			t.Errorf("Peer without a peer: %v, want ErrNotConnected", err)
		}
	})
}

// An Authorize that takes its time holds up the one it is about, and neither
// others nor Close.
func TestSlowAuthorize(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		release := make(chan struct{})
		var once sync.Once
		asked := make(chan struct{})
		server := s.startServer(t, route, patient, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) {
			c.Authorize = func(p ipc.Peer) error {
				first := false
				once.Do(func() { first = true })
				if first {
					close(asked)
					<-release
				}
				return nil
			}
		})
		slow := route.dial(t)
		<-asked
		wantServes(t, s, route, server, 0)
		noError(t, "Close", server.Close())
		if got := slow.wantDropped(); len(got) > 0 {
			t.Errorf("a peer that was not authorized yet was sent %v", got)
		}
		close(release)
	})
}

// lineCounter is a log handler that counts the lines about failed handshakes.
type lineCounter struct {
	slog.Handler
	mu       sync.Mutex
	lines    []slog.Record
	foreign  []string
	repeated int64
}

func (h *lineCounter) Enabled(context.Context, slog.Level) bool { return true }

func (h *lineCounter) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Level < slog.LevelWarn {
		return nil
	}
	if !strings.Contains(r.Message, "handshake failed") || r.Level != slog.LevelWarn {
		h.foreign = append(h.foreign, r.Message)
		return nil
	}
	h.lines = append(h.lines, r)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "repeated" {
			h.repeated += a.Value.Int64()
		}
		return true
	})
	return nil
}

func (h *lineCounter) count() (lines int, repeated int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.lines), h.repeated
}

// A flood of bad peers is no flood of lines: two a second at most, and none of
// the failures is left out of account.
//
// Pins doc.go, "Logging": repeated: how many lines of the same kind were left out before this one
func TestFailuresAreSummedUpInTheLog(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		route := s.open(t)
		handler := &lineCounter{Handler: slog.DiscardHandler}
		server := s.startServer(t, route, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) { c.Logger = slog.New(handler) })
		failures := 0
		fail := func(n int) {
			for range n {
				raw := route.dial(t)
				raw.want("step 1", 2, 0)
				raw.send([]byte{7})
				raw.wantDropped()
				failures++
			}
			synctest.Wait()
		}
		const seconds = 5
		for range seconds {
			fail(100)
			time.Sleep(time.Second)
		}
		if lines, _ := handler.count(); lines < seconds || lines > 2*seconds {
			t.Errorf("%d lines in %d seconds, want 1 or 2 in each", lines, seconds)
		}
		time.Sleep(2 * time.Second)
		fail(1)
		lines, repeated := handler.count()
		if lines+int(repeated) != failures {
			t.Errorf("%d lines and %d that they stand for, want %d failures in all", lines, repeated, failures)
		}
		if n := server.Stats().HandshakeFailures; n != uint64(failures) {
			t.Errorf("HandshakeFailures = %d, want %d", n, failures)
		}
		if len(handler.foreign) > 0 {
			t.Errorf("other lines: %q", handler.foreign)
		}
	})
}

// A single failure makes a single line, which says who it was.
//
// Pins doc.go, "Logging": peer: the process at the other end, as peer.pid, peer.uid and peer.gid
func TestFailureNamesThePeer(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		var log lockedBuffer
		route := s.open(t)
		server := s.startServer(t, route, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) {
			c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		})
		raw := route.dial(t)
		raw.want("step 1", 2, 0)
		raw.send([]byte{7})
		raw.wantDropped()
		eventually(func() bool { return log.String() != "" })
		noError(t, "Close", server.Close())
		line := log.String()
		for _, want := range []string{"level=WARN", "handshake failed", fmt.Sprintf("peer.pid=%d", os.Getpid()), "peer." + peerUser(t)} {
			if strings.Count(line, want) != 1 {
				t.Errorf("log %q: want %s once", line, want)
			}
		}
	})
}

// Clients that come, send and leave fill the memory of a program that does not
// read up to a bound, and no message is lost by that.
//
// Pins doc.go, "Many clients": while 64 MiB of that are unread, no new client gets a place
func TestMemoryOfThoseWhoLeft(t *testing.T) {
	begin(t)
	const (
		peers   = 200
		size    = 500_000
		allowed = 110 << 20
	)
	s := setup{unixTransport, true}
	route := s.open(t)
	server := s.startServer(t, route)
	before := live()
	halt := time.NewTimer(0)
	defer halt.Stop()
	var sent atomic.Int64
	all := background(func() error {
		for i := range peers {
			raw := route.dial(t)
			raw.openClient()
			raw.send(encode(i+1, payload(i, size)))
			raw.Close()
			sent.Add(1)
		}
		return nil
	})
	for last := int64(-1); sent.Load() != last && last < peers; { // it comes to a halt with some of them
		last = sent.Load()
		halt.Reset(100 * time.Millisecond)
		<-halt.C
	}
	if cost := live() - min(before, live()); cost > allowed {
		t.Errorf("%d clients that have left hold %d MiB, want no more than %d", sent.Load(), cost>>20, allowed>>20)
	} else {
		t.Logf("%d clients that have left hold %d MiB", sent.Load(), cost>>20)
	}
	for read := make(map[int]bool); len(read) < peers; {
		for _, d := range readManager(t, server.ServerManager) {
			m := d.message
			if m.MsgType < 0 {
				continue
			}
			wantSame(t, m, m.MsgType, payload(m.MsgType-1, size))
			if read[m.MsgType] {
				t.Fatalf("read %s twice", describe(m))
			}
			read[m.MsgType] = true
		}
	}
	noError(t, "the clients", all())
}
