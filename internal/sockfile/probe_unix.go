//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"os"
	"syscall"
)

// Probe reports whether a process still has the socket at path open.
//
// It connects with a socket of another type than a server's. The kernel looks for
// the owner first (ECONNREFUSED) and then at the type (EPROTOTYPE), so the answer
// does not depend on whether the owner listens, or on the room in its backlog, and
// the owner gets no connection to accept.
func Probe(path string) (live bool, err error) {
	fd, err := newSocket(syscall.SOCK_DGRAM)
	if err != nil {
		return false, err
	}
	defer syscall.Close(fd)
	err = ignoringEINTR(func() error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}) })
	switch err {
	case syscall.ECONNREFUSED:
		return false, nil
	case syscall.EPROTOTYPE, nil: // nil: a datagram socket, and alive
		return true, nil
	}
	return false, os.NewSyscallError("connect", err)
}
