package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Some errors are the standard library's as well.
//
// Pins doc.go, "Errors": ErrClosed, also net.ErrClosed
// Pins doc.go, "Errors": ErrTimeout, also os.ErrDeadlineExceeded
func TestSentinels(t *testing.T) {
	all := []error{
		ipc.ErrClosed, ipc.ErrTimeout, ipc.ErrName, ipc.ErrInUse, ipc.ErrReservedType, ipc.ErrMsgTooLarge,
		ipc.ErrNotConnected, ipc.ErrMultiMode, ipc.ErrVersion, ipc.ErrEncryptionRequired, ipc.ErrProtocol,
		ipc.ErrUnauthorized, ipc.ErrFull,
	}
	for i, a := range all {
		for j, b := range all {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("errors.Is(%q, %q) = %t", a, b, i != j)
			}
		}
	}
	for _, tt := range []struct{ err, double error }{
		{ipc.ErrClosed, net.ErrClosed},
		{ipc.ErrTimeout, os.ErrDeadlineExceeded},
		{ipc.ErrInUse, syscall.EADDRINUSE},
	} {
		wantError(t, tt.err.Error(), tt.err, tt.double)
	}
	for _, tt := range []struct {
		err  error
		text string
	}{
		{ipc.ErrName, "ipcName cannot be an empty string"},
		{ipc.ErrReservedType, "message type 0 is reserved"},
		{ipc.ErrMsgTooLarge, "message exceeds maximum message length"},
		{ipc.ErrNotConnected, "cannot write under current status"},
	} {
		wantText(t, "sentinel", tt.err, tt.text)
	}
}

// badNames are no names of files in a folder.
var badNames = map[string]string{
	"empty":       "",
	"separator":   "a/b",
	"rooted":      "/a",
	"parent":      "../a",
	"dot":         ".",
	"dot dot":     "..",
	"NUL":         "a\x00b",
	"over length": strings.Repeat("n", 300),
}

// A config that cannot work is refused before anything starts.
//
// Pins doc.go, "Configuration": are validated
func TestBadServerConfig(t *testing.T) {
	begin(t)
	dir := socketDir(t)
	type config = ipc.ServerConfig
	type test struct {
		name   string
		change func(*config)
		want   error
	}
	tests := []test{
		{"LogLevel", func(c *config) { c.LogLevel = "loud" }, fs.ErrInvalid},
		{"LogLevel in capitals", func(c *config) { c.LogLevel = "DEBUG" }, fs.ErrInvalid},
		{"MaxMsgSize", func(c *config) { c.MaxMsgSize = math.MaxInt32 }, fs.ErrInvalid},
		{"MaxMsgSize by one", func(c *config) { c.MaxMsgSize = math.MaxInt32 - 62 }, fs.ErrInvalid},
		{"negative MaxClients", func(c *config) { c.MaxClients = -1; c.MultiMode = true }, fs.ErrInvalid},
		{"MaxClients in single mode", func(c *config) { c.MaxClients = 2 }, fs.ErrInvalid},
		{"negative HandshakeTimeout", func(c *config) { c.HandshakeTimeout = -1 }, fs.ErrInvalid},
		{"Mode and UnmaskPermissions", func(c *config) { c.Mode = 0o660; c.UnmaskPermissions = true }, fs.ErrInvalid},
		{"Mode with more than permissions", func(c *config) { c.Mode = fs.ModeSetuid | 0o700 }, fs.ErrInvalid},
		{"no such folder", func(c *config) { c.SocketDir = filepath.Join(dir, "missing") }, fs.ErrNotExist},
	}
	for name, bad := range badNames {
		tests = append(tests, test{"name: " + name, func(c *config) { c.Name = bad }, ipc.ErrName})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			begin(t)
			if tt.name == "no such folder" && runtime.GOOS == "windows" {
				t.Skip("pipes have no folders")
			}
			c := config{Name: "test", SocketDir: dir}
			tt.change(&c)
			server, err := ipc.StartServer(&c)
			wantError(t, "StartServer", err, tt.want)
			if err == nil {
				server.Close()
			} else if server != nil {
				t.Error("StartServer returned a server together with an error")
			}
		})
	}
	t.Run("nil", func(t *testing.T) {
		server, err := ipc.StartServer(nil)
		wantError(t, "StartServer", err, fs.ErrInvalid)
		if server != nil {
			t.Error("StartServer returned a server")
		}
	})
}

func TestBadClientConfig(t *testing.T) {
	begin(t)
	dir := socketDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // there is no server, and the mistake is found before
	defer cancel()
	type config = ipc.ClientConfig
	type test struct {
		name   string
		change func(*config)
		want   error
	}
	tests := []test{
		{"LogLevel", func(c *config) { c.LogLevel = "loud" }, fs.ErrInvalid},
		{"RetryTimer", func(c *config) { c.RetryTimer = -1 }, fs.ErrInvalid},
	}
	for name, bad := range badNames {
		tests = append(tests, test{"name: " + name, func(c *config) { c.Name = bad }, ipc.ErrName})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			begin(t)
			c := config{Name: "test", SocketDir: dir}
			tt.change(&c)
			client, err := ipc.StartClientContext(ctx, &c)
			wantError(t, "StartClientContext", err, tt.want)
			if client != nil {
				t.Error("StartClientContext returned a client together with an error")
			}
		})
	}
	t.Run("nil", func(t *testing.T) {
		client, err := ipc.StartClient(nil)
		wantError(t, "StartClient", err, fs.ErrInvalid)
		if client != nil {
			t.Error("StartClient returned a client")
		}
		client, err = ipc.StartClientContext(context.Background(), nil)
		wantError(t, "StartClientContext", err, fs.ErrInvalid)
		if client != nil {
			t.Error("StartClientContext returned a client")
		}
	})
}

// What is wrong with a name is said where there is more to it than its being
// empty.
//
// Pins doc.go, "Starting": A name that no socket can have is ErrName
func TestNameErrors(t *testing.T) {
	// The last byte of a socket address is for a NUL.
	limit := map[string]string{"linux": "107", "darwin": "103", "windows": "256"}[runtime.GOOS]
	_, err := ipc.StartServer(&ipc.ServerConfig{Name: badNames["over length"]})
	wantText(t, "StartServer", err, limit)
	_, err = ipc.StartClient(&ipc.ClientConfig{Name: badNames["over length"]})
	wantText(t, "StartClient", err, limit)
	_, err = ipc.StartServer(&ipc.ServerConfig{})
	wantText(t, "StartServer", err, "ipcName cannot be an empty string")
	_, err = ipc.StartClient(&ipc.ClientConfig{})
	wantText(t, "StartClient", err, "ipcName cannot be an empty string")
	_, err = ipc.StartServer(&ipc.ServerConfig{Name: "a/b"})
	if err != nil && strings.Contains(err.Error(), "empty") {
		t.Errorf("StartServer: %v for a name that is not empty", err)
	}
}

// Configs are copied: what is done to them later does not matter.
//
// Pins doc.go, "Configuration": are validated and copied
func TestConfigsAreCopied(t *testing.T) {
	begin(t)
	route := unixRoute(t)
	serverConfig, clientConfig := route.server(), route.client
	server, err := ipc.StartServer(&serverConfig)
	noError(t, "StartServer", err)
	defer server.Close()
	serverConfig = ipc.ServerConfig{Name: "gone", MaxMsgSize: 1}
	client, err := ipc.StartClient(&clientConfig)
	noError(t, "StartClient", err)
	defer client.Close()
	clientConfig = ipc.ClientConfig{Name: "gone", Timeout: 1}

	wantEvents(t, client, ipc.Connecting, ipc.Connected)
	wantEvents(t, server, ipc.Connected)
	wantRoundTrip(t, client, server)
	server.Close()
	server, err = ipc.StartServer(&ipc.ServerConfig{Name: "test", SocketDir: route.client.SocketDir})
	noError(t, "StartServer", err)
	defer server.Close()
	wantEvents(t, client, ipc.ReConnecting, ipc.Connected)
	wantEvents(t, server, ipc.Connected)
	wantRoundTrip(t, client, server)
}

// The zero value of MaxMsgSize, and less, is 3 MiB.
func TestDefaultMaxMsgSize(t *testing.T) {
	for _, size := range []int{0, -1, math.MinInt} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			begin(t)
			p := unixSingle.pair(t, maxMsgSize(size))
			data := payload(1, defaultMaxMsgSize+1)
			for _, e := range []side{p.client, p.server} {
				wantError(t, "Write", e.Write(1, data), ipc.ErrMsgTooLarge)
			}
			sent := background(func() error { return p.client.Write(1, data[1:]) })
			wantMessage(t, p.server, 1, data[1:])
			noError(t, "Write", sent())
		})
	}
}

// A Listener and a Dial need no name, and the listener's address is the
// server's.
//
// Pins doc.go, "Configuration": Name is only a label then
func TestListenerAndDial(t *testing.T) {
	begin(t)
	s := setup{transport: transport{"tcp", tcpRoute}}
	route := s.open(t)
	config := route.server()
	server, err := ipc.StartServer(&config)
	noError(t, "StartServer", err)
	defer server.Close()
	if got, want := server.Addr().String(), config.Listener.Addr().String(); got != want {
		t.Errorf("Addr is %s, want %s", got, want)
	}
	client := route.startClient(t)
	s.join(t, server)
	wantRoundTrip(t, client, server)
	noError(t, "Close", server.Close())
	if _, err := config.Listener.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}

// A listener that is out of descriptors, say, is asked again after a pause
// that grows, and serves on.
//
// Pins doc.go, "Logging": pause: until the next attempt to accept a connection
func TestAcceptErrors(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := pipeSingle
		route := s.open(t)
		config := route.server()
		quiet(&config, nil)
		broken := &brokenListener{Listener: config.Listener, left: 20}
		config.Listener = broken
		start := time.Now()
		server, err := ipc.StartServer(&config)
		noError(t, "StartServer", err)
		defer server.Close()
		client := route.startClient(t)
		s.join(t, server)
		wantRoundTrip(t, client, server)
		wantStatus(t, "server", server, ipc.Connected)
		waited := time.Since(start)
		noError(t, "Close", server.Close()) // Accept is called no more
		var last time.Duration
		for i := 1; i < len(broken.calls); i++ {
			pause := broken.calls[i].Sub(broken.calls[i-1])
			if i <= 20 && (pause <= 0 || pause < last/2) {
				t.Errorf("pause %d is %v after %v", i, pause, last)
			}
			last = pause
		}
		if waited < time.Second || waited > time.Minute {
			t.Errorf("20 errors held the server up for %v", waited)
		}
	})
}

// brokenListener fails some times before it works.
type brokenListener struct {
	net.Listener
	left  int
	calls []time.Time
}

func (l *brokenListener) Accept() (net.Conn, error) {
	l.calls = append(l.calls, time.Now())
	if l.left--; l.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}
