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

// Which contestants take part in a workload.
func all(contestant) bool               { return true }
func withManyClients(c contestant) bool { return c.many }
func alone(c contestant) bool           { return c.name == ours }
func references(c contestant) bool      { return c.name == ours || c.name == plain }
func sockets(c contestant) bool         { return references(c) || c.name == buffered }

func asking(c contestant) bool { return c.asks }

// askingOrPlain also has the plain sockets, on which a round trip is all there is.
func askingOrPlain(c contestant) bool { return c.asks || c.name == plain }

// encrypting also has the references, which do not encrypt: they say what it
// costs.
func encrypting(c contestant) bool { return c.encrypts || sockets(c) }

// scale is how big the workloads are.
type scale struct {
	warmup, measure       time.Duration
	many, idle, broadcast int // clients
}

var (
	fullScale = scale{
		warmup: 150 * time.Millisecond, measure: 500 * time.Millisecond,
		many: 1000, idle: 8000, broadcast: 500,
	}
	quickScale = scale{
		warmup: 10 * time.Millisecond, measure: 30 * time.Millisecond,
		many: 50, idle: 100, broadcast: 50,
	}
)

const busyPoll = 50 * time.Microsecond

// smallest is the size of the messages where their size is not the question.
const smallest = 64

// crowdTime is how much longer streams of many clients and broadcasts are measured:
// every client has to have had its turn often enough.
const crowdTime = 3

// talkers are how many clients are in conversation at once.
const talkers = 64

// askers are how many goroutines ask at once on one connection.
const askers = 64

// list is the workloads, in the order of the table.
type list struct {
	scale
	workloads []workload
}

func (l *list) add(id, label string, spec harness.Spec, takes func(contestant) bool) {
	spec.Clients = max(spec.Clients, 1)
	if spec.Size == 0 {
		spec.Size = smallest
	}
	spec.Warmup, spec.Measure = l.warmup, l.measure
	if spec.Clients > 1 && (spec.Kind == harness.Stream || spec.Kind == harness.Broadcast) {
		spec.Measure *= crowdTime
	}
	l.workloads = append(l.workloads, workload{id: id, label: label, spec: spec, takes: takes})
}

func workloads(s scale) []workload {
	l := &list{scale: s}
	for _, size := range []int{smallest, 1 << 10, 16 << 10, 256 << 10} {
		l.roundTrips(size)
	}
	l.requests()
	for _, size := range []int{smallest, 1 << 10, 64 << 10, 1 << 20} {
		l.streams(size)
	}
	l.crowds()
	return l.workloads
}

func (l *list) roundTrips(size int) {
	id, label := "roundtrip/"+sizeID(size), "round trip "+sizeLabel(size)
	spec := harness.Spec{Kind: harness.RoundTrip, Size: size}
	l.add(id, label, spec, all)
	if size == smallest {
		called := spec
		called.MultiMode, called.Handler = true, true
		l.add(id+"/handler", label+", by Handler", called, references)
		called.Beside = 1
		l.add(id+"/handler/beside", label+", by Handler, a second client idle", called, references)
		managed := spec
		managed.MultiMode = true
		l.add(id+"/manager", label+", through the manager", managed, references)
		managed.Beside = 1
		l.add(id+"/manager/beside", label+", through the manager, a second client idle", managed, references)
	}
	if size == smallest || size == 16<<10 {
		polled := spec
		polled.BusyPoll = busyPoll
		l.add(id+"/busypoll", label+", BusyPoll 50 µs", polled, references)
	}
	if size == smallest {
		spec.Encrypted = true
		l.add(id+"/encrypted", label+", encrypted", spec, encrypting)
	}
}

func (l *list) requests() {
	spec := harness.Spec{Kind: harness.Request, MultiMode: true, Handler: true}
	id, label := "request/"+sizeID(smallest), "Request "+sizeLabel(smallest)
	l.add(id, label, spec, askingOrPlain)
	spec.Callers = askers
	l.add(fmt.Sprintf("%s/%d", id, askers), label+", "+plural(askers, "goroutine")+" on one connection", spec, asking)
}

func (l *list) streams(size int) {
	id, label := "stream/"+sizeID(size), "stream "+sizeLabel(size)
	spec := harness.Spec{Kind: harness.Stream, Size: size}
	called := spec
	called.Handler = true
	l.add(id, label+" to Read", spec, all)
	if size == smallest || size == 1<<20 {
		l.add(id+"/handler", label+" to a Handler", called, sockets)
	}
	spec.Encrypted, called.Encrypted = true, true
	if size == smallest || size == 1<<20 {
		l.add(id+"/encrypted", label+" to Read, encrypted", spec, encrypting)
	}
	if size == smallest {
		l.add(id+"/encrypted/handler", label+" to a Handler, encrypted", called, sockets)
	}
}

// crowds are the workloads with many clients, and those that open connections.
func (l *list) crowds() {
	label := plural(talkers, "client") + " in conversation, 64 B, "
	spec := harness.Spec{Kind: harness.RoundTrip, Clients: talkers, MultiMode: true}
	called := spec
	called.Handler = true
	l.add(fmt.Sprintf("talk/%d/handler", talkers), label+"by Handler", called, withManyClients)
	l.add(fmt.Sprintf("talk/%d/manager", talkers), label+"through the manager", spec, references)
	spec.Clients = l.many
	l.add("talk/many", plural(l.many, "client")+" in conversation, 64 B, through the manager", spec, withManyClients)

	l.add("fanin/1/manager", "1 client streaming, 64 B, through the manager",
		harness.Spec{Kind: harness.Stream, MultiMode: true}, alone)
	for _, n := range []int{64, 256} {
		id, label := fmt.Sprintf("fanin/%d", n), plural(n, "client")+" streaming, 64 B, "
		spec := harness.Spec{Kind: harness.Stream, Clients: n, MultiMode: true}
		called := spec
		called.Handler = true
		l.add(id+"/handler", label+"by Handler", called, sockets)
		l.add(id+"/manager", label+"through the manager", spec, alone)
	}
	l.add("broadcast", "broadcast to "+plural(l.broadcast, "client")+", 64 B",
		harness.Spec{Kind: harness.Broadcast, Clients: l.broadcast, MultiMode: true}, sockets)

	l.add("connect", "connect, round trip, close",
		harness.Spec{Kind: harness.Connect, MultiMode: true}, withManyClients)
	// The fork and the original serve one client after another, but not reliably.
	l.add("connect/encrypted", "connect, round trip, close, encrypted",
		harness.Spec{Kind: harness.Connect, MultiMode: true, Encrypted: true}, references)

	label = plural(l.idle, "idle client") + ", "
	spec = harness.Spec{Kind: harness.Idle, Clients: l.idle, MultiMode: true}
	called = spec
	called.Handler = true
	l.add("idle/handler", label+"by Handler", called, sockets)
	l.add("idle/manager", label+"through the manager", spec, alone)
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
		rows := []metric{{harness.P50, "p50", "µs", 1e6, true}, {harness.P99, "p99", "µs", 1e6, true}}
		if w.Handler {
			rows = append(rows, metric{harness.AllocAns, "allocations an answer", "", 1, true})
		}
		return rows
	case harness.Request:
		times := []metric{{harness.P50, "p50", "µs", 1e6, true}, {harness.P99, "p99", "µs", 1e6, true}}
		if w.Callers > 1 {
			return append([]metric{{harness.Rate, "all together", "k/s", 1e-3, false}}, times...)
		}
		return append(times,
			metric{harness.AllocAsk, "allocations to ask", "", 1, true},
			metric{harness.AllocAns, "allocations to answer", "", 1, true},
			metric{harness.AllocAll, "allocations a call, both sides", "", 1, true})
	case harness.Connect:
		return []metric{{harness.Rate, "", "k/s", 1e-3, false}}
	case harness.Broadcast:
		return []metric{{harness.Rate, "deliveries", "M/s", 1e-6, false}}
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
	case w.Size == smallest && w.Handler:
		return []metric{
			perSecond,
			{harness.CPUIn, "CPU of the receiver", "ns", 1e9, true},
			{harness.AllocIn, "allocations a message", "", 1, true},
		}
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
