package harness

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// call sends a message and returns the answer.
type call func(p []byte) ([]byte, error)

// callers returns what each of the callers on a client calls.
func callers(c Client, spec *Spec) ([]call, error) {
	one := c.Call
	if spec.Kind == Request {
		if a, ok := c.(Asker); ok {
			one = a.Ask
		} else if spec.Callers > 1 {
			return nil, errors.New("its clients take one call at a time")
		}
	}
	return slices.Repeat([]call{one}, max(spec.Callers, 1)), nil
}

// roundTrips lets every caller call as often as it can in the time, and takes
// the time of each call. It calls begun when the warm-up is over.
func roundTrips(p Peer, spec *Spec, begun func()) (*Result, error) {
	var err error
	if held, err = dialAll(p, spec, spec.Beside); err != nil {
		return nil, err
	}
	for i, c := range held {
		if _, err := c.Call(make([]byte, spec.Size)); err != nil {
			return nil, fmt.Errorf("idle client %d: %w", i, err)
		}
	}
	clients, err := dialAll(p, spec, spec.Clients)
	if err != nil {
		return nil, err
	}
	var all []call
	for _, c := range clients {
		calls, err := callers(c, spec)
		if err != nil {
			return nil, err
		}
		all = append(all, calls...)
	}
	var once sync.Once
	var before cost
	first := func() {
		begun()
		before = costNow()
	}
	took := make([][]time.Duration, len(all))
	warm := time.Now().Add(spec.Warmup)
	end := warm.Add(spec.Measure)
	err = each(all, func(i int, c call) error {
		var err error
		took[i], err = callUntil(c, i, spec.Size, warm, end, func() { once.Do(first) })
		return err
	})
	if err != nil {
		return nil, err
	}
	used := costNow().since(before)
	sorted := slices.Concat(took...)
	slices.Sort(sorted)
	n := uint64(len(sorted))
	return &Result{
		Messages: n,
		Bytes:    n * uint64(spec.Size),
		Metrics: map[string]float64{
			P50:      Quantile(sorted, 0.50).Seconds(),
			P99:      Quantile(sorted, 0.99).Seconds(),
			Rate:     float64(n) / spec.Measure.Seconds(),
			AllocAsk: used.allocs / float64(n),
		},
	}, nil
}

// callUntil returns what the calls took that began between warm and end. On a
// machine that is too busy for one in that time it goes on for one more. Before
// the first of them it calls begun.
func callUntil(c call, caller, size int, warm, end time.Time, begun func()) ([]time.Duration, error) {
	took := make([]time.Duration, 0, 1024)
	p := make([]byte, size)
	warmed := false
	for number := uint64(0); ; number++ {
		stamp(p, measured, caller, number)
		start := time.Now()
		if !warmed && start.After(warm) {
			warmed = true
			begun()
			start = time.Now()
		}
		if start.After(end) && len(took) > 0 {
			return took, nil
		}
		answer, err := c(p)
		if err != nil {
			return nil, fmt.Errorf("call %d: %w", number, err)
		}
		if warmed {
			took = append(took, time.Since(start))
		}
		if len(answer) != size || !bytes.Equal(answer[:MinSize], p[:MinSize]) {
			return nil, fmt.Errorf("call %d was answered with another message", number)
		}
	}
}

// Quantile of a sorted, non-empty slice: the nearest rank.
func Quantile[T any](sorted []T, q float64) T {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
