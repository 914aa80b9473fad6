//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"syscall"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// maxPath is the longest path that fits into a socket address, whose last byte is
// a NUL.
const maxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// address returns path in a form that a socket address takes for a path.
func address(path string) (string, error) {
	if path[0] == '@' {
		// Alone, it would mean Linux's abstract namespace, which has neither
		// files nor permissions.
		path = "./" + path
	}
	if len(path) > maxPath {
		return "", errs.Detailf(errs.Name, "socket path %q has %d bytes and the system allows %d: choose a shorter Name or SocketDir",
			path, len(path), maxPath)
	}
	return path, nil
}
