//go:build unix

package ipc_test

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// wantOnePrefix checks that an error says "ipc:" once, in front, and the rest
// after it.
func wantOnePrefix(t *testing.T, err error, rest string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	text := err.Error()
	if !strings.HasPrefix(text, "ipc: ") || strings.Count(text, "ipc:") != 1 || !strings.Contains(text, rest) {
		t.Errorf(`%q: want one "ipc: ", in front, and %q`, text, rest)
	}
}

// Every error of StartServer has one prefix, and says what was being done.
func TestStartServerErrors(t *testing.T) {
	begin(t)
	start := func(t *testing.T, rest string, c *ipc.ServerConfig) {
		t.Helper()
		server, err := ipc.StartServer(c)
		wantOnePrefix(t, err, rest)
		if err == nil {
			server.Close()
		}
	}
	t.Run("nil", func(t *testing.T) { start(t, "start server: ServerConfig is nil", nil) })
	t.Run("empty", func(t *testing.T) {
		_, err := ipc.StartServer(&ipc.ServerConfig{})
		if want := "ipc: start server: ipcName cannot be an empty string"; err == nil || err.Error() != want {
			t.Errorf("%v: want %q", err, want)
		}
	})

	type config = ipc.ServerConfig
	fields := map[string]func(*config){
		"LogLevel":                      func(c *config) { c.LogLevel = "loud" },
		"MaxMsgSize":                    func(c *config) { c.MaxMsgSize = math.MaxInt32 },
		"MaxClients":                    func(c *config) { c.MaxClients = -1 },
		"MaxClients in single mode":     func(c *config) { c.MaxClients = 2 },
		"BusyPoll":                      func(c *config) { c.BusyPoll = -1 },
		"HandshakeTimeout":              func(c *config) { c.HandshakeTimeout = -1 },
		"Mode and UnmaskPermissions":    func(c *config) { c.Mode, c.UnmaskPermissions = 0o660, true },
		"Mode with more":                func(c *config) { c.Mode = fs.ModeSetuid | 0o700 },
		"Mode of a Listener":            func(c *config) { c.Listener, c.Mode = &net.UnixListener{}, 0o600 },
		"unknown Group":                 func(c *config) { c.Group = "no such group" },
		"Group that is no id":           func(c *config) { c.Group = "4294967295" },
		"SocketDir with a NUL":          func(c *config) { c.SocketDir = "/t\x00mp" },
		"over length through SocketDir": func(c *config) { c.SocketDir = "/" + strings.Repeat("d", 200) },
	}
	for name, bad := range badNames {
		fields["name: "+name] = func(c *config) { c.Name = bad }
	}
	for name, change := range fields {
		t.Run(name, func(t *testing.T) {
			c := config{Name: "test", SocketDir: "/tmp"}
			change(&c)
			start(t, "start server: ", &c)
		})
	}

	files := map[string]func(t *testing.T, path string){
		"live": func(t *testing.T, path string) {
			server, err := ipc.StartServer(&config{Name: "test", SocketDir: filepath.Dir(path)})
			noError(t, "StartServer", err)
			t.Cleanup(func() { server.Close() })
		},
		"file":     func(t *testing.T, path string) { noError(t, "put", os.WriteFile(path, []byte("precious"), 0o600)) },
		"folder":   func(t *testing.T, path string) { noError(t, "put", os.Mkdir(path, 0o700)) },
		"link":     func(t *testing.T, path string) { noError(t, "put", os.Symlink("nowhere", path)) },
		"document": func(t *testing.T, path string) { noError(t, "put", os.WriteFile(path+".lock", []byte("x"), 0o600)) },
		"no folder": func(t *testing.T, path string) {
			noError(t, "remove", os.Remove(filepath.Dir(path)))
		},
		"folder is a file": func(t *testing.T, path string) {
			noError(t, "remove", os.Remove(filepath.Dir(path)))
			noError(t, "put", os.WriteFile(filepath.Dir(path), nil, 0o600))
		},
	}
	for name, put := range files {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(socketDir(t), "d")
			noError(t, "Mkdir", os.Mkdir(dir, 0o700))
			t.Cleanup(func() { os.RemoveAll(dir) })
			path := filepath.Join(dir, "test.sock")
			put(t, path)
			start(t, "listen on "+path+": ", &config{Name: "test", SocketDir: dir})
		})
	}
}

// Every error of StartClient has one prefix, and says what was being done.
func TestStartClientErrors(t *testing.T) {
	begin(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := func(t *testing.T, rest string, c *ipc.ClientConfig) {
		t.Helper()
		client, err := ipc.StartClientContext(ctx, c)
		wantOnePrefix(t, err, rest)
		if err == nil {
			client.Close()
		}
	}
	t.Run("nil", func(t *testing.T) { start(t, "start client: ClientConfig is nil", nil) })
	t.Run("empty", func(t *testing.T) {
		_, err := ipc.StartClient(&ipc.ClientConfig{})
		if want := "ipc: start client: ipcName cannot be an empty string"; err == nil || err.Error() != want {
			t.Errorf("%v: want %q", err, want)
		}
	})

	type config = ipc.ClientConfig
	fields := map[string]func(*config){
		"LogLevel":             func(c *config) { c.LogLevel = "loud" },
		"Timeout":              func(c *config) { c.Timeout = -1 },
		"RetryTimer":           func(c *config) { c.RetryTimer = -1 },
		"BusyPoll":             func(c *config) { c.BusyPoll = -1 },
		"SocketDir with a NUL": func(c *config) { c.SocketDir = "/t\x00mp" },
	}
	for name, bad := range badNames {
		fields["name: "+name] = func(c *config) { c.Name = bad }
	}
	for name, change := range fields {
		t.Run(name, func(t *testing.T) {
			c := config{Name: "test", SocketDir: "/tmp"}
			change(&c)
			start(t, "start client: ", &c)
		})
	}

	files := map[string]func(t *testing.T, path string){
		"nothing":       func(*testing.T, string) {},
		"file":          func(t *testing.T, path string) { noError(t, "put", os.WriteFile(path, nil, 0o600)) },
		"circular link": func(t *testing.T, path string) { noError(t, "put", os.Symlink("test.sock", path)) },
	}
	for name, put := range files {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(socketDir(t), "test.sock")
			put(t, path)
			t.Cleanup(func() { os.Remove(path) })
			start(t, "connect to "+path+": ", &config{Name: "test", SocketDir: filepath.Dir(path), Timeout: 30 * time.Millisecond})
		})
	}

	// The other end of each connection that Dial makes says this, and no more.
	saying := func(text ...byte) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				far.SetDeadline(time.Now().Add(time.Second))
				far.Write(text)
				far.Read(make([]byte, 1))
			}()
			return near, nil
		}
	}
	for name, c := range map[string]config{
		"Dial fails":      {Dial: func(context.Context) (net.Conn, error) { return nil, syscall.EPERM }},
		"Dial of nothing": {Dial: func(context.Context) (net.Conn, error) { return nil, nil }},
		"nothing said":    {Dial: saying()},
		"version":         {Dial: saying(9, 0)},
		"mode":            {Dial: saying(2, 7)},
		"plain":           {Dial: saying(2, 0), Encryption: true},
		"unknown peer":    {Dial: saying(2, 0), Authorize: ipc.SameUser},
	} {
		t.Run(name, func(t *testing.T) {
			c.Name, c.Timeout = "test", 50*time.Millisecond
			start(t, "connect to test: ", &c)
		})
	}

	t.Run("cancelled", func(t *testing.T) {
		ended, end := context.WithCancel(t.Context())
		end()
		_, err := ipc.StartClientContext(ended, &config{Name: "test", SocketDir: socketDir(t)})
		wantOnePrefix(t, err, "connect to ")
	})
	for name, authorize := range map[string]func(ipc.Peer) error{
		"refused":    func(ipc.Peer) error { return errors.New("not this one") },
		"other user": func(ipc.Peer) error { return ipc.SameUser(ipc.Peer{UID: 1 << 31}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := unixSingle
			l := s.open(t)
			s.startServer(t, l, quiet)
			c := l.client
			c.Authorize = authorize
			client, err := ipc.StartClientContext(ctx, &c)
			wantError(t, "StartClientContext", err, ipc.ErrUnauthorized)
			wantOnePrefix(t, err, "connect to "+l.path()+": peer is not authorized: ")
			if err != nil && strings.Count(err.Error(), "authorized") != 1 {
				t.Errorf("%q says twice that the peer is not authorized", err)
			}
			if err == nil {
				client.Close()
			}
		})
	}
}

// An error about the peer has one prefix too.
func TestPeerErrors(t *testing.T) {
	eachPair(t, []setup{pipeSingle}, func(t *testing.T, p *pair) {
		for _, e := range []endpoint{p.client, p.server} {
			_, err := e.Peer()
			wantError(t, "Peer", err, errors.ErrUnsupported)
			wantOnePrefix(t, err, "peer ")
		}
	})
	begin(t)
	server := unixSingle.startServer(t, unixLink(t))
	_, err := server.Peer()
	wantError(t, "Peer", err, ipc.ErrNotConnected)
	wantOnePrefix(t, err, "peer ")
}
