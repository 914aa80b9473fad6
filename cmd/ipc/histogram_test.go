package main

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	t.Parallel()
	last := -1
	for _, d := range []time.Duration{0, 1, 63, 64, 65, 127, 128, 129, 130, 1000, 1e6, 1e9, 3600e9, 1<<62 + 1, 1<<63 - 1} {
		class := classOf(d)
		if least(class) > d || least(class+1) <= d && least(class+1) > 0 || class < last {
			t.Errorf("%d is in class %d, from %d to %d, after class %d", d, class, least(class), least(class+1), last)
		}
		last = class
	}
	var h, other histogram
	for i := range 1000 {
		d := time.Duration(i+1) * time.Microsecond
		if i%2 == 0 {
			h.add(d)
		} else {
			other.add(d)
		}
	}
	h.merge(&other)
	for p, want := range map[float64]time.Duration{50: 500e3, 90: 900e3, 99: 990e3, 99.9: 999e3, 100: 1e6} {
		if got := h.percentile(p); got < want || got > want+want/32 {
			t.Errorf("p%v = %v, want %v", p, got, want)
		}
	}
	if h.n != 1000 || h.max != time.Millisecond {
		t.Errorf("n %d, max %v", h.n, h.max)
	}
}
