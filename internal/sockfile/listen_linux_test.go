package sockfile

import (
	"errors"
	"io/fs"
	"net"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// TestCloseWithoutPermission has a server that may no longer remove its file.
func TestCloseWithoutPermission(t *testing.T) {
	path := socktest.Path(t, "a.sock")
	l, err := listenQuietly(path)
	if err != nil {
		t.Fatal(err)
	}
	socktest.AsStranger(t, func() {
		for range 2 {
			if err := l.Close(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%v: want ErrPermission", err)
			}
		}
	})
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v: want net.ErrClosed", err)
	}
}
