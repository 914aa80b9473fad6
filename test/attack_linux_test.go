package ipc_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func init() {
	helpers["starving server"] = starvingMain
	helpers["stranger"] = func() { strangerMain(watchdog / 4) }
	helpers["impatient stranger"] = func() { strangerMain(200 * time.Millisecond) }
	helpers["stranger's server"] = strangersServerMain
}

// Messages to the starving server: one to be answered, one to be answered with
// the number of times that it could not accept a connection.
const (
	pleaseEcho  = 1
	pleaseCount = 2
)

// starvingMain is a server that may open a few more descriptors and no others.
// It says so when they are used up.
func starvingMain() {
	hungry := &hungerHandler{Handler: slog.DiscardHandler}
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name: "test", SocketDir: os.Getenv(directoryVariable), MultiMode: true,
		HandshakeTimeout: time.Hour, Logger: slog.New(hungry),
	})
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	limit := syscall.Rlimit{Cur: uint64(descriptors() + 20), Max: uint64(descriptors() + 20)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		fmt.Println("Setrlimit:", err)
		return
	}
	fmt.Println("ready")
	for {
		server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, _ error) {
			switch {
			case m == nil:
				os.Exit(0)
			case m.MsgType == pleaseEcho:
				s.Write(m.MsgType, m.Data)
			case m.MsgType == pleaseCount:
				s.Write(m.MsgType, strconv.AppendInt(nil, hungry.times.Load(), 10))
			}
		})
	}
}

// hungerHandler is a log handler that looks for connections which could not be
// accepted.
type hungerHandler struct {
	slog.Handler
	times atomic.Int64
	since time.Time
}

func (h *hungerHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *hungerHandler) Handle(_ context.Context, r slog.Record) error {
	if !strings.Contains(r.Message, "cannot accept") {
		return nil
	}
	switch h.times.Add(1) {
	case 1:
		h.since = time.Now()
		fmt.Println("starving")
	case 6:
		fmt.Println(time.Since(h.since).Milliseconds())
	}
	return nil
}

// A server that is out of descriptors drops no client, does not spin, and goes on
// as soon as there are some again.
func TestOutOfDescriptors(t *testing.T) {
	parallel(t)
	begin(t)
	route := unixRoute(t)
	removeAfter(t, route)
	server := startChild(t, "starving server", route)
	echo := func(c *ipc.Client) {
		t.Helper()
		noError(t, "Write", c.Write(pleaseEcho, []byte("still there?")))
		wantMessage(t, c, pleaseEcho, []byte("still there?"))
	}
	var clients []*ipc.Client
	for range 5 {
		clients = append(clients, route.startClient(t))
	}
	var crowd []*wireConn
	for range 60 {
		crowd = append(crowd, route.dial(t))
	}
	if line := server.line(); line != "starving" {
		t.Fatalf("server says %q, want starving", line)
	}
	for range 3 {
		for _, c := range clients {
			echo(c)
		}
	}
	// The pauses between 6 attempts are at least 5, 10, 20, 40 and 80 ms.
	if ms := server.number(); ms < 100 {
		t.Errorf("6 attempts to accept within %d ms: the server spins", ms)
	}
	late := background(func() *ipc.Client { return route.startClient(t, clientTimeout(watchdog/4)) })
	for _, raw := range crowd {
		raw.Close()
	}
	clients = append(clients, late(), route.startClient(t))
	for _, c := range clients {
		echo(c)
		if s := c.Stats(); s.Reconnects != 0 {
			t.Errorf("a client had to reconnect %d times", s.Reconnects)
		}
	}
	noError(t, "Write", clients[0].Write(pleaseCount, nil))
	times, err := strconv.Atoi(string(next(t, clients[0]).Data))
	noError(t, "count", err)
	t.Logf("the server tried %d times to accept", times)
}

// otherUser is neither root nor the user that runs the tests.
const otherUser = 65534

// strangerMain tries to get in, in two ways, and says what came of it.
func strangerMain(timeout time.Duration) {
	dir := os.Getenv(directoryVariable)
	fmt.Println("ready")
	conn, err := net.Dial("unix", filepath.Join(dir, "test.sock"))
	switch {
	case errors.Is(err, fs.ErrPermission):
		fmt.Println("dial: permission denied")
	case err != nil:
		fmt.Println("dial:", err)
	default:
		// The first step of a server is 2 bytes.
		got, _ := io.ReadAll(io.LimitReader(conn, 2))
		fmt.Println("dial:", len(got), "bytes")
		conn.Close()
	}
	client, err := ipc.StartClient(&ipc.ClientConfig{
		Name: "test", SocketDir: dir, Timeout: timeout, RetryTimer: retryTimer, Authorize: ipc.SameUser,
	})
	switch {
	case errors.Is(err, ipc.ErrTimeout): // which says what the last attempt met, too
		fmt.Println("client: timed out")
	case errors.Is(err, fs.ErrPermission):
		fmt.Println("client: permission denied")
	case err != nil:
		fmt.Println("client:", err)
	default:
		fmt.Println("client: connected")
		client.Write(1, []byte("from a stranger"))
		for m := range client.Messages(context.Background()) {
			if m == nil || m.MsgType > 0 {
				break // it has been looked at
			}
		}
		client.Close()
	}
}

func strangersServerMain() {
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name: "test", SocketDir: os.Getenv(directoryVariable), UnmaskPermissions: true,
	})
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	fmt.Println("ready")
	for {
		if _, err := server.Read(); err != nil {
			return
		}
	}
}

// startStranger starts a helper as another user, which only root can.
func startStranger(t *testing.T, helper string, route *route) *child {
	t.Helper()
	// The folder of the test binary may be closed to others.
	dir, err := os.MkdirTemp("", "ipc")
	noError(t, "MkdirTemp", err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	noError(t, "Chmod", os.Chmod(dir, 0o755))
	program, err := os.Executable()
	noError(t, "Executable", err)
	text, err := os.ReadFile(program)
	noError(t, "ReadFile", err)
	program = filepath.Join(dir, "stranger")
	// A child that another test starts meanwhile would have the file open for
	// writing until it executes its own program, and nobody can execute it then.
	syscall.ForkLock.RLock()
	err = os.WriteFile(program, text, 0o755)
	syscall.ForkLock.RUnlock()
	noError(t, "WriteFile", err)
	noError(t, "Chmod", os.Chmod(program, 0o755)) // whatever the umask

	c := &child{t: t, cmd: exec.Command(program)}
	c.cmd.Dir = "/"
	c.cmd.Env = append(os.Environ(), helperVariable+"="+helper, directoryVariable+"="+route.client.SocketDir)
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	out, err := c.cmd.StdoutPipe()
	noError(t, "StdoutPipe", err)
	c.out = bufio.NewScanner(out)
	noError(t, "Start", c.cmd.Start())
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	if line := c.line(); line != "ready" {
		t.Fatalf("%s says %q, want ready", helper, line)
	}
	return c
}

// needRoot skips a test that becomes another user if it may not.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
}

// What a server asks for is what another user gets.
//
// Pins doc.go, "Security": by default only processes of the same user, and root
func TestStrangerAtTheDoor(t *testing.T) {
	parallel(t)
	needRoot(t)
	for _, tt := range []struct {
		name     string
		config   func(*ipc.ServerConfig)
		says     [2]string
		failures bool
	}{
		{"default", func(*ipc.ServerConfig) {},
			[2]string{"dial: permission denied", "client: permission denied"}, false},
		{"mode 0660", func(c *ipc.ServerConfig) { c.Mode = 0o660 },
			[2]string{"dial: permission denied", "client: permission denied"}, false},
		{"mode 0660 and group", func(c *ipc.ServerConfig) { c.Mode, c.Group = 0o660, fmt.Sprint(otherUser) },
			[2]string{"dial: 2 bytes", "client: connected"}, true},
		{"unmasked", func(c *ipc.ServerConfig) { c.UnmaskPermissions = true },
			[2]string{"dial: 2 bytes", "client: connected"}, true},
		{"unmasked and SameUser", func(c *ipc.ServerConfig) { c.UnmaskPermissions, c.Authorize = true, ipc.SameUser },
			[2]string{"dial: 0 bytes", "client: timed out"}, true},
		{"unmasked and encrypted and SameUser", func(c *ipc.ServerConfig) {
			c.UnmaskPermissions, c.Encryption, c.Authorize = true, true, ipc.SameUser
		}, [2]string{"dial: 0 bytes", "client: timed out"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin(t)
			s := setup{unixTransport, true}
			route := s.open(t)
			noError(t, "Chmod", os.Chmod(route.client.SocketDir, 0o755))
			server := s.startServer(t, route, func(c *ipc.ServerConfig, _ *ipc.ClientConfig) { quiet(c, nil); tt.config(c) })
			helper := "stranger"
			if tt.says[1] == "client: timed out" {
				helper = "impatient stranger"
			}
			stranger := startStranger(t, helper, route)
			for _, want := range tt.says {
				if got := stranger.line(); got != want {
					t.Errorf("the stranger says %q, want %q", got, want)
				}
			}
			if tt.says[1] == "client: connected" {
				all := readManager(t, server.ServerManager)
				for len(all) < 2 {
					all = append(all, readManager(t, server.ServerManager)...)
				}
				peer := all[0].server
				wantSame(t, all[1].message, 1, []byte("from a stranger"))
				got, err := peer.Peer()
				noError(t, "Peer", err)
				if want := (ipc.Peer{PID: stranger.cmd.Process.Pid, UID: otherUser, GID: otherUser}); got != want {
					t.Errorf("Peer is %v, want %v", got, want)
				}
				noError(t, "Write", peer.Write(1, nil))
				wantEvents(t, peer, ipc.Disconnected)
			}
			failed := func() bool { return server.Stats().HandshakeFailures > 0 }
			if tt.failures && !eventually(failed) || !tt.failures && failed() {
				t.Errorf("handshakes failed: %t, want %t", failed(), tt.failures)
			}
			// A client that was refused has left no event; the first is ours.
			wantRoundTrip(t, route.startClient(t), s.join(t, server))
		})
	}
}

// A server that another user runs under the name is none for a client that
// wants its own user's.
//
// Pins doc.go, "Security": have the client check the server
func TestStrangersServer(t *testing.T) {
	needRoot(t)
	begin(t)
	route := unixRoute(t)
	removeAfter(t, route)
	noError(t, "Chmod", os.Chmod(route.client.SocketDir, 0o777|fs.ModeSticky))
	startStranger(t, "stranger's server", route)
	config := route.client
	config.Authorize = ipc.SameUser
	_, err := ipc.StartClient(&config)
	wantError(t, "StartClient", err, ipc.ErrUnauthorized)
	wantText(t, "StartClient", err, fmt.Sprint("uid ", otherUser))
	client := route.startClient(t) // which does not ask
	peer, err := client.Peer()
	noError(t, "Peer", err)
	if peer.UID != otherUser || peer.GID != otherUser {
		t.Errorf("Peer is %v, want user and group %d", peer, otherUser)
	}
	// It is live, and so keeps the name.
	server := route.server()
	_, err = ipc.StartServer(&server)
	wantError(t, "StartServer", err, ipc.ErrInUse)
}
