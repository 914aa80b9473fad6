//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"io/fs"
	"math"
	"net"
	"os"
	"syscall"
)

// backlog is more than any system allows: each cuts it down to its somaxconn.
const backlog = math.MaxUint16

// bind creates a socket at path, where nothing may be, and listens on it. It also
// returns what its file is known by.
func bind(path string, perm Perm) (*net.UnixListener, fs.FileInfo, error) {
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
		return nil, nil, errors.Join(err, remove(path, self))
	}
	return l, self, nil
}

// listenBound listens on the socket f, bound to its name, once the file has its
// permissions: until then every connect is refused, whatever the umask has left
// the file with. This is why it is not left to [net.Listen]. Changing the umask
// would be simpler, but it is the whole process's: files that other goroutines
// create meanwhile would be open to all.
func listenBound(f *os.File, self fs.FileInfo, perm Perm) (*net.UnixListener, error) {
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

// remove removes the file at path if it is self, a socket that is still bound.
//
// There is no lock for this, and no need of one: while the socket is bound no
// other server takes it over and its inode number is not given to another file, so
// that if the path leads to self, it does so until the unlink here. The exception
// is a user who removes the file by hand and starts another server, all of that
// between the two system calls.
func remove(path string, self fs.FileInfo) error {
	if err := isAt(self, path); err != nil {
		return err
	}
	return unlink(path)
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
