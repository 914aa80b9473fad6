package ipc_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/pipe"
)

func socketPath(dir, name string) string {
	path, _ := pipe.Path(dir, name) // "" where there is no name
	return path
}

func listenAt(path string) (net.Listener, error) { return pipe.Listen(path, pipe.Perm{Mode: 0o600}) }

func dialAt(ctx context.Context, path string) (net.Conn, error) { return pipe.Dial(ctx, path) }

func leaveStale(testing.TB, string) bool { return false }

// descriptors counts none: each thread of the runtime has some, too.
func descriptors() int { return 0 }

func ourselves(t testing.TB) ipc.Peer {
	t.Helper()
	token, err := syscall.OpenCurrentProcessToken()
	noError(t, "OpenCurrentProcessToken", err)
	defer token.Close()
	user, err := token.GetTokenUser()
	noError(t, "GetTokenUser", err)
	sid, err := user.User.Sid.String()
	noError(t, "Sid", err)
	return ipc.Peer{PID: os.Getpid(), UID: 1<<32 - 1, GID: 1<<32 - 1, SID: sid}
}

func peerUser(t testing.TB) string { return "sid=" + ourselves(t).SID }

type socketConn = net.TCPConn

const socketNetwork = "tcp"

func socketAddresses(testing.TB) func() string {
	return func() string { return "127.0.0.1:0" }
}

func needHalfClose(t testing.TB) {
	t.Helper()
	t.Skip("one direction of a named pipe cannot be closed")
}

func (c *wireConn) closeWrite() { needHalfClose(c.t) }

func (c *wireConn) closeRead() { needHalfClose(c.t) }

const canStop = false

func (c *child) stop() {
	c.t.Helper()
	c.t.Skip("a process cannot be stopped on Windows")
}
