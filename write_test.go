package ipc

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// Flush says what was dropped to every caller, however late the caller looks:
// by then more may have been queued, dropped or sent.
func TestFlushAfterSeveralLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s session
		s.init("flush", nil, Disconnected)
		o := &s.out

		type flush struct {
			returned chan error
			dropped  bool // what it is to return
		}
		var flushes []flush
		start := func(dropped bool) {
			f := flush{make(chan error, 1), dropped}
			go func() { f.returned <- o.awaitSent(t.Context()) }()
			synctest.Wait() // it waits
			flushes = append(flushes, f)
		}
		queue := func(n int) {
			o.mu.Lock()
			defer o.mu.Unlock()
			for range n {
				o.queue.append(1, nil)
			}
		}
		sent := func(n int) { o.advance(n * wire.HeaderSize) }

		queue(1)
		start(false)
		queue(2)
		start(true)

		// No caller runs before all of this has happened.
		o.mu.Lock()
		sent(1)
		o.drop()
		for range 3 {
			o.queue.append(1, nil)
			o.drop()
		}
		o.mu.Unlock()

		start(true) // of what was queued before, all that was left is dropped
		queue(1)
		o.mu.Lock()
		sent(1)
		o.mu.Unlock()
		start(false) // what was queued last has been sent
		for i, f := range flushes {
			if err := <-f.returned; errors.Is(err, ErrNotConnected) != f.dropped || err != nil && !f.dropped {
				t.Errorf("Flush %d: %v, want an error: %t", i, err, f.dropped)
			}
		}
	})
}
