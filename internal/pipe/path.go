// Package pipe keeps the named pipes of Windows: what a name is called there, which
// of several servers gets it, who may connect, and connections as package net has
// them. It is for Windows what package sockfile is for systems with Unix sockets.
//
// Its errors have no prefix: package ipc puts "ipc:", the operation and the pipe
// in front, once.
package pipe

import (
	"strings"
	"unicode/utf16"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/sockfile"
)

// prefix is what the names of all pipes of this machine begin with.
const prefix = `\\.\pipe\`

// separators are between the elements of a name.
const separators = `/\`

// maxPath is the longest name of a pipe, with its prefix, in UTF-16 (CreateNamedPipe).
const maxPath = 256

// Path returns the name of the pipe that name stands for in dir, or an error that
// is [errs.Name]. There are no folders for pipes: dir is a prefix of the name. What
// Windows would change in a name, so that another is meant, is refused.
func Path(dir, name string) (string, error) {
	if err := sockfile.Check(dir, name, separators); err != nil {
		return "", err
	}
	if changes(name) {
		return "", errs.Detailf(errs.Name, "ipcName %q ends with a dot or a space", name)
	}
	path := prefix
	for _, element := range strings.FieldsFunc(dir, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		if changes(element) {
			return "", errs.Detailf(errs.Name, "SocketDir %q has %q, which ends with a dot or a space", dir, element)
		}
		path += element + `\`
	}
	path += name
	if n := len(utf16.Encode([]rune(path))); n > maxPath {
		return "", errs.Detailf(errs.Name, "the name %s has %d characters: %d are the most", path, n, maxPath)
	}
	return path, nil
}

// changes reports whether Windows changes an element of a path: "." and ".." lead
// elsewhere, and dots and spaces at the end are cut off.
func changes(element string) bool { return strings.TrimRight(element, ". ") != element }
