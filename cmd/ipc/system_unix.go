//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// defaultDir is the library's default of SocketDir.
const defaultDir = "/tmp"

func socketPath(dir, name string) (string, error) { return sockfile.Path(dir, name) }

// probe returns nil if a process has the socket of the server open. The process does
// not notice it.
func probe(dir, name string) error {
	path, err := sockfile.Path(dir, name)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errNoSocket
	}
	live, err := sockfile.Probe(path)
	if err == nil && !live {
		return errStale
	}
	return err
}

// list returns the servers in dir, sorted by name.
func list(dir string) ([]server, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var servers []server
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".sock")
		if !ok || name == "" || e.Type() != fs.ModeSocket {
			continue
		}
		path := dir + "/" + e.Name()
		s := server{Name: name, Path: path}
		switch err := probe(dir, name); {
		case errors.Is(err, fs.ErrNotExist):
			continue // it was closed in this moment
		case err == nil:
			s.State = stateAlive
		case errors.Is(err, errStale):
			s.State = stateStale
		default:
			s.State, s.Error = stateUnknown, err.Error()
		}
		s.User = ownerOf(path)
		servers = append(servers, s)
	}
	addProcesses(servers)
	return servers, nil
}

// ownerOf returns the name of the user whose file path is, or the number of one
// without a name.
func ownerOf(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return ""
	}
	uid := strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// whose returns why the socket at path may not be connected to: whose it is, and
// who may.
func whose(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Sprintf("; user %d may not enter the folder", os.Geteuid())
	}
	return fmt.Sprintf("; it is the socket of user %s with mode %v: run ipc as that user, or see Mode and Group of its ServerConfig",
		ownerOf(path), info.Mode().Perm())
}

// listen listens at path, for this user only.
func listen(path string) (net.Listener, error) {
	l, err := sockfile.Listen(path, sockfile.Perm{Mode: 0o600, GID: -1}, func(slog.Level, string, string, ...slog.Attr) {})
	if err != nil {
		return nil, err // not a nil *Listener
	}
	return l, nil
}

func dial(ctx context.Context, path string) (net.Conn, error) { return sockfile.Dial(ctx, path) }

// keepWriting has writing to a pipe that has no reader any more fail, instead of
// ending the process: there are sockets to be removed.
func keepWriting() { signal.Ignore(syscall.SIGPIPE) }
