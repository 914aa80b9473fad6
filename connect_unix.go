//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"context"
	"fmt"
	"log/slog"
	"net"

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
func dialSocket(ctx context.Context, path string) (net.Conn, error) { return sockfile.Dial(ctx, path) }

// retryDial reports whether a later dialSocket may succeed where one failed with
// err.
func retryDial(err error) bool { return sockfile.MayPass(err) }
