//go:build linux

package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// What a person reads when something is wrong: what was tried, where, why it
// failed, and what to do. DIR stands for the folder, PID for this process.
func TestErrorTexts(t *testing.T) {
	type (
		serverConfig = ipc.ServerConfig
		clientConfig = ipc.ClientConfig
	)
	once := func(c *clientConfig) { c.Timeout = -1 }
	server := func(t *testing.T, dir string, changes ...func(*serverConfig)) (*ipc.Server, error) {
		t.Helper()
		c := serverConfig{Name: "test", SocketDir: dir, Logger: slog.New(slog.DiscardHandler)}
		for _, change := range changes {
			change(&c)
		}
		s, err := ipc.StartServer(&c)
		t.Cleanup(func() { s.Close() })
		return s, err
	}
	client := func(t *testing.T, dir string, changes ...func(*clientConfig)) error {
		t.Helper()
		c := clientConfig{Name: "test", SocketDir: dir}
		for _, change := range changes {
			change(&c)
		}
		started, err := ipc.StartClient(&c)
		t.Cleanup(func() { started.Close() })
		return err
	}
	// rawServer answers the first client with step 1, and takes the next step.
	rawServer := func(t *testing.T, dir string, step1 ...byte) {
		route := unixRouteIn(dir)
		ln := route.listen(t)
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			conn.Write(step1)
			conn.Read(make([]byte, 1))
		}()
	}
	stale := func(t *testing.T, dir string, mode fs.FileMode) {
		path := filepath.Join(dir, "test.sock")
		socktest.LeaveStale(t, path)
		noError(t, "Chmod", os.Chmod(path, mode))
		t.Cleanup(func() { os.Remove(path) })
	}
	asStranger := func(t *testing.T, do func() error) (err error) {
		socktest.AsStranger(t, func() { err = do() })
		return err
	}
	long := strings.Repeat("n", 100)

	for _, tt := range []struct {
		name string
		do   func(t *testing.T, dir string) error
		want string
		is   []error
	}{
		{"no server", func(t *testing.T, dir string) error { return client(t, dir, once) },
			"ipc: connect to DIR/test.sock: timed out trying to connect: connect: no such file or directory " +
				"(no server of this Name is running, or it has another SocketDir)",
			[]error{ipc.ErrTimeout, fs.ErrNotExist}},
		{"no server, until a deadline", func(t *testing.T, dir string) error {
			ctx := &expiring{t.Context(), make(chan struct{})}
			_, err := ipc.StartClientContext(ctx, &clientConfig{Name: "test", SocketDir: dir, Logger: slog.New(
				slog.NewTextHandler(writerFunc(sync.OnceFunc(func() { close(ctx.done) })), nil), // it tells of the first attempt
			)})
			return err
		}, "ipc: connect to DIR/test.sock: context deadline exceeded: connect: no such file or directory " +
			"(no server of this Name is running, or it has another SocketDir)",
			[]error{context.DeadlineExceeded, fs.ErrNotExist}},
		{"dead server", func(t *testing.T, dir string) error {
			stale(t, dir, 0o600)
			return client(t, dir, once)
		}, "ipc: connect to DIR/test.sock: timed out trying to connect: connect: connection refused " +
			"(no server listens on the socket that is there: it was killed, or has not quite started)",
			[]error{ipc.ErrTimeout, syscall.ECONNREFUSED}},
		{"no folder, client", func(t *testing.T, dir string) error { return client(t, dir+"/missing", once) },
			"ipc: connect to DIR/missing/test.sock: timed out trying to connect: connect: no such file or directory " +
				"(there is no folder DIR/missing: the server has another SocketDir, or has never run)",
			[]error{ipc.ErrTimeout, fs.ErrNotExist}},
		{"no folder, server", func(t *testing.T, dir string) error { return serverError(server(t, dir+"/missing")) },
			"ipc: listen on DIR/missing/test.sock: there is no folder DIR/missing: " +
				"create it, or choose another SocketDir: no such file or directory",
			[]error{fs.ErrNotExist}},
		{"folder of another user", func(t *testing.T, dir string) error {
			return asStranger(t, func() error { return serverError(server(t, dir)) })
		}, "ipc: listen on DIR/test.sock: this process, of uid 65534 and gid 65534, may not create a file in the folder DIR, " +
			"which is of uid 0 and gid 0, with mode 0755: choose another SocketDir: permission denied",
			[]error{fs.ErrPermission}},
		{"no permission", func(t *testing.T, dir string) error {
			_, err := server(t, dir)
			noError(t, "StartServer", err)
			// It has not been made a moment ago, so nothing is tried again.
			noError(t, "Chtimes", os.Chtimes(dir+"/test.sock", time.Time{}, time.Now().Add(-time.Second)))
			var log lockedBuffer
			err = asStranger(t, func() error {
				return client(t, dir, func(c *clientConfig) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			})
			if strings.Contains(log.String(), "waiting") {
				t.Errorf("a missing permission is waited for:\n%s", &log)
			}
			return err
		}, "ipc: connect to DIR/test.sock: connect: permission denied (the socket is of uid 0 and gid 0, with mode 0600, " +
			"and this process of uid 65534 and gid 65534: Mode, Group and UnmaskPermissions of the server admit others)",
			[]error{fs.ErrPermission}},
		{"no permission for the folder", func(t *testing.T, dir string) error {
			noError(t, "Chmod", os.Chmod(dir, 0o700))
			return asStranger(t, func() error { return client(t, dir) })
		}, "ipc: connect to DIR/test.sock: connect: permission denied " +
			"(this process, of uid 65534 and gid 65534, may not enter the folder of the socket)",
			[]error{fs.ErrPermission}},
		{"socket of another user", func(t *testing.T, dir string) error {
			noError(t, "Chmod", os.Chmod(dir, 0o777|fs.ModeSticky))
			stale(t, dir, 0o600)
			return asStranger(t, func() error { return serverError(server(t, dir)) })
		}, "ipc: listen on DIR/test.sock: the socket that is there is of uid 0 and gid 0, with mode 0600, " +
			"and this process, of uid 65534 and gid 65534, can neither use nor remove it: " +
			"remove it as its user if no server is running, or choose another Name or SocketDir: permission denied",
			[]error{fs.ErrPermission}},
		{"dead server of another user", func(t *testing.T, dir string) error {
			noError(t, "Chmod", os.Chmod(dir, 0o777|fs.ModeSticky))
			stale(t, dir, 0o777)
			return asStranger(t, func() error { return serverError(server(t, dir)) })
		}, "ipc: listen on DIR/test.sock: the socket of a dead server that is there is of uid 0 and gid 0, with mode 0777, " +
			"and this process, of uid 65534 and gid 65534, can neither use nor remove it: " +
			"remove it as its user if no server is running, or choose another Name or SocketDir: operation not permitted",
			[]error{fs.ErrPermission}},
		{"no socket", func(t *testing.T, dir string) error {
			noError(t, "WriteFile", os.WriteFile(dir+"/test.sock", nil, 0o600))
			t.Cleanup(func() { os.Remove(dir + "/test.sock") })
			return serverError(server(t, dir))
		}, "ipc: listen on DIR/test.sock: what is there is not a socket (mode -rw-------): " +
			"move it away, or choose another Name or SocketDir: file already exists",
			[]error{fs.ErrExist}},
		{"name too long, server", func(t *testing.T, dir string) error {
			return serverError(server(t, dir, func(c *serverConfig) { c.Name = long }))
		}, `ipc: start server: socket path "DIR/LONG.sock" has LEN bytes and the system allows 107: choose a shorter Name or SocketDir`,
			[]error{ipc.ErrName}},
		{"name too long, client", func(t *testing.T, dir string) error {
			return client(t, dir, func(c *clientConfig) { c.Name = long })
		}, `ipc: start client: socket path "DIR/LONG.sock" has LEN bytes and the system allows 107: choose a shorter Name or SocketDir`,
			[]error{ipc.ErrName}},
		{"in use", func(t *testing.T, dir string) error {
			_, err := server(t, dir)
			noError(t, "StartServer", err)
			return serverError(server(t, dir))
		}, "ipc: listen on DIR/test.sock: a live server has this name: process PID: stop it, or choose another Name or SocketDir",
			[]error{ipc.ErrInUse, syscall.EADDRINUSE}},
		{"encryption", func(t *testing.T, dir string) error {
			_, err := server(t, dir)
			noError(t, "StartServer", err)
			return client(t, dir, func(c *clientConfig) { c.Encryption = true })
		}, "ipc: connect to DIR/test.sock: the server does not encrypt, and encryption is required: " +
			"set Encryption in the server's config, or not in the client's",
			[]error{ipc.ErrEncryptionRequired}},
		{"version", func(t *testing.T, dir string) error {
			rawServer(t, dir, 3, 0)
			return client(t, dir)
		}, "ipc: connect to DIR/test.sock: the server speaks version 3 of the protocol, not 2: update the older of the two programs",
			[]error{ipc.ErrVersion}},
		{"refused by the client", func(t *testing.T, dir string) error {
			_, err := server(t, dir)
			noError(t, "StartServer", err)
			return client(t, dir, func(c *clientConfig) {
				c.Authorize = func(ipc.Peer) error { return ipc.SameUser(ipc.Peer{UID: 1 << 31}) }
			})
		}, fmt.Sprintf("ipc: connect to DIR/test.sock: peer is not authorized: uid 2147483648 is neither %d nor root", os.Geteuid()),
			[]error{ipc.ErrUnauthorized}},
		{"refused by the server", func(t *testing.T, dir string) error {
			_, err := server(t, dir, func(c *serverConfig) {
				c.Authorize = func(ipc.Peer) error { return errors.New("nobody") }
			})
			noError(t, "StartServer", err)
			return client(t, dir, once)
		}, "ipc: connect to DIR/test.sock: timed out trying to connect: the server closed the connection without a word: " +
			"it may have refused this client (Authorize), be closing, or speak another protocol: EOF",
			[]error{ipc.ErrTimeout}},
		{"no place", func(t *testing.T, dir string) error {
			_, err := server(t, dir)
			noError(t, "StartServer", err)
			noError(t, "StartClient", client(t, dir))
			return client(t, dir, func(c *clientConfig) { c.Timeout = time.Second })
		}, "ipc: connect to DIR/test.sock: timed out trying to connect: " +
			"the server has no place for this client: is it in single mode, or at MaxClients?",
			[]error{ipc.ErrTimeout}},
		{"no answer", func(t *testing.T, dir string) error {
			unixRouteIn(dir).listen(t)
			return client(t, dir, func(c *clientConfig) { c.Timeout = time.Second })
		}, "ipc: connect to DIR/test.sock: timed out trying to connect: " +
			"the connection is not answered: is the server busy, stopped, or not one of this protocol?",
			[]error{ipc.ErrTimeout}},
		{"no group", func(t *testing.T, dir string) error {
			return serverError(server(t, dir, func(c *serverConfig) { c.Group = "no such group" }))
		}, `ipc: start server: ServerConfig.Group "no such group": group: unknown group no such group`, nil},
		{"reply too large", func(t *testing.T, dir string) error {
			replied := make(chan error, 1)
			_, err := server(t, dir, func(c *serverConfig) {
				c.MaxMsgSize = 100
				c.Handler = func(_ *ipc.Server, m *ipc.Message) {
					if m.IsRequest() {
						replied <- m.Reply(1, make([]byte, 100))
					}
				}
			})
			noError(t, "StartServer", err)
			c, err := ipc.StartClient(&clientConfig{Name: "test", SocketDir: dir})
			noError(t, "StartClient", err)
			defer c.Close()
			c.Request(t.Context(), 1, nil)
			return <-replied
		}, "ipc: reply to DIR/test.sock: 100 bytes: a reply exceeds its maximum length of 84: raise MaxMsgSize, or reply in parts",
			[]error{ipc.ErrMsgTooLarge}},
		{"no client", func(t *testing.T, dir string) error {
			s, err := server(t, dir)
			noError(t, "StartServer", err)
			return second(s.Request(t.Context(), 1, nil))
		}, "ipc: request to DIR/test.sock: cannot request under current status: Listening",
			[]error{ipc.ErrNotConnected}},
		{"client that has left", func(t *testing.T, dir string) error {
			s, err := server(t, dir, func(c *serverConfig) { c.MultiMode = true })
			noError(t, "StartServer", err)
			c, err := ipc.StartClient(&clientConfig{Name: "test", SocketDir: dir})
			noError(t, "StartClient", err)
			noError(t, "Close", c.Close())
			var left *ipc.Server
			for left == nil {
				noError(t, "ReadContext", s.ServerManager.ReadContext(t.Context(), func(client *ipc.Server, m *ipc.Message, err error) {
					if err == nil && m.Status == "Disconnected" {
						left = client
					}
				}))
			}
			return left.Write(1, nil)
		}, "ipc: DIR/test.sock client 1: the connection to this client has ended",
			[]error{ipc.ErrNotConnected, ipc.ErrClosed}},
		{"no reply", func(t *testing.T, dir string) error {
			_, err := server(t, dir, func(c *serverConfig) { c.Handler = func(*ipc.Server, *ipc.Message) {} })
			noError(t, "StartServer", err)
			c, err := ipc.StartClient(&clientConfig{Name: "test", SocketDir: dir})
			noError(t, "StartClient", err)
			defer c.Close()
			return second(c.Request(t.Context(), 1, nil))
		}, "ipc: request to DIR/test.sock: the peer has ended the request without a reply: " +
			"its Handler has to reply, or to clone the request, before it returns",
			[]error{ipc.ErrNoReply}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin(t)
			dir := socketDir(t)
			noError(t, "Chmod", os.Chmod(dir, 0o755))
			err := tt.do(t, dir)
			want := strings.NewReplacer("DIR", dir, "PID", fmt.Sprint(os.Getpid()), "LONG", long,
				"LEN", fmt.Sprint(len(dir)+len("/.sock")+len(long))).Replace(tt.want)
			if err == nil || err.Error() != want {
				t.Errorf("%v\nwant %s", err, want)
			}
			wantError(t, tt.name, err, tt.is...)
		})
	}
}

// expiring is a context whose deadline is the close of done.
type expiring struct {
	context.Context
	done chan struct{}
}

func (e *expiring) Done() <-chan struct{} { return e.done }

func (e *expiring) Err() error {
	select {
	case <-e.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// writerFunc is a Writer that calls it each time.
type writerFunc func()

func (f writerFunc) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}

// serverError drops the server of a StartServer that is about its error.
func serverError(_ *ipc.Server, err error) error { return err }
