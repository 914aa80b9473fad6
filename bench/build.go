package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program returns the path of the program that runs a contestant's workers, and
// builds it if it is not this one.
func program(ctx context.Context, c contestant, dir string) (string, error) {
	if c.folder == "" {
		return os.Executable()
	}
	if _, err := os.Stat(c.folder); err != nil {
		return "", errors.New("its program is not here: run the benchmark in its own folder")
	}
	if c.name == zeroMQ && exec.Command("pkg-config", "--exists", "libzmq").Run() != nil {
		return "", errors.New("libzmq was not found by pkg-config (package libzmq3-dev, or zeromq)")
	}
	out := filepath.Join(dir, c.folder)
	build := exec.CommandContext(ctx, "go", "build", "-o", out, ".")
	build.Dir = c.folder
	build.Env = append(os.Environ(), "GOWORK=off")
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, lastLine(said))
	}
	return out, nil
}

func lastLine(text []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return lines[len(lines)-1]
}
