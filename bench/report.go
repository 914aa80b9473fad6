package main

import (
	"encoding/json"
	"os"
	"slices"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// report is all that is known after a run of the benchmark: what -json keeps,
// and what the table and the plot are made of.
type report struct {
	Started  time.Time
	System   system
	Rounds   int
	Quick    bool
	Names    []string          // of the contestants, in the order of the table
	Versions map[string]string // of their modules
	LeftOut  map[string]string // why a contestant is not there
	Results  []result
}

// result is that of one workload.
type result struct {
	ID, Label string
	Kind      harness.Kind
	Size      int
	Clients   int
	Callers   int `json:",omitempty"` // on each connection
	Handler   bool
	Runs      map[string][]run // for each contestant, one a round
}

func newResult(w workload) result {
	return result{
		ID: w.id, Label: w.label, Kind: w.spec.Kind, Size: w.spec.Size, Clients: w.spec.Clients,
		Callers: w.spec.Callers, Handler: w.spec.Handler, Runs: map[string][]run{},
	}
}

// run is one measurement.
type run struct {
	Metrics map[string]float64 `json:",omitempty"`
	Error   string             `json:",omitempty"`
	NotYet  bool               `json:",omitempty"` // the library says that it cannot do this
}

// median of the runs that went well, in the metric's unit.
func (w result) median(name string, m metric) (float64, bool) {
	var values []float64
	for _, r := range w.Runs[name] {
		if v, ok := r.Metrics[m.key]; ok {
			values = append(values, v*m.scale)
		}
	}
	if len(values) == 0 {
		return 0, false
	}
	return median(values), true
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// find returns the result of a workload.
func (r *report) find(id string) (result, bool) {
	i := slices.IndexFunc(r.Results, func(w result) bool { return w.ID == id })
	if i < 0 {
		return result{}, false
	}
	return r.Results[i], true
}

// metric returns one of the workload's metrics.
func (w result) metric(key string) metric {
	all := metrics(w)
	return all[slices.IndexFunc(all, func(m metric) bool { return m.key == key })]
}

// failures of ours and of the plain sockets. Those of others are in the table:
// they are not for us to mend.
func (r *report) failures() []string {
	var all []string
	for _, w := range r.Results {
		for _, name := range []string{ours, plain, buffered} {
			for _, run := range w.Runs[name] {
				if run.Error != "" && !run.NotYet {
					all = append(all, w.ID+", "+name+": "+run.Error)
				}
			}
		}
	}
	return all
}

func (r *report) write(file string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

func readReport(file string) (*report, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(report)
	return r, json.Unmarshal(data, r)
}
