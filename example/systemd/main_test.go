//go:build unix

package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// asServer makes the test binary be the program.
const asServer = "EXAMPLE_SYSTEMD"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestActivation does what systemd does: it listens, starts the server with the
// socket as descriptor 3, and keeps it over the server's restart.
func TestActivation(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "activated.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	// The client comes first: the socket is there already.
	started := make(chan *ipc.Client, 1)
	go func() {
		client, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{Name: "activated", SocketDir: dir})
		if err != nil {
			t.Error(err)
		}
		started <- client
	}()
	server := activate(t, ctx, socket)
	client := <-started
	if client == nil {
		t.FailNow()
	}
	defer client.Close()
	ask(t, ctx, client)

	deactivate(t, server)
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("the server has removed the socket: ", err)
	}
	server = activate(t, ctx, socket)
	ask(t, ctx, client)
	deactivate(t, server)
	if n := client.Stats().Reconnects; n != 1 {
		t.Errorf("%d reconnects, want 1", n)
	}
}

// activate starts the server with LISTEN_PID naming its own process: the shell
// has its number already when it sets the variable.
func activate(t *testing.T, ctx context.Context, socket *os.File) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", `LISTEN_PID=$$ exec "$0"`, self)
	cmd.Env = append(os.Environ(), asServer+"=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=ipc")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func deactivate(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal("the server: ", err)
	}
}

func ask(t *testing.T, ctx context.Context, client *ipc.Client) {
	t.Helper()
	if err := client.WriteContext(ctx, 1, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	for m, err := range client.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if m.MsgType > 0 {
			if got, want := string(m.Data), `you said "hello"`; got != want {
				t.Errorf("%q, want %q", got, want)
			}
			return
		}
	}
}

// TestNotPassed checks what is found where systemd has passed nothing.
func TestNotPassed(t *testing.T) {
	t.Setenv("LISTEN_PID", "1") // another process
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_FDNAMES", "ipc")
	passed, err := listeners()
	if len(passed) != 0 || err != nil {
		t.Errorf("%v, %v: want nothing", passed, err)
	}
	if v, set := os.LookupEnv("LISTEN_FDS"); set {
		t.Errorf("LISTEN_FDS=%s is left for children", v)
	}
}
