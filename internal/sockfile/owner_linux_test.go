package sockfile

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestListenerPID(t *testing.T) {
	path := socktest.Path(t, "a.sock")
	want := func(when string, want int) {
		t.Helper()
		if got := listenerPID(path); got != want {
			t.Errorf("%s: process %d, want %d", when, got, want)
		}
	}
	want("nothing there", 0)
	socktest.LeaveStale(t, path)
	want("dead server", 0)
	l := mustListen(t, path, ownerOnly)
	want("live server", os.Getpid())
	if _, err := listenQuietly(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%v: process %d: ", errs.InUse, os.Getpid())) {
		t.Errorf("%v: want the process that has the name", err)
	}

	// The file of another live socket is at the path, and which one is not seen.
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	second, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	want("two sockets of the path", 0)
	socktest.Close(t, second)
	want("after the second", os.Getpid())
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	socktest.Close(t, l)
	want("closed", 0)

	bindOnly(t, path, syscall.SOCK_STREAM)
	want("bound, and not listening", 0)
}
