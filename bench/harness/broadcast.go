package harness

import (
	"errors"
	"fmt"
	"time"
)

// flushEvery is after how many broadcasts the server waits with Flush until the
// kernel has them. A plain write waits for its client when the socket is full,
// after a few hundred small messages; a library that never waits in a broadcast,
// and leaves out clients that do not keep up, is held to about the same distance,
// and then has no reason to leave one out.
const flushEvery = 256

// sendBroadcasts sends to all clients for the time of the measurement.
func sendBroadcasts(s Server, spec *Spec) (*Result, error) {
	b, ok := s.(Broadcaster)
	if !ok {
		return nil, fmt.Errorf("broadcast: %w", errors.ErrUnsupported)
	}
	if err := b.Await(spec.Clients); err != nil {
		return nil, err
	}
	warm := time.Now().Add(spec.Warmup)
	end := warm.Add(spec.Measure)
	p := make([]byte, spec.Size)
	var sent, timed uint64
	for {
		ph, now := warmup, time.Now()
		if now.After(end) && timed > 1 {
			break
		}
		if now.After(warm) {
			ph = measured
			timed++
		}
		stamp(p, ph, 0, sent)
		if err := b.Broadcast(p); err != nil {
			return nil, fmt.Errorf("broadcast %d: %w", sent, err)
		}
		if sent++; sent%flushEvery == 0 {
			if err := b.Flush(); err != nil {
				return nil, fmt.Errorf("flush: %w", err)
			}
		}
	}
	sent++
	stamp(p, last, 0, sent)
	if err := b.Broadcast(p); err != nil {
		return nil, fmt.Errorf("the last broadcast: %w", err)
	}
	if err := b.Flush(); err != nil {
		return nil, fmt.Errorf("the last flush: %w", err)
	}
	n := sent * uint64(spec.Clients)
	return &Result{Messages: n, Bytes: n * uint64(spec.Size), Metrics: map[string]float64{}}, nil
}

// receiveBroadcasts lets every client receive all that the server sends.
func receiveBroadcasts(p Peer, spec *Spec) (*Result, error) {
	clients, err := dialAll(p, spec, spec.Clients)
	if err != nil {
		return nil, err
	}
	t := newTally(spec)
	failed := make(chan error, len(clients))
	for i, c := range clients {
		r, ok := c.(Receiver)
		if !ok {
			return nil, fmt.Errorf("receive: %w", errors.ErrUnsupported)
		}
		go func() {
			if err := t.takeAll(i, r); err != nil {
				failed <- fmt.Errorf("client %d: %w", i, err)
			}
		}()
	}
	select {
	case err := <-failed:
		return nil, err
	case <-t.done:
		return t.result()
	}
}

// takeAll takes what a client receives, up to the last message of a broadcast.
// Each message has to come once and in its place.
func (t *tally) takeAll(client int, r Receiver) error {
	for next := uint64(0); ; next++ {
		p, err := r.Receive()
		if err != nil {
			return fmt.Errorf("message %d: %w", next, err)
		}
		if len(p) != t.spec.Size {
			return fmt.Errorf("message %d has %d bytes instead of %d", next, len(p), t.spec.Size)
		}
		ph, _, number := readStamp(p)
		want := next
		if ph == last {
			want++
		}
		if number != want {
			return fmt.Errorf("message %d arrived instead of %d", number, want)
		}
		stamp(p, ph, client, number) // one copy for all cannot say whose it is
		t.take(p)
		if ph == last {
			return nil
		}
	}
}
