//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

// Package socktest helps tests that need a place for a socket, or another user.
// Only tests import it.
package socktest

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Stranger is a user, and a group, that the tests do not run as.
const Stranger = 65534

// Dir returns a folder, which must be empty again by the end of the test, but for
// what the test itself leaves there.
func Dir(t testing.TB, leftover ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ipc") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if !slices.Contains(leftover, e.Name()) {
				t.Errorf("left behind: %v", e)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Path returns a path for a socket in a [Dir] of its own.
func Path(t testing.TB, leftover ...string) string {
	t.Helper()
	return filepath.Join(Dir(t, leftover...), "a.sock")
}

// LeaveStale leaves the socket of a dead server at path.
func LeaveStale(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	Close(t, l)
}

// Close closes c, and fails if that does.
func Close(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
