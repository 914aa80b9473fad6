package bridge

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Bounds of the parts of one reply that are under way: sent, and not yet taken by
// the requester. One part may exceed them. A requester says how far it is after
// ackParts or ackBytes at the latest.
const (
	windowParts = 1024
	windowBytes = 4 << 20
	ackParts    = windowParts / 16
	ackBytes    = windowBytes / 16
)

// stallIntervals is for how many times KeepAlive a requester may take no part while
// as many as may be are under way.
const stallIntervals = 5

var errStalled = errors.New("the requester does not take the parts of the reply")

// window counts the parts under way. add and wait are called by one goroutine.
type window struct {
	mu    sync.Mutex // guards what follows
	sizes []int      // of the parts that were sent after the first first
	first int        // that have been taken
	bytes int        // of sizes
	room  chan struct{}
}

// wait waits until another part may be sent: until ctx ends, and as long as the
// requester takes some within each limit.
func (w *window) wait(ctx context.Context, limit time.Duration) error {
	var stalled *time.Timer
	for {
		w.mu.Lock()
		if w.room == nil {
			w.room = make(chan struct{}, 1)
		}
		ok, room := len(w.sizes) < windowParts && w.bytes < windowBytes, w.room
		w.mu.Unlock()
		if ok {
			return nil
		}
		if stalled == nil {
			stalled = time.NewTimer(limit)
			defer stalled.Stop()
		}
		select {
		case <-room: // not enough, perhaps, if the parts are small and the last was large
			stalled.Reset(limit)
		case <-ctx.Done():
			return ctx.Err()
		case <-stalled.C:
			return errStalled
		}
	}
}

// add counts a part that is sent.
func (w *window) add(size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sizes = append(w.sizes, size)
	w.bytes += size
}

// taken records that the requester has taken the first n parts.
func (w *window) taken(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n -= w.first
	if n <= 0 || n > len(w.sizes) {
		return
	}
	for _, size := range w.sizes[:n] {
		w.bytes -= size
	}
	w.sizes = w.sizes[n:]
	w.first += n
	select {
	case w.room <- struct{}{}: // nil, and never ready, before the first wait
	default:
	}
}
