// Package sockfile keeps Unix domain sockets as files: where a named socket lies,
// which of several servers gets it, what becomes of the file that a killed server
// left behind, and who may connect.
//
// Its errors have no prefix: package ipc puts "ipc:", the operation and the socket
// in front, once.
package sockfile

import (
	"os"
	"strings"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// Path returns the path of the socket that name stands for in dir, or an error
// that is [errs.Name]. The name is one element of a path and nothing else, so that
// no name leads out of dir. On a system without these sockets the path is good for
// a label.
func Path(dir, name string) (string, error) {
	if err := Check(dir, name, "/"+string(os.PathSeparator)); err != nil {
		return "", err
	}
	return address(dir + "/" + name + ".sock")
}

// Check returns an error that is [errs.Name] if no system can have the name in dir.
// The separators are those of the elements of a path.
func Check(dir, name, separators string) error {
	switch {
	case name == "":
		return errs.Name
	case name == "." || name == "..":
		return errs.Detailf(errs.Name, "ipcName cannot be %q", name)
	case strings.ContainsAny(name, separators):
		return errs.Detailf(errs.Name, "ipcName %q contains a path separator", name)
	case strings.ContainsRune(name, 0):
		return errs.Detailf(errs.Name, "ipcName %q contains a NUL", name)
	case strings.ContainsRune(dir, 0):
		return errs.Detailf(errs.Name, "SocketDir %q contains a NUL", dir)
	}
	return nil
}
