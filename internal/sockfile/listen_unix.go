//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// Log takes one line about the socket at path.
type Log func(level slog.Level, msg, path string, attrs ...slog.Attr)

// Listen listens on a new socket at path, as of [Path]. If a live socket is there
// it fails with [errs.InUse]; one whose owner is dead is taken over; anything else
// is left alone and is an error. Of any number of callers, in any number of
// processes, exactly one wins. On failure nothing is left behind.
//
// A connect tells a live socket from a dead one, but not for long: between the
// answer and the unlink another starter may have unlinked that file and bound its
// own, which the unlink would then remove. Hence the lock, a file beside the
// socket. It is held while starting only: later, the bound socket defends itself.
func Listen(path string, perm Perm, log Log) (*Listener, error) {
	// The folder may be relative, and the process in another one by the time of
	// Close. The address stays as short as it was given.
	file, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	lockFile, err := lock(path + ".lock")
	if err != nil {
		return nil, err
	}
	l, self, err := claim(path, perm, log)
	if err := unlock(lockFile); err != nil {
		// The server is none the worse for it, nor is the next: it uses the file.
		log(slog.LevelWarn, "lock file not removed", path, slog.Any("error", err))
	}
	if errors.Is(err, errs.InUse) {
		err = inUse(path)
	}
	if err != nil {
		return nil, err
	}
	return &Listener{l, sync.OnceValue(func() error { return closeBoth(l, file, self, log) })}, nil
}

// A Listener listens on a socket of this process, and removes its file in the end.
type Listener struct {
	*net.UnixListener
	close func() error
}

// Close removes the socket's file, unless another file has taken its place, and
// stops listening. Every call returns what the first returned.
func (l *Listener) Close() error { return l.close() }

// closeBoth removes file, provided that it still is self, and closes l, in this
// order: the file of an unbound socket may be another server's at any moment.
func closeBoth(l *net.UnixListener, file string, self fs.FileInfo, log Log) error {
	err := remove(file, self)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errReplaced) {
		log(slog.LevelWarn, "another process has removed the socket's file", file, slog.Any("error", err))
		err = nil
	}
	if err = errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("close %s: %w", file, err)
	}
	return nil
}
