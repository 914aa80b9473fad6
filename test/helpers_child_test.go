package ipc_test

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// directoryVariable tells a helper where the socket is.
const directoryVariable = "IPC_TEST_DIRECTORY"

// child is a helper that runs.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Scanner
}

// startChild starts a helper at the far end of route, and waits until it is ready.
func startChild(t *testing.T, helper string, route *route, env ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: helperCommand(t, helper, append(env, directoryVariable+"="+route.client.SocketDir)...)}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	noError(t, "StdoutPipe", err)
	c.out = bufio.NewScanner(out)
	noError(t, "Start", c.cmd.Start())
	t.Cleanup(func() { // it may have been killed and waited for
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	if line := c.line(); line != "ready" {
		t.Fatalf("%s says %q, want ready", helper, line)
	}
	return c
}

// line reads the next line that the helper prints.
func (c *child) line() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatal("helper ends:", c.out.Err())
	}
	return c.out.Text()
}

// number reads the next number that the helper prints.
func (c *child) number() int {
	c.t.Helper()
	line := c.line()
	n, err := strconv.Atoi(line)
	noError(c.t, "number of the helper", err)
	return n
}

// kill returns when the helper is dead.
func (c *child) kill() {
	c.t.Helper()
	noError(c.t, "SIGKILL", c.cmd.Process.Kill())
	c.cmd.Wait()
}

// kernelHoldsOfLarge is kernelHolds once a large message was sent: twice what was
// asked for, which is what Linux makes of it, and one more piece.
const kernelHoldsOfLarge = 2<<20 + 64<<10

// kernelHolds is how many bytes the kernel takes, at most, for a Unix socket
// whose other end does not read.
func kernelHolds() int {
	b, err := os.ReadFile("/proc/sys/net/core/wmem_default")
	if n, err2 := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && err2 == nil {
		return n + 64<<10 // it takes one more piece when it is almost full
	}
	return 1 << 20
}

// removeAfter removes the socket that a killed helper leaves.
func removeAfter(t *testing.T, route *route) {
	t.Cleanup(func() { os.Remove(route.path()) })
}

// slaughter kills a helper, and calls line with each line that it had printed and
// that was not read.
func (c *child) slaughter(line func(string)) {
	c.t.Helper()
	noError(c.t, "SIGKILL", c.cmd.Process.Kill())
	for c.out.Scan() {
		line(c.out.Text())
	}
	c.cmd.Wait()
}
