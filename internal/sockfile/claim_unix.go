//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"syscall"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// claim makes path a listening socket of this process. The caller holds the lock.
//
// It looks before it binds, since some systems bind through a dangling symbolic
// link.
func claim(path string, perm Perm, log Log) (*net.UnixListener, fs.FileInfo, error) {
	for range maxTries {
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			l, self, err := bind(path, perm)
			if errors.Is(err, syscall.EADDRINUSE) {
				continue // a process that does not lock was faster
			}
			return l, self, err
		}
		if err != nil {
			return nil, nil, err
		}
		if info.Mode().Type() != fs.ModeSocket {
			return nil, nil, fmt.Errorf("what is there is not a socket (mode %v): "+
				"move it away, or choose another Name or SocketDir: %w", info.Mode(), fs.ErrExist)
		}
		live, err := Probe(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // its owner has just closed it
		case err != nil:
			return nil, nil, ownedByOther(info, "the socket that is there", err)
		case live:
			return nil, nil, errs.InUse
		}
		if err := unlink(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, ownedByOther(info, "the socket of a dead server that is there", err)
		}
		log(slog.LevelInfo, "removed the socket of a dead server", path)
	}
	return nil, nil, syscall.EADDRINUSE
}
