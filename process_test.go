//go:build unix

package ipc_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// directoryVariable tells a helper where the socket is.
const directoryVariable = "IPC_TEST_DIRECTORY"

func init() {
	helpers["reader"] = readerMain
	helpers["writer"] = writerMain
}

// readerMain is a server that prints the number of each message.
func readerMain() {
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "test", SocketDir: os.Getenv(directoryVariable)})
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	fmt.Println("ready")
	for {
		m, err := server.Read()
		if err != nil {
			fmt.Println("Read:", err)
			return
		}
		if m.MsgType > 0 {
			fmt.Println(numberOf(m.Data))
		}
	}
}

// writerMain is a client that, once it is told to, sends numbers until it is
// killed.
func writerMain() {
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "test", SocketDir: os.Getenv(directoryVariable)})
	if err != nil {
		fmt.Println("StartClient:", err)
		return
	}
	fmt.Println("ready")
	for m := new(ipc.Message); m.MsgType <= 0; {
		if m, err = client.Read(); err != nil {
			fmt.Println("Read:", err)
			return
		}
	}
	for n := 0; ; n++ {
		if err := client.Write(1, numbered(n, n%5000)); err != nil {
			fmt.Println("Write:", err)
			return
		}
	}
}

// numberOf is the number in the data of a numbered message, or -1 for what is
// none.
func numberOf(data []byte) int {
	n, err := strconv.Atoi(string(data[:min(len(data), 8)]))
	if err != nil {
		return -1
	}
	return n
}

// child is a helper that runs.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Scanner
}

// startChild starts a helper at the far end of l, and waits until it is ready.
func startChild(t *testing.T, helper string, l *link, env ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: helperCommand(t, helper, append(env, directoryVariable+"="+l.client.SocketDir)...)}
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

// stop returns when the helper has stopped.
func (c *child) stop() {
	c.t.Helper()
	noError(c.t, "SIGSTOP", c.cmd.Process.Signal(syscall.SIGSTOP))
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(c.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		noError(c.t, "Wait4", err)
		if !status.Stopped() {
			c.t.Fatalf("helper has status %#x, want stopped", status)
		}
		return
	}
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
func removeAfter(t *testing.T, l *link) {
	t.Cleanup(func() { os.Remove(l.path()) })
}

// A server is stopped until its client's outbox is full, and then killed: the
// next one gets the rest, contiguous, nothing twice, and no more is missing
// than the kernel held.
func TestServersStoppedAndKilled(t *testing.T) {
	parallel(t)
	begin(t)
	const size = 1000
	l := unixLink(t)
	removeAfter(t, l)
	server := startChild(t, "reader", l)
	client := l.startClient(t)
	written, read := 0, 0
	for round := range 3 {
		// The server has read everything, so that it can hold nothing of
		// what follows.
		for range 10 {
			noError(t, "Write", client.Write(1, numbered(written, size)))
			written++
		}
		for ; read < written; read++ {
			if n := server.number(); n != read {
				t.Fatalf("round %d: server read %d, want %d", round, n, read)
			}
		}

		server.stop()
		written = fillFrom(t, client, written, size)
		server.kill()
		server = startChild(t, "reader", l) // takes over the dead one's socket
		wantEvents(t, client, ipc.ReConnecting, ipc.Connected)
		noError(t, "Write", client.WriteContext(t.Context(), 1, numbered(written, size)))
		written++
		first := server.number()
		if lost := (first - read) * len(encode(1, make([]byte, size))); lost < 0 || lost > kernelHolds() {
			t.Fatalf("round %d: server read %d after %d: %d bytes lost, and the kernel holds up to %d",
				round, first, read-1, lost, kernelHolds())
		}
		for read = first + 1; read < written; read++ {
			if n := server.number(); n != read {
				t.Fatalf("round %d: next server read %d, want %d", round, n, read)
			}
		}
	}
}

// A server is killed while its client writes and does not look: each gets
// messages that are contiguous, and none of those before.
func TestServersKilledUnderLoad(t *testing.T) {
	begin(t)
	l := unixLink(t)
	removeAfter(t, l)
	server := startChild(t, "reader", l)
	client := l.startClient(t)
	written := background(func() int {
		for n := 0; ; n++ {
			if err := client.WriteContext(t.Context(), 1, numbered(n, 300)); err != nil {
				wantError(t, "WriteContext", err, ipc.ErrClosed)
				return n
			}
		}
	})
	last := -1
	for round := range 4 {
		first := server.number()
		if first <= last {
			t.Fatalf("round %d: server read %d after %d", round, first, last)
		}
		for last = first; last < first+3000; last++ {
			if n := server.number(); n != last+1 {
				t.Fatalf("round %d: server read %d after %d", round, n, last)
			}
		}
		server.kill()
		for server.out.Scan() { // what it printed before it died
			if n, err := strconv.Atoi(server.out.Text()); err == nil {
				last = max(last, n)
			}
		}
		server = startChild(t, "reader", l)
		wantEvents(t, client, ipc.ReConnecting, ipc.Connected)
	}
	client.Close()
	if n := written(); n <= last {
		t.Errorf("%d messages accepted, and number %d read", n, last)
	}
}

// A client is killed while it writes: what arrived whole is read, in order,
// and then the event.
func TestClientsKilled(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		l := s.open(t)
		server := s.startServer(t, l)
		for range 3 {
			client := startChild(t, "writer", l)
			peer := s.join(t, server)
			noError(t, "Write", peer.Write(1, []byte("go")))
			n := 0
			for ; n < 2000; n++ {
				wantMessage(t, peer, 1, numbered(n, n%5000))
			}
			client.kill()
			for m := next(t, peer); m.MsgType > 0; m = next(t, peer) {
				wantSame(t, m, 1, numbered(n, n%5000))
				n++
			}
			wantStatus(t, "server without its client", peer, ipc.Disconnected)
		}
	})
}
