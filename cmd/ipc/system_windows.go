package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
)

// pipes is the folder of all named pipes.
const pipes = `\\.\pipe\`

// defaultDir is the library's default of SocketDir, which is a prefix of the
// names of pipes.
const defaultDir = ""

// probe returns nil if there is a pipe of this name. The process does not notice
// it.
func probe(dir, name string) error {
	names, err := pipeNames()
	if err != nil {
		return err
	}
	same := func(other string) bool { return strings.EqualFold(dir+name, other) }
	if !slices.ContainsFunc(names, same) {
		return fs.ErrNotExist
	}
	return nil
}

// list returns the pipes whose names begin with dir: of all programs, since a pipe
// does not tell what is spoken through it.
func list(dir string) ([]server, error) {
	names, err := pipeNames()
	if err != nil {
		return nil, err
	}
	var servers []server
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, dir); ok {
			servers = append(servers, server{Name: rest, Path: pipes + name, State: stateAlive})
		}
	}
	return servers, nil
}

func pipeNames() ([]string, error) {
	entries, err := os.ReadDir(pipes)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

func whose(string) string { return "" }

// listen fails: proxy is for systems with Unix domain sockets.
func listen(path string) (net.Listener, error) {
	return nil, fmt.Errorf("listen on %s: %w on this system", path, errors.ErrUnsupported)
}

// dial fails, like listen.
func dial(_ context.Context, path string) (net.Conn, error) {
	return nil, fmt.Errorf("dial %s: %w on this system", path, errors.ErrUnsupported)
}

// keepWriting does nothing: writing to a pipe without a reader fails here.
func keepWriting() {}
