package main

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"math"
	"slices"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// charts are the workloads that the plot shows. Beside the contestants of
// plotted there is a bar for what ours does in others.
var charts = []struct {
	workload, metric, title string
	also                    []own
}{
	{"roundtrip/64B", harness.P50, "Round trip of 64 bytes, median", []own{
		{"request/64B", "a Request, replied to"},
		{"roundtrip/64B/handler/beside", "by Handler, 2 clients"},
		{"roundtrip/64B/busypoll", "with BusyPoll 50 µs"},
	}},
	{"talk/64/handler", harness.Rate, "64 clients in conversation, round trips of 64 bytes", nil},
	{"stream/64B", harness.Rate, "Stream of 64-byte messages to Read", []own{
		{"stream/64B/handler", "to a Handler"},
	}},
	{"stream/1MB", harness.Rate, "Stream of 1 MB messages to Read", nil},
}

// own is another workload of ours, and what its bar says.
type own struct{ workload, label string }

// plotted are the contestants in the plot: what a reader would use instead. The
// table has all.
var plotted = []string{ours, plain, buffered, fork, grpcName, "net/rpc"}

// Measures of the drawing, in pixels.
const (
	plotWidth = 760
	barsLeft  = 170
	barsRight = plotWidth - 90 // what is right of it is for the last figure
	barHeight = 14
	barStep   = 20
	headRoom  = 34
	footRoom  = 34
	maxTicks  = 6 // of a scale, with zero
)

// plotStyle is the style of the plot on a light page and on a dark one. The plot
// has a background of its own: the page may be dark where the reader's system is
// light.
var plotStyle = palette{
	page: "#ffffff", text: "#1f2328", muted: "#57606a", own: "#0860ca", socket: "#6e7781", peer: "#afb8c1",
}.css() + "	@media (prefers-color-scheme: dark) {\n" + palette{
	page: "#0d1117", text: "#e6edf3", muted: "#9da7b1", own: "#58a6ff", socket: "#8b949e", peer: "#565e67",
}.css() + "	}\n"

// palette has the colors of the plot. One is this library's, for bars and text.
type palette struct{ page, text, muted, own, socket, peer string }

func (p palette) css() string {
	return fmt.Sprintf(`	.page { fill: %s }
	text { font: 13px system-ui, sans-serif; fill: %s }
	.title { font-size: 14px; font-weight: 600 }
	.name { text-anchor: end }
	.tick { text-anchor: middle; font-size: 11px }
	.note { font-size: 11px }
	.unit, .tick, .note { fill: %s }
	text.own { font-weight: 600; fill: %[4]s }
	.grid { stroke: %[3]s; stroke-opacity: .25 }
	rect.own { fill: %[4]s }
	rect.socket { fill: %s }
	rect.peer { fill: %s }
`, p.page, p.text, p.muted, p.own, p.socket, p.peer)
}

// bar is a contestant's figure.
type bar struct {
	name  string
	value float64
	what  string // of ours, if it is not the workload of the chart
}

// label is for readers who do not know the table.
func (b bar) label() string {
	switch b.name {
	case ours:
		return cmp.Or(b.what, "this library")
	case plain:
		return "plain socket"
	case buffered:
		return "bufio'd socket"
	}
	return b.name
}

func (b bar) class() string {
	switch b.name {
	case ours:
		return "own"
	case plain, buffered:
		return "socket"
	}
	return "peer"
}

// plot draws bars on linear scales from zero, the best on top.
func (r *report) plot() []byte {
	var body bytes.Buffer
	y := 0
	for _, c := range charts {
		w, ok := r.find(c.workload)
		if !ok {
			continue
		}
		m := w.metric(c.metric)
		if bars := r.bars(w, m, c.also); len(bars) > 0 {
			y = drawChart(&body, y, c.title, m, bars)
		}
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d">`, plotWidth, y+16)
	fmt.Fprintf(&out, "\n<style>\n%s</style>\n<rect class=\"page\" width=\"100%%\" height=\"100%%\"/>\n", plotStyle)
	out.Write(body.Bytes())
	fmt.Fprintf(&out, `<text x="8" y="%d" class="note">%s</text>`+"\n</svg>\n", y+4, escape(r.System.String()))
	return out.Bytes()
}

func (r *report) bars(w result, m metric, also []own) []bar {
	var bars []bar
	add := func(w result, name, what string) {
		if v, ok := w.median(name, m); ok && v > 0 {
			bars = append(bars, bar{name, v, what})
		}
	}
	for _, name := range r.Names {
		if slices.Contains(plotted, name) {
			add(w, name, "")
		}
	}
	for _, a := range also {
		if w, ok := r.find(a.workload); ok {
			add(w, ours, a.label)
		}
	}
	slices.SortStableFunc(bars, func(a, b bar) int {
		if m.lower {
			return cmp.Compare(a.value, b.value)
		}
		return cmp.Compare(b.value, a.value)
	})
	return bars
}

// drawChart draws one chart below y, and returns where it ends.
func drawChart(out *bytes.Buffer, y int, title string, m metric, bars []bar) int {
	most := bars[0].value
	for _, b := range bars {
		most = max(most, b.value)
	}
	x := func(v float64) float64 { return barsLeft + v/most*(barsRight-barsLeft) }
	better := "more is better"
	if m.lower {
		better = "less is better"
	}
	top := y + headRoom
	bottom := top + len(bars)*barStep
	fmt.Fprintf(out, `<text x="8" y="%d" class="title">%s</text>`+"\n", y+20, escape(title))
	fmt.Fprintf(out, `<text x="%d" y="%d" class="name unit">%s, %s</text>`+"\n", plotWidth-8, y+20, escape(m.unit), better)
	step := tickStep(most)
	for i := 0; float64(i)*step <= most; i++ {
		v := float64(i) * step
		drawTick(out, x(v), top, bottom, digits(v))
	}
	for i, b := range bars {
		drawBar(out, top+i*barStep, x(b.value), b)
	}
	return bottom + footRoom
}

// tickStep returns the distance of the ticks on a scale from zero to most: 1, 2 or
// 5 times a power of ten.
func tickStep(most float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(most))-1)
	for _, f := range []float64{1, 2, 5, 10} {
		if most/(step*f) < maxTicks {
			return step * f
		}
	}
	return step * 20
}

func drawTick(out *bytes.Buffer, x float64, top, bottom int, label string) {
	fmt.Fprintf(out, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" class="grid"/>`+"\n", x, x, top-4, bottom)
	fmt.Fprintf(out, `<text x="%.1f" y="%d" class="tick">%s</text>`+"\n", x, bottom+11, label)
}

func drawBar(out *bytes.Buffer, y int, end float64, b bar) {
	baseline := y + barHeight - 3
	fmt.Fprintf(out, `<text x="%d" y="%d" class="name %s">%s</text>`+"\n", barsLeft-8, baseline, b.class(), escape(b.label()))
	fmt.Fprintf(out, `<rect x="%d" y="%d" width="%.1f" height="%d" class="%s"/>`+"\n", barsLeft, y, end-barsLeft, barHeight, b.class())
	fmt.Fprintf(out, `<text x="%.1f" y="%d" class="%s">%s</text>`+"\n", end+6, baseline, b.class(), digits(b.value))
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes everything
	return b.String()
}
