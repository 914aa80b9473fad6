package compat

import (
	"context"
	"net"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/pipe"
)

// libraries has not the fork, which does not build for Windows.
var libraries = []string{"original"}

// theirDir is no prefix of their names.
const theirDir = ""

func theirPath(name string) string {
	path, err := pipe.Path(theirDir, name)
	if err != nil {
		panic(err)
	}
	return path
}

func ourDir(t *testing.T) string { return t.Name() }

// prepareServer has a server of theirs accept clients. It keeps the first instance of
// its pipe, and accepts from others only. Wine hands that one to a client all the
// same, so there a client has to take it.
func prepareServer(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	if syscall.NewLazyDLL("ntdll.dll").NewProc("wine_get_version").Find() != nil {
		return
	}
	conn, err := dial(ctx, theirPath(name))
	noError(t, "Dial", err)
	t.Cleanup(func() { _ = conn.Close() })
}

func dial(ctx context.Context, path string) (net.Conn, error) { return pipe.Dial(ctx, path) }

func listen(path string) (net.Listener, error) {
	return pipe.Listen(path, pipe.Perm{Mode: 0o600})
}
