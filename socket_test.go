//go:build unix

package ipc_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The socket is its user's, or everybody's where that is asked for, whatever
// the umask.
func TestSocketMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		for _, unmask := range []bool{false, true} {
			t.Run(fmt.Sprintf("umask %#o, UnmaskPermissions %t", umask, unmask), func(t *testing.T) {
				begin(t)
				l := unixLink(t)
				config := l.server()
				config.UnmaskPermissions = unmask
				old := syscall.Umask(umask)
				server, err := ipc.StartServer(&config)
				syscall.Umask(old)
				noError(t, "StartServer", err)
				defer server.Close()
				info, err := os.Lstat(l.path())
				noError(t, "Lstat", err)
				want := fs.ModeSocket | 0o600
				if unmask {
					want = fs.ModeSocket | 0o777
				}
				if info.Mode() != want {
					t.Errorf("mode %v, want %v", info.Mode(), want)
				}
				if got := server.Addr().String(); got != l.path() {
					t.Errorf("Addr is %s, want %s", got, l.path())
				}
				noError(t, "Close", server.Close())
				if _, err := os.Lstat(l.path()); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("after Close the socket is there: %v", err)
				}
			})
		}
	}
}

// A live server keeps its name, and does not notice who else wanted it.
func TestNameInUse(t *testing.T) {
	eachPair(t, unixSetups, func(t *testing.T, p *pair) {
		config := p.link.server()
		for range 3 {
			server, err := ipc.StartServer(&config)
			wantError(t, "StartServer", err, ipc.ErrInUse, syscall.EADDRINUSE)
			if server != nil {
				t.Error("StartServer returned a server together with an error")
			}
		}
		p.check(t)
		if n := p.server.Stats().HandshakeFailures; n != 0 {
			t.Errorf("HandshakeFailures = %d: the probe was a connection", n)
		}
		wantStatus(t, "server's end", p.peer, ipc.Connected)
		noError(t, "Close", p.server.Close())
		second, err := ipc.StartServer(&config)
		noError(t, "StartServer after Close", err)
		defer second.Close()
	})
}

// The socket of a server that is dead is taken over.
func TestStaleSocket(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		l := s.open(t)
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: l.path(), Net: "unix"})
		noError(t, "ListenUnix", err)
		stale.SetUnlinkOnClose(false)
		noError(t, "Close", stale.Close())
		server := s.startServer(t, l)
		wantRoundTrip(t, l.startClient(t), s.join(t, server))
	})
}

// What is not a socket is never removed, nor followed.
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
			l := unixLink(t)
			noError(t, "put", tt.put(l.path()))
			defer os.Remove(l.path())
			before, err := os.Lstat(l.path())
			noError(t, "Lstat", err)
			config := l.server()
			if server, err := ipc.StartServer(&config); err == nil {
				server.Close()
				t.Error("StartServer takes the place of something else")
			}
			after, err := os.Lstat(l.path())
			noError(t, "Lstat", err)
			if !os.SameFile(before, after) || after.Size() != before.Size() {
				t.Errorf("%v has become %v", before, after)
			}
			if left, _ := filepath.Glob(filepath.Join(l.client.SocketDir, "*")); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A server whose file was replaced removes its own file only.
func TestCloseLeavesAStrangersFile(t *testing.T) {
	begin(t)
	s := unixSingle
	l := s.open(t)
	server := s.startServer(t, l, quiet)
	noError(t, "Remove", os.Remove(l.path()))
	noError(t, "WriteFile", os.WriteFile(l.path(), nil, 0o600))
	defer os.Remove(l.path())
	noError(t, "Close", server.Close())
	if _, err := os.Lstat(l.path()); err != nil {
		t.Errorf("Close removed somebody else's file: %v", err)
	}
}

// A full backlog, which Linux reports at once, is waited out.
func TestFullBacklog(t *testing.T) {
	begin(t)
	l := unixLink(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	noError(t, "socket", err)
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	noError(t, "bind", syscall.Bind(fd, &syscall.SockaddrUnix{Name: l.path()}))
	defer os.Remove(l.path())
	noError(t, "listen", syscall.Listen(fd, 0))

	// Connections wait in the backlog until one is refused.
	var waiting []net.Conn
	for len(waiting) < 10 {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		noError(t, "socket", err)
		noError(t, "nonblock", syscall.SetNonblock(fd, true))
		conn := os.NewFile(uintptr(fd), "client")
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: l.path()})
		if err != nil {
			conn.Close()
			break
		}
		c, err := net.FileConn(conn)
		noError(t, "FileConn", err)
		conn.Close()
		waiting = append(waiting, c)
	}
	started := background(func() *ipc.Client { return l.startClient(t) })
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
