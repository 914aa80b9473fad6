package sockfile

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

// limitMode keeps the file of the socket fd, not bound yet, from ever having a
// permission that perm does not grant, even for an instant: bind gives the file the
// mode of the descriptor, less the umask. Where the group is to change, the file
// begins with no permission for a group or for others.
func limitMode(fd int, perm Perm) error {
	mode := perm.Mode.Perm()
	if perm.GID != -1 {
		mode &= 0o700
	}
	return os.NewSyscallError("fchmod", syscall.Fchmod(fd, uint32(mode)))
}

// setPerm gives the socket self at path the group and mode of perm. It holds the
// file by a descriptor, so that nothing but the socket is changed even if the path
// is replaced meanwhile, by a link too.
func setPerm(path string, self fs.FileInfo, perm Perm) error {
	if perm.GID == -1 && self.Mode().Perm() == perm.Mode.Perm() {
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
	if perm.GID != -1 {
		if err := syscall.Fchownat(fd, "", -1, perm.GID, atEmptyPath); err != nil {
			return fmt.Errorf("give %s to group %d: %w", path, perm.GID, os.NewSyscallError("fchownat", err))
		}
	}
	return chmodPath(fd, perm.Mode.Perm())
}

// chmodPath sets the mode of the file that fd, an O_PATH descriptor, stands for.
// fchmod refuses such a descriptor; the link to it in /proc works on every kernel,
// and fchmodat2 does without /proc, since Linux 6.6. With neither it fails: what is
// left is chmod by path, which follows a link that the path may have been replaced
// by.
func chmodPath(fd int, mode fs.FileMode) error {
	err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.NewSyscallError("fchmodat2", syscall.Fchmodat(fd, "", uint32(mode), atEmptyPath))
	}
	return err
}
