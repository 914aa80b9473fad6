package sockfile

import (
	"io/fs"
	"os"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestOtherUsersLock(t *testing.T) {
	path := socktest.SharedPath(t, "a.sock.lock")
	writeFile(t, path+".lock", "")
	socktest.AsStranger(t, func() {
		mustLeave(t, path+".lock", func() { mustRefuse(t, path, fs.ErrPermission) })
	})
	// One that can be opened is refused too: the other user could keep it locked.
	if err := os.Chmod(path+".lock", 0o666); err != nil {
		t.Fatal(err)
	}
	socktest.AsStranger(t, func() {
		mustLeave(t, path+".lock", func() { mustRefuse(t, path, fs.ErrExist) })
	})
}
