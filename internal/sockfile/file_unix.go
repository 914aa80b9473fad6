//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// maxTries bounds the loops that start over because another process was faster.
// It is far more than the starters that can get in the way, and keeps a file
// system that contradicts itself from making a loop endless.
const maxTries = 10_000

// errReplaced says that a path leads to another file than it did.
var errReplaced = errors.New("replaced by another file")

// isAt returns nil if path leads to self, without following a link.
func isAt(self fs.FileInfo, path string) error {
	now, err := os.Lstat(path)
	if err == nil && !os.SameFile(now, self) {
		err = &fs.PathError{Op: "lstat", Path: path, Err: errReplaced}
	}
	return err
}

// unlink removes a file. Unlike [os.Remove] it never removes a folder.
func unlink(path string) error {
	if err := ignoringEINTR(func() error { return syscall.Unlink(path) }); err != nil {
		return &fs.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

// ignoringEINTR repeats a system call that a signal has interrupted.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}
