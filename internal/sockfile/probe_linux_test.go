package sockfile

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// TestFullBacklogIsLive takes a server that is too busy to be connected to.
func TestFullBacklogIsLive(t *testing.T) {
	path := socktest.Path(t, "a.sock")
	if err := syscall.Listen(bindOnly(t, path, syscall.SOCK_STREAM), 0); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { socktest.Close(t, c) })
	}
	mustLeave(t, path, func() { mustRefuse(t, path, errs.InUse) })
}
