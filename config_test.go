//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

func FuzzConfig(f *testing.F) {
	f.Fuzz(func(t *testing.T, name, dir, group, level string, mode uint32, flags byte,
		maxMsgSize, maxClients, writeTimeout, handshakeTimeout, busyPoll, timeout, retry int64) {
		server := ServerConfig{
			Name: name, SocketDir: dir, Group: group, LogLevel: level, Mode: fs.FileMode(mode),
			Encryption: flags&1 != 0, UnmaskPermissions: flags&2 != 0, MultiMode: flags&4 != 0,
			MaxMsgSize: int(maxMsgSize), MaxClients: int(maxClients), WriteTimeout: time.Duration(writeTimeout),
			HandshakeTimeout: time.Duration(handshakeTimeout), BusyPoll: time.Duration(busyPoll),
		}
		client := ClientConfig{
			Name: name, SocketDir: dir, LogLevel: level, Encryption: flags&1 != 0,
			Timeout: time.Duration(timeout), RetryTimer: time.Duration(retry), BusyPoll: time.Duration(busyPoll),
		}
		if flags&8 != 0 {
			server.Logger = slog.New(slog.DiscardHandler)
			client.Logger = server.Logger
		}
		given, givenClient := server, client
		unknownLevel := !slices.Contains([]string{"", "debug", "info", "warn", "error"}, level)

		s, err := server.withDefaults()
		wrong := unknownLevel || mode != 0 && server.UnmaskPermissions || mode&^0o777 != 0 ||
			int64(server.MaxMsgSize) > 1<<31-64 || server.MaxClients < 0 || server.MaxClients > 1 && !server.MultiMode ||
			handshakeTimeout < 0 || busyPoll < 0
		if wrong != (err != nil) || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("server: error %v, and something is wrong: %t", err, wrong)
		}
		if fmt.Sprint(server) != fmt.Sprint(given) {
			t.Fatal("the caller's config was changed")
		}
		if err == nil {
			if s.MaxMsgSize < 1 || s.MaxMsgSize > wire.MaxLimit || s.HandshakeTimeout <= 0 || s.WriteTimeout == 0 ||
				s.SocketDir == "" || s.Logger == nil || s.MaxClients < 0 || !s.MultiMode && s.MaxClients != 1 {
				t.Fatalf("what is left of the config: %+v", s)
			}
			if s.Encryption != server.Encryption || s.Name != name || dir != "" && s.SocketDir != dir {
				t.Fatalf("%+v became %+v", server, s)
			}
			checkPermissions(t, &s)
			checkPath(t, s.SocketDir, name)
		}

		c, err := client.withDefaults()
		wrong = unknownLevel || retry < 0 || busyPoll < 0
		if wrong != (err != nil) || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("client: error %v, and something is wrong: %t", err, wrong)
		}
		if fmt.Sprint(client) != fmt.Sprint(givenClient) {
			t.Fatal("the caller's config was changed")
		}
		if err == nil && (c.RetryTimer <= 0 || c.SocketDir == "" || c.Logger == nil || c.Encryption != client.Encryption) {
			t.Fatalf("what is left of the config: %+v", c)
		}
	})
}

// checkPermissions checks that a socket gets those that were asked for.
func checkPermissions(t *testing.T, c *ServerConfig) {
	t.Helper()
	want := fs.FileMode(0o600)
	switch {
	case c.UnmaskPermissions:
		want = 0o777
	case c.Mode != 0:
		want = c.Mode
	}
	if got := c.mode(); got != want {
		t.Fatalf("mode %v, want %v", got, want)
	}
}

// checkPath checks that a name makes a file in its folder and nowhere else.
func checkPath(t *testing.T, dir, name string) {
	t.Helper()
	path, err := sockfile.Path(dir, name)
	if err != nil {
		if !errors.Is(err, ErrName) {
			t.Fatal(err)
		}
		if name != "" && len(dir)+len(name) < 90 && !strings.ContainsAny(name+dir, "/\x00") && name != "." && name != ".." {
			t.Fatalf("%q in %q: %v", name, dir, err)
		}
		return
	}
	if len(path) >= len(syscall.RawSockaddrUnix{}.Path) || strings.ContainsRune(path, 0) || path[0] == '@' ||
		filepath.Base(path) != name+".sock" || filepath.Dir(path) != filepath.Clean(dir) {
		t.Fatalf("%q in %q became %q", name, dir, path)
	}
}
