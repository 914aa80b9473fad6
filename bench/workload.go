package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/bench/frames"
	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// workload is a measurement that is done with several contestants.
type workload struct {
	id, label string
	spec      harness.Spec
	takes     func(contestant) bool
}

// Who takes part in a workload.
func everybody(contestant) bool         { return true }
func withManyClients(c contestant) bool { return c.many }
func references(c contestant) bool      { return c.name == ours || c.name == plain }
func sockets(c contestant) bool         { return references(c) || c.name == buffered }

// encrypting also has the references, which do not encrypt: they say what it
// costs.
func encrypting(c contestant) bool { return c.encrypts || sockets(c) }

// scale is how big the workloads are.
type scale struct {
	warmup, measure time.Duration
	many, idle      int // clients
}

var (
	fullScale  = scale{warmup: 150 * time.Millisecond, measure: 500 * time.Millisecond, many: 1000, idle: 10000}
	quickScale = scale{warmup: 10 * time.Millisecond, measure: 30 * time.Millisecond, many: 50, idle: 100}
)

const busyPoll = 50 * time.Microsecond

// smallest is the size of the messages where their size is not the question.
const smallest = 64

// crowdTime is how much longer the streams of many clients are measured.
const crowdTime = 3

var fanIns = []int{1, 4, 16, 64, 256}

func workloads(s scale) []workload {
	var all []workload
	add := func(id, label string, spec harness.Spec, takes func(contestant) bool) {
		spec.Clients = max(spec.Clients, 1)
		if spec.Size == 0 {
			spec.Size = smallest
		}
		spec.Warmup, spec.Measure = s.warmup, s.measure
		if spec.Kind == harness.Stream && spec.Clients > 1 {
			// Every client has to have had its turn often enough.
			spec.Measure *= crowdTime
		}
		all = append(all, workload{id: id, label: label, spec: spec, takes: takes})
	}
	for _, size := range []int{64, 1 << 10, 16 << 10, 256 << 10} {
		id, label := "roundtrip/"+sizeID(size), "round trip "+sizeLabel(size)
		spec := harness.Spec{Kind: harness.RoundTrip, Size: size}
		add(id, label, spec, everybody)
		managed, polled := spec, spec
		managed.Manager = true
		polled.BusyPoll = busyPoll
		add(id+"/manager", label+", through the manager", managed, references)
		add(id+"/busypoll", label+", BusyPoll 50 µs", polled, references)
	}
	add("roundtrip/64B/encrypted", "round trip 64 B, encrypted",
		harness.Spec{Kind: harness.RoundTrip, Encrypted: true}, encrypting)
	for _, size := range []int{64, 1 << 10, 64 << 10, 1 << 20} {
		id, label := "stream/"+sizeID(size), "stream "+sizeLabel(size)
		spec := harness.Spec{Kind: harness.Stream, Size: size}
		add(id, label, spec, everybody)
		spec.Encrypted = true
		add(id+"/encrypted", label+", encrypted", spec, encrypting)
	}
	for _, n := range fanIns {
		add(fmt.Sprintf("fanin/%d", n), fmt.Sprintf("%s into one server, 64 B", plural(n, "client")),
			harness.Spec{Kind: harness.Stream, Clients: n, Manager: true}, sockets)
	}
	add("many", fmt.Sprintf("%s, round trip 64 B", plural(s.many, "client")),
		harness.Spec{Kind: harness.RoundTrip, Clients: s.many, Manager: true}, withManyClients)
	add("connect", "connect, round trip, close",
		harness.Spec{Kind: harness.Connect, Manager: true}, withManyClients)
	// The fork and the original serve one client after another, but not reliably.
	add("connect/encrypted", "connect, round trip, close, encrypted",
		harness.Spec{Kind: harness.Connect, Manager: true, Encrypted: true}, references)
	add("idle", plural(s.idle, "idle client"),
		harness.Spec{Kind: harness.Idle, Clients: s.idle, Manager: true}, sockets)
	return all
}

// reference is the contestant that ours is compared with where no target says
// otherwise.
func reference(w result) string {
	if w.Kind == harness.Stream && w.Size <= frames.SmallMessage {
		return buffered
	}
	return plain
}

// metric is something that is reported of a workload.
type metric struct {
	key   string
	label string
	unit  string
	scale float64 // from the harness's unit to this one
	lower bool    // less is better
}

// metrics of a workload, the first of which is the main one.
func metrics(w result) []metric {
	perSecond := metric{harness.Rate, "", "M/s", 1e-6, false}
	switch w.Kind {
	case harness.RoundTrip:
		if w.Clients > 1 {
			return []metric{
				{harness.Rate, "all together", "k/s", 1e-3, false},
				{harness.P50, "p50", "ms", 1e3, true},
				{harness.P99, "p99", "ms", 1e3, true},
			}
		}
		return []metric{{harness.P50, "p50", "µs", 1e6, true}, {harness.P99, "p99", "µs", 1e6, true}}
	case harness.Connect:
		return []metric{{harness.Rate, "", "k/s", 1e-3, false}}
	case harness.Idle:
		return []metric{
			{harness.RSS, "memory each", "KiB", 1.0 / 1024, true},
			{harness.LiveRSS, "the same after a collection", "KiB", 1.0 / 1024, true},
		}
	}
	switch {
	case w.Clients > 1:
		return []metric{perSecond, {harness.Fairness, "slowest/fastest", "", 1, false}}
	case w.Size > frames.SmallMessage:
		return []metric{{harness.Rate, "", "GB/s", float64(w.Size) / 1e9, false}}
	case w.Size == smallest && strings.HasPrefix(w.ID, "stream/"):
		return []metric{
			perSecond,
			{harness.CPUOut, "CPU of the sender", "ns", 1e9, true},
			{harness.CPUIn, "CPU of the receiver", "ns", 1e9, true},
			{harness.AllocOut, "allocations a Write", "", 1, true},
			{harness.AllocIn, "allocations a Read", "", 1, true},
		}
	}
	return []metric{perSecond}
}

func sizeID(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%dMB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dKB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}

func sizeLabel(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%d MB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
