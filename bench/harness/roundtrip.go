package harness

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"
)

// roundTrips lets every client call as often as it can in the time, and takes
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
	var once sync.Once
	took := make([][]time.Duration, len(clients))
	warm := time.Now().Add(spec.Warmup)
	end := warm.Add(spec.Measure)
	err = each(clients, func(i int, c Client) error {
		var err error
		took[i], err = callUntil(c, i, spec.Size, warm, end, func() { once.Do(begun) })
		return err
	})
	if err != nil {
		return nil, err
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	n := uint64(len(all))
	return &Result{
		Messages: n,
		Bytes:    n * uint64(spec.Size),
		Metrics: map[string]float64{
			P50:  Quantile(all, 0.50).Seconds(),
			P99:  Quantile(all, 0.99).Seconds(),
			Rate: float64(n) / spec.Measure.Seconds(),
		},
	}, nil
}

// callUntil returns what the calls took that began between warm and end. On a
// machine that is too busy for one in that time it goes on for one more. Before
// the first of them it calls begun.
func callUntil(c Client, client, size int, warm, end time.Time, begun func()) ([]time.Duration, error) {
	took := make([]time.Duration, 0, 1024)
	p := make([]byte, size)
	warmed := false
	for number := uint64(0); ; number++ {
		stamp(p, measured, client, number)
		start := time.Now()
		if !warmed && start.After(warm) {
			warmed = true
			begun()
			start = time.Now()
		}
		if start.After(end) && len(took) > 0 {
			return took, nil
		}
		answer, err := c.Call(p)
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
