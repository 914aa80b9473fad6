package ipc

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// asStranger runs do as another user, which only root can. The identity is that of
// one thread, which ends with do; the rest of the process stays root.
func asStranger(t *testing.T, do func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // never unlocked
		for _, c := range [][4]uintptr{
			{syscall.SYS_SETGROUPS, 0, 0, 0},
			{syscall.SYS_SETRESGID, stranger, stranger, stranger},
			{syscall.SYS_SETRESUID, stranger, stranger, stranger},
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

// inSharedFolder is inFolder in a folder like /tmp.
func inSharedFolder(t *testing.T, leftover ...string) string {
	t.Helper()
	path := inFolder(t, leftover...)
	if err := os.Chmod(filepath.Dir(path), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFullBacklogIsLive takes a server that is too busy to be connected to.
func TestFullBacklogIsLive(t *testing.T) {
	path := inFolder(t, "a.sock")
	if err := syscall.Listen(bindOnly(t, path, syscall.SOCK_STREAM), 0); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := dialSocket(t.Context(), path)
		if errors.Is(err, syscall.EAGAIN) {
			if !retryDial(err) {
				t.Errorf("%v is not to be tried again", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { mustClose(t, c) })
	}
	mustLeave(t, path, func() { mustRefuse(t, path, ErrInUse) })
}

func TestOtherUsersLiveSocket(t *testing.T) {
	path := inSharedFolder(t)
	l := mustListen(t, path, ownerOnly)
	asStranger(t, func() {
		mustLeave(t, path, func() { mustRefuse(t, path, fs.ErrPermission) })
		if _, err := dialSocket(t.Context(), path); !errors.Is(err, syscall.EACCES) || retryDial(err) {
			t.Errorf("%v: want EACCES, not to be tried again", err)
		}
	})
	mustServe(t, l, path)
}

func TestOtherUsersStaleSocket(t *testing.T) {
	path := inSharedFolder(t, "a.sock")
	leaveStale(t, path)
	asStranger(t, func() {
		mustLeave(t, path, func() { mustRefuse(t, path, fs.ErrPermission) })
	})
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	asStranger(t, func() {
		mustLeave(t, path, func() { mustRefuse(t, path, fs.ErrPermission) })
	})
}

func TestOtherUsersLock(t *testing.T) {
	path := inSharedFolder(t, "a.sock.lock")
	writeFile(t, path+".lock", "")
	asStranger(t, func() {
		mustLeave(t, path+".lock", func() { mustRefuse(t, path, fs.ErrPermission) })
	})
	// One that could be opened would still be somebody else's to lock.
	if err := os.Chmod(path+".lock", 0o666); err != nil {
		t.Fatal(err)
	}
	asStranger(t, func() {
		mustLeave(t, path+".lock", func() { mustRefuse(t, path, fs.ErrExist) })
	})
}

func TestOtherUserInSharedFolder(t *testing.T) {
	path := inSharedFolder(t)
	asStranger(t, func() {
		l, err := listenQuietly(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer mustClose(t, l)
		mustRefuse(t, path, ErrInUse)
		if c, err := dialSocket(context.Background(), path); err != nil {
			t.Error(err)
		} else {
			mustClose(t, c)
		}
	})
}

// TestFailureAfterBind checks that a socket is removed again when it cannot be
// given its group.
func TestFailureAfterBind(t *testing.T) {
	path := inSharedFolder(t)
	asStranger(t, func() {
		l, err := listenSocket(path, socketPerm{0o660, 0}, slog.New(slog.DiscardHandler))
		if !errors.Is(err, syscall.EPERM) {
			t.Errorf("%v, %v: want EPERM", l, err)
		}
		mustBeEmpty(t, filepath.Dir(path))
	})
}

// TestCloseWithoutPermission has a server that may no longer remove its file.
func TestCloseWithoutPermission(t *testing.T) {
	path := inFolder(t, "a.sock")
	l, err := listenQuietly(path)
	if err != nil {
		t.Fatal(err)
	}
	asStranger(t, func() {
		for range 2 {
			if err := l.Close(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%v: want ErrPermission", err)
			}
		}
	})
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v: want net.ErrClosed", err)
	}
}

// TestNeverWider watches the socket's file while servers start, and must not see a
// permission that was not asked for, nor one for a group that is not the right one.
func TestNeverWider(t *testing.T) {
	const starts = 200
	for name, perm := range map[string]socketPerm{
		"0600":  {0o600, -1},
		"0640":  {0o640, -1},
		"group": {0o660, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if perm.gid != -1 {
				perm.gid = otherGroup(t)
			}
			setUmask(t, 0)
			path := inFolder(t)
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
					wider := info.Mode().Perm()&^perm.mode != 0
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
				l, err := listenSocket(path, perm, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Error(err)
					break
				}
				mustClose(t, l)
			}
			stop.Store(true)
			wg.Wait()
			t.Logf("seen %d times in %d starts", seen, starts)
		})
	}
}

// forWrongGroup reports whether a file is open to a group that it is not meant for.
func forWrongGroup(info fs.FileInfo, perm socketPerm) bool {
	return perm.gid != -1 && info.Sys().(*syscall.Stat_t).Gid != uint32(perm.gid) && info.Mode().Perm()&0o077 != 0
}
