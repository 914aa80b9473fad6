package ipc

import (
	"context"
	"errors"
	"time"
)

// waitLimit says how long a call waits. The zero value has no limit.
type waitLimit struct {
	ctx      context.Context
	timed    bool
	d        time.Duration
	deadline time.Time // once start has been called
}

// errExpired is the end of a timed wait.
var errExpired = errors.New("nothing came in time")

func (w *waitLimit) start() {
	if w.timed && w.deadline.IsZero() {
		w.deadline = time.Now().Add(w.d)
	}
}

// err returns why the limit has passed, or nil.
func (w *waitLimit) err() error {
	if w.timed && (w.d <= 0 || !time.Now().Before(w.deadline)) {
		return errExpired
	}
	if w.ctx != nil {
		return w.ctx.Err()
	}
	return nil
}

// wait waits for a or b, and no longer than the limit. It reports whether it was
// a that ended the wait.
func (w *waitLimit) wait(a, b <-chan struct{}) bool {
	var timeout <-chan time.Time
	if w.timed {
		t := time.NewTimer(time.Until(w.deadline))
		defer t.Stop()
		timeout = t.C
	}
	var done <-chan struct{}
	if w.ctx != nil {
		done = w.ctx.Done()
	}
	select {
	case <-a:
		return true
	case <-b:
	case <-timeout:
	case <-done:
	}
	return false
}
