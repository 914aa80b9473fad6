package pipe

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

var ownerOnly = Perm{Mode: 0o600}

var names atomic.Int32

func newPath(t *testing.T) string {
	t.Helper()
	path, err := Path("golang-ipc", fmt.Sprintf("test-%d-%d", os.Getpid(), names.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func mustListen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(path, ownerOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustDial(t *testing.T, path string) *conn {
	t.Helper()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*conn)
}

// newPair returns both ends of a pipe.
func newPair(t *testing.T) (server, client *conn) {
	t.Helper()
	l := mustListen(t, newPath(t))
	client = mustDial(t, l.path)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*conn), client
}

// eachEnd runs test with one end of a pipe and the other, and the other way round.
func eachEnd(t *testing.T, test func(t *testing.T, near, far *conn)) {
	t.Helper()
	t.Run("server", func(t *testing.T) { server, client := newPair(t); test(t, server, client) })
	t.Run("client", func(t *testing.T) { server, client := newPair(t); test(t, client, server) })
}

// underWine reports whether this is not Windows.
func underWine() bool {
	return syscall.NewLazyDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}

// childVariable names, for a copy of the test binary, a pipe to serve.
const childVariable = "IPC_TEST_PIPE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		serveAsChild(path)
		return
	}
	os.Exit(m.Run())
}

// serveAsChild sends back what each client sends, for as long as the parent lives.
func serveAsChild(path string) {
	l, err := Listen(path, ownerOnly)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ready")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func(c net.Conn) {
			defer c.Close()
			io.Copy(c, c)
		}(c)
	}
}

// startChild starts a server in a process of its own, and returns the first thing
// that it says.
func startChild(t *testing.T, path string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	cmd.Stderr = os.Stderr
	_, err := cmd.StdinPipe()
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
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, strings.TrimSpace(line)
}
