//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// stranger is a user, and a group, that the tests do not run as.
const stranger = 65534

// ownerOnly is the default of a server.
var ownerOnly = socketPerm{mode: 0o600, gid: -1}

// inFolder returns a path for a socket in a folder of its own, which must be
// empty again by the end of the test, but for what the test itself leaves there.
func inFolder(t *testing.T, leftover ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ipc") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if !slices.Contains(leftover, e.Name()) {
				t.Errorf("left behind: %v", e)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "a.sock")
}

func listenQuietly(path string) (net.Listener, error) {
	return listenSocket(path, ownerOnly, slog.New(slog.DiscardHandler))
}

// mustListen listens until the end of the test.
func mustListen(t *testing.T, path string, perm socketPerm) net.Listener {
	t.Helper()
	l, err := listenSocket(path, perm, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, l) })
	return l
}

func mustClose(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// startServer starts a server in a folder of its own, and closes it at the end of
// the test.
func startServer(t *testing.T, multi bool) *Server {
	t.Helper()
	server, err := StartServer(&ServerConfig{Name: "test", SocketDir: filepath.Dir(inFolder(t)), MultiMode: multi})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, server) })
	return server
}

// startPair starts a server and a client of it, which is the caller's to close.
func startPair(t *testing.T, multi bool) (*Server, *Client) {
	t.Helper()
	server := startServer(t, multi)
	client, err := StartClient(&ClientConfig{Name: "test", SocketDir: server.config.SocketDir})
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// mustServe fails unless l is what a client of path gets to.
func mustServe(t *testing.T, l net.Listener, path string) {
	t.Helper()
	client, err := dialSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := client.Write([]byte{42}); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := server.Read(b[:]); err != nil || b[0] != 42 {
		t.Fatalf("read %d, %v", b, err)
	}
}

// mustRefuse fails unless a server cannot start at path, for a reason that is
// want, and tells the path.
func mustRefuse(t *testing.T, path string, want error) {
	t.Helper()
	l, err := listenQuietly(path)
	if err == nil {
		l.Close()
		t.Fatal("started")
	}
	if !errors.Is(err, want) {
		t.Errorf("%v: want %v", err, want)
	}
	if want != ErrInUse && errors.Is(err, ErrInUse) {
		t.Errorf("%v is ErrInUse", err)
	}
	if !strings.HasPrefix(err.Error(), "ipc: listen on "+path+": ") {
		t.Errorf("%q does not say what was done to which path", err)
	}
}

// mustLeave fails if do changes what is at path.
func mustLeave(t *testing.T, path string, do func()) {
	t.Helper()
	before, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	do()
	after, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || before.Mode() != after.Mode() || before.Size() != after.Size() ||
		!before.ModTime().Equal(after.ModTime()) {
		t.Errorf("%s: was %v, is %v", path, before, after)
	}
}

// leaveStale leaves the socket of a dead server at path.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	mustClose(t, l)
}

// bindOnly binds path until the end of the test, without listening.
func bindOnly(t *testing.T, path string, kind int) (fd int) {
	t.Helper()
	fd, err := newSocket(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSocketPath(t *testing.T) {
	for _, c := range []struct{ dir, name, want string }{
		{"/tmp", "a", "/tmp/a.sock"},
		{"run", "a b", "run/a b.sock"},
		{"/tmp", "...", "/tmp/....sock"},
		{"/tmp", ".hidden", "/tmp/.hidden.sock"},
		{"/tmp", `back\slash`, `/tmp/back\slash.sock`},
		{"/tmp", "@a", "/tmp/@a.sock"},
		{"@run", "a", "./@run/a.sock"},
		{"/tmp", "größe", "/tmp/größe.sock"},
	} {
		got, err := socketPath(c.dir, c.name)
		if got != c.want || err != nil {
			t.Errorf("socketPath(%q, %q) = %q, %v: want %q", c.dir, c.name, got, err, c.want)
		}
	}
	for _, c := range []struct{ dir, name, text string }{
		{"/tmp", "", "ipcName cannot be an empty string"},
		{"/tmp", ".", `"."`},
		{"/tmp", "..", `".."`},
		{"/tmp", "a/b", "separator"},
		{"/tmp", "../a", "separator"},
		{"/tmp", "/a", "separator"},
		{"/tmp", "a\x00b", "NUL"},
		{"/t\x00mp", "a", "SocketDir"},
	} {
		got, err := socketPath(c.dir, c.name)
		if got != "" || !errors.Is(err, ErrName) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("socketPath(%q, %q) = %q, %v: want ErrName with %q", c.dir, c.name, got, err, c.text)
		}
	}
}

// TestSocketPathLimit checks that the limit is the system's own: the longest path
// works, and one byte more does not.
func TestSocketPathLimit(t *testing.T) {
	dir := filepath.Dir(inFolder(t))
	name := strings.Repeat("n", maxSocketPath-len(dir)-len("/.sock"))
	path, err := socketPath(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	mustServe(t, mustListen(t, path, ownerOnly), path)

	_, err = socketPath(dir, name+"n")
	if !errors.Is(err, ErrName) {
		t.Fatalf("%v: want ErrName", err)
	}
	for _, want := range []any{maxSocketPath, maxSocketPath + 1, "Name", "SocketDir"} {
		if !strings.Contains(err.Error(), fmt.Sprint(want)) {
			t.Errorf("%q does not mention %v", err, want)
		}
	}
	// The "./" counts too.
	dir = "@" + strings.Repeat("d", maxSocketPath-len("./@/a.sock"))
	if _, err := socketPath(dir, "a"); err != nil {
		t.Error(err)
	}
	if _, err := socketPath(dir+"d", "a"); !errors.Is(err, ErrName) {
		t.Errorf("%v: want ErrName", err)
	}
}

func TestSocketPathIsNeverAbstract(t *testing.T) {
	dir := filepath.Dir(inFolder(t, "@run"))
	t.Chdir(dir)
	if err := os.Mkdir("@run", 0o700); err != nil {
		t.Fatal(err)
	}
	path, err := socketPath("@run", "a")
	if err != nil {
		t.Fatal(err)
	}
	l := mustListen(t, path, ownerOnly)
	mustServe(t, l, path)
	if _, err := os.Lstat(filepath.Join(dir, "@run", "a.sock")); err != nil {
		t.Error(err)
	}
	mustRefuse(t, path, ErrInUse)
	mustClose(t, l)
	if entries, err := os.ReadDir("@run"); len(entries) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestLookupGroup(t *testing.T) {
	id, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Skip("own group has no name:", err)
	}
	for _, s := range []string{id.Name, id.Gid} {
		if got, err := lookupGroup(s); got != os.Getgid() || err != nil {
			t.Errorf("lookupGroup(%q) = %d, %v: want %d", s, got, err, os.Getgid())
		}
	}
	unknown := user.UnknownGroupError("no such group")
	if _, err := lookupGroup(string(unknown)); !errors.Is(err, unknown) || !strings.Contains(err.Error(), string(unknown)) {
		t.Errorf("%v: want %v", err, unknown)
	}
	if got, err := lookupGroup("4294967294"); uint32(got) != math.MaxUint32-1 || err != nil {
		t.Errorf("largest id: %d, %v", got, err)
	}
	for _, s := range []string{"", "-1", "4294967295", "4294967296", "+1", "0x1"} {
		if got, err := lookupGroup(s); err == nil {
			t.Errorf("lookupGroup(%q) = %d", s, got)
		}
	}
}

func TestListen(t *testing.T) {
	path := inFolder(t)
	l := mustListen(t, path, ownerOnly)
	if got := l.Addr().String(); got != path {
		t.Errorf("address %q: want %q", got, path)
	}
	mustServe(t, l, path)
}

func TestListenUnusableFolder(t *testing.T) {
	path := inFolder(t, "file")
	writeFile(t, filepath.Join(filepath.Dir(path), "file"), "")
	mustRefuse(t, filepath.Join(filepath.Dir(path), "none", "a.sock"), fs.ErrNotExist)
	mustRefuse(t, filepath.Join(filepath.Dir(path), "file", "a.sock"), syscall.ENOTDIR)
}

func TestLiveNameIsRefused(t *testing.T) {
	path := inFolder(t)
	l := mustListen(t, path, ownerOnly)
	mustLeave(t, path, func() {
		mustRefuse(t, path, ErrInUse)
		_, err := listenSocket(path, socketPerm{0o777, -1}, slog.New(slog.DiscardHandler))
		if !errors.Is(err, ErrInUse) || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%v: want ErrInUse and EADDRINUSE", err)
		}
	})
	// The first connection that the live one sees is a client's, not a probe's.
	mustServe(t, l, path)
}

// TestBoundIsLive takes sockets that cannot be connected to, and are not ours to
// remove for that.
func TestBoundIsLive(t *testing.T) {
	for _, c := range []struct {
		name string
		kind int
	}{{"stream", syscall.SOCK_STREAM}, {"datagram", syscall.SOCK_DGRAM}} {
		t.Run(c.name, func(t *testing.T) {
			path := inFolder(t, "a.sock")
			bindOnly(t, path, c.kind)
			mustLeave(t, path, func() { mustRefuse(t, path, ErrInUse) })
		})
	}
}

func TestStaleIsTakenOver(t *testing.T) {
	path := inFolder(t)
	leaveStale(t, path)
	var log bytes.Buffer
	l, err := listenSocket(path, ownerOnly, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	mustServe(t, l, path)
	mustClose(t, l)
	if !strings.Contains(log.String(), "level=INFO") || !strings.Contains(log.String(), "socket="+path) {
		t.Errorf("log: %s", &log)
	}
}

func TestStaleLockIsTakenOver(t *testing.T) {
	path := inFolder(t)
	writeFile(t, path+".lock", "")
	mustServe(t, mustListen(t, path, ownerOnly), path)
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
			leaveStale(t, path+".other")
			symlink(t, path+".other", path)
		},
		"dangling link": func(t *testing.T, path string) { symlink(t, "a.sock.missing", path) },
		"circular link": func(t *testing.T, path string) { symlink(t, "a.sock", path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := inFolder(t, "a.sock", "a.sock.other")
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

func symlink(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
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
		{"somebody else's", fs.ErrExist, func(t *testing.T, lock string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			writeFile(t, lock, "")
			if err := os.Chown(lock, stranger, stranger); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := inFolder(t, "a.sock.lock", "other")
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
		return stranger
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
				testPermissions(t, umask, socketPerm{mode, -1})
			})
			t.Run(fmt.Sprintf("umask %03o, mode %03o, group", umask, mode), func(t *testing.T) {
				testPermissions(t, umask, socketPerm{mode, otherGroup(t)})
			})
		}
	}
}

func testPermissions(t *testing.T, umask int, perm socketPerm) {
	path := inFolder(t)
	leaveStale(t, path) // its mode must not matter
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
	if info.Mode() != perm.mode|fs.ModeSocket {
		t.Errorf("mode %v: want %v", info.Mode(), perm.mode)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; perm.gid != -1 && gid != uint32(perm.gid) {
		t.Errorf("group %d: want %d", gid, perm.gid)
	}
	if got := syscall.Umask(umask); got != umask {
		t.Errorf("umask is %03o", got)
	}
	if after, err := os.Lstat(filepath.Dir(path)); err != nil || after.Mode() != before.Mode() {
		t.Errorf("folder: %v, %v: was %v", after.Mode(), err, before.Mode())
	}
	mustServe(t, l, path)
	mustRefuse(t, path, ErrInUse)
}

// TestSetPermOnReplacedPath has the path replaced in the instant between bind and
// chmod, where a folder lets others do so.
func TestSetPermOnReplacedPath(t *testing.T) {
	path := inFolder(t, "a.sock", "other")
	victim := filepath.Join(filepath.Dir(path), "other")
	bindOnly(t, path, syscall.SOCK_STREAM)
	self, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlink(path); err != nil {
		t.Fatal(err)
	}
	if err := setPerm(path, self, socketPerm{0o777, stranger}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v: want ErrNotExist", err)
	}
	writeFile(t, victim, "content")
	symlink(t, "other", path)
	mustLeave(t, victim, func() {
		mustLeave(t, path, func() {
			if err := setPerm(path, self, socketPerm{0o777, stranger}); !errors.Is(err, errReplaced) {
				t.Errorf("%v: want errReplaced", err)
			}
		})
	})
}

func TestCloseOnce(t *testing.T) {
	path := inFolder(t)
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

	// A later Close has nothing to do with whoever has the name by then.
	next := mustListen(t, path, ownerOnly)
	mustClose(t, l)
	mustServe(t, next, path)
}

func TestCloseEndsAccept(t *testing.T) {
	l := mustListen(t, inFolder(t), ownerOnly)
	accepting := make(chan struct{})
	done := make(chan error)
	go func() {
		close(accepting)
		_, err := l.Accept()
		done <- err
	}()
	<-accepting
	mustClose(t, l)
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
		"stale socket":           leaveStale,
		"live socket":            func(t *testing.T, path string) { bindOnly(t, path, syscall.SOCK_STREAM) },
	} {
		t.Run(name, func(t *testing.T) {
			path := inFolder(t, "a.sock", "renamed")
			var log bytes.Buffer
			l, err := listenSocket(path, ownerOnly, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path, filepath.Join(filepath.Dir(path), "renamed")); err != nil {
				t.Fatal(err)
			}
			replace(t, path)
			if name == "nothing" {
				mustClose(t, l)
			} else {
				mustLeave(t, path, func() { mustClose(t, l) })
			}
			if !strings.Contains(log.String(), "level=WARN msg=\"ipc: ") || !strings.Contains(log.String(), "socket="+path) {
				t.Errorf("log: %s", &log)
			}
			mustClose(t, l)
			if n := strings.Count(log.String(), "\n"); n != 1 {
				t.Errorf("%d lines of log for one Close: %s", n, &log)
			}
		})
	}
}

// TestCloseAfterSuccessor lets a second server start under the name of one whose
// file was deleted.
func TestCloseAfterSuccessor(t *testing.T) {
	path := inFolder(t)
	first := mustListen(t, path, ownerOnly)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := mustListen(t, path, ownerOnly)
	mustClose(t, first)
	mustServe(t, second, path)
	mustRefuse(t, path, ErrInUse)
}

func TestCloseInAnotherFolder(t *testing.T) {
	dir := filepath.Dir(inFolder(t))
	t.Chdir(dir)
	l := mustListen(t, "./a.sock", ownerOnly)
	mustServe(t, l, "./a.sock")
	t.Chdir("/")
	mustClose(t, l)
	if _, err := os.Lstat(filepath.Join(dir, "a.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v: want ErrNotExist", err)
	}
}

func TestDial(t *testing.T) {
	path := inFolder(t)
	if _, err := dialSocket(t.Context(), path); !errors.Is(err, fs.ErrNotExist) || !retryDial(err) {
		t.Errorf("missing: %v: want ErrNotExist, to be tried again", err)
	}
	leaveStale(t, path)
	if _, err := dialSocket(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) || !retryDial(err) {
		t.Errorf("stale: %v: want ECONNREFUSED, to be tried again", err)
	}
	mustServe(t, mustListen(t, path, ownerOnly), path)

	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := dialSocket(ended, path); err == nil || retryDial(err) {
		t.Errorf("cancelled: %v: want an error, not to be tried again", err)
	}
}

func TestRetryDial(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{
		syscall.EAGAIN:       true,
		syscall.ECONNREFUSED: true,
		syscall.ECONNRESET:   true,
		syscall.EINTR:        true,
		syscall.EMFILE:       true,
		syscall.ENFILE:       true,
		syscall.ENOBUFS:      true,
		syscall.ENOENT:       true,
		syscall.ENOMEM:       true,
		syscall.ETIMEDOUT:    true,
		syscall.EACCES:       false,
		syscall.EINVAL:       false,
		syscall.ELOOP:        false,
		syscall.ENOTDIR:      false,
		syscall.EPERM:        false,
		syscall.EPROTOTYPE:   false,
	} {
		err := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}
		if got := retryDial(err); got != want {
			t.Errorf("retryDial(%v) = %v", err, got)
		}
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, errors.New("other")} {
		if retryDial(err) {
			t.Errorf("retryDial(%v) = true", err)
		}
	}
}

// The contest: contenders start a server at once, and exactly one may win.
const (
	contenders    = 8
	threadRounds  = 100
	processRounds = 24
	successions   = 500
)

// TestContestOfThreads holds the contest inside one process.
func TestContestOfThreads(t *testing.T) {
	path := inFolder(t)
	for range threadRounds {
		leaveStale(t, path)
		start := make(chan struct{})
		var wg sync.WaitGroup
		var won [contenders]net.Listener
		for i := range contenders {
			wg.Go(func() {
				<-start
				l, err := listenQuietly(path)
				if err == nil {
					won[i] = l
				} else if !errors.Is(err, ErrInUse) {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		winners := slices.DeleteFunc(won[:], func(l net.Listener) bool { return l == nil })
		if len(winners) != 1 {
			t.Fatalf("%d winners", len(winners))
		}
		mustServe(t, winners[0], path)
		mustClose(t, winners[0])
		mustBeEmpty(t, filepath.Dir(path))
		if t.Failed() {
			return
		}
	}
}

// TestSuccession has servers come and go all the time, by Close and by death, while
// others try to start. There must never be two.
func TestSuccession(t *testing.T) {
	path := inFolder(t)
	var wins atomic.Int32
	var live atomic.Bool
	var wg sync.WaitGroup
	for range contenders {
		wg.Go(func() {
			for wins.Load() < successions && !t.Failed() {
				l, err := listenQuietly(path)
				if errors.Is(err, ErrInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if live.Swap(true) {
					t.Error("two servers have the name")
				}
				if c, err := dialSocket(t.Context(), path); err != nil {
					t.Error(err)
				} else {
					mustClose(t, c)
				}
				live.Store(false)
				if wins.Add(1)%2 == 0 {
					mustClose(t, l)
				} else {
					mustClose(t, l.(*socketListener).UnixListener) // its file stays
				}
			}
		})
	}
	wg.Wait()
	mustClose(t, mustListen(t, path, ownerOnly))
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); len(entries) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// contestVariable tells a copy of the test binary that it is a contender, the path
// in question, and the file at which contenders wait for each other.
const contestVariable = "IPC_TEST_CONNECT"

// TestHelperProcessConnect is no test but a contender in a process of its own. It
// tells what becomes of each command.
func TestHelperProcessConnect(t *testing.T) {
	args := filepath.SplitList(os.Getenv(contestVariable))
	if len(args) != 2 {
		t.Skip("only for TestContestOfProcesses")
	}
	gate, err := os.Open(args[1])
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	var l net.Listener
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		switch commands.Text() {
		case "listen":
			fmt.Println("ready")
			passGate(t, gate, syscall.LOCK_SH)
			l, err = listenQuietly(args[0])
			switch {
			case err == nil:
				fmt.Println("won")
			case errors.Is(err, ErrInUse):
				fmt.Println("in use")
			default:
				fmt.Println(err)
			}
		case "close":
			fmt.Println(l.Close())
		}
	}
}

// passGate waits for a lock of the gate and gives it back.
func passGate(t *testing.T, gate *os.File, how int) {
	t.Helper()
	for _, how := range []int{how, syscall.LOCK_UN} {
		if err := ignoringEINTR(func() error { return syscall.Flock(int(gate.Fd()), how) }); err != nil {
			t.Fatal(err)
		}
	}
}

// contender is such a process.
type contender struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startContender(t *testing.T, path, gate string) *contender {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperProcessConnect$")
	cmd.Env = append(os.Environ(), contestVariable+"="+path+string(filepath.ListSeparator)+gate,
		"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // the default is a second
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &contender{cmd, in, bufio.NewScanner(out)}
}

func (c *contender) say(t *testing.T, command string) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, command); err != nil {
		t.Fatal(err)
	}
}

// answer returns the next line that the process says, or "" if it has ended.
func (c *contender) answer() string {
	c.out.Scan()
	return c.out.Text()
}

// kill ends the process with SIGKILL: it cannot tidy up. What it still said before
// can be read afterwards.
func (c *contender) kill(t *testing.T) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// end waits for the end of the process, which comes with that of its input.
func (c *contender) end() {
	c.in.Close()
	for c.out.Scan() {
	}
	c.Wait() // fails for all that were killed
}

// TestContestOfProcesses holds the contest between processes. By turns the winner
// closes its server; is killed; and wins while another contender is killed at an
// arbitrary instant, which may be while that one holds the lock, or has won.
func TestContestOfProcesses(t *testing.T) {
	path := inFolder(t)
	gate, err := os.Create(filepath.Join(t.TempDir(), "gate"))
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	all := make([]*contender, contenders)
	for i := range all {
		all[i] = startContender(t, path, gate.Name())
	}
	defer func() {
		for _, c := range all {
			c.end()
		}
	}()

	for round := range processRounds {
		how := round % 3
		if round == processRounds-1 {
			how = 0
		}
		if err := syscall.Flock(int(gate.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			c.say(t, "listen")
		}
		for _, c := range all {
			if got := c.answer(); got != "ready" {
				t.Fatalf("round %d: %q", round, got)
			}
		}
		if err := syscall.Flock(int(gate.Fd()), syscall.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		victim := -1
		if how == 2 {
			victim = rand.IntN(len(all))
			for range rand.IntN(1_000_000) { // spend up to a start's time
			}
			all[victim].kill(t)
		}
		var winners []int
		victimWon := false
		for i, c := range all {
			switch got := c.answer(); {
			case i == victim:
				victimWon = got != "in use" // or died before it could tell
			case got == "won":
				winners = append(winners, i)
			case got != "in use":
				t.Errorf("round %d: %s", round, got)
			}
		}
		if len(winners) != 1 && (len(winners) != 0 || !victimWon) {
			t.Fatalf("round %d: %d winners", round, len(winners))
		}
		if len(winners) == 1 {
			c, err := dialSocket(t.Context(), path)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			mustClose(t, c)
			winner := all[winners[0]]
			if how == 1 {
				winner.kill(t)
				victim = winners[0]
			} else {
				winner.say(t, "close")
				if got := winner.answer(); got != "<nil>" {
					t.Fatalf("round %d: close: %s", round, got)
				}
			}
		}
		if victim >= 0 {
			all[victim].end()
			all[victim] = startContender(t, path, gate.Name())
		}
		// What a killed one has left behind is the next round's to tidy up.
		if how == 0 {
			mustBeEmpty(t, filepath.Dir(path))
		}
		if t.Failed() {
			return
		}
	}
}
