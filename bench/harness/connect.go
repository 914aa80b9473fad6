package harness

import (
	"fmt"
	"time"
)

// connects opens connections one after another. One message goes there and back
// on each: some libraries say that they are connected when they have only begun.
func connects(p Peer, spec *Spec) (*Result, error) {
	warm := time.Now().Add(spec.Warmup)
	end := warm.Add(spec.Measure)
	msg := make([]byte, spec.Size)
	var (
		n     uint64
		first time.Time
	)
	for number := uint64(0); ; number++ {
		now := time.Now()
		if now.After(end) && n > 0 {
			return &Result{
				Messages: n,
				Metrics:  map[string]float64{Rate: float64(n) / now.Sub(first).Seconds()},
			}, nil
		}
		if n == 0 {
			first = now
		}
		if err := connectOnce(p, spec, msg); err != nil {
			return nil, fmt.Errorf("connection %d: %w", number, err)
		}
		if now.After(warm) {
			n++
		}
	}
}

func connectOnce(p Peer, spec *Spec, msg []byte) error {
	c, err := p.Dial(spec)
	if err != nil {
		return err
	}
	if _, err := c.Call(msg); err != nil {
		_ = c.Close()
		return err
	}
	return c.Close()
}
