package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/joe-at-startupmedia/golang-ipc/internal/pipe"
)

// pipes is the folder of all named pipes.
const pipes = `\\.\pipe\`

// defaultDir is the library's default of SocketDir, which is a prefix of the
// names of pipes.
const defaultDir = ""

func socketPath(dir, name string) (string, error) { return pipe.Path(dir, name) }

// probe returns nil if there is a pipe of this name. The process does not notice
// it.
func probe(dir, name string) error {
	path, err := pipe.Path(dir, name)
	if err != nil {
		return err
	}
	return pipe.Probe(path)
}

// list returns the pipes whose names begin with dir: of all programs, since a pipe
// does not tell what is spoken through it.
func list(dir string) ([]server, error) {
	names, err := pipeNames()
	if err != nil {
		return nil, err
	}
	some, err := pipe.Path(dir, "x")
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(strings.TrimPrefix(some, pipes), "x")
	var servers []server
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
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

func listen(path string) (net.Listener, error) {
	l, err := pipe.Listen(path, pipe.Perm{Mode: 0o600})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func dial(ctx context.Context, path string) (net.Conn, error) { return pipe.Dial(ctx, path) }

// keepWriting does nothing: writing to a pipe without a reader fails here.
func keepWriting() {}
