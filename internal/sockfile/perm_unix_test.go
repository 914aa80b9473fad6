//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// umasks are from "hides nothing" to "hides everything".
var umasks = []int{0, 0o022, 0o077, 0o777}

// setUmask sets the umask until the end of the test. It is the whole process's,
// so no other test may run meanwhile.
func setUmask(t *testing.T, mask int) {
	old := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(old) })
}

// otherGroup returns a group that we may give files to, and that they do not have
// by themselves.
func otherGroup(t *testing.T) int {
	t.Helper()
	if os.Geteuid() == 0 {
		return socktest.Stranger
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(groups, func(g int) bool { return g != os.Getegid() })
	if i < 0 {
		t.Skip("we are in one group only")
	}
	return groups[i]
}

func TestPermissions(t *testing.T) {
	for _, umask := range umasks {
		for _, mode := range []fs.FileMode{0o600, 0o660, 0o777} {
			t.Run(fmt.Sprintf("umask %03o, mode %03o", umask, mode), func(t *testing.T) {
				testPermissions(t, umask, Perm{mode, -1})
			})
			t.Run(fmt.Sprintf("umask %03o, mode %03o, group", umask, mode), func(t *testing.T) {
				testPermissions(t, umask, Perm{mode, otherGroup(t)})
			})
		}
	}
}

func testPermissions(t *testing.T, umask int, perm Perm) {
	path := socktest.Path(t)
	socktest.LeaveStale(t, path) // its mode must not matter
	before, err := os.Lstat(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	setUmask(t, umask)
	l := mustListen(t, path, perm)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != perm.Mode|fs.ModeSocket {
		t.Errorf("mode %v: want %v", info.Mode(), perm.Mode)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; perm.GID != -1 && gid != uint32(perm.GID) {
		t.Errorf("group %d: want %d", gid, perm.GID)
	}
	if got := syscall.Umask(umask); got != umask {
		t.Errorf("umask is %03o", got)
	}
	if after, err := os.Lstat(filepath.Dir(path)); err != nil || after.Mode() != before.Mode() {
		t.Errorf("folder: %v, %v: was %v", after.Mode(), err, before.Mode())
	}
	mustServe(t, l, path)
	mustRefuse(t, path, errs.InUse)
}

// TestSetPermOnReplacedPath has the path replaced in the instant between bind and
// chmod, where a folder lets others do so.
func TestSetPermOnReplacedPath(t *testing.T) {
	path := socktest.Path(t, "a.sock", "other")
	victim := filepath.Join(filepath.Dir(path), "other")
	bindOnly(t, path, syscall.SOCK_STREAM)
	self, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlink(path); err != nil {
		t.Fatal(err)
	}
	if err := setPerm(path, self, Perm{0o777, socktest.Stranger}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v: want ErrNotExist", err)
	}
	writeFile(t, victim, "content")
	symlink(t, "other", path)
	mustLeave(t, victim, func() {
		mustLeave(t, path, func() {
			if err := setPerm(path, self, Perm{0o777, socktest.Stranger}); !errors.Is(err, errReplaced) {
				t.Errorf("%v: want errReplaced", err)
			}
		})
	})
}
