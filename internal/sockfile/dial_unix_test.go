//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestDial(t *testing.T) {
	path := socktest.Path(t)
	if _, err := Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) || !MayPass(err) {
		t.Errorf("missing: %v: want ErrNotExist, to be tried again", err)
	}
	socktest.LeaveStale(t, path)
	if _, err := Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) || !MayPass(err) {
		t.Errorf("stale: %v: want ECONNREFUSED, to be tried again", err)
	}
	l, err := listenQuietly(path)
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, l)
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer socktest.Close(t, conn)

	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := Dial(ended, path); err == nil || MayPass(err) {
		t.Errorf("cancelled: %v: want an error, not to be tried again", err)
	}
}

func TestMayPass(t *testing.T) {
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
		if got := MayPass(err); got != want {
			t.Errorf("MayPass(%v) = %v", err, got)
		}
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, errors.New("other")} {
		if MayPass(err) {
			t.Errorf("MayPass(%v) = true", err)
		}
	}
}
