//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestStaleIsTakenOver(t *testing.T) {
	path := socktest.Path(t)
	socktest.LeaveStale(t, path)
	var log bytes.Buffer
	l, err := Listen(path, ownerOnly, logTo(&log))
	if err != nil {
		t.Fatal(err)
	}
	mustServe(t, l, path)
	socktest.Close(t, l)
	if !strings.Contains(log.String(), "level=INFO") || !strings.Contains(log.String(), "socket="+path) {
		t.Errorf("log: %s", &log)
	}
}

// TestOthersFilesAtPath puts things at the path that no server of ours does.
func TestOthersFilesAtPath(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string){
		"file":  func(t *testing.T, path string) { writeFile(t, path, "content") },
		"empty": func(t *testing.T, path string) { writeFile(t, path, "") },
		"folder": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"tree": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(path, "file"), "content")
		},
		"fifo": func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"link to file": func(t *testing.T, path string) {
			writeFile(t, path+".other", "content")
			symlink(t, path+".other", path)
		},
		"link to live socket": func(t *testing.T, path string) {
			bindOnly(t, path+".other", syscall.SOCK_STREAM)
			symlink(t, path+".other", path)
		},
		"link to stale socket": func(t *testing.T, path string) {
			socktest.LeaveStale(t, path+".other")
			symlink(t, path+".other", path)
		},
		"dangling link": func(t *testing.T, path string) { symlink(t, "a.sock.missing", path) },
		"circular link": func(t *testing.T, path string) { symlink(t, "a.sock", path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := socktest.Path(t, "a.sock", "a.sock.other")
			put(t, path)
			mustLeave(t, path, func() { mustRefuse(t, path, fs.ErrExist) })
			if strings.HasPrefix(name, "link") {
				if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
