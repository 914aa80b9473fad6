package ipc_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func TestTimeoutMessage(t *testing.T) {
	m := ipc.TimeoutMessage
	if m.MsgType != 2 || m.Err == nil || m.Err.Error() != "timed_out" || !errors.Is(m.Err, ipc.ErrTimeout) {
		t.Errorf("TimeoutMessage is %+v", *m)
	}
}

// ReadTimed takes d when nothing comes, no more and no less, and returns what
// it was given.
//
// Pins doc.go, "Reading": Client.ReadTimed waits for so long, and then returns TimeoutMessage, or a message of the caller's own
func TestReadTimedWaits(t *testing.T) {
	eachWireBubble(t, func(t *testing.T, p *wirePair) {
		mine := &ipc.Message{MsgType: 77}
		for _, tt := range []struct {
			d               time.Duration
			onTimeout, want *ipc.Message
		}{
			{time.Second, nil, ipc.TimeoutMessage},
			{time.Hour, mine, mine},
			{1, mine, mine},
			{0, nil, ipc.TimeoutMessage},
			{0, mine, mine},
			{-time.Second, mine, mine},
		} {
			start := time.Now()
			m, err := p.ReadTimed(tt.d, tt.onTimeout)
			if m != tt.want || err != nil {
				t.Errorf("ReadTimed(%v) gave %s (%v)", tt.d, describe(m), err)
			}
			wantElapsed(t, "ReadTimed", start, max(tt.d, 0))
		}

		// What the library keeps to itself does not end the wait, nor does
		// half a frame.
		start := time.Now()
		read := background(func() *ipc.Message {
			m, err := p.ReadTimed(time.Minute, mine)
			if err != nil {
				t.Error("ReadTimed:", err)
			}
			return m
		})
		time.Sleep(time.Second)
		late := encode(5, []byte("late"))
		p.raw.send(encode(0, []byte("control")), late[:9])
		if m := read(); m != mine {
			t.Errorf("ReadTimed gave %s", describe(m))
		}
		wantElapsed(t, "ReadTimed", start, time.Minute)
		p.raw.send(late[9:])
		wantMessage(t, p, 5, []byte("late"))
	})
}

// A message ends the wait.
func TestReadTimedReturnsEarly(t *testing.T) {
	eachWireBubble(t, func(t *testing.T, p *wirePair) {
		start := time.Now()
		read := background(func() *ipc.Message {
			m, err := p.ReadTimed(time.Hour, nil)
			if err != nil {
				t.Error("ReadTimed:", err)
			}
			return m
		})
		time.Sleep(time.Minute)
		p.raw.send(encode(3, []byte("now")))
		m := read()
		wantSame(t, m, 3, []byte("now"))
		wantElapsed(t, "ReadTimed", start, time.Minute)
	})
}

// However a wait ends, and however often: no message is lost, none comes
// twice or out of order, and no goroutine is started for a call.
//
// Pins doc.go, "Reading": nothing is lost, duplicated or reordered
func TestTimeoutsLoseNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		read func(side) (*ipc.Message, error)
	}{
		{"ReadTimed", func(e side) (*ipc.Message, error) { return e.ReadTimed(300*time.Microsecond, nothing) }},
		{"ReadTimed polls", func(e side) (*ipc.Message, error) { return e.ReadTimed(0, nothing) }},
		{"ReadContext", func(e side) (*ipc.Message, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Microsecond)
			defer cancel()
			m, err := e.ReadContext(ctx)
			if err != nil && err == ctx.Err() {
				return nothing, nil
			}
			return m, err
		}},
		{"Messages", func(e side) (*ipc.Message, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Microsecond)
			defer cancel()
			for m, err := range e.Messages(ctx) {
				if err != nil && err == ctx.Err() {
					return nothing, nil
				}
				return m, err
			}
			return nil, errors.New("Messages yielded nothing")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachDirection(t, everySetup, func(t *testing.T, from, to side) {
				timeoutsLoseNothing(t, from, to, fewer(100), tt.read)
			})
		})
	}
}

func timeoutsLoseNothing(t *testing.T, from, to side, n int, read func(side) (*ipc.Message, error)) {
	t.Helper()
	// Each burst leaves just when a wait has ended, so that the next may begin
	// while it arrives.
	const burst = 10
	timedOut := make(chan struct{}, 1)
	sent := background(func() error {
		for i := range n {
			if i%burst == 0 {
				<-timedOut
			}
			if err := from.Write(i+1, payload(i, i%300)); err != nil {
				return err
			}
		}
		return nil
	})
	goroutines := runtime.NumGoroutine()
	for i := 0; i < n; {
		m, err := read(to)
		noError(t, "read", err)
		if m == nothing {
			select {
			case timedOut <- struct{}{}:
			default:
			}
			runtime.Gosched() // a poll must leave the others the processor
			continue
		}
		wantSame(t, m, i+1, payload(i, i%300))
		i++
		if now := runtime.NumGoroutine(); now > goroutines+10 {
			t.Fatalf("%d goroutines before, %d after %d messages", goroutines, now, i)
		}
	}
	noError(t, "Write", sent())
}

// The same at length, with what most programs call.
func TestReadTimedAtLength(t *testing.T) {
	eachDirection(t, unixSetups[:1], func(t *testing.T, from, to side) {
		timeoutsLoseNothing(t, from, to, 3000, func(e side) (*ipc.Message, error) {
			return e.ReadTimed(300*time.Microsecond, nothing)
		})
	})
}

// ReadContext returns the context's error, and is the side's no more.
//
// Pins doc.go, "Reading": Client.ReadContext waits until a context ends
func TestReadContext(t *testing.T) {
	eachWireBubble(t, func(t *testing.T, p *wirePair) {
		ctx, cancel := context.WithCancel(t.Context())
		read := background(func() error { return second(p.ReadContext(ctx)) })
		synctest.Wait()
		cancel()
		if err := read(); err != context.Canceled {
			t.Errorf("ReadContext: %v, want %v", err, context.Canceled)
		}
		if err := second(p.ReadContext(ctx)); err != context.Canceled {
			t.Errorf("ReadContext: %v, want %v", err, context.Canceled)
		}

		start := time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := second(p.ReadContext(ctx)); err != context.DeadlineExceeded {
			t.Errorf("ReadContext: %v, want %v", err, context.DeadlineExceeded)
		}
		wantElapsed(t, "ReadContext", start, time.Minute)

		p.raw.send(encode(1, []byte("still here")))
		m, err := p.ReadContext(t.Context())
		noError(t, "ReadContext", err)
		wantSame(t, m, 1, []byte("still here"))
	})
}

// Messages yields each message and event, then one error, as its last.
//
// Pins doc.go, "Reading": Client.Messages is an iterator over the same
func TestMessages(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		for i := range 10 {
			noError(t, "Write", from.Write(i+1, nil))
		}
		i := 0
		for m, err := range to.Messages(t.Context()) {
			noError(t, "Messages", err)
			wantSame(t, m, i+1, nil)
			if i++; i == 5 {
				break // costs no message
			}
		}
		wantMessage(t, to, 6, nil)

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last error
		for m, err := range to.Messages(ctx) {
			if last != nil {
				t.Fatalf("Messages goes on after %v", last)
			}
			if last = err; err != nil {
				if m != nil {
					t.Errorf("Messages yields %s together with %v", describe(m), err)
				}
				continue
			}
			i++
			if wantSame(t, m, i+1, nil); i == 9 {
				cancel()
			}
		}
		if last != context.Canceled {
			t.Errorf("Messages ended with %v, want %v", last, context.Canceled)
		}

		noError(t, "Close", to.Close())
		var all []string
		for m, err := range to.Messages(t.Context()) {
			if last = err; err == nil {
				all = append(all, describe(m))
			}
		}
		wantError(t, "end of Messages", last, ipc.ErrClosed)
		if len(all) != 1 || all[0] != "Closed" {
			t.Errorf("Messages yielded %q after Close, want Closed", all)
		}
	})
}

// Readers may share a side: each message goes to one of them, and each
// of them sees its own in order.
func TestConcurrentReaders(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		const n = 1000
		var (
			mu     sync.Mutex
			seen   = make(map[int]int)
			events []string
			once   sync.Once
			wg     sync.WaitGroup
		)
		reads := []func() (*ipc.Message, error){
			to.Read,
			to.Read,
			func() (*ipc.Message, error) { return to.ReadTimed(100*time.Microsecond, nil) },
			func() (*ipc.Message, error) { return to.ReadContext(context.Background()) },
			func() (*ipc.Message, error) {
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Microsecond)
				defer cancel()
				m, err := to.ReadContext(ctx)
				if errors.Is(err, context.DeadlineExceeded) {
					return ipc.TimeoutMessage, nil
				}
				return m, err
			},
		}
		all := make(chan struct{})
		for _, read := range reads {
			wg.Go(func() {
				last := 0
				for {
					m, err := read()
					switch {
					case err != nil:
						wantError(t, "end of a reader", err, ipc.ErrClosed)
						return
					case m == ipc.TimeoutMessage:
						continue
					case m.MsgType > 0 && m.MsgType <= last:
						t.Errorf("a reader got message %d after %d", m.MsgType, last)
					}
					mu.Lock()
					if m.MsgType < 0 {
						events = append(events, m.Status)
					} else {
						last = m.MsgType
						if seen[last]++; len(seen) == n {
							once.Do(func() { close(all) })
						}
					}
					mu.Unlock()
				}
			})
		}
		for i := range n {
			noError(t, "Write", from.Write(i+1, payload(i, i%100)))
		}
		<-all
		noError(t, "Close", to.Close())
		wg.Wait()
		if len(events) != 1 || events[0] != "Closed" {
			t.Errorf("events %q, want Closed once for all readers", events)
		}
		for i, times := range seen {
			if times != 1 {
				t.Errorf("message %d was read %d times", i, times)
			}
		}
	})
}

// A reader that stops costs the sender its progress, and the process no
// memory beyond the inbox's bound, however small the messages are.
//
// Pins doc.go, "Reading": What is unread is held in memory up to about 1 MiB for each connection
func TestInboxIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name        string
		size, limit int // of one message, and of those taken in
	}{
		{"empty", 0, 40_000},
		{"small", 64, 20_000},
		{"large", 100_000, 30},
		{"huge", defaultMaxMsgSize, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachWireBubble(t, func(t *testing.T, p *wirePair) {
				taken := 0
				frame := encode(1, payload(0, tt.size))
				sent := background(func() error {
					for ; ; taken++ {
						if _, err := p.raw.Write(frame); err != nil {
							return err
						}
					}
				})
				time.Sleep(time.Hour)
				synctest.Wait()
				if stats := p.Stats(); taken > tt.limit || taken == 0 || stats.MessagesIn == 0 {
					t.Errorf("%d messages taken, want a few up to %d; %+v", taken, tt.limit, stats)
				}
				for range taken + 10 { // a reader lets it go on
					wantMessage(t, p, 1, frame[8:])
				}
				p.raw.Close()
				sent()
			})
		})
	}
}

// Release is optional and harmless wherever it is called, and how often.
func TestRelease(t *testing.T) {
	var none *ipc.Message
	none.Release()
	ipc.TimeoutMessage.Release()
	if ipc.TimeoutMessage.MsgType != 2 {
		t.Error("Release changed TimeoutMessage")
	}
	new(ipc.Message).Release()

	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		const n = 60
		size := func(i int) int { return []int{0, 10, 5000, 40_000, 300_000}[i%5] }
		sent := background(func() error {
			for i := range n {
				if err := from.Write(i+1, payload(i, size(i))); err != nil {
					return err
				}
			}
			return nil
		})
		kept := make(map[int]*ipc.Message)
		for i := range n {
			m := next(t, to)
			wantSame(t, m, i+1, payload(i, size(i)))
			if i%4 == 3 {
				kept[i] = m
				continue
			}
			twin := *m
			m.Release()
			m.Release()
			twin.Release() // a second time, through a copy
		}
		noError(t, "Write", sent())
		for i, m := range kept { // their memory was not used again
			wantSame(t, m, i+1, payload(i, size(i)))
		}
		to.Close()
		wantEventReleased(t, to)
	})
}

func wantEventReleased(t testing.TB, e side) {
	t.Helper()
	m := wantEvents(t, e, ipc.Closed)
	m.Release()
	if m.Status != ipc.Closed.String() {
		t.Error("Release changed an event")
	}
}
