package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	name = "service"

	// long bounds what must not take for ever. Nothing waits for it in a test
	// that passes.
	long = 2 * time.Minute

	// keepAlive is short where a test waits for the loss of the other side.
	keepAlive = 50 * time.Millisecond

	// patient is a KeepAlive where the other side must not be thought to be lost,
	// however busy the machine is, and a test waits for its loss all the same.
	patient = 500 * time.Millisecond
)

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		runProcess()
		return
	}
	code := m.Run()
	if left := ourGoroutines(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// ourGoroutines returns the stacks of the goroutines that this package has started.
// Those of closed subscriptions may need a moment to end.
func ourGoroutines() (left string) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 4<<20)
		var stacks []string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "gateway/bridge.") {
				stacks = append(stacks, stack)
			}
		}
		if left = strings.Join(stacks, "\n\n"); left == "" {
			return ""
		}
	}
	return left
}

// bounded returns a context that ends when the test has taken too long.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	t.Cleanup(cancel)
	return ctx
}

// tempDir returns a folder whose path is short enough for sockets.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startNATS starts a NATS server on loopback, changed by the given functions.
func startNATS(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}
	for _, f := range change {
		f(opts)
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	if !ns.ReadyForConnections(long) {
		t.Fatal("NATS does not start")
	}
	return ns
}

// plainNATS returns a connection without this library.
func plainNATS(t testing.TB, url string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// lines is a log that a test can wait for.
type lines struct {
	t    testing.TB
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when there is more
	done bool
}

func newLog(t testing.TB) *lines {
	l := &lines{t: t, more: make(chan struct{})}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.done = true
		if t.Failed() {
			t.Logf("log:\n%s", &l.text)
		}
	})
	return l
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

// await waits until the log has n lines with text.
func (l *lines) await(text string, n int) {
	l.t.Helper()
	timeout := time.After(long)
	for {
		l.mu.Lock()
		found, more := strings.Count(l.text.String(), text), l.more
		l.mu.Unlock()
		if found >= n {
			return
		}
		select {
		case <-more:
		case <-timeout:
			l.t.Fatalf("%d times %q in the log, want %d", found, text, n)
		}
	}
}

// side is a gateway and its log.
type side struct {
	*bridge.Gateway
	log *lines
	dir string // of the socket
}

// start starts a gateway, which the end of the test closes.
func start(t testing.TB, f func(*bridge.Config) (*bridge.Gateway, error), config bridge.Config) side {
	t.Helper()
	log := newLog(t)
	config.Logger = log.logger()
	if config.Name == "" {
		config.Name = name
	}
	g, err := f(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return side{g, log, config.SocketDir}
}

// expose starts a gateway beside a server, and waits until it gets requests.
func expose(t testing.TB, config bridge.Config) side {
	t.Helper()
	s := start(t, bridge.Expose, config)
	s.log.await("msg=exposed", 1)
	return s
}

func join(t testing.TB, config bridge.Config) side {
	t.Helper()
	return start(t, bridge.Join, config)
}

// startServer starts a server in dir.
func startServer(t testing.TB, dir string, handler func(*ipc.Server, *ipc.Message)) *ipc.Server {
	t.Helper()
	s, err := ipc.StartServer(&ipc.ServerConfig{Name: name, SocketDir: dir, MultiMode: true, Handler: handler})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func startClient(t testing.TB, dir string) *ipc.Client {
	t.Helper()
	c, err := ipc.StartClientContext(bounded(t), &ipc.ClientConfig{Name: name, SocketDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echo answers every request with itself.
func echo(_ *ipc.Server, m *ipc.Message) {
	if m.IsRequest() {
		m.Reply(m.MsgType, m.Data)
	}
}

// pair starts a server on one machine and returns a client on another.
func pair(t testing.TB, handler func(*ipc.Server, *ipc.Message)) (client *ipc.Client, server *ipc.Server, exposing, joining side) {
	t.Helper()
	url := startNATS(t).ClientURL()
	there, here := tempDir(t), tempDir(t)
	server = startServer(t, there, handler)
	exposing = expose(t, bridge.Config{SocketDir: there, URL: url})
	joining = join(t, bridge.Config{SocketDir: here, URL: url})
	return startClient(t, here), server, exposing, joining
}

// wantCode checks that err is a reply with an error of a gateway, or of a server.
func wantCode(t testing.TB, err error, code int, text string) {
	t.Helper()
	var e *ipc.ReplyError
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Text, text) {
		t.Errorf("error %v, want code %d and %q", err, code, text)
	}
}

// wantReply makes a request and checks its reply.
func wantReply(t testing.TB, c *ipc.Client, msgType int, data, want string) {
	t.Helper()
	m, err := c.Request(bounded(t), msgType, []byte(data))
	if err != nil {
		t.Error(err)
	} else if string(m.Data) != want {
		t.Errorf("reply %q, want %q", m.Data, want)
	}
}

// untilReply makes requests until one is answered: as long as no machine exposes the
// name, or NATS does not know yet.
func untilReply(t testing.TB, c *ipc.Client, msgType int, data string) string {
	t.Helper()
	ctx := bounded(t)
	for {
		m, err := c.Request(ctx, msgType, []byte(data))
		if err == nil {
			return string(m.Data)
		}
		var e *ipc.ReplyError
		if !errors.As(err, &e) && !errors.Is(err, ipc.ErrNoReply) {
			t.Fatal(err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// receive returns what comes next.
func receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(long):
		t.Fatal("nothing comes")
	}
	return v
}
