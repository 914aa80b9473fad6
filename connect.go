package ipc

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// socketPerm is what becomes of the socket file, whatever the umask.
type socketPerm struct {
	mode fs.FileMode // permission bits
	gid  int         // group, as of lookupGroup; -1 leaves it
}

// joinPath returns the path that name stands for in dir. It takes the name for
// one element of a path and nothing else, so that no name leads out of dir.
func joinPath(dir, name string) (string, error) {
	switch {
	case name == "":
		return "", fmt.Errorf("ipc: %w", ErrName)
	case name == "." || name == "..":
		return "", detailf(ErrName, "ipc: ipcName cannot be %q", name)
	case strings.ContainsAny(name, "/"+string(os.PathSeparator)):
		return "", detailf(ErrName, "ipc: ipcName %q contains a path separator", name)
	case strings.ContainsRune(name, 0):
		return "", detailf(ErrName, "ipc: ipcName %q contains a NUL", name)
	case strings.ContainsRune(dir, 0):
		return "", detailf(ErrName, "ipc: SocketDir %q contains a NUL", dir)
	}
	return dir + "/" + name + ".sock", nil
}
