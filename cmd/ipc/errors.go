package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Exit statuses. The package comment and showUsage have them, too.
const (
	statusOK          = 0
	statusReplyError  = 1
	statusUsage       = 2
	statusNoServer    = 3
	statusTimeout     = 4
	statusFailed      = 5
	statusInterrupted = 130 // 128 and the number of SIGINT
)

// failure is an error with the exit status that it stands for.
type failure struct {
	status int
	error
}

func (f *failure) Unwrap() error { return f.error }

func failf(status int, format string, args ...any) error {
	return &failure{status, fmt.Errorf(format, args...)}
}

func usageError(format string, args ...any) error { return failf(statusUsage, format, args...) }

// report writes to standard error what went wrong in a command, if anything did,
// and returns the exit status.
func report(command string, err error) int {
	if err == nil {
		return statusOK
	}
	status := statusFailed
	var f *failure
	var refused *ipc.ReplyError
	switch {
	case errors.As(err, &f):
		status = f.status
	case errors.As(err, &refused):
		status = statusReplyError
	case errors.Is(err, context.Canceled):
		return statusInterrupted // whoever pressed Ctrl-C knows
	}
	// The library's errors have its prefix, which is also the tool's name.
	text := strings.TrimPrefix(err.Error(), "ipc: ")
	fmt.Fprintf(os.Stderr, "ipc %s: %s\n", command, printable(text))
	return status
}

// errTimeout is the cause of the end of a patience's context.
var errTimeout = errors.New("timeout")

// patience is a context that ends with another one, or a while after the last
// call of renew.
type patience struct {
	context.Context
	limit time.Duration // 0 is none
	timer *time.Timer
	stop  context.CancelCauseFunc
}

func newPatience(ctx context.Context, limit time.Duration) *patience {
	ctx, stop := context.WithCancelCause(ctx)
	p := &patience{Context: ctx, limit: limit, stop: stop}
	if limit > 0 {
		p.timer = time.AfterFunc(limit, func() { stop(errTimeout) })
	}
	return p
}

// renew starts the limit anew, unless it has passed.
func (p *patience) renew() {
	if p.limit > 0 && p.timer.Stop() {
		p.timer.Reset(p.limit)
	}
}

// end releases what p holds.
func (p *patience) end() {
	if p.limit > 0 {
		p.timer.Stop()
	}
	p.stop(nil)
}

// expired reports whether the limit has passed.
func (p *patience) expired() bool { return context.Cause(p) == errTimeout }
