//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// ownerOnly is the default of a server.
var ownerOnly = Perm{Mode: 0o600, GID: -1}

// discard is a Log that keeps nothing.
func discard(slog.Level, string, string, ...slog.Attr) {}

// logTo returns a Log that writes lines of text.
func logTo(w io.Writer) Log {
	log := slog.New(slog.NewTextHandler(w, nil))
	return func(level slog.Level, msg, path string, attrs ...slog.Attr) {
		log.LogAttrs(context.Background(), level, msg, append(attrs, slog.String("socket", path))...)
	}
}

func listenQuietly(path string) (*Listener, error) {
	return Listen(path, ownerOnly, discard)
}

// mustListen listens until the end of the test.
func mustListen(t *testing.T, path string, perm Perm) *Listener {
	t.Helper()
	l, err := Listen(path, perm, discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socktest.Close(t, l) })
	return l
}

// mustServe fails unless l is what a client of path gets to.
func mustServe(t *testing.T, l net.Listener, path string) {
	t.Helper()
	client, err := net.Dial("unix", path)
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
// want. The prefix is left to the caller of Listen.
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
	if want != errs.InUse && errors.Is(err, errs.InUse) {
		t.Errorf("%v is errs.InUse", err)
	}
	if strings.Contains(err.Error(), "ipc:") {
		t.Errorf("%q has a prefix", err)
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

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); len(entries) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
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

func symlink(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}
