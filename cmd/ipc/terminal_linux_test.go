package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// terminal returns the two ends of a pseudoterminal, the second of which is what a
// program has.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudoterminals:", err)
	}
	t.Cleanup(func() { ours.Close() })
	var number, unlock int32
	for _, c := range []struct {
		request uintptr
		at      *int32
	}{{syscall.TIOCGPTN, &number}, {syscall.TIOCSPTLCK, &unlock}} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, ours.Fd(), c.request, uintptr(unsafe.Pointer(c.at))); errno != 0 {
			t.Skip("no pseudoterminals:", errno)
		}
	}
	theirs, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudoterminals:", err)
	}
	return ours, theirs
}

// onTerminal runs a tool whose standard output and error are a terminal, and
// returns what that shows.
func onTerminal(t *testing.T, env string, args ...string) string {
	t.Helper()
	ours, theirs := terminal(t)
	r := newTool(t, args...)
	r.cmd.Env = append(r.cmd.Env, env)
	r.cmd.Stdout, r.cmd.Stderr = theirs, theirs
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	var shown bytes.Buffer
	shown.ReadFrom(ours) // ends with EIO, when the tool has ended
	if err := r.cmd.Wait(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Error(err)
		}
	}
	return strings.ReplaceAll(shown.String(), "\r\n", "\n")
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	if got := onTerminal(t, "", "request", "fake", "1", "x", "-dir", f.dir); got != "x\n" {
		t.Errorf("a reply without a newline: %q", got)
	}
	if got := onTerminal(t, "", "request", "fake", "1", "x\n", "-dir", f.dir); got != "x\n" {
		t.Errorf("a reply with a newline: %q", got)
	}
	if got := onTerminal(t, "", "ls", "-dir", f.dir); !strings.Contains(got, "\x1b[32malive\x1b[0m") {
		t.Errorf("no colors: %q", got)
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if got := onTerminal(t, env, "ls", "-dir", f.dir); strings.Contains(got, "\x1b") || !strings.Contains(got, "alive") {
			t.Errorf("colors with %s: %q", env, got)
		}
	}
	got := onTerminal(t, "", "bench", "fake", "-dir", f.dir, "-for", "600ms")
	if !strings.Contains(got, " of 600ms, ") || !strings.Contains(got, "\r") || !strings.Contains(got, "requests of 64 bytes") {
		t.Errorf("no progress: %q", got)
	}
}

// TestNoDataOnTerminal has a terminal for standard input: it is not read.
func TestNoDataOnTerminal(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	_, theirs := terminal(t)
	defer theirs.Close()
	r := newTool(t, "request", "fake", "1", "-dir", f.dir, "-json")
	r.cmd.Stdin = theirs
	r.start().want(0, `{"type":1,"size":0,"data":""}`+"\n", "")
}

// TestSteering has names and texts that would steer a terminal.
func TestSteering(t *testing.T) {
	t.Parallel()
	dir := socktest.Dir(t, "\x1b[2J.sock")
	socktest.LeaveStale(t, filepath.Join(dir, "\x1b[2J.sock"))
	start(t, "send", "\x1b[2J", "1", "x", "-dir", dir).want(3, "", `\x1b[2J`)
	out, _, _ := start(t, "ls", "-dir", dir).end()
	if !strings.Contains(out, `"\x1b[2J"`) || strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
}
