package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// What probe says about a socket that no server can be reached by.
var (
	errNoSocket = errors.New("not a socket")
	errStale    = errors.New("left behind by a server that has ended")
)

// target is the server that a command talks to, and how to get there.
type target struct {
	name    string
	dir     string
	wait    bool
	encrypt bool
	timeout time.Duration // 0 is none
}

// dirFlag declares -dir.
func dirFlag(flags *flag.FlagSet, dir *string) {
	flags.StringVar(dir, "dir", defaultDir, "the `folder` of the socket")
}

// declare declares the flags that all commands have which connect.
func (t *target) declare(flags *flag.FlagSet) {
	dirFlag(flags, &t.dir)
	flags.BoolVar(&t.wait, "wait", false, "wait for the server if it is not there yet")
	flags.BoolVar(&t.encrypt, "encrypt", false, "refuse a server that does not encrypt")
}

// declareTimeout declares -timeout. what is what it also bounds.
func (t *target) declareTimeout(flags *flag.FlagSet, what string) {
	flags.DurationVar(&t.timeout, "timeout", 5*time.Second, "`limit` for connecting"+what+"; 0 is none")
}

// path returns the path of the socket.
func (t *target) path() (string, error) {
	path, err := socketPath(t.dir, t.name)
	if err != nil {
		return "", usageError("%w; NAME is without a folder, which is -dir, and without .sock", err)
	}
	return path, nil
}

// connect connects to the server. With handler nil the caller reads what comes.
func (t *target) connect(ctx context.Context, handler func(*ipc.Client, *ipc.Message)) (*ipc.Client, error) {
	path, err := t.path()
	if err != nil {
		return nil, err
	}
	if t.timeout < 0 {
		return nil, usageError("-timeout %v is negative", t.timeout)
	}
	if err := t.check(); err != nil && !t.wait {
		return nil, err
	}
	p := newPatience(ctx, t.timeout)
	defer p.end()
	client, err := ipc.StartClientContext(p, &ipc.ClientConfig{
		Name:       t.name,
		SocketDir:  t.dir,
		Encryption: t.encrypt,
		RetryTimer: time.Second,
		Handler:    handler,
		Logger:     logger(),
	})
	switch {
	case err == nil:
		return client, nil
	case p.expired():
		return nil, t.noPlace(path)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, ipc.ErrEncryptionRequired): // the library's advice is for programs
		return nil, failf(statusNoServer, "connect to %s: the server does not encrypt: leave -encrypt out, or set Encryption in its ServerConfig", path)
	case errors.Is(err, ipc.ErrVersion):
		err = fmt.Errorf("%w; is it a server of package ipc?", err)
	}
	return nil, &failure{statusNoServer, err}
}

// discard is the handler of commands that are not about what the server sends of its
// own accord. Unread, that would keep a reply behind it from being read. A request
// of the server ends without a reply.
func discard(*ipc.Client, *ipc.Message) {}

// check returns an error if no server can be connected to. It connects to
// none.
func (t *target) check() error {
	path, err := t.path()
	if err != nil {
		return err
	}
	err = probe(t.dir, t.name)
	switch {
	case err == nil, errors.Is(err, errors.ErrUnsupported):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(t.dir); errors.Is(err, fs.ErrNotExist) {
			return failf(statusNoServer, "no server %s: there is no folder %s; name the right one with -dir", printable(t.name), t.dir)
		}
		return failf(statusNoServer, "no server %s: there is no socket %s; start the server, wait for it with -wait, "+
			"or name another folder with -dir", printable(t.name), path)
	case errors.Is(err, errNoSocket):
		return failf(statusNoServer, "no server %s: %s is not a socket", printable(t.name), path)
	case errors.Is(err, errStale):
		return failf(statusNoServer, "no server %s: the socket %s was left behind by one that has ended; start it again, or wait for it with -wait",
			printable(t.name), path)
	case errors.Is(err, fs.ErrPermission):
		return failf(statusNoServer, "connect to %s: %w%s", path, err, whose(path))
	}
	return failf(statusNoServer, "connect to %s: %w", path, err)
}

// noPlace returns the error for a server that has not admitted the tool in time.
func (t *target) noPlace(path string) error {
	if err := t.check(); err != nil {
		return fmt.Errorf("%w (after %v)", err, t.timeout)
	}
	return failf(statusTimeout, "connect to %s: the server is there and has not admitted this client within %v: has it no place (it is not in MultiMode, "+
		"or at MaxClients), or does its Authorize refuse user %d? Or choose a longer -timeout", path, t.timeout, os.Geteuid())
}

// timeoutError returns the error for a wait that -timeout has ended. what was being waited
// for is in the words of the message, and so is what that means.
func (t *target) timeoutError(what, meaning string) error {
	return failf(statusTimeout, "%s %s: timeout after %v%s; -timeout is the limit", what, printable(t.name), t.timeout, meaning)
}

// logger takes the log of the library: errors are also returned, and reported by
// the tool.
func logger() *slog.Logger {
	if os.Getenv("IPC_DEBUG") != "" {
		return nil // the library's own
	}
	return slog.New(slog.DiscardHandler)
}
