package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func init() { helpers["talk"] = talkMain }

// secret is in every message of talk, and must be in no log.
const secret = "pssst"

// talk is normal life: a conversation, a restart of the server, and the end.
func talk(dir, level string, logger *slog.Logger) error {
	serverConfig := &ipc.ServerConfig{Name: "talk", SocketDir: dir, LogLevel: level, Logger: logger}
	server, err := ipc.StartServer(serverConfig)
	if err != nil {
		return err
	}
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "talk", SocketDir: dir, LogLevel: level, Logger: logger})
	if err != nil {
		return err
	}
	for i := range 2 {
		if i == 1 {
			server.Close()
			if server, err = ipc.StartServer(serverConfig); err != nil {
				return err
			}
		}
		if err := client.WriteContext(context.Background(), 1, []byte(secret)); err != nil {
			return err
		}
		for {
			m, err := server.Read()
			if err != nil {
				return err
			}
			if m.MsgType > 0 {
				break
			}
		}
	}
	client.Close()
	return server.Close()
}

// talkMain talks in another process, whose standard error is then the log.
func talkMain() {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		os.Exit(1)
	}
	defer os.RemoveAll(dir)
	if err := talk(dir, os.Getenv("IPC_TEST_LEVEL"), nil); err != nil {
		os.Exit(1)
	}
}

// The level of the log, and what IPC_DEBUG does to it. Nothing is logged at
// the default level in normal life, and nothing ever goes to standard output.
//
// Pins doc.go, "Logging": Nothing is logged in normal operation at the default level
func TestLogLevels(t *testing.T) {
	const none, warning = "", "IPC_DEBUG"
	for _, tt := range []struct {
		level, variable string
		want            string // in the log; none for an empty log
	}{
		{"", "", none},
		{"error", "", none},
		{"warn", "", none},
		{"info", "", "level=INFO"},
		{"debug", "", "level=INFO"},
		{"", "true", "level=INFO"},
		{"error", "debug", "level=INFO"},
		{"error", "info", "level=INFO"},
		{"debug", "error", none},
		{"debug", "warn", none},
		{"", "loud", warning},
		{"info", "loud", "level=INFO"},
	} {
		t.Run(tt.level+" "+tt.variable, func(t *testing.T) {
			begin(t)
			cmd := helperCommand(t, "talk", "IPC_TEST_LEVEL="+tt.level, "IPC_DEBUG="+tt.variable)
			var out, log bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &log
			noError(t, "talk", cmd.Run())
			if out.Len() > 0 {
				t.Errorf("standard output: %s", &out)
			}
			if tt.want == none && log.Len() > 0 || !strings.Contains(log.String(), tt.want) {
				t.Errorf("log: %q, want %q in it", &log, tt.want)
			}
			if strings.Contains(log.String(), secret) {
				t.Errorf("log has the data of a message: %s", &log)
			}
		})
	}
}

// A Logger of the caller's gets everything, and decides itself; the data of
// messages is not among it.
//
// Pins doc.go, "Logging": a log/slog.Logger instead, which decides the level
func TestLogger(t *testing.T) {
	begin(t)
	t.Setenv("IPC_DEBUG", "error")
	var log lockedBuffer
	handler := slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	noError(t, "talk", talk(socketDir(t), "error", slog.New(handler)))
	if text := log.String(); !strings.Contains(text, "level=INFO") || strings.Contains(text, secret) {
		t.Errorf("log: %q", text)
	}
}

// A client that finds no server says at level info where it looks and why that
// fails: once for each reason, however often it tries.
func TestWaitIsLogged(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		reasons := []error{syscall.ENOENT, syscall.ENOENT, syscall.ENOENT, syscall.ECONNREFUSED, syscall.ECONNREFUSED}
		var log lockedBuffer
		_, err := ipc.StartClient(&ipc.ClientConfig{
			Name:    "nowhere",
			Timeout: time.Minute,
			Logger:  slog.New(slog.NewTextHandler(&log, nil)),
			Dial: func(context.Context) (net.Conn, error) {
				reason := reasons[0]
				reasons = reasons[min(1, len(reasons)-1):]
				return nil, reason
			},
		})
		wantError(t, "StartClient", err, ipc.ErrTimeout, syscall.ECONNREFUSED)
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		for i, reason := range []error{syscall.ENOENT, syscall.ECONNREFUSED} {
			want := fmt.Sprintf("level=INFO msg=%q socket=nowhere error=%q", "ipc: waiting for the server", reason)
			if len(lines) != 2 || !strings.HasSuffix(lines[i], want) {
				t.Errorf("log:\n%s\nwant two lines, and at the end of line %d %s", &log, i+1, want)
			}
		}
	})
}

// Stats tell everything they know, each count under its own name.
func TestStatsPrint(t *testing.T) {
	stats := ipc.Stats{MessagesIn: 1, MessagesOut: 2, BytesIn: 3, BytesOut: 4, Reconnects: 5, HandshakeFailures: 6,
		RequestsIn: 7, RequestsOut: 8, RequestsCancelled: 9, RequestsUnanswered: 10}
	const text = "messages: 1 in, 2 out; bytes: 3 in, 4 out; reconnects: 5; failed handshakes: 6; " +
		"requests: 7 in, 8 out, 9 cancelled, 10 unanswered"
	if got, want := stats.String(), text; got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("", "stats", stats)
	want := "stats.messagesIn=1 stats.messagesOut=2 stats.bytesIn=3 stats.bytesOut=4 stats.reconnects=5 stats.handshakeFailures=6 " +
		"stats.requestsIn=7 stats.requestsOut=8 stats.requestsCancelled=9 stats.requestsUnanswered=10\n"
	if !strings.HasSuffix(log.String(), want) {
		t.Errorf("logged as %q, want an end of %q", log.String(), want)
	}
}

// closer is a slog.Handler that closes what has logged a line, as the comments of
// the Logger fields tell to: not itself, but in another goroutine.
type closer struct {
	line   string    // the first of these
	self   chan side // gets what is to be closed
	early  bool      // the line is from StartServer or StartClient, so the handler cannot wait for self
	once   sync.Once
	closed chan error
}

func newCloser(line string, early bool) *closer {
	return &closer{line: line, early: early, self: make(chan side, 1), closed: make(chan error, 1)}
}

func (c *closer) tweak(s *ipc.ServerConfig, k *ipc.ClientConfig) {
	if s != nil {
		s.Logger = slog.New(c)
	}
	if k != nil {
		k.Logger = slog.New(c)
	}
}

func (c *closer) Handle(_ context.Context, r slog.Record) error {
	if strings.TrimPrefix(r.Message, "ipc: ") != c.line {
		return nil
	}
	c.once.Do(func() {
		if c.early {
			go func() { c.closed <- (<-c.self).Close() }()
			return
		}
		self := <-c.self
		go func() { c.closed <- self.Close() }()
		// Close has begun while the handler still runs, and calls are allowed.
		for s := self.StatusCode(); s != ipc.Closing && s != ipc.Closed && s != ipc.Timeout; s = self.StatusCode() {
			time.Sleep(100 * time.Microsecond)
		}
		_ = self.Stats()
	})
	return nil
}

func (*closer) Enabled(context.Context, slog.Level) bool { return true }
func (c *closer) WithAttrs([]slog.Attr) slog.Handler     { return c }
func (c *closer) WithGroup(string) slog.Handler          { return c }

// A Logger may have its Server closed at each line.
func TestServerCloseFromLogger(t *testing.T) {
	dial := func(t *testing.T, route *route) *wireConn {
		t.Helper()
		raw := route.dial(t)
		raw.openClient()
		return raw
	}
	for _, tt := range []struct {
		line  string
		early bool
		cause func(t *testing.T, s *ipc.Server, route *route)
	}{
		{"removed the socket of a dead server", true, func(*testing.T, *ipc.Server, *route) {}},
		{"listening", true, func(*testing.T, *ipc.Server, *route) {}},
		{"client connected", false, func(t *testing.T, s *ipc.Server, route *route) { dial(t, route) }},
		{"client disconnected", false, func(t *testing.T, s *ipc.Server, route *route) { dial(t, route).Close() }},
		{"handshake failed", false, func(t *testing.T, s *ipc.Server, route *route) { route.dial(t).Close() }},
		{"server closed", false, func(t *testing.T, s *ipc.Server, _ *route) { noError(t, "Close", s.Close()) }},
	} {
		t.Run(tt.line, func(t *testing.T) {
			eachSetup(t, unixSetups, func(t *testing.T, s setup) {
				route := s.open(t)
				if !leaveStale(t, route.path()) && tt.line == "removed the socket of a dead server" {
					t.Skip("a dead server leaves nothing behind on this system")
				}
				closer := newCloser(tt.line, tt.early)
				server := s.startServer(t, route, closer.tweak)
				closer.self <- server
				tt.cause(t, server, route)
				noError(t, "Close from a Logger", <-closer.closed)
				wantStatus(t, "server", server, ipc.Closed)
			})
		})
	}
	// Listeners that fail.
	for _, tt := range []struct {
		line   string
		accept error
		close  error
	}{
		{"cannot accept a connection", syscall.EMFILE, nil},
		{"the listener was closed", net.ErrClosed, nil},
		{"closing the listener", nil, syscall.EIO},
	} {
		t.Run(tt.line, func(t *testing.T) {
			eachSetup(t, pipeSetups, func(t *testing.T, s setup) {
				closer := newCloser(tt.line, false)
				server := s.startServer(t, s.open(t), closer.tweak, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) {
					c.Listener = &failingListener{c.Listener, tt.accept, tt.close}
				})
				closer.self <- server
				if tt.close != nil {
					noError(t, "Close", server.Close())
				}
				noError(t, "Close from a Logger", <-closer.closed)
				wantStatus(t, "server", server, ipc.Closed)
			})
		})
	}
}

// failingListener fails where it has an error.
type failingListener struct {
	net.Listener
	accept, close error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.accept != nil {
		return nil, l.accept
	}
	return l.Listener.Accept()
}

func (l *failingListener) Close() error { return errors.Join(l.Listener.Close(), l.close) }

// A Logger may have its Client closed at each line.
func TestClientCloseFromLogger(t *testing.T) {
	for _, tt := range []struct {
		line    string
		timeout time.Duration
		cause   func(t *testing.T, server *ipc.Server, client *ipc.Client)
		want    ipc.Status
	}{
		{"connected", 0, func(*testing.T, *ipc.Server, *ipc.Client) {}, ipc.Closed},
		{"connection lost", 0, func(t *testing.T, s *ipc.Server, _ *ipc.Client) { s.Close() }, ipc.Closed},
		{"waiting for the server", 0, func(t *testing.T, s *ipc.Server, _ *ipc.Client) { s.Close() }, ipc.Closed},
		{"gave up reconnecting", 500 * time.Millisecond, func(t *testing.T, s *ipc.Server, _ *ipc.Client) { s.Close() }, ipc.Timeout},
		{"client closed", 0, func(t *testing.T, _ *ipc.Server, c *ipc.Client) { noError(t, "Close", c.Close()) }, ipc.Closed},
	} {
		t.Run(tt.line, func(t *testing.T) {
			eachSetup(t, unixSetups[:1], func(t *testing.T, s setup) {
				route := s.open(t)
				server := s.startServer(t, route)
				closer := newCloser(tt.line, false)
				client := route.startClient(t, closer.tweak, clientTimeout(tt.timeout))
				closer.self <- client
				tt.cause(t, server, client)
				noError(t, "Close from a Logger", <-closer.closed)
				wantStatus(t, "client", client, tt.want)
			})
		})
	}
}
