//go:build unix

package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// socketPath is where a server has its socket.
func socketPath(dir, name string) string { return filepath.Join(dir, name+".sock") }

// listenAt takes the place of a server of ours.
func listenAt(path string) (net.Listener, error) { return net.Listen("unix", path) }

// dialAt takes the place of a client of ours.
func dialAt(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// leaveStale leaves what a killed server does, and reports whether that is anything.
func leaveStale(t testing.TB, path string) bool {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	noError(t, "listen", err)
	l.SetUnlinkOnClose(false)
	noError(t, "Close", l.Close())
	return true
}

// descriptors counts the open ones, where the system tells.
func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// ourselves is who we are to a peer.
func ourselves(testing.TB) ipc.Peer {
	return ipc.Peer{PID: os.Getpid(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// peerUser is how a log names our user.
func peerUser(t testing.TB) string { return fmt.Sprintf("uid=%d", ourselves(t).UID) }

// socketConn is a connection of package net that has a buffer in the kernel and
// can be closed by halves. The system's named socket is one, too.
type socketConn = net.UnixConn

// socketNetwork is that of a socketConn.
const socketNetwork = "unix"

// socketAddresses returns a function that returns a new address each time.
func socketAddresses(t testing.TB) func() string {
	dir := socketDir(t)
	var n atomic.Int64
	return func() string { return filepath.Join(dir, fmt.Sprint(n.Add(1))) }
}

// needHalfClose skips a test that closes one direction of a named connection.
func needHalfClose(testing.TB) {}

// closeWrite closes one direction of a named connection.
func (c *wireConn) closeWrite() {
	c.t.Helper()
	noError(c.t, "CloseWrite", c.Conn.(*net.UnixConn).CloseWrite())
}

// closeRead closes the other.
func (c *wireConn) closeRead() {
	c.t.Helper()
	noError(c.t, "CloseRead", c.Conn.(*net.UnixConn).CloseRead())
}

// canStop says whether a process can be stopped and go on later.
const canStop = true

// stop returns when the helper has stopped.
func (c *child) stop() {
	c.t.Helper()
	noError(c.t, "SIGSTOP", c.cmd.Process.Signal(syscall.SIGSTOP))
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(c.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		noError(c.t, "Wait4", err)
		if !status.Stopped() {
			c.t.Fatalf("helper has status %#x, want stopped", status)
		}
		return
	}
}
