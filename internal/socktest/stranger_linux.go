package socktest

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// AsStranger runs do as the user [Stranger], which only root can. The identity is
// that of one thread, which ends with do; the rest of the process stays root.
func AsStranger(t testing.TB, do func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // never unlocked
		for _, c := range [][4]uintptr{
			{syscall.SYS_SETGROUPS, 0, 0, 0},
			{syscall.SYS_SETRESGID, Stranger, Stranger, Stranger},
			{syscall.SYS_SETRESUID, Stranger, Stranger, Stranger},
		} {
			if _, _, errno := syscall.RawSyscall(c[0], c[1], c[2], c[3]); errno != 0 {
				t.Error("cannot become another user:", errno)
				return
			}
		}
		do()
	})
	wg.Wait()
}

// SharedPath is [Path] in a folder like /tmp, where every user can create files.
func SharedPath(t testing.TB, leftover ...string) string {
	t.Helper()
	path := Path(t, leftover...)
	if err := os.Chmod(filepath.Dir(path), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	return path
}
