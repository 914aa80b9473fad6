package bridge

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

func TestSubject(t *testing.T) {
	for name, want := range map[string]string{
		"service":      "ipc.service.7",
		"org.example":  "ipc.org%2Eexample.7",
		"a b*>%\t\x7f": "ipc.a%20b%2A%3E%25%09%7F.7",
		"größer-1_2":   "ipc.größer-1_2.7",
	} {
		if got := Subject(name, 7); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

func TestParseType(t *testing.T) {
	for token, want := range map[string]int{
		"1": 1, "2147483647": 2147483647,
		"": 0, "0": 0, "-1": 0, "+1": 0, "01": 0, "1 ": 0, "0x1": 0, "2147483648": 0, "out": 0,
	} {
		if got, ok := parseType(token); ok != (want > 0) || ok && got != want {
			t.Errorf("%q: %d, %t, want %d", token, got, ok, want)
		}
	}
}

// TestRefusedLate has NATS refuse a gateway just before it subscribes: the reason is
// the refusal, not the connection that is closed for it.
func TestRefusedLate(t *testing.T) {
	g, err := newGateway(&Config{Name: "x", URL: "nats://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)}, "expose")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.connect("expose"); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	closing := make(chan struct{})
	g.nc.SetClosedHandler(func(*nats.Conn) {
		<-closing
		g.end(refused)
	})
	g.nc.Close()
	go close(closing)
	if _, err := g.need("x", "", nil); err != refused {
		t.Errorf("%v, want %v", err, refused)
	}
}

// TestHungNATS checks what ends a connection to NATS that nobody answers. NATS's
// own values are minutes.
func TestHungNATS(t *testing.T) {
	g, err := Join(&Config{Name: "x", SocketDir: t.TempDir(), URL: "nats://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if o := g.nc.Opts; o.FlusherTimeout != writeLimit || o.PingInterval != pingInterval || o.MaxPingsOut != 2 {
		t.Errorf("%v, %v, %d", o.FlusherTimeout, o.PingInterval, o.MaxPingsOut)
	}
}

// TestUnreachable has NATS not be reached for ever: the log stays short.
func TestUnreachable(t *testing.T) {
	var log strings.Builder
	g, err := newGateway(&Config{Name: "x", Logger: slog.New(slog.NewTextHandler(&log, nil))}, "join")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		reason string
		want   int
	}{{"one", 1}, {"other", 2}, {"one", 2}, {"other", 2}} {
		g.unreachable(errors.New(c.reason))
		if n := strings.Count(log.String(), "\n"); n != c.want {
			t.Errorf("%d lines after %q, want %d", n, c.reason, c.want)
		}
	}
	for i := range 100 {
		g.unreachable(errors.New(strconv.Itoa(i)))
	}
	if n := strings.Count(log.String(), "\n"); n != maxReasons {
		t.Errorf("%d lines, want %d", n, maxReasons)
	}
	g.reached()
	g.unreachable(errors.New("one"))
	if n := strings.Count(log.String(), "\n"); n != maxReasons+1 {
		t.Errorf("%d lines, want that it is said again after a connection", n)
	}
}

func TestRedacted(t *testing.T) {
	for urls, want := range map[string]string{
		"nats://h:4222":                    "nats://h:4222",
		"h":                                "h",
		"nats://u:secret@h,tls://secret@i": "nats://u:xxxxx@h,tls://xxxxx@i",
		"u:secret@h:4222, secret@i":        "u:xxxxx@h:4222,xxxxx@i",
		"nats://u:secret/@secret@h%zz:1":   "nats://u:xxxxx@h%zz:1",
	} {
		if got := redacted(urls); got != want {
			t.Errorf("%s: %s, want %s", urls, got, want)
		}
	}
}

func TestRecent(t *testing.T) {
	var r recent
	if r.take("a") {
		t.Error("an empty set has something")
	}
	r.add("a")
	r.add("a")
	if !r.take("a") || r.take("a") {
		t.Error("what was added is not there, or there twice")
	}
	for i := range maxRecent + 1 {
		r.add(strconv.Itoa(i))
	}
	if r.take("0") || !r.take("1") || !r.take(strconv.Itoa(maxRecent)) || len(r.set) > maxRecent {
		t.Error("the oldest is not the one that was forgotten")
	}
}

// TestEarlyCancel has a cancel come before its request.
func TestEarlyCancel(t *testing.T) {
	ctx, end := context.WithCancelCause(t.Context())
	e := &exposer{
		Gateway: &Gateway{subjects: newSubjects("service")},
		byReply: make(map[string]*serving),
		byID:    make(map[uint64]*serving),
		server:  &lifetime{ctx, end},
	}
	e.onCancel(&nats.Msg{Subject: "ipc.service.cancel.answer.to.1"})
	for reply, want := range map[string]error{"answer.to.1": errCancelled, "answer.to.2": nil} {
		r := &serving{exposer: e, msg: &nats.Msg{Reply: reply}}
		if reason := e.admit(r); reason != nil {
			t.Fatal(reason)
		}
		if got := context.Cause(r.ctx); got != want {
			t.Errorf("%s: %v, want %v", reply, got, want)
		}
		e.forget(r)
	}
}

func TestKeepAlive(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 0, "x": 0, "0": 0, "-1": 0, "1": minKeepAlive, "2000": 2 * time.Second,
		"9223372036854775807": math.MaxInt64 / time.Millisecond * time.Millisecond,
	} {
		r := &serving{msg: &nats.Msg{Header: nats.Header{headerAlive: {header}}}}
		r.keepAlive()
		r.stopAlive()
		if r.interval != want {
			t.Errorf("%q: a sign each %v, want %v", header, r.interval, want)
		}
	}
}

func TestWindow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var w window
	for range windowParts {
		if err := w.wait(ctx, 0); err != nil {
			t.Fatal(err)
		}
		w.add(1)
	}
	if err := w.wait(ctx, time.Millisecond); !errors.Is(err, errStalled) {
		t.Errorf("%v, want that it is full", err)
	}
	w.taken(0)
	w.taken(windowParts + 1) // more than was sent
	if err := w.wait(ctx, time.Millisecond); !errors.Is(err, errStalled) {
		t.Errorf("%v, want that it is full", err)
	}
	waited := make(chan error)
	go func() { waited <- w.wait(ctx, time.Minute) }()
	w.taken(windowParts)
	if err := <-waited; err != nil {
		t.Error(err)
	}
	w.taken(1) // late
	w.add(windowBytes)
	go func() { waited <- w.wait(ctx, time.Minute) }()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that a full window waits until the context ends", err)
	}
}

// TestWindowSlow has a requester take a part now and then, which makes no room for
// long, as the last part was large.
func TestWindowSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const small, limit = 10, time.Second
		var w window
		for range small {
			w.add(1)
		}
		w.add(windowBytes)
		go func() {
			for n := range small + 1 {
				time.Sleep(limit / 2)
				w.taken(n + 1)
			}
		}()
		if err := w.wait(t.Context(), limit); err != nil {
			t.Error(err)
		}
	})
}

// TestCallbacks has a call under way when the gateway ends, and one after it.
func TestCallbacks(t *testing.T) {
	var calls callbacks
	started, release := make(chan struct{}), make(chan struct{})
	finished := false
	go calls.do(func() {
		close(started)
		<-release
		finished = true
	})
	<-started
	go close(release)
	calls.end()
	if !finished {
		t.Error("end has not waited for a call")
	}
	calls.do(func() { t.Error("called after the end") })
}
