//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
)

// Dial makes one attempt to connect to path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, dialError(path, err)
	}
	return conn, nil
}

// transient are the reasons for a failed connect that pass by themselves: no
// server yet (or one that is just closing), its backlog full, or one of the two
// systems' resources used up for the moment. What a person has to change, such as
// EACCES, is not among them.
var transient = []error{
	syscall.ENOENT, syscall.ECONNREFUSED, syscall.ECONNRESET,
	syscall.EAGAIN, syscall.ETIMEDOUT, syscall.EINTR,
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
}

// MayPass reports whether a later Dial may succeed where one failed with
// err.
func MayPass(err error) bool {
	return slices.ContainsFunc(transient, func(t error) bool { return errors.Is(err, t) })
}
