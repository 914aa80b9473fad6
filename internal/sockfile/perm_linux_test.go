package sockfile

import (
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// TestNeverWider watches the socket's file while servers start, and must not see a
// permission that was not asked for, nor one for a group that is not the right one.
//
// Pins doc.go, "Security": on Linux at no time a wider one
func TestNeverWider(t *testing.T) {
	const starts = 200
	for name, perm := range map[string]Perm{
		"0600":  {0o600, -1},
		"0640":  {0o640, -1},
		"group": {0o660, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if perm.GID != -1 {
				perm.GID = otherGroup(t)
			}
			setUmask(t, 0)
			path := socktest.Path(t)
			var stop atomic.Bool
			var wg sync.WaitGroup
			var seen int
			wg.Go(func() {
				for !stop.Load() {
					info, err := os.Lstat(path)
					if err != nil {
						continue
					}
					seen++
					wider := info.Mode().Perm()&^perm.Mode != 0
					if forWrongGroup(info, perm) {
						// lstat is not atomic: this may be the group from before a
						// change and the mode from after the next. Then by now both
						// are from after.
						again, err := os.Lstat(path)
						wider = wider || err == nil && os.SameFile(info, again) && forWrongGroup(again, perm)
					}
					if wider {
						t.Errorf("mode %v, group %d", info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
						return
					}
				}
			})
			for range starts {
				l, err := Listen(path, perm, discard)
				if err != nil {
					t.Error(err)
					break
				}
				socktest.Close(t, l)
			}
			stop.Store(true)
			wg.Wait()
			t.Logf("seen %d times in %d starts", seen, starts)
		})
	}
}

// forWrongGroup reports whether a file is open to a group that it is not meant for.
func forWrongGroup(info fs.FileInfo, perm Perm) bool {
	return perm.GID != -1 && info.Sys().(*syscall.Stat_t).Gid != uint32(perm.GID) && info.Mode().Perm()&0o077 != 0
}
