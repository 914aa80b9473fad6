package harness

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// sendStreams lets every client send as fast as it is let: all of them for the
// same time, so that their counts tell how fair they were treated.
func sendStreams(p Peer, spec *Spec) (*Result, error) {
	clients, err := dialAll(p, spec, spec.Clients)
	if err != nil {
		return nil, err
	}
	senders := make([]sender, len(clients))
	warm := time.Now().Add(spec.Warmup)
	end := warm.Add(spec.Measure)
	err = each(clients, func(i int, c Client) error {
		senders[i] = sender{c: c, client: i, size: spec.Size, alone: len(clients) == 1}
		return senders[i].run(warm, end)
	})
	if err != nil {
		return nil, err
	}
	r := &Result{Metrics: map[string]float64{}}
	for _, s := range senders {
		r.Messages += s.sent
	}
	r.Bytes = r.Messages * uint64(spec.Size)
	if s := senders[0]; s.alone && s.measured > 0 {
		r.Metrics[AllocOut] = s.cost.allocs / float64(s.measured)
		r.Metrics[CPUOut] = s.cost.cpu / float64(s.measured)
	}
	return r, nil
}

// sender is one client of a stream.
type sender struct {
	c            Client
	client, size int
	alone        bool // what the process costs, this client costs
	sent         uint64
	measured     uint64
	cost         cost
}

func (s *sender) run(warm, end time.Time) error {
	p := make([]byte, s.size)
	// Small messages take less time than looking at the clock does.
	const clockEvery = 32
	every := uint64(1)
	if s.size <= 4096 {
		every = clockEvery
	}
	ph := warmup
	var before cost
	for {
		if s.sent%every == 0 {
			now := time.Now()
			if ph == warmup && now.After(warm) {
				ph = measured
				if s.alone {
					before = costNow()
				}
			}
			// However busy the machine is, one client has to send enough to
			// measure.
			if now.After(end) && (s.measured > 1 || s.client > 0) {
				break
			}
		}
		stamp(p, ph, s.client, s.sent)
		if err := s.c.Send(p); err != nil {
			return fmt.Errorf("message %d: %w", s.sent, err)
		}
		s.sent++
		if ph == measured {
			s.measured++
		}
	}
	if s.alone {
		s.cost = costNow().since(before)
	}
	s.sent++
	stamp(p, last, s.client, s.sent)
	if err := s.c.Send(p); err != nil {
		return fmt.Errorf("the last message: %w", err)
	}
	return s.c.Flush()
}

// tally is the receiving end of streams: it counts, and it times the whole from
// the first message after the warm-up to the last one of all.
type tally struct {
	spec    *Spec
	clients []clientTally
	running atomic.Bool // the first measured message of any client was seen
	open    atomic.Int64
	wrong   atomic.Int64 // messages that are not of the size that was sent
	done    chan struct{}

	once   sync.Once
	start  time.Time
	end    time.Time
	memory footprint // of the process before the first connection
	cost   cost
}

// clientTally has a cache line pair of its own: some libraries read each client
// in its own goroutine.
type clientTally struct {
	count    uint64 // of all messages
	sum      uint64 // of their numbers: finds what was lost and what came twice in any order
	timed    uint64 // messages since the clock runs
	measured uint64
	want     uint64 // what the last message said that was sent; 0: not known yet
	_        [128 - 5*8]byte
}

func newTally(spec *Spec) *tally {
	t := &tally{spec: spec, clients: make([]clientTally, spec.Clients), done: make(chan struct{})}
	t.open.Store(int64(spec.Clients))
	if spec.Kind == Idle {
		t.memory = measureFootprint()
	}
	return t
}

// take is the sink. It is called for each message: what is not needed for each
// one is done elsewhere.
func (t *tally) take(p []byte) {
	if len(p) != t.spec.Size {
		t.wrong.Add(1)
		return
	}
	ph, client, number := readStamp(p)
	c := &t.clients[client]
	c.count++
	switch ph {
	case measured:
		c.measured++
		if !t.running.Load() {
			t.begin()
		}
		c.sum += number
	case warmup:
		c.sum += number
	case last:
		c.want = number
	}
	if t.running.Load() {
		c.timed++
	}
	if c.count == c.want && t.open.Add(-1) == 0 {
		t.finish()
	}
}

func (t *tally) begin() {
	t.once.Do(func() {
		if len(t.clients) == 1 {
			t.cost = costNow()
		}
		t.start = time.Now()
		t.running.Store(true)
	})
}

func (t *tally) finish() {
	t.end = time.Now()
	if len(t.clients) == 1 {
		t.cost = costNow().since(t.cost)
	}
	close(t.done)
}

// result waits until all clients are done.
func (t *tally) result() (*Result, error) {
	<-t.done
	r := &Result{Metrics: map[string]float64{}}
	if n := t.wrong.Load(); n > 0 {
		return nil, fmt.Errorf("%d messages arrived with another length", n)
	}
	var timed, slowest, fastest uint64
	for i := range t.clients {
		c := &t.clients[i]
		// The numbers of all but the last message are 0, 1, 2 …
		if n := c.count - 1; c.sum != n*(n-1)/2 {
			return nil, fmt.Errorf("client %d: the right number of messages arrived, but not each of them once", i)
		}
		r.Messages += c.count
		timed += c.timed
		fastest = max(fastest, c.measured)
		if i == 0 || c.measured < slowest {
			slowest = c.measured
		}
	}
	r.Bytes = r.Messages * uint64(t.spec.Size)
	if t.spec.Kind == Idle {
		t.memory.since(r)
		return r, nil
	}
	if timed < 2 {
		return nil, errors.New("too few messages arrived in the time")
	}
	r.Metrics[Rate] = float64(timed-1) / t.end.Sub(t.start).Seconds()
	if len(t.clients) == 1 {
		r.Metrics[AllocIn] = t.cost.allocs / float64(timed)
		r.Metrics[CPUIn] = t.cost.cpu / float64(timed)
	} else {
		r.Metrics[Fairness] = float64(slowest) / float64(fastest)
	}
	return r, nil
}
