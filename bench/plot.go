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

// charts are the workloads that the plot shows. Beside all that took part in the
// workload there is a bar for what ours does in others.
var charts = []struct {
	workload, metric, title string
	also                    []own
}{
	{"roundtrip/64B", harness.P50, "Round trip of 64 bytes, median", []own{
		{"roundtrip/64B/handler/beside", "by Handler, 2 clients"},
		{"roundtrip/64B/busypoll", "with BusyPoll 50 µs"},
	}},
	{"talk/64/handler", harness.Rate, "64 clients in conversation, round trips of 64 bytes", nil},
	{"stream/64B", harness.Rate, "Stream of 64-byte messages to Read", []own{
		{"stream/64B/handler", "to a Handler"},
	}},
	{"stream/64B/encrypted", harness.Rate, "Stream of 64-byte messages to Read, encrypted (the sockets are not)", nil},
	{"stream/1MB", harness.Rate, "Stream of 1 MB messages to Read", nil},
}

// own is another workload of ours, and what its bar says.
type own struct{ workload, label string }

// Measures of the drawing, in pixels.
const (
	plotWidth = 760
	barsLeft  = 150
	barsRight = plotWidth - 80 // what is right of it is for the last figure
	barHeight = 14
	barStep   = 20
	headRoom  = 34
	footRoom  = 34
)

// plotStyle is grey on nothing, so that it suits a light page and a dark one.
const plotStyle = `
	text { font: 12px system-ui, sans-serif; fill: #808080 }
	.title { font-size: 14px; font-weight: 600 }
	.name { text-anchor: end }
	.tick { text-anchor: middle; font-size: 10px }
	.own { font-weight: 600; fill: #3b8eea }
	.grid { stroke: #808080; stroke-opacity: .25 }
	rect { fill: #808080; fill-opacity: .4 }
	rect.socket { fill-opacity: .8 }
	rect.own { fill: #3b8eea; fill-opacity: 1 }
`

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

// plot draws bars on logarithmic scales, the best on top.
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
	fmt.Fprintf(&out, "\n<style>%s</style>\n", plotStyle)
	out.Write(body.Bytes())
	fmt.Fprintf(&out, `<text x="8" y="%d" class="note" font-size="10">%s</text>`+"\n</svg>\n", y+4, escape(r.System.String()))
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
		add(w, name, "")
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
	least, most := bars[0].value, bars[0].value
	for _, b := range bars {
		least, most = min(least, b.value), max(most, b.value)
	}
	// The least bar has to be seen: the scale begins at half of it at most.
	lo, hi := math.Floor(math.Log10(least/2)), math.Log10(most)
	x := func(v float64) float64 {
		return barsLeft + (math.Log10(v)-lo)/(hi-lo)*(barsRight-barsLeft)
	}
	better := "more is better"
	if m.lower {
		better = "less is better"
	}
	top := y + headRoom
	bottom := top + len(bars)*barStep
	fmt.Fprintf(out, `<text x="8" y="%d" class="title">%s</text>`+"\n", y+20, escape(title))
	fmt.Fprintf(out, `<text x="%d" y="%d" class="name">%s, %s, logarithmic</text>`+"\n",
		plotWidth-8, y+20, escape(m.unit), better)
	for d := lo; d <= hi; d++ {
		drawTick(out, x(math.Pow(10, d)), top, bottom, digits(math.Pow(10, d)))
	}
	for i, b := range bars {
		drawBar(out, top+i*barStep, x(b.value), b)
	}
	return bottom + footRoom
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
