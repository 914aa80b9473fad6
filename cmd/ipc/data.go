package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// parseType parses TYPE.
func parseType(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > wire.MaxType {
		return 0, usageError("TYPE %q is not a number from 1 to %d", s, wire.MaxType)
	}
	return n, nil
}

// readMessage returns the type and the data that the arguments TYPE [DATA] stand
// for.
func readMessage(args []string) (msgType int, data []byte, err error) {
	if msgType, err = parseType(args[0]); err != nil {
		return 0, nil, err
	}
	switch {
	case len(args) > 1:
		data, err = readData(args[1])
	case !isTerminal(os.Stdin):
		data, err = readAll(os.Stdin)
	}
	return msgType, data, err
}

// readData returns what DATA stands for.
func readData(s string) ([]byte, error) {
	if s == "-" {
		return readAll(os.Stdin)
	}
	if len(s) == 0 || s[0] != '@' {
		return []byte(s), nil
	}
	f, err := os.Open(s[1:])
	if err != nil {
		return nil, fmt.Errorf("read DATA: %w", err)
	}
	defer f.Close()
	return readAll(f)
}

// readAll reads f to its end, or until it is more than any message may have.
func readAll(f *os.File) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, wire.MaxLimit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read DATA: %w", err)
	case len(data) > wire.MaxLimit:
		return nil, fmt.Errorf("read DATA: %s has more than the %d bytes of the largest message", f.Name(), wire.MaxLimit)
	}
	return data, nil
}
