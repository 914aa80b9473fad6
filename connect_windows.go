package ipc

import (
	"context"
	"fmt"
	"net"

	"github.com/joe-at-startupmedia/golang-ipc/internal/pipe"
)

// defaultSocketDir is no prefix: a pipe has its name alone.
const defaultSocketDir = ""

// socketPath returns the name of the pipe that name stands for in dir.
func socketPath(dir, name string) (string, error) { return pipe.Path(dir, name) }

// listenSocket listens on a new pipe, as [pipe.Listen] does.
func listenSocket(path string, c *ServerConfig) (net.Listener, error) {
	perm := pipe.Perm{Mode: c.mode()}
	if c.Group != "" {
		var err error
		if perm.Group, err = pipe.LookupGroup(c.Group); err != nil {
			return nil, fmt.Errorf("ipc: start server: %w", err)
		}
	}
	l, err := pipe.Listen(path, perm)
	if err != nil {
		return nil, fmt.Errorf("ipc: listen on %s: %w", path, err)
	}
	return l, nil
}

// dialSocket makes one attempt to connect to path.
func dialSocket(ctx context.Context, path string) (net.Conn, error) { return pipe.Dial(ctx, path) }

// retryDial reports whether a later dialSocket may succeed where one failed with
// err.
func retryDial(err error) bool { return pipe.MayPass(err) }
