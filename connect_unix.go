//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
)

const (
	// maxSocketPath is the longest path that fits into a socket address,
	// whose last byte is a NUL.
	maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

	// maxTries bounds the loops that start over because somebody else was
	// faster. It is far more than the starters that can get in the way, and
	// keeps a file system that contradicts itself from making us spin.
	maxTries = 10_000

	// backlog is more than any system allows: each cuts it down to its
	// somaxconn.
	backlog = math.MaxUint16
)

// errReplaced says that a path leads to another file than it did.
var errReplaced = errors.New("replaced by another file")

// socketPath returns the path of the socket that name stands for in dir, or an
// error that is ErrName.
func socketPath(dir, name string) (string, error) {
	path, err := joinPath(dir, name)
	if err != nil {
		return "", err
	}
	if path[0] == '@' {
		// Alone, it would mean Linux's abstract namespace, which has neither
		// files nor permissions.
		path = "./" + path
	}
	if len(path) > maxSocketPath {
		return "", detailf(ErrName, "ipc: socket path %q has %d bytes and the system allows %d: choose a shorter Name or SocketDir",
			path, len(path), maxSocketPath)
	}
	return path, nil
}

// lookupGroup returns the id of the group that s names or, as chown(1) has it,
// failing that numbers.
func lookupGroup(s string) (int, error) {
	number := s
	g, err := user.LookupGroup(s)
	if err == nil {
		number = g.Gid
	}
	gid, notNumber := strconv.ParseUint(number, 10, 32)
	switch {
	case notNumber == nil && gid != math.MaxUint32: // which chown takes for "leave it"
		return int(gid), nil
	case err != nil:
		return 0, fmt.Errorf("ipc: group %q: %w", s, err)
	}
	return 0, fmt.Errorf("ipc: group %q has the id %q: %w", s, number, fs.ErrInvalid)
}

// dialSocket makes one attempt to connect to path.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// transient are the reasons for a failed connect that pass by themselves: no
// server yet (or one that is just closing), its backlog full, or one of the two
// systems' resources used up for the moment. What needs somebody to act, such as
// EACCES, is not among them.
var transient = []error{
	syscall.ENOENT, syscall.ECONNREFUSED, syscall.ECONNRESET,
	syscall.EAGAIN, syscall.ETIMEDOUT, syscall.EINTR,
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
}

// retryDial reports whether a later dialSocket may succeed where one failed with
// err.
func retryDial(err error) bool {
	return slices.ContainsFunc(transient, func(t error) bool { return errors.Is(err, t) })
}

// listenSocket listens on a new socket at path. If a live socket is there it
// fails with ErrInUse; one whose owner is dead is taken over; anything else is
// left alone and is an error. Of any number of callers, in any number of
// processes, exactly one wins. On failure nothing is left behind.
//
// A connect tells a live socket from a dead one, but not for long: between the
// answer and the unlink another starter may have unlinked that file and bound its
// own, which we would then remove. Hence the lock. It is held while starting
// only: later, the bound socket defends itself.
func listenSocket(path string, perm socketPerm, log *slog.Logger) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("ipc: listen on %s: %w", path, err)
	}
	// The folder may be relative, and the process in another one by the time of
	// Close. The address stays as short as it was given.
	file, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return fail(err)
	}
	l, self, err := claimPath(path, perm, log)
	if err := unlockFile(lock); err != nil {
		// The server is none the worse for it, nor is the next: it uses the file.
		logEvent(log, slog.LevelWarn, "lock file not removed", path, 0, slog.Any("error", err))
	}
	if err != nil {
		return fail(err)
	}
	return newSocketListener(l, file, self, log), nil
}

// lockFile creates or opens the file at path, and returns it locked. Other
// callers wait until it is unlocked or their own process dies.
func lockFile(path string) (*os.File, error) {
	for range maxTries {
		f, err := createLock(path)
		if errors.Is(err, fs.ErrExist) {
			f, err = openLock(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // unlocked in between
			}
		}
		if err != nil {
			return nil, err
		}
		err = ignoringEINTR(func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX) })
		if err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
		}
		if isFileAt(f, path) == nil {
			return f, nil
		}
		// Whoever had the lock has removed the file. Others are locking its
		// successor by now.
		f.Close()
	}
	return nil, &fs.PathError{Op: "lock", Path: path, Err: errReplaced}
}

// lockFlags open what is at the path itself, not what a link there leads to, and
// do not wait for the other end of a fifo.
const lockFlags = os.O_RDWR | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// createLock creates a lock file. O_EXCL makes the mere existence of a file an
// error that says so: where a folder is sticky, O_CREAT alone may be refused for
// a file of somebody else's, as if for lack of permission.
func createLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, lockFlags|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// The umask may be one that keeps our own user's other processes from it.
	// Should this fail they are refused, which is safe.
	_ = f.Chmod(0o600)
	return f, nil
}

// openLock opens an existing lock file. Somebody else's could be kept locked for
// ever, and one with content is somebody's document: it would be removed in the
// end.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, lockFlags, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	uid := info.Sys().(*syscall.Stat_t).Uid
	if !info.Mode().IsRegular() || info.Size() != 0 || uid != uint32(os.Geteuid()) {
		f.Close()
		return nil, fmt.Errorf("%s is not a lock file of ours (mode %v, size %d, uid %d): %w",
			path, info.Mode(), info.Size(), uid, fs.ErrExist)
	}
	return f, nil
}

// unlockFile removes the file that lockFile returned, and only then unlocks it:
// whoever gets the lock of this file afterwards sees that it is worth nothing.
func unlockFile(f *os.File) error {
	err := isFileAt(f, f.Name())
	if err == nil {
		err = unlink(f.Name())
	}
	return errors.Join(err, f.Close())
}

// isFileAt returns nil if f is what path leads to.
func isFileAt(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return isAt(info, path)
}

// isAt returns nil if path leads to self, without following a link.
func isAt(self fs.FileInfo, path string) error {
	now, err := os.Lstat(path)
	if err == nil && !os.SameFile(now, self) {
		err = &fs.PathError{Op: "lstat", Path: path, Err: errReplaced}
	}
	return err
}

// unlink removes a file. Unlike os.Remove it never removes a folder.
func unlink(path string) error {
	if err := ignoringEINTR(func() error { return syscall.Unlink(path) }); err != nil {
		return &fs.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

// claimPath makes path a listening socket of ours. The caller holds the lock.
//
// It looks before it binds, since some systems bind through a dangling symbolic
// link.
func claimPath(path string, perm socketPerm, log *slog.Logger) (*net.UnixListener, fs.FileInfo, error) {
	for range maxTries {
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			l, self, err := bindSocket(path, perm)
			if errors.Is(err, syscall.EADDRINUSE) {
				continue // somebody who does not lock was faster
			}
			return l, self, err
		}
		if err != nil {
			return nil, nil, err
		}
		if info.Mode().Type() != fs.ModeSocket {
			return nil, nil, fmt.Errorf("what is there is not a socket (mode %v): %w", info.Mode(), fs.ErrExist)
		}
		live, err := probeSocket(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // its owner has just closed it
		case err != nil:
			return nil, nil, fmt.Errorf("is the socket in use? %w", err)
		case live:
			return nil, nil, ErrInUse
		}
		if err := unlink(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		logEvent(log, slog.LevelInfo, "removed the socket of a dead server", path, 0)
	}
	return nil, nil, syscall.EADDRINUSE
}

// probeSocket reports whether the socket at path still has an owner.
//
// It connects with a socket of another type than ours. The kernel looks for the
// owner first (ECONNREFUSED) and then at the type (EPROTOTYPE), so the answer does
// not depend on the owner's listening, or on the room in its backlog, and leaves
// no connection there to be accepted.
func probeSocket(path string) (live bool, err error) {
	fd, err := newSocket(syscall.SOCK_DGRAM)
	if err != nil {
		return false, err
	}
	defer syscall.Close(fd)
	err = ignoringEINTR(func() error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}) })
	switch err {
	case syscall.ECONNREFUSED:
		return false, nil
	case syscall.EPROTOTYPE, nil: // nil: a datagram socket, and alive
		return true, nil
	}
	return false, os.NewSyscallError("connect", err)
}

// bindSocket creates a socket at path, where nothing may be, and listens on it. It
// also returns what its file is known by.
func bindSocket(path string, perm socketPerm) (*net.UnixListener, fs.FileInfo, error) {
	fd, err := newSocket(syscall.SOCK_STREAM)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // the listener has a duplicate
	if err := limitMode(fd, perm); err != nil {
		return nil, nil, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		return nil, nil, os.NewSyscallError("bind", err)
	}
	self, err := os.Lstat(path)
	if err != nil {
		return nil, nil, err
	}
	if self.Mode().Type() != fs.ModeSocket {
		return nil, nil, &fs.PathError{Op: "bind", Path: path, Err: errReplaced}
	}
	l, err := listenBound(f, self, perm)
	if err != nil {
		return nil, nil, errors.Join(err, removeSocket(path, self))
	}
	return l, self, nil
}

// listenBound listens on the socket f, bound to its name, once the file has its
// permissions: before that nobody can connect, whatever the umask has left the
// file with. This is why it is not left to [net.Listen]. Changing the umask would
// be simpler, but it is the whole process's: files that other goroutines create
// meanwhile would be open to all.
func listenBound(f *os.File, self fs.FileInfo, perm socketPerm) (*net.UnixListener, error) {
	if err := setPerm(f.Name(), self, perm); err != nil {
		return nil, err
	}
	if err := syscall.Listen(int(f.Fd()), backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// newSocket returns a blocking socket that the children of this process do not
// inherit. Not every system can set both at once, so no child may be born
// meanwhile.
func newSocket(kind int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Socket(syscall.AF_UNIX, kind, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	syscall.CloseOnExec(fd)
	return fd, nil
}

// ignoringEINTR repeats a system call that a signal has interrupted.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

// removeSocket removes the file at path if it is self, a socket that is still
// bound.
//
// There is no lock for this, and no need of one: while the socket is bound nobody
// takes it over and its inode number is not given to another file, so that if the
// path leads to self, it does so until we unlink it. The exception is somebody who
// removes the file by hand and starts another server, all of that between our two
// system calls.
func removeSocket(path string, self fs.FileInfo) error {
	if err := isAt(self, path); err != nil {
		return err
	}
	return unlink(path)
}

// socketListener listens on a socket of ours, and removes its file in the end.
type socketListener struct {
	*net.UnixListener
	close func() error
}

// newSocketListener returns a listener that removes file on Close, provided that
// it still is self.
func newSocketListener(l *net.UnixListener, file string, self fs.FileInfo, log *slog.Logger) *socketListener {
	return &socketListener{l, sync.OnceValue(func() error {
		// In this order: an unbound socket's file is anybody's to take over.
		err := removeSocket(file, self)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errReplaced) {
			logEvent(log, slog.LevelWarn, "somebody else has removed the socket's file", file, 0, slog.Any("error", err))
			err = nil
		}
		if err = errors.Join(err, l.Close()); err != nil {
			return fmt.Errorf("ipc: close %s: %w", file, err)
		}
		return nil
	})}
}

// Close removes the socket's file, unless it has become somebody else's, and
// stops listening. Every call returns what the first returned.
func (l *socketListener) Close() error { return l.close() }
