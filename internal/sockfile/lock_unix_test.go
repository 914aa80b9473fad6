//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestStaleLockIsTakenOver(t *testing.T) {
	path := socktest.Path(t)
	writeFile(t, path+".lock", "")
	mustServe(t, mustListen(t, path, ownerOnly), path)
}

// TestOthersFilesAtLock puts things where the lock file belongs.
func TestOthersFilesAtLock(t *testing.T) {
	for _, c := range []struct {
		name string
		want error // nil where systems differ
		put  func(t *testing.T, lock string)
	}{
		{"document", fs.ErrExist, func(t *testing.T, lock string) { writeFile(t, lock, "content") }},
		{"link to file", nil, func(t *testing.T, lock string) {
			writeFile(t, filepath.Join(filepath.Dir(lock), "other"), "")
			symlink(t, "other", lock)
		}},
		{"dangling link", nil, func(t *testing.T, lock string) { symlink(t, "missing", lock) }},
		{"folder", syscall.EISDIR, func(t *testing.T, lock string) {
			if err := os.Mkdir(lock, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"fifo", fs.ErrExist, func(t *testing.T, lock string) {
			if err := syscall.Mkfifo(lock, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"socket", nil, func(t *testing.T, lock string) { bindOnly(t, lock, syscall.SOCK_STREAM) }},
		{"another user's", fs.ErrExist, func(t *testing.T, lock string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			writeFile(t, lock, "")
			if err := os.Chown(lock, socktest.Stranger, socktest.Stranger); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := socktest.Path(t, "a.sock.lock", "other")
			c.put(t, path+".lock")
			mustLeave(t, path+".lock", func() {
				_, err := listenQuietly(path)
				if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), path+".lock") {
					t.Errorf("%v: want %v, with the lock's path", err, c.want)
				}
				if errors.Is(err, errReplaced) {
					t.Errorf("%v: tried until it gave up", err)
				}
			})
		})
	}
}
