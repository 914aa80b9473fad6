//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package ipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// listenSocket fails: there are no sockets with permissions here.
func listenSocket(path string, _ sockfile.Perm, _ *slog.Logger) (net.Listener, error) {
	return nil, fmt.Errorf("ipc: listen on %s: %w on this system: set ServerConfig.Listener", path, errors.ErrUnsupported)
}

// dialSocket fails, like listenSocket. Its caller adds the prefix, as for every
// failed attempt to connect.
func dialSocket(context.Context, string) (net.Conn, error) {
	return nil, fmt.Errorf("%w on this system: set ClientConfig.Dial", errors.ErrUnsupported)
}

// retryDial reports that dialSocket will fail every time.
func retryDial(error) bool { return false }
