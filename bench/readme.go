package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// highlights are the rows of the short table in bench/README.md: eight at most.
var highlights = []struct{ workload, metric, label string }{
	{"roundtrip/64B", harness.P50, "round trip 64 B"},
	{"roundtrip/64B/handler/beside", harness.P50, "the same by Handler, beside a second client"},
	{"roundtrip/64B/busypoll", harness.P50, "the same with BusyPoll 50 µs"},
	{"talk/64/handler", harness.Rate, "64 clients in conversation, by Handler"},
	{"stream/64B/handler", harness.Rate, "stream 64 B to a Handler"},
	{"stream/64B", harness.Rate, "stream 64 B to Read"},
	{"stream/64B/encrypted", harness.Rate, "stream 64 B to Read, encrypted"},
	{"stream/1MB", harness.Rate, "stream 1 MB to Read"},
}

// readmeColumns are the contestants in it.
var readmeColumns = []struct{ name, title string }{
	{ours, "ours"},
	{plain, "plain socket"},
	{buffered, "with `bufio`"},
	{fork, "fork"},
	{zeroMQ, "ZeroMQ"},
	{grpcName, "gRPC"},
}

// What is between these two lines of README.md in this folder is written by
// intoReadme.
const (
	readmeBegin = "<!-- bench:begin -->\n"
	readmeEnd   = "<!-- bench:end -->\n"
)

// intoReadme replaces the figures in a README file.
func (r *report) intoReadme(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(readmeBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(readmeEnd))
	if !ok || !ok2 {
		return errors.New(file + " has no place for the figures")
	}
	text = slices.Concat(before, []byte(readmeBegin), r.readme(), []byte(readmeEnd), after)
	return os.WriteFile(file, text, 0o644)
}

// readme is the short table, with what has to be known to read it.
func (r *report) readme() []byte {
	var out bytes.Buffer
	fmt.Fprint(&out, "| | |")
	rule := "|---|---|"
	for _, c := range readmeColumns {
		if slices.Contains(r.Names, c.name) {
			fmt.Fprintf(&out, " %s |", c.title)
			rule += "--:|"
		}
	}
	fmt.Fprintln(&out, "\n"+rule)
	for _, h := range highlights {
		w, ok := r.find(h.workload)
		if !ok {
			continue
		}
		m := w.metric(h.metric)
		label := h.label
		if h.metric == harness.P50 {
			label += ", median"
		}
		fmt.Fprintf(&out, "| %s | %s |", label, m.unit)
		for _, c := range readmeColumns {
			if slices.Contains(r.Names, c.name) {
				text, _ := cell(w, c.name, m)
				fmt.Fprintf(&out, " %s |", text)
			}
		}
		fmt.Fprintln(&out)
	}
	fmt.Fprintf(&out, "\nMedians of %s. %s\nIn the encrypted row the sockets do not encrypt: they are there to compare with.\n", plural(r.Rounds, "round"), r.System)
	return out.Bytes()
}
