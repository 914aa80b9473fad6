package main

import (
	"bytes"
	"encoding/json"
	"expvar"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestRun checks that the lines are JSON, say whose they are, and have no
// attributes but those that are described.
func TestRun(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no sockets of our own on this system")
	}
	var out bytes.Buffer
	published := map[string]expvar.Var{}
	if err := run(&out, func(name string, v expvar.Var) { published[name] = v }); err != nil {
		t.Fatal(err)
	}
	if published["ipc"] == nil {
		t.Error("the counts are not published")
	}
	known := []string{"time", "level", "msg", "part", "socket", "client", "peer", "reason", "error", "repeated", "pause"}
	var messages []string
	for line := range strings.Lines(out.String()) {
		if counts, ok := strings.CutPrefix(line, "counts: "); ok {
			var stats struct{ MessagesIn, BytesIn int }
			if err := json.Unmarshal([]byte(counts), &stats); err != nil || stats.MessagesIn != 3 || stats.BytesIn != 15 {
				t.Errorf("%v: %s", err, line)
			}
			continue
		}
		var attrs map[string]any
		if err := json.Unmarshal([]byte(line), &attrs); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for name := range attrs {
			if !slices.Contains(known, name) {
				t.Errorf("attribute %s is not described: %s", name, line)
			}
		}
		messages = append(messages, attrs["part"].(string)+": "+attrs["msg"].(string))
	}
	for _, want := range []string{
		"server: ipc: listening",
		"client: ipc: connected",
		"server: ipc: client connected",
		"client: ipc: client closed",
		"server: ipc: client disconnected",
		"server: ipc: server closed",
	} {
		if !slices.Contains(messages, want) {
			t.Errorf("%q is missing:\n%s", want, &out)
		}
	}
}
