//go:build unix

package compat

import (
	"context"
	"net"
	"path/filepath"
	"testing"
)

// libraries are those that this one is tested with.
var libraries = []string{"original", "fork"}

// theirDir is where their sockets are, whatever is asked for.
const theirDir = "/tmp"

func theirPath(name string) string { return filepath.Join(theirDir, name+".sock") }

// ourDir is where they do not look.
func ourDir(t *testing.T) string { return t.TempDir() }

// prepareServer has a server of theirs accept clients.
func prepareServer(*testing.T, context.Context, string) {}

func dial(ctx context.Context, path string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

func listen(path string) (net.Listener, error) { return net.Listen("unix", path) }
