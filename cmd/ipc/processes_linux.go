package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// addProcesses adds to each server the processes that have its socket open, as far
// as this user may see that.
//
// The kernel tells which sockets listen, by the path that each was bound to, in
// /proc/net/unix, and which sockets a process has open in its folder. A path there
// may be relative to the folder that the process was in, and another file may be
// at it by now: so the last part is compared first, and then the file itself.
func addProcesses(servers []server) {
	names := make(map[string][]*server)
	for i, s := range servers {
		if s.State != stateStale {
			base := filepath.Base(s.Path)
			names[base] = append(names[base], &servers[i])
		}
	}
	listening := make(map[string]string) // by inode, where it was bound
	for inode, path := range listeners() {
		if names[filepath.Base(path)] != nil {
			listening[inode] = path
		}
	}
	if len(listening) == 0 {
		return
	}
	for _, pid := range processes() {
		for _, inode := range socketsOf(pid) {
			path, ok := listening[inode]
			if !ok {
				continue
			}
			for _, s := range names[filepath.Base(path)] {
				if isBoundTo(pid, path, s.Path) && !slices.Contains(s.PIDs, pid) {
					s.PIDs = append(s.PIDs, pid)
				}
			}
		}
	}
}

// listening is the flag of a socket that listens.
const listening = 0x10000

// listeners returns the paths of all listening sockets with one, by inode.
func listeners() map[string]string {
	all := make(map[string]string)
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return all
	}
	for line := range bytes.Lines(table) {
		// Num RefCount Protocol Flags Type St Inode Path
		rest := strings.TrimSuffix(string(line), "\n")
		var fields [7]string
		for i := range fields {
			fields[i], rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
		}
		flags, err := strconv.ParseUint(fields[3], 16, 64)
		if err == nil && flags&listening != 0 && rest != "" {
			all[fields[6]] = rest
		}
	}
	return all
}

// processes returns the processes that there are, in order.
func processes() (pids []int) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// socketsOf returns the inodes of the sockets that a process has open. There are
// none if it has ended, or if this user may not see it.
func socketsOf(pid int) (inodes []string) {
	folder := "/proc/" + strconv.Itoa(pid) + "/fd"
	fds, err := os.Open(folder)
	if err != nil {
		return nil
	}
	defer fds.Close()
	names, _ := fds.Readdirnames(-1)
	for _, name := range names {
		link, err := os.Readlink(folder + "/" + name)
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes
}

// isBoundTo reports whether bound, a path as a process sees it, leads to the file
// at path.
func isBoundTo(pid int, bound, path string) bool {
	self, err := os.Lstat(path)
	if err != nil {
		return false
	}
	if root := "/proc/" + strconv.Itoa(pid); filepath.IsAbs(bound) {
		bound = root + "/root" + bound
	} else {
		bound = root + "/cwd/" + bound
	}
	there, err := os.Stat(bound)
	return err == nil && os.SameFile(self, there)
}
