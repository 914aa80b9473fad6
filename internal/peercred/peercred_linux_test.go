package peercred

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// self is who we are to a peer.
func self() Cred {
	return Cred{PID: os.Getpid(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// connectedPair returns both ends of a connection over a socket.
func connectedPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", socktest.Path(t))
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, l)
	client, err = new(net.Dialer).DialContext(t.Context(), "unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server, client
}

func TestOf(t *testing.T) {
	server, client := connectedPair(t)
	for name, conn := range map[string]net.Conn{
		"server":  server,
		"client":  client,
		"wrapped": struct{ *net.UnixConn }{client.(*net.UnixConn)},
	} {
		if got, err := Of(conn); got != self() || err != nil {
			t.Errorf("%s: %v, %v: want %v", name, got, err, self())
		}
	}
	// It is known for as long as the connection is open, even when the peer has left.
	socktest.Close(t, client)
	if got, err := Of(server); got != self() || err != nil {
		t.Errorf("%v, %v: want %v", got, err, self())
	}
	if _, err := Of(client); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v: want net.ErrClosed", err)
	}
}

func TestOfOtherUser(t *testing.T) {
	path := socktest.SharedPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, l)
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	socktest.AsStranger(t, func() {
		client, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		server, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		got, err := Of(server)
		if want := (Cred{PID: os.Getpid(), UID: socktest.Stranger, GID: socktest.Stranger}); got != want || err != nil {
			t.Errorf("client is %v, %v: want %v", got, err, want)
		}
		if got, err := Of(client); got != (Cred{PID: os.Getpid()}) || err != nil {
			t.Errorf("server is %v, %v: want root", got, err)
		}
	})
}

func TestOfOthers(t *testing.T) {
	_, unix := connectedPair(t)
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(t.TempDir(), "d")
	datagram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer datagram.Close()
	for name, conn := range map[string]net.Conn{
		"pipe":     pipe,
		"TCP":      tcp,
		"TLS":      tls.Client(unix, nil),
		"datagram": datagram,
	} {
		if got, err := Of(conn); !errors.Is(err, errors.ErrUnsupported) || got != (Cred{}) {
			t.Errorf("%s: %v, %v: want ErrUnsupported", name, got, err)
		}
	}
}

func TestOfSocketpair(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "socketpair")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := Of(conn); got != self() || err != nil {
		t.Errorf("%v, %v: want %v", got, err, self())
	}
}
