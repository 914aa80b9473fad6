package peercred

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"syscall"
)

// Of returns the process at the other end of conn. Of anything but a connection
// over a Unix socket the kernel knows nothing, and the error matches
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
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		// For another family, SO_PEERCRED would succeed and tell no peer.
		domain, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_DOMAIN)
		if err == nil && domain == syscall.AF_UNIX {
			cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		}
		failed = os.NewSyscallError("getsockopt", err)
	})
	if err = errors.Join(err, failed); err != nil {
		return Cred{}, fmt.Errorf("credentials: %w", err)
	}
	if cred == nil || cred.Uid == math.MaxUint32 { // the latter where nothing is connected
		return Cred{}, noPeer(conn)
	}
	return Cred{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, nil
}

func noPeer(conn net.Conn) error {
	return fmt.Errorf("credentials of a %T: %w", conn, errors.ErrUnsupported)
}
