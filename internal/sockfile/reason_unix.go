//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// Errors of the system say what has failed. The functions here add why, as far as
// that can be seen, and what a person can do; the errors still match the system's.
// They look at the file once more, so what they see may be newer than the failure.

// dialError explains why a connect to path has failed.
func dialError(path string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err // ctx has ended
	}
	why := ""
	switch errno {
	case syscall.ENOENT:
		why = "no server of this Name is running, or it has another SocketDir"
		if dir := filepath.Dir(path); !exists(dir) {
			why = "there is no folder " + dir + ": the server has another SocketDir, or has never run"
		}
	case syscall.ECONNREFUSED:
		why = "no server listens on the socket that is there: it was killed, or has not quite started"
		if info, err := os.Stat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
			why = fmt.Sprintf("what is there is not a socket: mode %v", info.Mode())
		}
	case syscall.EAGAIN:
		why = "too many clients wait to be accepted: the server is busy, or stopped"
	case syscall.EACCES:
		why = fmt.Sprintf("this process, of %s, may not enter the folder of the socket", self())
		if info, err := os.Stat(path); err == nil {
			why = fmt.Sprintf("the socket is of %s, with mode %#o, and this process of %s: "+
				"Mode, Group and UnmaskPermissions of the server admit others", owner(info), info.Mode().Perm(), self())
		}
	}
	if why == "" {
		return errs.Detailf(err, "connect: %v", errno)
	}
	return errs.Detailf(err, "connect: %v (%s)", errno, why)
}

// createError explains why no file could be created in dir.
func createError(dir string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	info, statErr := os.Stat(dir)
	switch {
	case errno == syscall.ENOENT && statErr != nil:
		return errs.Detailf(err, "there is no folder %s: create it, or choose another SocketDir: %v", dir, errno)
	case errors.Is(errno, fs.ErrPermission) && statErr == nil:
		return errs.Detailf(err, "this process, of %s, may not create a file in the folder %s, which is of %s, with mode %#o: "+
			"choose another SocketDir: %v", self(), dir, owner(info), info.Mode().Perm(), errno)
	}
	return errs.Detailf(err, "cannot create a file in the folder %s: %v", dir, errno)
}

// ownedByOther explains why a socket, or its lock file, that another user owns is
// in the way.
func ownedByOther(info fs.FileInfo, what string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	return errs.Detailf(err, "%s is of %s, with mode %#o, and this process, of %s, can neither use nor remove it: "+
		"remove it as its user if no server is running, or choose another Name or SocketDir: %v",
		what, owner(info), info.Mode().Perm(), self(), errno)
}

// inUse says which process has the socket at path, if the system tells.
func inUse(path string) error {
	if pid := listenerPID(path); pid != 0 {
		return errs.Detailf(errs.InUse, "%v: process %d: stop it, or choose another Name or SocketDir", errs.InUse, pid)
	}
	return errs.Detailf(errs.InUse, "%v: stop it, or choose another Name or SocketDir", errs.InUse)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func owner(info fs.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("uid %d and gid %d", stat.Uid, stat.Gid)
}

func self() string { return fmt.Sprintf("uid %d and gid %d", os.Geteuid(), os.Getegid()) }
