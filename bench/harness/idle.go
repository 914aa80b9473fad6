package harness

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// held keeps idle clients from being collected.
var held []Client

// sitIdle opens all connections and sends one message on each.
func sitIdle(p Peer, spec *Spec) (*Result, error) {
	var err error
	if held, err = dialAll(p, spec, spec.Clients); err != nil {
		return nil, err
	}
	msg := make([]byte, spec.Size)
	for i, c := range held {
		stamp(msg, last, i, 1)
		if err := c.Send(msg); err != nil {
			return nil, err
		}
		if err := c.Flush(); err != nil {
			return nil, err
		}
	}
	n := uint64(len(held))
	return &Result{Messages: n, Bytes: n * uint64(spec.Size), Metrics: map[string]float64{}}, nil
}

// footprint is the resident memory of this process before there were clients.
type footprint struct {
	rss float64
	err error
}

func measureFootprint() footprint {
	debug.FreeOSMemory()
	rss, err := residentBytes()
	return footprint{rss: rss, err: err}
}

// since reports what was added: as it is, and once what is garbage is gone.
func (f footprint) since(r *Result) {
	// Readers go to sleep, pooled buffers go back.
	time.Sleep(time.Second)
	n := float64(r.Messages)
	if rss, err := residentBytes(); err == nil && f.err == nil {
		r.Metrics[RSS] = (rss - f.rss) / n
	}
	debug.FreeOSMemory()
	if rss, err := residentBytes(); err == nil && f.err == nil {
		r.Metrics[LiveRSS] = (rss - f.rss) / n
	}
}

// residentBytes asks Linux directly, and ps elsewhere.
func residentBytes() (float64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		out, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(os.Getpid())).Output()
		if err != nil {
			return 0, err
		}
		return kilobytes(string(out))
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return kilobytes(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		}
	}
	return 0, fmt.Errorf("no VmRSS in the status of the process")
}

func kilobytes(s string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return n * 1024, err
}
