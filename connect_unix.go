//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// defaultSocketDir is where sockets are.
const defaultSocketDir = "/tmp"

// socketPath returns the path of the socket that name stands for in dir.
func socketPath(dir, name string) (string, error) { return sockfile.Path(dir, name) }

// listenSocket listens on a new socket at path, as [sockfile.Listen] does.
func listenSocket(path string, c *ServerConfig) (net.Listener, error) {
	perm := sockfile.Perm{Mode: c.mode(), GID: -1}
	if c.Group != "" {
		var err error
		if perm.GID, err = sockfile.LookupGroup(c.Group); err != nil {
			return nil, fmt.Errorf("ipc: start server: %w", err)
		}
	}
	l, err := sockfile.Listen(path, perm, func(level slog.Level, msg, path string, attrs ...slog.Attr) {
		logEvent(c.Logger, level, msg, path, 0, attrs...)
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
