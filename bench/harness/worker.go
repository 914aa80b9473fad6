package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
)

// Event is what a worker reports to the process that started it.
type Event struct {
	Ready       bool    `json:",omitempty"` // the server listens
	Version     string  `json:",omitempty"` // of the peer's module, with Ready
	Begun       bool    `json:",omitempty"` // the client's warm-up is over, if it calls
	Result      *Result `json:",omitempty"`
	Error       string  `json:",omitempty"`
	Unsupported bool    `json:",omitempty"` // the error is errors.ErrUnsupported
}

// EventsFD is the descriptor that events are written to. Standard output is
// left to the libraries: some of them log there.
const EventsFD = 3

// Worker is the first argument of a process that is to be a worker; its role
// ("server" or "client") and the Spec in JSON follow.
const Worker = "worker"

// Main runs a worker, if that is what this process was started as, and does not
// return then.
func Main(peers ...Peer) {
	if len(os.Args) != 4 || os.Args[1] != Worker {
		return
	}
	w := worker{events: json.NewEncoder(os.NewFile(EventsFD, "events"))}
	if err := w.run(os.Args[2], os.Args[3], peers); err != nil {
		w.report(Event{Error: err.Error(), Unsupported: errors.Is(err, errors.ErrUnsupported)})
		os.Exit(1)
	}
	os.Exit(0)
}

// Program is the main function of a program that is nothing but a worker.
func Program(p Peer) {
	Main(p)
	fmt.Fprintln(os.Stderr, "this program is started by the benchmark")
	os.Exit(2)
}

type worker struct {
	mu     sync.Mutex
	events *json.Encoder
}

func (w *worker) report(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.events.Encode(e); err != nil {
		os.Exit(1) // the parent is gone
	}
}

func (w *worker) run(role, specJSON string, peers []Peer) error {
	var spec Spec
	if err := json.Unmarshal([]byte(specJSON), &spec); err != nil {
		return err
	}
	for _, p := range peers {
		if p.Name != spec.Peer {
			continue
		}
		stop, err := startProfile(spec.Profile, role)
		if err != nil {
			return err
		}
		defer stop()
		if role == "server" {
			return w.serve(p, &spec)
		}
		return w.call(p, &spec)
	}
	return fmt.Errorf("no peer %q in this binary", spec.Peer)
}

// Orders to a server process that answers calls, on standard input: to take note of
// what it has used up, and to report what it has used up since.
const (
	OrderBegin byte = 'b'
	OrderEnd   byte = 'e'
)

// serve runs the server process until standard input ends.
func (w *worker) serve(p Peer, spec *Spec) error {
	s, err := p.Listen(spec)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	failed := make(chan error, 1)
	switch {
	case spec.OneWay():
		t := newTally(spec)
		go func() { failed <- s.Sink(t.take) }()
		go func() {
			r, err := t.result()
			if err != nil {
				failed <- err
				return
			}
			w.report(Event{Result: r})
		}()
	case spec.Kind == Broadcast:
		go func() {
			r, err := sendBroadcasts(s, spec)
			if err != nil {
				failed <- err
				return
			}
			w.report(Event{Result: r})
		}()
	default:
		go func() { failed <- s.Echo() }()
	}
	w.report(Event{Ready: true, Version: version(p.Module)})
	orders := make(chan byte)
	go readOrders(orders)
	var before cost
	for {
		select {
		case err := <-failed:
			if err == nil {
				err = errors.New("the server ended by itself")
			}
			return err
		case order := <-orders:
			switch order {
			case OrderBegin:
				before = costNow()
			case OrderEnd:
				// The client knows for how many calls that was.
				used := costNow().since(before)
				w.report(Event{Result: &Result{Metrics: map[string]float64{AllocAns: used.allocs}}})
			default:
				return nil
			}
		}
	}
}

// readOrders passes on orders, and closes the channel when standard input ends.
func readOrders(to chan<- byte) {
	defer close(to)
	order := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(order); err != nil {
			return
		}
		to <- order[0]
	}
}

// call runs the client process. The connections stay until standard input ends:
// what was sent may not have been read yet.
func (w *worker) call(p Peer, spec *Spec) error {
	var (
		r   *Result
		err error
	)
	switch spec.Kind {
	case RoundTrip, Request:
		r, err = roundTrips(p, spec, func() { w.report(Event{Begun: true}) })
	case Stream:
		r, err = sendStreams(p, spec)
	case Connect:
		r, err = connects(p, spec)
	case Idle:
		r, err = sitIdle(p, spec)
	case Broadcast:
		r, err = receiveBroadcasts(p, spec)
	default:
		err = fmt.Errorf("no workload %q", spec.Kind)
	}
	if err != nil {
		return err
	}
	w.report(Event{Result: r})
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func startProfile(prefix, role string) (stop func(), err error) {
	if prefix == "" {
		return func() {}, nil
	}
	f, err := os.Create(prefix + "-" + role + ".pprof")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// version is that of the module in this binary; a module that was replaced by a
// folder is the tree that the benchmark is part of.
func version(module string) string {
	info, ok := debug.ReadBuildInfo()
	if module == "" || !ok {
		return ""
	}
	for _, m := range info.Deps {
		switch {
		case m.Path != module:
		case m.Replace != nil && strings.HasPrefix(m.Replace.Path, "."):
			return "this tree"
		default:
			return m.Version
		}
	}
	return ""
}
