package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in classes that are at most 1/64 wide of their
// value: it takes the same memory however many there are.
type histogram struct {
	classes [64 * 64]uint64
	n       uint64
	max     time.Duration
}

const subBits = 6 // 2^subBits classes to the doubling

// classOf returns the class of d. Durations under 64 ns have one each.
func classOf(d time.Duration) int {
	u := uint64(max(d, 0))
	shift := max(bits.Len64(u)-subBits-1, 0)
	return shift<<subBits + int(u>>shift)
}

// least returns the shortest duration of a class.
func least(class int) time.Duration {
	shift := max(class>>subBits-1, 0)
	return time.Duration(class-shift<<subBits) << shift
}

func (h *histogram) add(d time.Duration) {
	h.classes[classOf(d)]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.classes {
		h.classes[i] += n
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// percentile returns the duration that p percent did not exceed, with an error of
// the width of a class.
func (h *histogram) percentile(p float64) time.Duration {
	rank := uint64(p / 100 * float64(h.n))
	var seen uint64
	for class, n := range h.classes {
		if seen += n; n > 0 && seen >= rank {
			return min(least(class+1)-1, h.max)
		}
	}
	return h.max
}
