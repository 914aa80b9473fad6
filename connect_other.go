//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package ipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
)

// socketPath returns the path that name stands for in dir, or an error that is
// ErrName. It is good for a label.
func socketPath(dir, name string) (string, error) { return joinPath(dir, name) }

// lookupGroup fails: there is no socket to give to a group.
func lookupGroup(s string) (int, error) {
	return 0, fmt.Errorf("ipc: group %q: %w", s, errors.ErrUnsupported)
}

// listenSocket fails: there are no sockets with permissions here.
func listenSocket(path string, _ socketPerm, _ *slog.Logger) (net.Listener, error) {
	return nil, fmt.Errorf("ipc: listen on %s: %w on this system: set ServerConfig.Listener", path, errors.ErrUnsupported)
}

// dialSocket fails, like listenSocket.
func dialSocket(_ context.Context, path string) (net.Conn, error) {
	return nil, fmt.Errorf("ipc: dial %s: %w on this system: set ClientConfig.Dial", path, errors.ErrUnsupported)
}

// retryDial reports that dialSocket will fail every time.
func retryDial(error) bool { return false }
