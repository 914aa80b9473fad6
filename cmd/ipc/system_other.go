//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// defaultDir is the library's default of SocketDir.
const defaultDir = "/tmp"

func socketPath(dir, name string) (string, error) { return sockfile.Path(dir, name) }

// probe does not know: connecting tells.
func probe(dir, name string) error { return errors.ErrUnsupported }

func list(dir string) ([]server, error) {
	return nil, fmt.Errorf("list %s: %w on this system", dir, errors.ErrUnsupported)
}

func whose(string) string { return "" }

func listen(path string) (net.Listener, error) {
	return nil, fmt.Errorf("listen on %s: %w on this system", path, errors.ErrUnsupported)
}

func dial(_ context.Context, path string) (net.Conn, error) {
	return nil, fmt.Errorf("dial %s: %w on this system", path, errors.ErrUnsupported)
}

// keepWriting does nothing: writing to a pipe without a reader fails here.
func keepWriting() {}
