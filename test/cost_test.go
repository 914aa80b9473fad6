//go:build unix

package ipc_test

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// What things cost that a program does not see: memory and processor time.

// A message that is kept holds on to little more than itself.
func TestKeptMessages(t *testing.T) {
	for _, tt := range []struct {
		size, messages, every int
		pins                  uint64 // bytes, for each message that is kept
	}{
		{64, 1_000_000, 1000, 5 << 10},
		{1000, 100_000, 100, 6 << 10},
		{5000, 10_000, 100, 8 << 10},
	} {
		messages := tt.messages
		if testing.Short() {
			messages /= 10
		}
		t.Run(fmt.Sprint(tt.size), func(t *testing.T) {
			eachPair(t, unixSetups[:1], func(t *testing.T, p *pair) {
				before := live()
				written := background(func() error {
					data := make([]byte, tt.size)
					for range messages {
						if err := p.client.Write(1, data); err != nil {
							return err
						}
					}
					return nil
				})
				kept := make([]*ipc.Message, 0, messages/tt.every)
				for i := range messages {
					m := next(t, p.peer)
					if i%tt.every == 0 {
						kept = append(kept, m)
					}
				}
				noError(t, "Write", written())
				// What the other end still tidies up is none of it.
				pins := uint64(len(kept)) * tt.pins
				if !eventually(func() bool { return live() < before+pins }) {
					t.Errorf("%d messages of %d bytes hold %d KiB, want less than %d", len(kept), tt.size, (live()-before)>>10, pins>>10)
				} else {
					t.Logf("%d messages of %d bytes hold %d KiB", len(kept), tt.size, (live()-min(before, live()))>>10)
				}
				runtime.KeepAlive(kept)
			})
		})
	}
}

// A connection over which nothing goes owns no buffer at either end, whatever
// has gone over it before.
func TestIdleConnections(t *testing.T) {
	const (
		clients = 100
		allowed = clients * 32 << 10 // both ends; one buffer to read into is 68 KiB
	)
	eachSeal(t, func(t *testing.T, tweaks ...tweak) {
		begin(t)
		s := unixMulti
		route := s.open(t)
		server := s.startServer(t, route, tweaks...)
		noise() // is not to be counted
		before := live()
		for range clients {
			client := route.startClient(t)
			peer := s.join(t, server)
			for _, size := range []int{10, 1000, 100_000} {
				noError(t, "Write", client.Write(1, payload(size, size)))
				got := readManager(t, server.ServerManager)
				wantSame(t, got[0].message, 1, payload(size, size))
				noError(t, "Write", peer.Write(2, payload(size, size)))
				wantMessage(t, client, 2, payload(size, size))
			}
		}
		if !eventually(func() bool { return live() < before+allowed }) {
			t.Errorf("%d idle connections hold %d KiB, want less than %d", clients, (live()-before)>>10, allowed>>10)
		} else {
			t.Logf("%d idle connections hold %d KiB", clients, (live()-min(before, live()))>>10)
		}
	})
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A reader with BusyPoll tries again and again for that long after a message,
// and then sleeps like any other.
//
// Pins doc.go, "Performance": uses a core to save the time that a sleeping reader takes to wake up
func TestBusyPollEnds(t *testing.T) {
	// enough is much more than two ends need that sleep.
	const enough = 75 * time.Millisecond
	// used is what it costs that both ends wait for a message, after they have
	// had one: for limit, or until that was enough.
	used := func(poll, limit time.Duration, s setup) (used time.Duration) {
		t.Run(fmt.Sprint(s, " ", poll), func(t *testing.T) {
			begin(t)
			p := s.pair(t, func(sc *ipc.ServerConfig, cc *ipc.ClientConfig) {
				if sc != nil {
					sc.BusyPoll = poll
				}
				if cc != nil {
					cc.BusyPoll = poll
				}
			})
			p.check(t)
			ctx, cancel := context.WithCancel(t.Context())
			wait := func(e side) func() error {
				return background(func() error { return second(e.ReadContext(ctx)) })
			}
			before := processorTime()
			server, client := wait(p.peer), wait(p.client)
			end := time.Now().Add(limit)
			tick := time.NewTicker(25 * time.Millisecond)
			defer tick.Stop()
			for used < enough && time.Now().Before(end) {
				<-tick.C
				used = processorTime() - before
			}
			cancel()
			wantError(t, "ReadContext", server(), context.Canceled)
			wantError(t, "ReadContext", client(), context.Canceled)
		})
		return used
	}
	for _, s := range unixSetups {
		idle := used(time.Millisecond, 150*time.Millisecond, s)
		busy := used(time.Hour, 2*time.Second, s) // the machine may have little to give
		t.Logf("%v: %v with a poll that is over, %v with one that goes on", s, idle, busy)
		if idle > enough/3 {
			t.Errorf("%v: %v of processor time in 150 ms after the end of BusyPoll, want next to none", s, idle)
		}
		if busy < enough {
			t.Errorf("%v: %v of processor time during BusyPoll, want %v", s, busy, enough)
		}
	}
}
