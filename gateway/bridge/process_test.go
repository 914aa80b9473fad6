package bridge_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
)

// asProcess makes the test binary be a process that tests can kill. Its value says
// what that runs: a server, a gateway, or both.
const asProcess = "BRIDGE_TEST_PROCESS"

// What the server of a process does with requests.
const (
	typeLabel = 1 // the reply is the label of the process
	typeHold  = 2 // there is no reply
)

// process is such a process.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines chan string // that it prints
}

// startProcess starts a process that runs what, for the machine whose folder is dir.
func startProcess(t testing.TB, what, dir, url, label string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(self), lines: make(chan string, 1<<16)}
	p.cmd.Env = append(os.Environ(), asProcess+"="+what, "DIR="+dir, "URL="+url, "LABEL="+label)
	p.cmd.Stderr = os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.cmd.StdinPipe(); err != nil { // its end is the process's
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(p.kill)
	return p
}

// await waits for a line with text, and returns it.
func (p *process) await(text string) string {
	p.t.Helper()
	for {
		line := receive(p.t, p.lines)
		if strings.Contains(line, text) {
			return line
		}
		if line == "" {
			p.t.Fatalf("the process has ended without %q", text)
		}
	}
}

// kill kills the process, and waits for its end.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		for range p.lines {
		}
		p.cmd.Wait()
	}
}

// runProcess is main of a process. It ends with the test's.
func runProcess() {
	dir, label := os.Getenv("DIR"), os.Getenv("LABEL")
	config := &bridge.Config{
		Name:      name,
		SocketDir: dir,
		URL:       os.Getenv("URL"),
		KeepAlive: patient,
		Logger:    slog.New(slog.NewTextHandler(os.Stdout, nil)),
	}
	for what := range strings.SplitSeq(os.Getenv(asProcess), ",") {
		var err error
		switch what {
		case "server":
			_, err = ipc.StartServer(&ipc.ServerConfig{
				Name: name, SocketDir: dir, MultiMode: true,
				Handler: func(_ *ipc.Server, m *ipc.Message) {
					if !m.IsRequest() {
						return
					}
					fmt.Printf("handled %s\n", m.Data)
					if m.MsgType == typeHold {
						m.Clone()
						return
					}
					m.Reply(typeLabel, []byte(label))
				},
			})
		case "expose":
			_, err = bridge.Expose(config)
		case "join":
			_, err = bridge.Join(config)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	io.Copy(io.Discard, os.Stdin)
}
