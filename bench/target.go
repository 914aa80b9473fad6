package main

import (
	"fmt"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// target is what a figure of ours has to reach.
type target struct {
	workload string
	metric   string
	// against is a contestant in the same workload, or, with of set, ours in
	// another workload. Without either, the figure itself is held to the limit,
	// in the unit of the table. Without a limit the ratio is only shown.
	against, of string
	atMost      bool
	limit       float64
}

// none is what a count of allocations is held to: the runtime allocates a little
// of its own meanwhile.
const none = 0.001

var targets = []target{
	{workload: "roundtrip/64B", metric: harness.P50, against: plain, atMost: true, limit: 1.15},
	{workload: "roundtrip/64B/handler", metric: harness.P50, against: plain, atMost: true, limit: 1.15},
	{workload: "roundtrip/64B/handler/beside", metric: harness.P50, against: plain, atMost: true, limit: 1.15},
	{workload: "roundtrip/64B/manager/beside", metric: harness.P50, against: plain, atMost: true, limit: 2.2},
	{workload: "roundtrip/64B/busypoll", metric: harness.P50, against: plain, atMost: true, limit: 0.35},
	{workload: "roundtrip/16KB", metric: harness.P50, against: plain, atMost: true, limit: 1.15},

	{workload: "request/64B", metric: harness.P50, against: plain, atMost: true, limit: 1.25},
	{workload: "request/64B", metric: harness.P50, against: netRPC, atMost: true, limit: 0.5},
	{workload: "request/64B", metric: harness.P50, against: grpcName, atMost: true, limit: 0.4},
	{workload: "request/64B/64", metric: harness.Rate, against: netRPC, limit: 5},
	{workload: "request/64B/64", metric: harness.Rate, against: grpcName, limit: 10},

	{workload: "stream/64B", metric: harness.Rate, against: buffered, limit: 0.45},
	{workload: "stream/64B", metric: harness.Rate, against: zeroMQ, limit: 3},
	{workload: "stream/64B", metric: harness.Rate, against: grpcName, limit: 6},
	{workload: "stream/64B", metric: harness.Rate, against: fork, limit: 40},
	{workload: "stream/64B/handler", metric: harness.Rate, against: buffered, limit: 1},
	{workload: "stream/64B/encrypted", metric: harness.Rate, against: buffered, limit: 0.15},
	{workload: "stream/64B/encrypted/handler", metric: harness.Rate, against: buffered, limit: 0.25},
	{workload: "stream/1MB", metric: harness.Rate, against: plain, limit: 1.2},
	{workload: "stream/1MB/handler", metric: harness.Rate, against: plain, limit: 1.2},
	{workload: "stream/1MB/encrypted", metric: harness.Rate, against: plain, limit: 0.35},
	{workload: "stream/1MB/encrypted", metric: harness.Rate, against: fork, limit: 4},

	{workload: "talk/64/handler", metric: harness.Rate, against: plain, limit: 0.85},

	{workload: "fanin/64/handler", metric: harness.Rate, of: "stream/64B/handler", limit: 0.8},
	{workload: "fanin/64/handler", metric: harness.Fairness, limit: 0.5},
	{workload: "fanin/64/manager", metric: harness.Rate, of: "fanin/1/manager", limit: 0.8},
	{workload: "fanin/64/manager", metric: harness.Rate, of: "stream/64B"}, // to compare
	{workload: "fanin/64/manager", metric: harness.Fairness, limit: 0.5},

	{workload: "broadcast", metric: harness.Rate, against: plain, limit: 3},

	{workload: "idle/handler", metric: harness.RSS, atMost: true, limit: 8},
	{workload: "idle/manager", metric: harness.RSS, atMost: true, limit: 8},

	{workload: "stream/64B", metric: harness.AllocOut, atMost: true, limit: none},
	{workload: "stream/64B", metric: harness.AllocIn, atMost: true, limit: 0.1},
	{workload: "stream/64B/handler", metric: harness.AllocIn, atMost: true, limit: none},
	{workload: "roundtrip/64B/handler", metric: harness.AllocAns, atMost: true, limit: none},
	{workload: "request/64B", metric: harness.AllocAll, atMost: true, limit: 6},
}

// verdict is how ours stands to a target, or only to a reference.
type verdict struct {
	target
	judged bool // there is a limit
	known  bool // both sides were measured
	value  float64
}

func (v verdict) holds() bool {
	if v.atMost {
		return v.value <= v.limit
	}
	return v.value >= v.limit
}

// verdicts on a row of the table: one for each of its targets, or the ratio to
// the reference where it has none.
func (r *report) verdicts(w result, m metric) []verdict {
	var vs []verdict
	for _, t := range targets {
		if t.workload == w.ID && t.metric == m.key {
			v := verdict{target: t, judged: !r.Quick}
			v.value, v.known = r.standing(w, m, t)
			vs = append(vs, v)
		}
	}
	if len(vs) == 0 && m.unit != "" { // a ratio of bare counts says nothing
		t := target{against: reference(w)}
		v := verdict{target: t}
		v.value, v.known = r.standing(w, m, t)
		vs = append(vs, v)
	}
	return vs
}

// standing is the figure that a target speaks of.
func (r *report) standing(w result, m metric, t target) (float64, bool) {
	mine, ok := w.median(ours, m)
	if !ok || t.against == "" && t.of == "" {
		return mine, ok
	}
	other, name := w, t.against
	if t.of != "" {
		if other, ok = r.find(t.of); !ok {
			return 0, false
		}
		name = ours
	}
	theirs, ok := other.median(name, m)
	return mine / theirs, ok && theirs != 0
}

func (v verdict) ratioText() string {
	switch {
	case !v.known:
		return ""
	case v.of != "":
		return fmt.Sprintf("%s × own %s", digits(v.value), v.of)
	case v.against != "":
		return fmt.Sprintf("%s × %s", digits(v.value), v.against)
	}
	return ""
}

func (v verdict) targetText() string {
	switch {
	case v.limit == 0:
		return ""
	case v.atMost:
		return "≤ " + digits(v.limit)
	}
	return "≥ " + digits(v.limit)
}

func (v verdict) resultText() string {
	switch {
	case v.limit == 0, !v.judged:
		return ""
	case !v.known:
		return "not measured"
	case v.holds():
		return "holds"
	}
	return "misses"
}
