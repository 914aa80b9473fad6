package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

var hammerTime = flag.Duration("hammer", 2*time.Second, "how long TestHammer runs")

// hammer calls methods from many goroutines at once, and looks at what they
// return. There are connections between, but not all the time.
type hammer struct {
	t    testing.TB
	ctx  context.Context // ends with the hammering
	read [2]atomic.Int64 // messages, by clients and by servers
	made sync.Map        // names of the calls
}

// hammerSize is the size of messages of a type. All of a message follows from
// its type.
func hammerSize(msgType int) int {
	if msgType%25 == 0 {
		return 30_000 + msgType%7*10_000
	}
	return msgType % 900
}

// look checks a message, and what a call may return instead of one. It answers a
// request with the same, which a requester looks at in its turn.
func (h *hammer) look(end int, m *ipc.Message, err error) error {
	if m != nil && m.MsgType > 0 && m != ipc.TimeoutMessage {
		if !bytes.Equal(m.Data, payload(m.MsgType, hammerSize(m.MsgType))) {
			h.t.Errorf("%s is not what was written", describe(m))
		}
		h.read[end].Add(1)
		if m.IsRequest() {
			h.check("Reply", m.Reply(m.MsgType, m.Data))
		}
	}
	m.Release()
	return err
}

// soon is a context that ends before long.
func (h *hammer) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(h.ctx, rand.N(2*time.Millisecond))
}

// message is one to be written, in memory that is changed once it has been.
func message() (msgType int, data []byte, done func()) {
	msgType = 1 + rand.IntN(1000)
	data = bytes.Clone(payload(msgType, hammerSize(msgType)))
	return msgType, data, func() { clear(data) }
}

// sideCalls calls each method that a Server and a Client have in common,
// except Close. What end is counts the messages.
func (h *hammer) sideCalls(end int, e side) map[string]func() error {
	return map[string]func() error{
		"Read":      func() error { m, err := e.Read(); return h.look(end, m, err) },
		"ReadTimed": func() error { m, err := e.ReadTimed(rand.N(time.Millisecond), nil); return h.look(end, m, err) },
		"ReadContext": func() error {
			ctx, cancel := h.soon()
			defer cancel()
			m, err := e.ReadContext(ctx)
			return h.look(end, m, err)
		},
		"Messages": func() (last error) {
			ctx, cancel := h.soon()
			defer cancel()
			for m, err := range e.Messages(ctx) {
				last = h.look(end, m, err)
			}
			return last
		},
		"Write": func() error {
			msgType, data, done := message()
			defer done()
			return e.Write(msgType, data)
		},
		"WriteContext": func() error {
			msgType, data, done := message()
			defer done()
			ctx, cancel := h.soon()
			defer cancel()
			return e.WriteContext(ctx, msgType, data)
		},
		"Flush": func() error {
			ctx, cancel := h.soon()
			defer cancel()
			return e.Flush(ctx)
		},
		"Request": func() error {
			msgType, data, done := message()
			defer done()
			ctx, cancel := h.soon()
			defer cancel()
			m, err := e.Request(ctx, msgType, data)
			return h.look(end, m, err)
		},
		"RequestParts": func() (last error) {
			msgType, data, done := message()
			defer done()
			ctx, cancel := h.soon()
			defer cancel()
			for m, err := range e.RequestParts(ctx, msgType, data) {
				last = h.look(end, m, err)
			}
			return last
		},
		"Status":     func() error { _ = e.Status(); return nil },
		"StatusCode": func() error { _ = e.StatusCode().String(); return nil },
		"Peer": func() error {
			_, err := e.Peer()
			if errors.Is(err, errors.ErrUnsupported) {
				return nil
			}
			return err
		},
		"Stats": func() error { _ = e.Stats(); return nil },
	}
}

// serverCalls adds those that only a Server has.
func (h *hammer) serverCalls(s *ipc.Server) map[string]func() error {
	calls := h.sideCalls(1, s)
	calls["ClientID"] = func() error { _ = s.ClientID(); return nil }
	calls["Addr"] = func() error { _ = s.Addr().String(); return nil }
	return calls
}

// managerCalls are those of a ServerManager, except Close.
func (h *hammer) managerCalls(m *ipc.ServerManager) map[string]func() error {
	handle := func(s *ipc.Server, m *ipc.Message, err error) {
		if h.look(1, m, err) != nil || rand.IntN(4) > 0 {
			return
		}
		for name, call := range h.serverCalls(s) { // any one of them
			if name != "Read" && name != "Write" && name != "Messages" { // which may take for ever here
				h.check("in a callback, "+name, call())
				break
			}
		}
		if s.ClientID() > 0 && rand.IntN(500) == 0 {
			h.check("in a callback, Close", s.Close())
		}
	}
	return map[string]func() error{
		"Read":      func() error { m.Read(handle); return nil },
		"ReadTimed": func() error { m.ReadTimed(rand.N(time.Millisecond), nil, handle); return nil },
		"ReadContext": func() error {
			ctx, cancel := h.soon()
			defer cancel()
			return m.ReadContext(ctx, handle)
		},
		"Servers": func() error {
			for _, s := range m.Servers() {
				_, _, _ = s.ClientID(), s.Status(), s.Stats()
			}
			return nil
		},
		"Broadcast": func() error {
			msgType, data, done := message()
			defer done()
			return m.Broadcast(msgType, data)
		},
	}
}

// check says which errors a call may return, whatever else happens.
func (h *hammer) check(name string, err error) {
	for _, ok := range []error{
		nil, context.Canceled, context.DeadlineExceeded, ipc.ErrNotConnected, ipc.ErrClosed, ipc.ErrMultiMode, ipc.ErrFull, ipc.ErrNoReply,
	} {
		if errors.Is(err, ok) {
			return
		}
	}
	if name == "in a callback, Close" {
		return // it says how many messages were lost
	}
	h.t.Errorf("%s: %v", name, err)
}

// start has each of calls called by several goroutines, until the hammering
// ends. All of object's methods must be among them.
func (h *hammer) start(wg *sync.WaitGroup, object any, calls map[string]func() error) {
	for i, t := 0, reflect.TypeOf(object); i < t.NumMethod(); i++ {
		if name := t.Method(i).Name; calls[name] == nil && name != "Close" {
			h.t.Errorf("method %s of %v is not called", name, t)
		}
	}
	for name, call := range calls {
		name = fmt.Sprintf("%T.%s", object, name)
		for range 2 {
			wg.Go(func() {
				for h.ctx.Err() == nil {
					h.check(name, call())
					h.made.Store(name, true)
					time.Sleep(rand.N(500 * time.Microsecond)) // some leave no time for others
				}
			})
		}
	}
}

// TestHammer calls every method of one Server, its manager and one Client from
// many goroutines, while connections come and go, and at last Close.
//
// Pins doc.go, "Starting": All methods of this package may be called from any goroutine at any time
func TestHammer(t *testing.T) {
	parallel(t)
	sealed := transport{"sealed", sealedRoute}
	setups := modes(unixTransport, sealed)
	d := *hammerTime / time.Duration(len(setups))
	if testing.Short() {
		d /= 4
	}
	eachSetup(t, setups, func(t *testing.T, s setup) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		h := &hammer{t: t, ctx: ctx}
		route := s.open(t)
		server := s.startServer(t, route, quiet)

		// The client's connections can be broken.
		config := route.client
		quiet(nil, &config)
		config.RetryTimer = time.Millisecond
		var latest atomic.Pointer[net.Conn]
		path := route.path()
		config.Dial = func(ctx context.Context) (net.Conn, error) {
			c, err := dialAt(ctx, path)
			if err == nil {
				latest.Store(&c)
			}
			return c, err
		}
		client, err := ipc.StartClient(&config)
		noError(t, "StartClient", err)
		defer client.Close()

		var wg sync.WaitGroup
		h.start(&wg, client, h.sideCalls(0, client))
		h.start(&wg, server, h.serverCalls(server))
		h.start(&wg, server.ServerManager, h.managerCalls(server.ServerManager))
		breaks, visits := 0, 0
		wg.Go(func() {
			defer stop()
			// A connection is broken after something has come over it, which
			// takes as long as it takes, and so until the time is up.
			for start := time.Now(); breaks < 3 || time.Since(start) < d; breaks++ {
				for end := range h.read {
					for n := h.read[end].Load() + rand.Int64N(20); h.read[end].Load() <= n; {
						time.Sleep(rand.N(time.Millisecond))
					}
				}
				(*latest.Load()).Close()
			}
		})
		wg.Go(func() { // another client comes and goes, in single mode if there is a place
			config := route.client
			quiet(nil, &config)
			config.RetryTimer = time.Millisecond
			for ctx.Err() == nil {
				soon, cancel := context.WithTimeout(ctx, rand.N(20*time.Millisecond))
				if visitor, err := ipc.StartClientContext(soon, &config); err == nil {
					msgType, data, _ := message()
					h.check("a visitor's Write", visitor.Write(msgType, data))
					visitor.Close()
					visits++
				}
				cancel()
			}
		})

		<-ctx.Done()
		// Close wakes every call that waits.
		var closed sync.WaitGroup
		results := make([][2]error, 8)
		for i := range results {
			closed.Go(func() {
				first := []side{server, client}
				for j := range first {
					j = (i + j) % 2
					results[i][j] = first[j].Close()
				}
			})
			closed.Go(func() { server.ServerManager.Close() })
		}
		closed.Wait()
		wg.Wait()
		for i := range results {
			if results[i] != results[0] {
				t.Errorf("Close returned %v, and %v to another caller", results[0], results[i])
			}
		}
		for _, e := range []side{client, server} { // what is unread, and then the end
			for m, err := range e.Messages(t.Context()) {
				if h.look(0, m, err) != nil {
					wantError(t, "Messages", err, ipc.ErrClosed)
				}
			}
		}
		wantStatus(t, "client", client, ipc.Closed)
		wantStatus(t, "server", server, ipc.Closed)
		calls := 0
		h.made.Range(func(any, any) bool { calls++; return true })
		if want := 13 + 15 + 5; calls != want {
			t.Errorf("%d methods were called, want %d", calls, want)
		}
		t.Logf("%d messages read by the client and %d by servers, %d connections broken, %d visits",
			h.read[0].Load(), h.read[1].Load(), breaks, visits)
	})
}

// Writers whose contexts end at any moment, with messages that are copied and
// that are not, over connections that break or do not: each writer's messages come
// in order and once, none comes that was refused and, without a break, all that
// were accepted come.
func TestWritersAndTheirContexts(t *testing.T) {
	parallel(t)
	for _, tr := range []transport{unixTransport, {"tls", tlsRoute}} {
		for _, tt := range []struct{ sealed, breaks bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
			t.Run(fmt.Sprintf("%s, sealed: %t, breaks: %t", tr.name, tt.sealed, tt.breaks), func(t *testing.T) {
				begin(t)
				newWriters(t, tr, tt.sealed, tt.breaks).run()
			})
		}
	}
}

// writers write to a MultiMode server through one client.
type writers struct {
	t      *testing.T
	server *ipc.Server
	client *ipc.Client
	latest atomic.Pointer[net.Conn]
	breaks bool
	limits bool // contexts end

	mu       sync.Mutex
	accepted map[written]bool
	read     map[int][]written // by ClientID: each connection is another client's
}

// written is a message: its type is the writer.
type written struct{ writer, number int }

func newWriters(t *testing.T, tr transport, sealed, breaks bool) *writers {
	w := &writers{
		t: t, breaks: breaks, limits: breaks || tr.name != "tls", // over TLS it breaks the connection
		accepted: map[written]bool{}, read: map[int][]written{},
	}
	s := setup{tr, true}
	route := s.open(t)
	w.server = s.startServer(t, route, quiet, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) { c.Encryption = sealed })
	config := route.client
	quiet(nil, &config)
	config.RetryTimer = time.Millisecond
	dial := config.Dial
	if dial == nil {
		dial = func(ctx context.Context) (net.Conn, error) {
			return dialAt(ctx, route.path())
		}
	}
	config.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err == nil {
			w.latest.Store(&c)
		}
		return c, err
	}
	var err error
	w.client, err = ipc.StartClient(&config)
	noError(t, "StartClient", err)
	t.Cleanup(func() { w.client.Close() })
	return w
}

func (w *writers) run() {
	reading := background(w.readAll)
	end := time.Now().Add(150 * time.Millisecond)
	var writing sync.WaitGroup
	for writer := 1; writer <= 3; writer++ {
		writing.Go(func() {
			for n := 1; time.Now().Before(end); n++ {
				w.write(written{writer, n})
			}
		})
	}
	if w.breaks {
		writing.Go(func() {
			for time.Now().Before(end) {
				time.Sleep(rand.N(20 * time.Millisecond))
				breakConn(*w.latest.Load())
			}
		})
	}
	writing.Wait()
	noError(w.t, "Flush", w.client.Flush(w.t.Context()))
	noError(w.t, "Close", w.client.Close())
	if !eventually(func() bool { return len(w.server.ServerManager.Servers()) == 0 }) {
		w.t.Error("the client has left, and its Server has not noticed")
	}
	noError(w.t, "Close", w.server.Close())
	reading()

	last := map[int]int{} // number, by writer
	for _, id := range slices.Sorted(maps.Keys(w.read)) {
		for _, m := range w.read[id] {
			if m.number <= last[m.writer] {
				w.t.Errorf("writer %d: message %d after %d", m.writer, m.number, last[m.writer])
			}
			if last[m.writer] = m.number; !w.accepted[m] {
				w.t.Errorf("message %d of writer %d has come, and was refused", m.number, m.writer)
			}
			delete(w.accepted, m)
		}
	}
	if n := len(w.accepted); n > 0 && !w.breaks {
		w.t.Errorf("%d accepted messages are lost", n)
	}
}

// breakConn breaks a connection without a word.
func breakConn(c net.Conn) {
	if c, ok := c.(interface{ NetConn() net.Conn }); ok {
		c.NetConn().Close()
	}
	c.Close()
}

func (w *writers) write(m written) {
	size := 8 + rand.IntN(100)
	if rand.IntN(3) == 0 {
		size = 32<<10 + rand.IntN(400<<10)
	}
	data := append(numbered(m.number, 8), payload(m.number, size-8)...)
	ctx, cancel := w.t.Context(), context.CancelFunc(func() {})
	if w.limits && rand.IntN(2) == 0 {
		ctx, cancel = context.WithTimeout(ctx, rand.N(400*time.Microsecond))
	}
	err := w.client.WriteContext(ctx, m.writer, data)
	cancel()
	clear(data) // ours again
	if err == nil {
		w.mu.Lock()
		w.accepted[m] = true
		w.mu.Unlock()
	}
}

// readAll reads until the server is closed.
func (w *writers) readAll() (ended bool) {
	for !ended {
		w.server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			if ended = err != nil; ended || m.MsgType < 0 {
				return
			}
			n := numberOf(m.Data)
			if n < 0 || !bytes.Equal(m.Data[8:], payload(n, len(m.Data)-8)) {
				w.t.Errorf("%s of number %d is not what was written", describe(m), n)
			}
			id := s.ClientID()
			w.read[id] = append(w.read[id], written{m.MsgType, n})
		})
	}
	return ended
}
