//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"syscall"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// listenSocket listens on a new socket at path, as [sockfile.Listen] does.
func listenSocket(path string, perm sockfile.Perm, log *slog.Logger) (net.Listener, error) {
	l, err := sockfile.Listen(path, perm, func(level slog.Level, msg, path string, attrs ...slog.Attr) {
		logEvent(log, level, msg, path, 0, attrs...)
	})
	if err != nil {
		return nil, fmt.Errorf("ipc: listen on %s: %w", path, err)
	}
	return l, nil
}

// dialSocket makes one attempt to connect to path.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
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

// retryDial reports whether a later dialSocket may succeed where one failed with
// err.
func retryDial(err error) bool {
	return slices.ContainsFunc(transient, func(t error) bool { return errors.Is(err, t) })
}
