//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// startServer starts a server in a folder of its own, and closes it at the end of
// the test.
func startServer(t *testing.T, multi bool) *Server {
	t.Helper()
	server, err := StartServer(&ServerConfig{Name: "test", SocketDir: socktest.Dir(t), MultiMode: multi})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socktest.Close(t, server) })
	return server
}

// startPair starts a server and a client of it, which is the caller's to close.
func startPair(t *testing.T, multi bool) (*Server, *Client) {
	t.Helper()
	server := startServer(t, multi)
	client, err := StartClient(&ClientConfig{Name: "test", SocketDir: server.config.SocketDir})
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// TestListenSocket checks what is said of the socket: one line of log in the form
// of the others, and one prefix.
func TestListenSocket(t *testing.T) {
	path := socktest.Path(t)
	socktest.LeaveStale(t, path)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	l, err := listenSocket(path, sockfile.Perm{Mode: 0o600, GID: -1}, logger)
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, l)
	_, err = listenSocket(path, sockfile.Perm{Mode: 0o600, GID: -1}, logger)
	if want := "ipc: listen on " + path + ": a live server has this name"; !errors.Is(err, ErrInUse) || err.Error() != want {
		t.Errorf("%v: want %q", err, want)
	}
	_, text, _ := strings.Cut(log.String(), " ")
	if want := "level=INFO msg=\"ipc: removed the socket of a dead server\" socket=" + path + "\n"; text != want {
		t.Errorf("log %q: want %q", text, want)
	}
}

func TestDial(t *testing.T) {
	path := socktest.Path(t)
	if _, err := dialSocket(t.Context(), path); !errors.Is(err, fs.ErrNotExist) || !retryDial(err) {
		t.Errorf("missing: %v: want ErrNotExist, to be tried again", err)
	}
	socktest.LeaveStale(t, path)
	if _, err := dialSocket(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) || !retryDial(err) {
		t.Errorf("stale: %v: want ECONNREFUSED, to be tried again", err)
	}
	l, err := listenSocket(path, sockfile.Perm{Mode: 0o600, GID: -1}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, l)
	conn, err := dialSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, conn)

	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := dialSocket(ended, path); err == nil || retryDial(err) {
		t.Errorf("cancelled: %v: want an error, not to be tried again", err)
	}
}

func TestRetryDial(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{
		syscall.EAGAIN:       true,
		syscall.ECONNREFUSED: true,
		syscall.ECONNRESET:   true,
		syscall.EINTR:        true,
		syscall.EMFILE:       true,
		syscall.ENFILE:       true,
		syscall.ENOBUFS:      true,
		syscall.ENOENT:       true,
		syscall.ENOMEM:       true,
		syscall.ETIMEDOUT:    true,
		syscall.EACCES:       false,
		syscall.EINVAL:       false,
		syscall.ELOOP:        false,
		syscall.ENOTDIR:      false,
		syscall.EPERM:        false,
		syscall.EPROTOTYPE:   false,
	} {
		err := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}
		if got := retryDial(err); got != want {
			t.Errorf("retryDial(%v) = %v", err, got)
		}
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, errors.New("other")} {
		if retryDial(err) {
			t.Errorf("retryDial(%v) = true", err)
		}
	}
}
