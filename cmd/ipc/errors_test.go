package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(t.Context(), time.Second)
		defer p.end()
		for range 3 {
			time.Sleep(time.Second - 1)
			if p.Err() != nil {
				t.Fatal(p.Err())
			}
			p.renew()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !p.expired() {
			t.Error("not expired")
		}
		p.renew()
		if !p.expired() {
			t.Error("renew has undone the end")
		}

		ctx, cancel := context.WithCancel(t.Context())
		p = newPatience(ctx, 0)
		defer p.end()
		time.Sleep(1000 * time.Hour)
		p.renew()
		if p.Err() != nil {
			t.Error(p.Err())
		}
		cancel()
		if p.Err() == nil || p.expired() {
			t.Error("the end of the other context is not this one's, or counts as the limit's")
		}
	})
}

// TestEachPart has parts that take as long as each may, and more together.
func TestEachPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(t.Context(), time.Second)
		defer p.end()
		parts := func(yield func(*ipc.Message, error) bool) {
			for range 3 {
				time.Sleep(time.Second - 1)
				if !yield(&ipc.Message{}, p.Err()) {
					return
				}
			}
		}
		n := 0
		if err := eachPart(p, parts, func(*ipc.Message) error { n++; return nil }); err != nil || n != 3 {
			t.Errorf("%v after %d parts", err, n)
		}
	})
}
