package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// asWorker makes the test binary be a worker; its value is a folder.
const asWorker = "EXAMPLE_SUPERVISOR"

func TestMain(m *testing.M) {
	dir := os.Getenv(asWorker)
	if dir == "" {
		os.Exit(m.Run())
	}
	die := func(n int) string {
		if n == 7 && os.Mkdir(filepath.Join(dir, "died"), 0o700) == nil { // once
			self, err := os.FindProcess(os.Getpid())
			if err != nil {
				log.Fatal(err)
			}
			if err := self.Kill(); err != nil {
				log.Fatal(err)
			}
			select {}
		}
		return "done"
	}
	if err := work(os.Args[2], die); err != nil { // behind -work-for
		log.Fatal(err)
	}
}

// results is where supervise writes. Its first line cancels, if that is set.
type results struct {
	bytes.Buffer
	cancel context.CancelFunc
}

func (r *results) Write(b []byte) (int, error) {
	if r.cancel != nil {
		r.cancel()
	}
	return r.Buffer.Write(b)
}

func TestAllJobsAreDone(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	t.Setenv(asWorker, dir)
	var out results
	if err := supervise(t.Context(), 3, 20, &out); err != nil {
		t.Error(err)
	}
	for n := range 20 {
		if got := strings.Count(out.String(), fmt.Sprintf("job %d: done ", n)); got != 1 {
			t.Errorf("job %d has %d results", n, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "died")); err != nil {
		t.Error("no worker has died: ", err)
	}
}

func TestCtrlCLeavesTheRest(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Setenv(asWorker, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := results{cancel: cancel}
	if err := supervise(ctx, 3, 1000, &out); !errors.Is(err, context.Canceled) {
		t.Errorf("supervise: %v", err)
	}
	// No worker begins a second one.
	if n := strings.Count(out.String(), "done"); n < 1 || n > 3 {
		t.Errorf("%d jobs were done:\n%s", n, &out)
	}
}

func TestWorkerEndsWithItsSupervisor(t *testing.T) {
	name := fmt.Sprintf("supervisor-test-%d", os.Getpid())
	joined := make(chan struct{})
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      name,
		MultiMode: true,
		Handler: func(_ *ipc.Server, m *ipc.Message) {
			if m.Status == "Connected" {
				close(joined)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ended := make(chan error, 1)
	go func() { ended <- work(name, countPrimes) }()
	select {
	case <-joined:
	case err := <-ended:
		t.Fatal(err)
	}
	server.Close()
	if err := <-ended; !errors.Is(err, ipc.ErrTimeout) {
		t.Errorf("the worker has ended with %v", err)
	}
}
