//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows

package peercred

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Of returns the process at the other end of conn. Of a connection that has no
// process there, or one that the kernel does not know, the error matches
// [errors.ErrUnsupported]. Its caller adds the prefix.
func Of(conn net.Conn) (Cred, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return Cred{}, noPeer(conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return Cred{}, fmt.Errorf("credentials: %w", err)
	}
	var cred Cred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = credentials(fd) })
	switch err = errors.Join(err, failed); {
	case errors.Is(err, errUnknown):
		return Cred{}, noPeer(conn)
	case err != nil:
		return Cred{}, fmt.Errorf("credentials: %w", err)
	}
	return cred, nil
}

// errUnknown is returned by credentials if the connection is of a kind, or in a
// state, in which the kernel knows no peer.
var errUnknown = errors.New("no peer")
