package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// print writes the table, in Markdown that is also aligned for a terminal.
func (r *report) print(w io.Writer) {
	var notes []string
	table := [][]string{slices.Concat(
		[]string{"workload", ""}, r.Names, []string{"ours / reference", "target", ""})}
	for _, res := range r.Results {
		for i, m := range metrics(res) {
			row := []string{rowLabel(res, m), m.unit}
			for _, name := range r.Names {
				text, note := cell(res, name, m)
				row = append(row, text)
				if note != "" && i == 0 {
					notes = append(notes, fmt.Sprintf("%s, %s: %s", res.Label, name, note))
				}
			}
			for j, v := range r.verdicts(res, m) {
				if j > 0 {
					table = append(table, row)
					row = make([]string, 2+len(r.Names))
				}
				row = append(row, v.ratioText(), v.targetText(), v.resultText())
			}
			table = append(table, row)
		}
	}
	printMarkdown(w, table)

	fmt.Fprintf(w, "\n%s\n", r.System)
	fmt.Fprintf(w, "Medians of %s", plural(r.Rounds, "round"))
	if r.Quick {
		fmt.Fprint(w, ", much too short to mean anything")
	}
	fmt.Fprintln(w, ".")
	for _, name := range r.Names {
		if v := r.Versions[name]; v != "" {
			fmt.Fprintf(w, "%s: %s. ", name, v)
		}
	}
	fmt.Fprintln(w)
	for _, name := range slices.Sorted(maps.Keys(r.LeftOut)) {
		fmt.Fprintf(w, "%s is left out: %s\n", name, r.LeftOut[name])
	}
	for _, note := range notes {
		fmt.Fprintln(w, note)
	}
}

func rowLabel(w result, m metric) string {
	if m.label == "" {
		return w.Label
	}
	return w.Label + ": " + m.label
}

// cell is what the table says of a contestant, and the note that belongs to it.
func cell(w result, name string, m metric) (text, note string) {
	var failed, notYet int
	for _, run := range w.Runs[name] {
		if run.NotYet {
			notYet++
		} else if run.Error != "" {
			failed++
			note = run.Error
		}
	}
	if failed > 0 {
		note = fmt.Sprintf("failed in %d of %s: %s", failed, plural(len(w.Runs[name]), "round"), note)
	}
	v, ok := w.median(name, m)
	switch {
	case ok && failed == 0:
		return digits(v), ""
	case ok:
		return digits(v) + " *", note
	case notYet > 0:
		return "not yet", ""
	case failed > 0:
		return "failed *", note
	}
	return "", ""
}

// digits writes three of them, and no exponent.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return trimZeros(fmt.Sprintf("%.1f", v))
	case a >= 1:
		return trimZeros(fmt.Sprintf("%.2f", v))
	case a >= 0.1:
		return trimZeros(fmt.Sprintf("%.3f", v))
	}
	return trimZeros(fmt.Sprintf("%.4f", v))
}

func trimZeros(s string) string {
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

// printMarkdown pads all columns, and aligns those right that have numbers.
func printMarkdown(w io.Writer, table [][]string) {
	columns := len(table[0])
	width := make([]int, columns)
	for _, row := range table {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	right := func(i int) bool { return i > 1 && i < columns-3 }
	for n, row := range table {
		for i := range columns {
			c := ""
			if i < len(row) {
				c = row[i]
			}
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if right(i) {
				fmt.Fprintf(w, "| %s%s ", pad, c)
			} else {
				fmt.Fprintf(w, "| %s%s ", c, pad)
			}
		}
		fmt.Fprintln(w, "|")
		if n > 0 {
			continue
		}
		for i := range columns {
			line := strings.Repeat("-", width[i]+1)
			if right(i) {
				fmt.Fprintf(w, "|%s:", line)
			} else {
				fmt.Fprintf(w, "|%s-", line)
			}
		}
		fmt.Fprintln(w, "|")
	}
}
