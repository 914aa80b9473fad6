package ipc_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func init() { helpers["talk"] = talkMain }

// quiet is a tweak for tests in which something is worth an error in the log.
func quiet(s *ipc.ServerConfig, c *ipc.ClientConfig) {
	logger := slog.New(slog.DiscardHandler)
	if s != nil {
		s.Logger = logger
	}
	if c != nil {
		c.Logger = logger
	}
}

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

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Stats tell everything they know, each count under its own name.
func TestStatsPrint(t *testing.T) {
	stats := ipc.Stats{MessagesIn: 1, MessagesOut: 2, BytesIn: 3, BytesOut: 4, Reconnects: 5, HandshakeFailures: 6}
	if got, want := stats.String(), "messages: 1 in, 2 out; bytes: 3 in, 4 out; reconnects: 5; failed handshakes: 6"; got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("", "stats", stats)
	want := "stats.messagesIn=1 stats.messagesOut=2 stats.bytesIn=3 stats.bytesOut=4 stats.reconnects=5 stats.handshakeFailures=6\n"
	if !strings.HasSuffix(log.String(), want) {
		t.Errorf("logged as %q, want an end of %q", log.String(), want)
	}
}
