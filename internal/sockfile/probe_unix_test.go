//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestLiveNameIsRefused(t *testing.T) {
	path := socktest.Path(t)
	l := mustListen(t, path, ownerOnly)
	mustLeave(t, path, func() {
		mustRefuse(t, path, errs.InUse)
		_, err := Listen(path, Perm{0o777, -1}, discard)
		if !errors.Is(err, errs.InUse) || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%v: want errs.InUse and EADDRINUSE", err)
		}
	})
	// The first connection that the live one sees is a client's, not a probe's.
	mustServe(t, l, path)
}

// TestBoundIsLive takes sockets that cannot be connected to, and are not ours to
// remove for that.
func TestBoundIsLive(t *testing.T) {
	for _, c := range []struct {
		name string
		kind int
	}{{"stream", syscall.SOCK_STREAM}, {"datagram", syscall.SOCK_DGRAM}} {
		t.Run(c.name, func(t *testing.T) {
			path := socktest.Path(t, "a.sock")
			bindOnly(t, path, c.kind)
			mustLeave(t, path, func() { mustRefuse(t, path, errs.InUse) })
		})
	}
}
