//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package sockfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// limitMode does nothing: a socket's descriptor has no mode here that bind would
// heed. Until setPerm the file has what the umask leaves, and every connect is
// refused, since the socket does not listen yet.
func limitMode(int, Perm) error { return nil }

// setPerm gives the socket self at path the group and mode of perm. It does not
// follow a link that the path might have been replaced by; another file in the
// socket's own folder is all that could be changed instead, and that only where
// the folder lets other users replace this one's files.
func setPerm(path string, self fs.FileInfo, perm Perm) error {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	name := filepath.Base(path)
	info, err := dir.Lstat(name)
	if err != nil {
		return err
	}
	if !os.SameFile(info, self) {
		return &fs.PathError{Op: "lstat", Path: path, Err: errReplaced}
	}
	if perm.GID != -1 {
		if err := dir.Lchown(name, -1, perm.GID); err != nil {
			return fmt.Errorf("give %s to group %d: %w", path, perm.GID, err)
		}
	}
	return dir.Chmod(name, perm.Mode.Perm())
}
