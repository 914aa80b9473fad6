package ipc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Flags that package syscall lacks, the same on every architecture that Go has.
const (
	oPath       = 0x200000 // O_PATH
	atEmptyPath = 0x1000   // AT_EMPTY_PATH
)

// limitMode sees to it that the file of the socket fd, not bound yet, never has a
// permission that perm does not grant, not even for an instant: bind gives it the
// mode of the descriptor, less the umask. Where the group is to change, the wrong
// one gets nothing.
func limitMode(fd int, perm socketPerm) error {
	mode := perm.mode.Perm()
	if perm.gid != -1 {
		mode &= 0o700
	}
	return os.NewSyscallError("fchmod", syscall.Fchmod(fd, uint32(mode)))
}

// setPerm gives the socket self at path the group and mode of perm. It holds on to
// the file by a descriptor, so that the path can be replaced, by a link too,
// without anything but the socket being changed.
func setPerm(path string, self fs.FileInfo, perm socketPerm) error {
	if perm.gid == -1 && self.Mode().Perm() == perm.mode.Perm() {
		return nil
	}
	f, err := os.OpenFile(path, oPath|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, self) {
		return &fs.PathError{Op: "open", Path: path, Err: errReplaced}
	}
	fd := int(f.Fd())
	if perm.gid != -1 {
		if err := syscall.Fchownat(fd, "", -1, perm.gid, atEmptyPath); err != nil {
			return fmt.Errorf("give %s to group %d: %w", path, perm.gid, os.NewSyscallError("fchownat", err))
		}
	}
	return chmodPath(fd, perm.mode.Perm())
}

// chmodPath sets the mode of the file that fd, an O_PATH descriptor, stands for.
// fchmod refuses such a descriptor; the link to it in /proc works on every kernel,
// and fchmodat2 does without /proc, since Linux 6.6. With neither it fails: what is
// left is chmod by path, which follows whatever link the path has been replaced by.
func chmodPath(fd int, mode fs.FileMode) error {
	err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.NewSyscallError("fchmodat2", syscall.Fchmodat(fd, "", uint32(mode), atEmptyPath))
	}
	return err
}
