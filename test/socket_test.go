//go:build unix

package ipc_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// The socket is its user's, or every user's where that is asked for, whatever
// the umask.
//
// Pins doc.go, "Security": exactly this mode, whatever the umask
func TestSocketMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		for _, unmask := range []bool{false, true} {
			t.Run(fmt.Sprintf("umask %#o, UnmaskPermissions %t", umask, unmask), func(t *testing.T) {
				begin(t)
				route := unixRoute(t)
				config := route.server()
				config.UnmaskPermissions = unmask
				old := syscall.Umask(umask)
				server, err := ipc.StartServer(&config)
				syscall.Umask(old)
				noError(t, "StartServer", err)
				defer server.Close()
				info, err := os.Lstat(route.path())
				noError(t, "Lstat", err)
				want := fs.ModeSocket | 0o600
				if unmask {
					want = fs.ModeSocket | 0o777
				}
				if info.Mode() != want {
					t.Errorf("mode %v, want %v", info.Mode(), want)
				}
				if got := server.Addr().String(); got != route.path() {
					t.Errorf("Addr is %s, want %s", got, route.path())
				}
				noError(t, "Close", server.Close())
				if _, err := os.Lstat(route.path()); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("after Close the socket is there: %v", err)
				}
			})
		}
	}
}

// The socket of a server that is dead is taken over.
//
// Pins doc.go, "Starting": The socket of a server that was killed is taken over
func TestStaleSocket(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: route.path(), Net: "unix"})
		noError(t, "ListenUnix", err)
		stale.SetUnlinkOnClose(false)
		noError(t, "Close", stale.Close())
		server := s.startServer(t, route)
		wantRoundTrip(t, route.startClient(t), s.join(t, server))
	})
}

// What is not a socket is never removed, nor followed.
//
// Pins doc.go, "Starting": nothing else is ever removed
func TestNotASocket(t *testing.T) {
	for _, tt := range []struct {
		name string
		put  func(path string) error
	}{
		{"file", func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) }},
		{"empty file", func(path string) error { return os.WriteFile(path, nil, 0o600) }},
		{"folder", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"dangling link", func(path string) error { return os.Symlink("nowhere", path) }},
		{"fifo", func(path string) error { return syscall.Mkfifo(path, 0o600) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin(t)
			route := unixRoute(t)
			noError(t, "put", tt.put(route.path()))
			defer os.Remove(route.path())
			before, err := os.Lstat(route.path())
			noError(t, "Lstat", err)
			config := route.server()
			if server, err := ipc.StartServer(&config); err == nil {
				server.Close()
				t.Error("StartServer takes the place of something else")
			}
			after, err := os.Lstat(route.path())
			noError(t, "Lstat", err)
			if !os.SameFile(before, after) || after.Size() != before.Size() {
				t.Errorf("%v has become %v", before, after)
			}
			if left, _ := filepath.Glob(filepath.Join(route.client.SocketDir, "*")); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A server whose file was replaced removes its own file only.
func TestCloseLeavesAStrangersFile(t *testing.T) {
	begin(t)
	s := unixSingle
	route := s.open(t)
	server := s.startServer(t, route, quiet)
	noError(t, "Remove", os.Remove(route.path()))
	noError(t, "WriteFile", os.WriteFile(route.path(), nil, 0o600))
	defer os.Remove(route.path())
	noError(t, "Close", server.Close())
	if _, err := os.Lstat(route.path()); err != nil {
		t.Errorf("Close removed a file that is not the server's: %v", err)
	}
}

// A full backlog, which Linux reports at once, is waited out.
func TestFullBacklog(t *testing.T) {
	begin(t)
	route := unixRoute(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	noError(t, "socket", err)
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	noError(t, "bind", syscall.Bind(fd, &syscall.SockaddrUnix{Name: route.path()}))
	defer os.Remove(route.path())
	noError(t, "listen", syscall.Listen(fd, 0))

	// Connections wait in the backlog until one is refused.
	var waiting []net.Conn
	for len(waiting) < 10 {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		noError(t, "socket", err)
		noError(t, "nonblock", syscall.SetNonblock(fd, true))
		conn := os.NewFile(uintptr(fd), "client")
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: route.path()})
		if err != nil {
			conn.Close()
			break
		}
		c, err := net.FileConn(conn)
		noError(t, "FileConn", err)
		conn.Close()
		waiting = append(waiting, c)
	}
	started := background(func() *ipc.Client { return route.startClient(t) })
	for _, c := range waiting {
		c.Close()
	}
	ln, err := net.FileListener(f)
	noError(t, "FileListener", err)
	defer ln.Close()
	for range waiting {
		accept(t, ln).Close()
	}
	raw := accept(t, ln)
	raw.openServer(100)
	client := started()
	noError(t, "Write", client.Write(1, nil))
	raw.wantFrame(1, nil)
}

// What is said of a socket that is taken over, and of one that is in use, is one
// line of log and one error, in the form of all others.
func TestSocketIsNamed(t *testing.T) {
	begin(t)
	path := socktest.Path(t)
	socktest.LeaveStale(t, path)
	var log bytes.Buffer
	config := &ipc.ServerConfig{
		Name:      strings.TrimSuffix(filepath.Base(path), ".sock"),
		SocketDir: filepath.Dir(path),
		Logger:    slog.New(slog.NewTextHandler(&log, nil)),
	}
	server, err := ipc.StartServer(config)
	noError(t, "StartServer", err)
	first, _, _ := strings.Cut(log.String(), "\n")
	_, text, _ := strings.Cut(first, " ") // the time
	if want := `level=INFO msg="ipc: removed the socket of a dead server" socket=` + path; text != want {
		t.Errorf("log %q, want %q", text, want)
	}
	config.Logger = nil
	_, err = ipc.StartServer(config)
	wantError(t, "StartServer", err, ipc.ErrInUse)
	if want := "ipc: listen on " + path + ": a live server has this name: "; err != nil && !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	noError(t, "Close", server.Close())
}
