//go:build unix

package compat

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// libraries are those that this one is tested with.
var libraries = []string{"original", "fork"}

// theirDir is where their sockets are, whatever is asked for.
const theirDir = "/tmp"

func theirPath(name string) string { return filepath.Join(theirDir, name+".sock") }

// ourDir is where they do not look. (t.TempDir's path may be too long for a socket.)
func ourDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "ipc")
	noError(t, "MkdirTemp", err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// prepareServer has a server of theirs accept clients.
func prepareServer(*testing.T, context.Context, string) {}

func dial(ctx context.Context, path string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

func listen(path string) (net.Listener, error) { return net.Listen("unix", path) }
