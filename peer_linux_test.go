package ipc

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// self is who we are to a peer.
func self() Peer {
	return Peer{PID: os.Getpid(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// connected returns both ends of a connection over a socket.
func connected(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", socktest.Path(t))
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, l)
	client, err = dialSocket(t.Context(), l.Addr().String())
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

func TestPeerOf(t *testing.T) {
	server, client := connected(t)
	for name, conn := range map[string]net.Conn{
		"server":  server,
		"client":  client,
		"wrapped": struct{ *net.UnixConn }{client.(*net.UnixConn)},
	} {
		if got, err := peerOf(conn); got != self() || err != nil {
			t.Errorf("%s: %v, %v: want %v", name, got, err, self())
		}
	}
	// It is known for as long as the connection is open, even when the peer has left.
	socktest.Close(t, client)
	if got, err := peerOf(server); got != self() || err != nil {
		t.Errorf("%v, %v: want %v", got, err, self())
	}
	if _, err := peerOf(client); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v: want net.ErrClosed", err)
	}
}

func TestPeerOfOtherUser(t *testing.T) {
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
		client, err := dialSocket(t.Context(), path)
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
		got, err := peerOf(server)
		if want := (Peer{os.Getpid(), socktest.Stranger, socktest.Stranger}); got != want || err != nil {
			t.Errorf("client is %v, %v: want %v", got, err, want)
		}
		if got, err := peerOf(client); got != (Peer{os.Getpid(), 0, 0}) || err != nil {
			t.Errorf("server is %v, %v: want root", got, err)
		}
	})
}

func TestPeerOfOthers(t *testing.T) {
	_, unix := connected(t)
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
		if got, err := peerOf(conn); !errors.Is(err, errors.ErrUnsupported) || got != (Peer{}) {
			t.Errorf("%s: %v, %v: want ErrUnsupported", name, got, err)
		}
	}
}

func TestPeerOfSocketpair(t *testing.T) {
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
	if got, err := peerOf(conn); got != self() || err != nil {
		t.Errorf("%v, %v: want %v", got, err, self())
	}
}

func TestSameUser(t *testing.T) {
	own := uint32(os.Geteuid())
	for uid, want := range map[uint32]bool{own: true, 0: true, own + 1: false, socktest.Stranger + 1: false, 1<<32 - 1: false} {
		err := SameUser(Peer{PID: 1, UID: uid})
		if want != (err == nil) {
			t.Errorf("uid %d: %v", uid, err)
		}
		if !want && (!errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), fmt.Sprint(uid))) {
			t.Errorf("%v: want ErrUnauthorized with uid %d", err, uid)
		}
	}
}

func TestPeerText(t *testing.T) {
	p := Peer{PID: 12, UID: 0, GID: 1<<32 - 1}
	if got, want := p.String(), "pid 12 uid 0 gid 4294967295"; got != want {
		t.Errorf("%q: want %q", got, want)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("joined", "peer", p)
	if want := "peer.pid=12 peer.uid=0 peer.gid=4294967295\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("%q: want %q", &log, want)
	}
}
