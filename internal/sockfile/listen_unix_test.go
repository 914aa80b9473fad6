//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestListen(t *testing.T) {
	path := socktest.Path(t)
	l := mustListen(t, path, ownerOnly)
	if got := l.Addr().String(); got != path {
		t.Errorf("address %q: want %q", got, path)
	}
	mustServe(t, l, path)
}

func TestListenUnusableFolder(t *testing.T) {
	path := socktest.Path(t, "file")
	writeFile(t, filepath.Join(filepath.Dir(path), "file"), "")
	mustRefuse(t, filepath.Join(filepath.Dir(path), "none", "a.sock"), fs.ErrNotExist)
	mustRefuse(t, filepath.Join(filepath.Dir(path), "file", "a.sock"), syscall.ENOTDIR)
}

func TestCloseOnce(t *testing.T) {
	path := socktest.Path(t)
	l := mustListen(t, path, ownerOnly)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			// However many close at once, none returns before it is done.
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v: want ErrNotExist", err)
			}
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v: want net.ErrClosed", err)
			}
		})
	}
	wg.Wait()

	// A later Close does not touch the server that has the name by then.
	next := mustListen(t, path, ownerOnly)
	socktest.Close(t, l)
	mustServe(t, next, path)
}

func TestCloseEndsAccept(t *testing.T) {
	l := mustListen(t, socktest.Path(t), ownerOnly)
	accepting := make(chan struct{})
	done := make(chan error)
	go func() {
		close(accepting)
		_, err := l.Accept()
		done <- err
	}()
	<-accepting
	socktest.Close(t, l)
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v: want net.ErrClosed", err)
	}
}

// TestCloseRemovesOnlyItsOwn has something else at the path by the time of Close.
func TestCloseRemovesOnlyItsOwn(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path string){
		"nothing": func(*testing.T, string) {},
		"file":    func(t *testing.T, path string) { writeFile(t, path, "content") },
		"empty folder": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"link to itself renamed": func(t *testing.T, path string) { symlink(t, "renamed", path) },
		"stale socket":           func(t *testing.T, path string) { socktest.LeaveStale(t, path) },
		"live socket":            func(t *testing.T, path string) { bindOnly(t, path, syscall.SOCK_STREAM) },
	} {
		t.Run(name, func(t *testing.T) {
			path := socktest.Path(t, "a.sock", "renamed")
			var log bytes.Buffer
			l, err := Listen(path, ownerOnly, logTo(&log))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path, filepath.Join(filepath.Dir(path), "renamed")); err != nil {
				t.Fatal(err)
			}
			replace(t, path)
			if name == "nothing" {
				socktest.Close(t, l)
			} else {
				mustLeave(t, path, func() { socktest.Close(t, l) })
			}
			if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "socket="+path) {
				t.Errorf("log: %s", &log)
			}
			socktest.Close(t, l)
			if n := strings.Count(log.String(), "\n"); n != 1 {
				t.Errorf("%d lines of log for one Close: %s", n, &log)
			}
		})
	}
}

// TestCloseAfterSuccessor lets a second server start under the name of one whose
// file was deleted.
func TestCloseAfterSuccessor(t *testing.T) {
	path := socktest.Path(t)
	first := mustListen(t, path, ownerOnly)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := mustListen(t, path, ownerOnly)
	socktest.Close(t, first)
	mustServe(t, second, path)
	mustRefuse(t, path, errs.InUse)
}

func TestCloseInAnotherFolder(t *testing.T) {
	dir := socktest.Dir(t)
	t.Chdir(dir)
	l := mustListen(t, "./a.sock", ownerOnly)
	mustServe(t, l, "./a.sock")
	t.Chdir("/")
	socktest.Close(t, l)
	if _, err := os.Lstat(filepath.Join(dir, "a.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v: want ErrNotExist", err)
	}
}
