package sockfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// listenerPID returns the process that has the socket bound to path open, or 0 if
// that cannot be seen, as of other users' processes. It looks at the descriptors of
// all processes, which takes milliseconds: a connect would tell the same, but the
// server would take it for a client.
func listenerPID(path string) int {
	inode := boundInode(path)
	if inode == "" {
		return 0
	}
	link := fmt.Sprintf("socket:[%s]", inode)
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", p.Name(), "fd")
		descriptors, _ := os.ReadDir(dir) // of another user's process there are none
		for _, d := range descriptors {
			if to, err := os.Readlink(filepath.Join(dir, d.Name())); err == nil && to == link {
				return pid
			}
		}
	}
	return 0
}

// boundInode returns the inode, as in /proc/PID/fd, of the stream socket that was
// bound to path, and "" if there is none, or several: a file that was removed may
// have had the path, or one in another mount namespace.
func boundInode(path string) string {
	if !filepath.IsAbs(path) {
		return "" // the server's own folder may be another
	}
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return ""
	}
	const listens = "00010000" // __SO_ACCEPTCON, in the column of flags
	inode := ""
	for line := range strings.Lines(string(table)) {
		// Num RefCount Protocol Flags Type St Inode Path
		line, found := strings.CutSuffix(strings.TrimSuffix(line, "\n"), " "+path)
		columns := strings.Fields(line)
		if !found || len(columns) != 7 || columns[3] != listens {
			continue
		}
		if inode != "" {
			return ""
		}
		inode = columns[6]
	}
	return inode
}
