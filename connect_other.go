//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package ipc

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// defaultSocketDir is good for a label.
const defaultSocketDir = "/tmp"

// socketPath returns a label.
func socketPath(dir, name string) (string, error) { return sockfile.Path(dir, name) }

// listenSocket fails: there are no sockets with permissions here.
func listenSocket(path string, _ *ServerConfig) (net.Listener, error) {
	return nil, fmt.Errorf("ipc: listen on %s: %w on this system: set ServerConfig.Listener", path, errors.ErrUnsupported)
}

// dialSocket fails, like listenSocket. Its caller adds the prefix, as for every
// failed attempt to connect.
func dialSocket(context.Context, string) (net.Conn, error) {
	return nil, fmt.Errorf("%w on this system: set ClientConfig.Dial", errors.ErrUnsupported)
}

// retryDial reports that dialSocket will fail every time.
func retryDial(error) bool { return false }
