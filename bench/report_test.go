package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func p50(values ...float64) []run {
	var runs []run
	for _, v := range values {
		runs = append(runs, run{Metrics: map[string]float64{harness.P50: v, harness.P99: v}})
	}
	return runs
}

// sample is a report with one workload: 20 µs for ours, 10 µs for the plain
// socket, a peer that failed once, and one that cannot.
func sample() *report {
	return &report{
		Started: time.Unix(0, 0).UTC(),
		System:  system{Go: "go1", OS: "linux", Arch: "amd64", Kernel: "Linux 6", CPU: "a CPU", Cores: 2},
		Rounds:  3,
		Names:   []string{ours, plain, fork, "mangos"},
		LeftOut: map[string]string{zeroMQ: "no libzmq"},
		Results: []result{{
			ID: "roundtrip/64B", Label: "round trip 64 B", Kind: harness.RoundTrip, Size: 64, Clients: 1,
			Runs: map[string][]run{
				ours:     p50(20e-6, 99e-6, 15e-6),
				plain:    p50(10e-6, 12e-6, 3e-6),
				fork:     append(p50(90e-6), run{Error: "it <fell>"}),
				"mangos": {{Error: "no", NotYet: true}},
			},
		}},
	}
}

func TestVerdict(t *testing.T) {
	r := sample()
	w := r.Results[0]
	vs := r.verdicts(w, metrics(w)[0])
	if len(vs) != 1 {
		t.Fatalf("%d verdicts, want that on the plain socket", len(vs))
	}
	if v := vs[0]; v.value != 2 || v.ratioText() != "2 × plain" || v.targetText() != "≤ 1.15" || v.resultText() != "misses" {
		t.Errorf("got %q %q %q", v.ratioText(), v.targetText(), v.resultText())
	}
	w.Runs[ours] = p50(11e-6)
	if v := r.verdicts(w, metrics(w)[0])[0]; v.resultText() != "holds" {
		t.Errorf("a ratio of %v is said to be one that %s", v.value, v.resultText())
	}
	r.Quick = true
	if v := r.verdicts(w, metrics(w)[0])[0]; v.resultText() != "" {
		t.Error("a smoke run was judged")
	}
}

// A target that names something that is not measured would never be judged.
func TestTargetsExist(t *testing.T) {
	names := map[string]contestant{}
	for _, c := range contestants {
		names[c.name] = c
	}
	byID := map[string]workload{}
	for _, w := range workloads(fullScale) {
		byID[w.id] = w
	}
	for _, target := range targets {
		w, ok := byID[target.workload]
		if !ok {
			t.Errorf("there is no workload %q", target.workload)
			continue
		}
		if target.of != "" && byID[target.of].id == "" {
			t.Errorf("there is no workload %q", target.of)
		}
		if target.against != "" && !w.takes(names[target.against]) {
			t.Errorf("%s does not take part in %s", target.against, w.id)
		}
		found := false
		for _, m := range metrics(newResult(w)) {
			found = found || m.key == target.metric
		}
		if !found {
			t.Errorf("%s has no row for %s", w.id, target.metric)
		}
	}
}

// What the README and the plot show has to be measured, too.
func TestHighlightsExist(t *testing.T) {
	rows := map[string]bool{}
	for _, w := range workloads(fullScale) {
		for _, m := range metrics(newResult(w)) {
			rows[w.id+" "+m.key] = true
		}
	}
	want := func(workload, metric string) {
		if !rows[workload+" "+metric] {
			t.Errorf("there is no row for %s of %q", metric, workload)
		}
	}
	if len(highlights) > 8 {
		t.Errorf("%d rows for the README, want 8 at most", len(highlights))
	}
	for _, h := range highlights {
		want(h.workload, h.metric)
	}
	for _, c := range charts {
		want(c.workload, c.metric)
		for _, a := range c.also {
			want(a.workload, c.metric)
		}
	}
}

func TestReadme(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(file, []byte("before\n"+readmeBegin+"old\n"+readmeEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := sample().intoReadme(file); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if !strings.HasPrefix(got, "before\n"+readmeBegin+"| | |") || !strings.HasSuffix(got, "\n"+readmeEnd+"after\n") ||
		strings.Contains(got, "old") || !strings.Contains(got, "\n| round trip 64 B, median | µs | 20 | 10 | 90 * |\n") {
		t.Errorf("got\n%s", got)
	}
	if err := sample().intoReadme(filepath.Join("..", "LICENSE")); err == nil {
		t.Error("a file without a place for the figures was written")
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	sample().print(&out)
	for _, want := range []string{
		"| round trip 64 B: p50 | µs |   20 |    10 | 90 * | not yet | 2 × plain        | ≤ 1.15 | misses |",
		"ZeroMQ is left out: no libzmq",
		"round trip 64 B, fork: failed in 1 of 2 rounds: it <fell>",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestPlotIsXML(t *testing.T) {
	r := sample()
	r.System.CPU = "<A & B>"
	for dec := xml.NewDecoder(bytes.NewReader(r.plot())); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// The bars begin at zero, so that their lengths are in the ratio of their figures.
func TestPlotIsLinear(t *testing.T) {
	bars := regexp.MustCompile(`<rect x="\d+" y="\d+" width="([\d.]+)"`).FindAllStringSubmatch(string(sample().plot()), -1)
	var widths []float64
	for _, b := range bars {
		w, err := strconv.ParseFloat(b[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		widths = append(widths, w)
	}
	// The plain socket has 10 µs, ours 20 and the fork 90; mangos is not plotted.
	if len(widths) != 3 || math.Abs(widths[1]/widths[0]-2) > 0.01 || math.Abs(widths[2]/widths[0]-9) > 0.01 {
		t.Errorf("the bars are %v long, want them as 10, 20 and 90", widths)
	}
}

// All text can be read on a light page and on a dark one: WCAG asks for a contrast
// of 4.5, and of 3 for bars.
func TestPlotContrast(t *testing.T) {
	light, dark, ok := strings.Cut(plotStyle, "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("there is no style for a dark page")
	}
	for scheme, style := range map[string]string{"light": light, "dark": dark} {
		page := ""
		for _, rule := range regexp.MustCompile(`(?m)^\t(.*) \{.*fill: (#[0-9a-f]{6}) \}`).FindAllStringSubmatch(style, -1) {
			selector, color := rule[1], rule[2]
			if selector == ".page" {
				page = color
				continue
			}
			least := 4.5
			switch selector {
			case "rect.peer": // each has its figure beside it
				least = 1.5
			case "rect.own", "rect.socket":
				least = 3
			}
			if c := contrast(t, color, page); c < least {
				t.Errorf("%s: %s has a contrast of %.2f, want %v", scheme, selector, c, least)
			}
		}
		if page == "" {
			t.Errorf("%s: there is no background", scheme)
		}
	}
}

// contrast of two colors, as WCAG defines it.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(color string) (l float64) {
		n, err := strconv.ParseUint(color[1:], 16, 24)
		if err != nil {
			t.Fatal(err)
		}
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v := float64(n>>(16-8*i)&0xff) / 255
			if v <= 0.04045 {
				v /= 12.92
			} else {
				v = math.Pow((v+0.055)/1.055, 2.4)
			}
			l += weight * v
		}
		return l
	}
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

func TestTickStep(t *testing.T) {
	for most, want := range map[float64]float64{9.99: 2, 10: 2, 18.5: 5, 146: 50, 7.34: 2, 5: 1, 93.8: 20, 0.28: 0.05} {
		if got := tickStep(most); math.Abs(got-want) > want/1000 {
			t.Errorf("up to %v: %v, want %v", most, got, want)
		}
	}
}

func TestReportIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	r := sample()
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	got, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v\nwant %+v", got, r)
	}
}

func TestMedian(t *testing.T) {
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("of three: %v", m)
	}
	if m := median([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Errorf("of four: %v", m)
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1234: "1234", 12.34: "12.3", 1.5: "1.5", 0.123: "0.123", 0.00004: "0", 10: "10"} {
		if got := digits(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}
