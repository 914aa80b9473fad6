//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package ipc

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// limitMode does nothing: a socket's descriptor has no mode here that bind would
// heed. Until setPerm the file has what the umask leaves, which lets nobody in, as
// nobody listens yet.
func limitMode(int, socketPerm) error { return nil }

// setPerm gives the socket self at path the group and mode of perm. It does not
// follow a link that the path might have been replaced by; another file in the
// socket's own folder is all that could be changed instead, and that only where
// the folder lets strangers replace our files.
func setPerm(path string, self fs.FileInfo, perm socketPerm) error {
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
	if perm.gid != -1 {
		if err := dir.Lchown(name, -1, perm.gid); err != nil {
			return fmt.Errorf("give %s to group %d: %w", path, perm.gid, err)
		}
	}
	return dir.Chmod(name, perm.mode.Perm())
}
