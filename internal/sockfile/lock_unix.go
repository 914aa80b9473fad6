//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// lock creates or opens the file at path, and returns it locked. Other callers
// wait until it is unlocked or the process that holds it ends.
func lock(path string) (*os.File, error) {
	for range maxTries {
		f, err := createLock(path)
		switch {
		case errors.Is(err, fs.ErrExist):
			f, err = openLock(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // unlocked in between
			}
		case err != nil:
			err = createError(filepath.Dir(path), err)
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
		// The process that held the lock has removed the file, and others
		// are locking its successor by now.
		f.Close()
	}
	return nil, &fs.PathError{Op: "lock", Path: path, Err: errReplaced}
}

// lockFlags open what is at the path itself, not what a link there leads to, and
// do not wait for the other end of a fifo.
const lockFlags = os.O_RDWR | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// createLock creates a lock file. O_EXCL makes the mere existence of a file an
// error that says so: in a sticky folder the kernel may refuse O_CREAT alone for
// another user's file, as if for lack of permission.
func createLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, lockFlags|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// The umask may be one that keeps other processes of the same user from
	// it. Should this fail they are refused, which is safe.
	_ = f.Chmod(0o600)
	return f, nil
}

// openLock opens an existing lock file, which must be empty and the user's own.
// Another user could keep theirs locked for ever, and a file with content is a
// document, which unlock would remove.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, lockFlags, 0)
	if err != nil {
		if info, statErr := os.Lstat(path); statErr == nil {
			err = ownedByOther(info, "the lock file "+path, err)
		}
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

// unlock removes the file that lock returned, and only then unlocks it: a process
// that gets the lock of this file afterwards sees that the file is gone, and
// starts over.
func unlock(f *os.File) error {
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
