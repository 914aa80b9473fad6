package sockfile

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// TestFailureAfterBind checks that a socket is removed again when it cannot be
// given its group.
func TestFailureAfterBind(t *testing.T) {
	path := socktest.SharedPath(t)
	socktest.AsStranger(t, func() {
		l, err := Listen(path, Perm{0o660, 0}, discard)
		if !errors.Is(err, syscall.EPERM) {
			t.Errorf("%v, %v: want EPERM", l, err)
		}
		mustBeEmpty(t, filepath.Dir(path))
	})
}
