//go:build unix

package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

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

	t.Run("without a name", func(t *testing.T) {
		start(t, "connect to (unnamed): ", &config{Dial: saying(), Timeout: 50 * time.Millisecond})
	})

	t.Run("cancelled", func(t *testing.T) {
		ended, end := context.WithCancel(t.Context())
		end()
		_, err := ipc.StartClientContext(ended, &config{Name: "test", SocketDir: socketDir(t)})
		wantOnePrefix(t, err, "connect to ")
	})
	for name, authorize := range map[string]func(ipc.Peer) error{
		"refused":    func(ipc.Peer) error { return errors.New("not this one") },
		"wrapped":    func(ipc.Peer) error { return fmt.Errorf("%w: not this one", ipc.ErrUnauthorized) },
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
		for _, e := range []side{p.client, p.server} {
			_, err := e.Peer()
			wantError(t, "Peer", err, errors.ErrUnsupported)
			wantOnePrefix(t, err, "peer ")
		}
	})
	begin(t)
	server := unixSingle.startServer(t, unixRoute(t))
	_, err := server.Peer()
	wantError(t, "Peer", err, ipc.ErrNotConnected)
	wantOnePrefix(t, err, "peer ")
}

// Every error of a call has one prefix, on each kind of side, whether it is
// connected, not connected or closed.
func TestCallErrors(t *testing.T) {
	ctx := context.Background()
	calls := func(e side) map[string]error {
		_, peerErr := e.Peer()
		errs := map[string]error{
			"Write":        e.Write(1, nil),
			"WriteContext": e.WriteContext(ctx, 1, nil),
			"Write of 0":   e.Write(0, nil),
			"Flush":        e.Flush(ctx),
			"Peer":         peerErr,
			"Read":         second(e.Read()),
			"ReadTimed":    second(e.ReadTimed(0, nil)),
			"ReadContext":  second(e.ReadContext(ctx)),
		}
		for _, err := range e.Messages(ctx) {
			errs["Messages"] = err
			break
		}
		return errs
	}
	want := func(t *testing.T, e side, except ...string) {
		t.Helper()
		for name, err := range calls(e) {
			switch {
			case slices.Contains(except, name):
			case err == nil:
				t.Errorf("%s: no error", name)
			default:
				wantOnePrefix(t, err, "")
			}
		}
	}
	manager := func(t *testing.T, m *ipc.ServerManager) {
		t.Helper()
		m.Read(func(_ *ipc.Server, _ *ipc.Message, err error) { wantOnePrefix(t, err, "") })
		wantOnePrefix(t, m.ReadContext(ctx, func(*ipc.Server, *ipc.Message, error) {}), "")
		wantOnePrefix(t, m.Broadcast(1, nil), "")
		wantOnePrefix(t, m.Broadcast(0, nil), "")
	}
	closed := func(t *testing.T, e side) {
		t.Helper()
		noError(t, "Close", e.Close())
		wantEvents(t, e, ipc.Closed)
		want(t, e)
	}
	eachPair(t, pipeSetups, func(t *testing.T, p *pair) {
		t.Run("client", func(t *testing.T) { closed(t, p.client) })
		wantEvents(t, p.peer, ipc.Disconnected)
		if p.multi {
			t.Run("client that left", func(t *testing.T) { want(t, p.peer) })
			t.Run("MultiMode", func(t *testing.T) { want(t, p.server, "Flush") })
			noError(t, "Close", p.server.Close())
			t.Run("MultiMode, closed", func(t *testing.T) { want(t, p.server) })
		} else {
			t.Run("Write", func(t *testing.T) { wantOnePrefix(t, p.server.Write(1, nil), "") })
			t.Run("closed", func(t *testing.T) { closed(t, p.server) })
		}
		t.Run("manager, closed", func(t *testing.T) { manager(t, p.server.ServerManager) })
	})
	t.Run("client's Server, closed", func(t *testing.T) {
		eachPair(t, []setup{pipeMulti}, func(t *testing.T, p *pair) { closed(t, p.peer) })
	})
}

// The error of an event has one prefix, and so has that of a Close which could
// not send everything.
func TestEventErrors(t *testing.T) {
	wantEventError := func(t *testing.T, e side, want error, rest string) {
		t.Helper()
		m := next(t, e)
		wantError(t, describe(m), m.Err, want)
		wantOnePrefix(t, m.Err, rest)
	}
	t.Run("protocol", func(t *testing.T) {
		eachWireBubble(t, func(t *testing.T, p *wirePair) {
			p.raw.send(head(1, 1))
			wantEventError(t, p, ipc.ErrProtocol, "connection to ")
		})
	})
	t.Run("WriteTimeout", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireClientPair(t, pipeMulti)
			noError(t, "Write", p.Write(1, nil))
			wantEventError(t, p, ipc.ErrTimeout, "connection to ")
		})
	})
	t.Run("resend", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireServerPair(t, pipeTransport)
			noError(t, "Write", p.Write(1, make([]byte, 101)))
			p.raw.Close()
			wantEvents(t, p, ipc.ReConnecting)
			accept(t, p.ln).openServer(100)
			wantEvents(t, p, ipc.Connected)
			wantEventError(t, p, ipc.ErrMsgTooLarge, "resend to ")
		})
	})
	t.Run("version", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireServerPair(t, pipeTransport)
			p.raw.Close()
			wantEvents(t, p, ipc.ReConnecting)
			raw := accept(t, p.ln)
			raw.send([]byte{9, 0})
			raw.want("step 2", 1)
			wantEventError(t, p, ipc.ErrVersion, "reconnect to ")
		})
	})
	t.Run("Authorize", func(t *testing.T) {
		begin(t)
		var refuse atomic.Bool
		route := unixRoute(t)
		var log lockedBuffer
		logs := func(s *ipc.ServerConfig, c *ipc.ClientConfig) {
			allow := func(ipc.Peer) error {
				if refuse.Load() {
					return fmt.Errorf("%w: not this one", ipc.ErrUnauthorized)
				}
				return nil
			}
			if s != nil {
				s.Authorize, s.Logger = allow, slog.New(slog.NewTextHandler(&log, nil))
			}
			if c != nil {
				c.Authorize = allow
			}
		}
		server := unixSingle.startServer(t, route, logs)
		client := route.startClient(t, logs)
		unixSingle.join(t, server)
		refuse.Store(true)
		noError(t, "Close", server.Close())
		wantEvents(t, client, ipc.ReConnecting)
		unixSingle.startServer(t, route, logs)
		const want = "peer is not authorized: not this one"
		wantEventError(t, client, ipc.ErrUnauthorized, "reconnect to "+route.path()+": "+want)
		refuse.Store(false)
		wantEvents(t, client, ipc.Connected)
		client.Close()

		refuse.Store(true)
		raw := route.dial(t)
		raw.wantDropped()
		const refused = `error="` + want + `"`
		if !eventually(func() bool { return strings.Contains(log.String(), refused) }) {
			t.Errorf("log:\n%s\nwant %s", &log, refused)
		}
	})
	t.Run("Timeout", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireServerPair(t, pipeTransport, quiet, clientTimeout(time.Second))
			p.ln.Close()
			p.raw.Close()
			wantEvents(t, p, ipc.ReConnecting)
			wantEventError(t, p, ipc.ErrTimeout, "reconnect to ")
			wantOnePrefix(t, second(p.Read()), "reconnect to ")
			wantOnePrefix(t, p.Write(1, nil), "reconnect to ")
		})
	})
	t.Run("Close", func(t *testing.T) {
		eachWireBubble(t, func(t *testing.T, p *wirePair) {
			noError(t, "Write", p.Write(1, nil))
			wantOnePrefix(t, p.Close(), "close ")
		})
	})
}
