package sockfile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestOtherUsersLiveSocket(t *testing.T) {
	path := socktest.SharedPath(t)
	l := mustListen(t, path, ownerOnly)
	socktest.AsStranger(t, func() {
		mustLeave(t, path, func() { mustRefuse(t, path, fs.ErrPermission) })
		if _, err := net.Dial("unix", path); !errors.Is(err, syscall.EACCES) {
			t.Errorf("%v: want EACCES", err)
		}
	})
	mustServe(t, l, path)
}

func TestOtherUsersStaleSocket(t *testing.T) {
	path := socktest.SharedPath(t, "a.sock")
	socktest.LeaveStale(t, path)
	socktest.AsStranger(t, func() {
		mustLeave(t, path, func() { mustRefuse(t, path, fs.ErrPermission) })
	})
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	socktest.AsStranger(t, func() {
		mustLeave(t, path, func() { mustRefuse(t, path, fs.ErrPermission) })
	})
}

// Pins doc.go, "Starting": another user's dead socket is in the way
func TestOtherUserInSharedFolder(t *testing.T) {
	path := socktest.SharedPath(t)
	socktest.AsStranger(t, func() {
		l, err := listenQuietly(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer socktest.Close(t, l)
		mustRefuse(t, path, errs.InUse)
		if c, err := net.Dial("unix", path); err != nil {
			t.Error(err)
		} else {
			socktest.Close(t, c)
		}
	})
}
