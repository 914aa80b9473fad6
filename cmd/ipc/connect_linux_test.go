package main

import (
	"os"
	"strings"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// TestNoPermission looks at a socket of another user, and then at one in a folder
// of that user's.
func TestNoPermission(t *testing.T) {
	f := serve(t, nil)
	for _, c := range []struct {
		mode os.FileMode // of the folder
		want string
	}{
		{0o755, "permission denied; it is the socket of user "},
		{0o700, "permission denied; user 65534 may not enter the folder"},
	} {
		if err := os.Chmod(f.dir, c.mode); err != nil {
			t.Fatal(err)
		}
		socktest.AsStranger(t, func() {
			err := (&target{name: "fake", dir: f.dir}).check()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: want %q", err, c.want)
			}
		})
	}
}
