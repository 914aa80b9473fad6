package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// process is a worker.
type process struct {
	role  string
	cmd   *exec.Cmd
	stdin io.WriteCloser // its end tells the worker to end
	said  tail
}

// news is an event of a worker, or that there will be none any more.
type news struct {
	from  *process
	event harness.Event
	ended bool
}

// newsRoom is as many as two workers can have: nothing ever waits to be read.
const newsRoom = 16

func startProcess(program, role string, spec *harness.Spec, to chan<- news) (*process, error) {
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	p := &process{role: role, cmd: exec.Command(program, harness.Worker, role, string(arg))}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.ExtraFiles = []*os.File{w} // the first of them is harness.EventsFD
	if p.stdin, err = p.cmd.StdinPipe(); err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	go func() {
		defer r.Close()
		for dec := json.NewDecoder(r); ; {
			var e harness.Event
			if dec.Decode(&e) != nil {
				to <- news{from: p, ended: true}
				return
			}
			to <- news{from: p, event: e}
		}
	}()
	return p, nil
}

// order tells a server something; see harness.OrderBegin.
func (p *process) order(what byte) error {
	if _, err := p.stdin.Write([]byte{what}); err != nil {
		return fmt.Errorf("the %s takes no orders: %w%s", p.role, err, &p.said)
	}
	return nil
}

// stop ends the worker, by force if it has to.
func (p *process) stop() {
	_ = p.stdin.Close()
	kill := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	_ = p.cmd.Wait()
}

// tail keeps the last of what a worker says, in case that it fails.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 300

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = t.text[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return fmt.Sprintf("; it said: %q", t.text)
}
