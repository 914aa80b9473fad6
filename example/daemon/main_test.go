//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// asProgram makes the test binary be the program, and the daemons that it starts.
const asProgram = "EXAMPLE_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// desk is where tools are run: they have one daemon.
type desk struct {
	dir    string
	stderr *os.File // a pipe that each daemon holds open as long as it lives
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir, err := os.MkdirTemp("", "ipc") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pipe := filepath.Join(dir, "stderr")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	d := &desk{dir: dir}
	if d.stderr, err = os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stderr.Close() })
	return d
}

// clear stops the daemon, and waits until every daemon that was started here has
// ended. None may have complained.
func (d *desk) clear(t *testing.T) {
	t.Helper()
	d.succeed(t, "stop")
	if err := d.stderr.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(d.stderr)
	if err != nil {
		t.Error("there is a daemon left: ", err)
	}
	if len(said) > 0 {
		t.Errorf("a daemon says: %s", said)
	}
}

// tool is a tool that runs.
type tool struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	shown  bytes.Buffer // what has been read of out
	stderr bytes.Buffer
}

func (d *desk) start(t *testing.T, args ...string) *tool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &tool{cmd: exec.CommandContext(ctx, self, append([]string{"-dir", d.dir, "-timeout", "1m"}, args...)...)}
	c.cmd.Env = append(os.Environ(), asProgram+"=1", "IPC_DEBUG=")
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// await reads what the tool shows up to a line that contains text.
func (c *tool) await(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := c.out.ReadString('\n')
		c.shown.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			c.cmd.Wait()
			t.Fatalf("%v without %q:\n%s%s", err, text, &c.shown, &c.stderr)
		}
	}
}

// signal sends a signal to the tool.
func (c *tool) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// end waits for the end of the tool, and returns its exit status.
func (c *tool) end(t *testing.T) int {
	t.Helper()
	if _, err := c.out.WriteTo(&c.shown); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	return c.cmd.ProcessState.ExitCode()
}

// run runs a tool to its end.
func (d *desk) run(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	c := d.start(t, args...)
	status = c.end(t)
	return c.shown.String(), c.stderr.String(), status
}

// succeed runs a tool that has nothing to complain about.
func (d *desk) succeed(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	stdout, stderr, status := d.run(t, args...)
	if status != 0 || stderr != "" {
		t.Errorf("%v: exit status %d: %s", args, status, stderr)
	}
	return stdout
}

// pid asks the daemon, and starts it if there is none.
func (d *desk) pid(t *testing.T) (pid int) {
	t.Helper()
	if _, err := fmt.Sscanf(d.succeed(t, "status"), "pid %d,", &pid); err != nil {
		t.Error(err)
	}
	return pid
}

func TestCommands(t *testing.T) {
	d := newDesk(t)
	if pid := d.pid(t); pid == os.Getpid() || pid != d.pid(t) {
		t.Error("the daemon has not outlived the tool that started it")
	}
	for _, want := range []string{"listens on " + d.dir, "tool 1: Connected", "tool 1: Disconnected"} {
		if logs := d.succeed(t, "logs"); !strings.Contains(logs, want) {
			t.Errorf("%q is not in the logs:\n%s", want, logs)
		}
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"dance"}, 2, `unknown command "dance"`},
		{[]string{""}, 2, `unknown command ""`},
		{[]string{"logs", "-x"}, 2, "-x"},
		{nil, 2, "usage: "},
		{[]string{"-x", "status"}, 2, "usage: "},
	} {
		stdout, stderr, status := d.run(t, c.args...)
		if status != c.status || !strings.Contains(stderr, c.want) || stdout != "" {
			t.Errorf("%q: exit status %d, %q, %q: want %d and %q on standard error", c.args, status, stdout, stderr, c.status, c.want)
		}
	}
	if got := d.succeed(t, "stop"); got != "stopping\n" {
		t.Errorf("stop: %q", got)
	}
	if got := d.succeed(t, "stop"); got != "not running\n" {
		t.Errorf("stop without a daemon: %q", got)
	}
	d.clear(t)
}

// TestStartOnce has many tools find no daemon at the same time.
func TestStartOnce(t *testing.T) {
	d := newDesk(t)
	pids := make([]int, 10)
	var tools sync.WaitGroup
	for i := range pids {
		tools.Go(func() { pids[i] = d.pid(t) })
	}
	tools.Wait()
	for _, pid := range pids {
		if pid != pids[0] {
			t.Fatalf("several daemons have answered: %v", pids)
		}
	}
	d.clear(t)
}

// TestInterrupt has a tool follow the logs until Ctrl-C. Another one sees in the
// logs that the daemon has noticed.
func TestInterrupt(t *testing.T) {
	d := newDesk(t)
	first := d.start(t, "logs", "-f")
	first.await(t, "Connected")
	second := d.start(t, "logs", "-f")
	second.await(t, "tool 2: Connected")
	first.await(t, "tool 2: Connected")
	d.succeed(t, "status")
	first.await(t, "tool 3: Disconnected")
	first.signal(t, os.Interrupt)
	if status := first.end(t); status != 130 || first.stderr.Len() > 0 {
		t.Errorf("exit status %d after Ctrl-C, and %q", status, &first.stderr)
	}
	second.await(t, "tool 1: end of logs")
	d.succeed(t, "stop")
	if status := second.end(t); status != 0 {
		t.Errorf("exit status %d of logs -f when the daemon was stopped: %s", status, &second.stderr)
	}
	d.clear(t)
}

// TestRestart has several tools at once, and stops the daemon under them. Each
// round has a new one.
func TestRestart(t *testing.T) {
	d := newDesk(t)
	last := 0
	for range 3 {
		pid := d.pid(t)
		if pid == last {
			t.Errorf("the daemon has still pid %d", pid)
		}
		last = pid
		var followers []*tool
		for range 3 {
			f := d.start(t, "logs", "-f")
			f.await(t, fmt.Sprint("pid ", pid))
			followers = append(followers, f)
		}
		var others sync.WaitGroup
		for range 5 {
			others.Go(func() {
				if other := d.pid(t); other != pid {
					t.Errorf("pid %d, want %d", other, pid)
				}
			})
		}
		others.Wait()
		d.succeed(t, "stop")
		for _, f := range followers {
			if status := f.end(t); status != 0 {
				t.Errorf("exit status %d of logs -f: %s", status, &f.stderr)
			}
		}
	}
	d.clear(t)
}

// TestKilled has the daemon killed while its logs are followed: they are not
// whole, and that is an error. The next tool starts another daemon.
func TestKilled(t *testing.T) {
	d := newDesk(t)
	pid := d.pid(t)
	f := d.start(t, "logs", "-f")
	f.await(t, "tool 2: Connected")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status := f.end(t); status != 1 || !strings.Contains(f.stderr.String(), ipc.ErrNoReply.Error()) {
		t.Errorf("exit status %d, %q: want 1, and that there is no reply", status, &f.stderr)
	}
	if got := d.succeed(t, "stop"); got != "not running\n" {
		t.Errorf("stop: %q", got)
	}
	if again := d.pid(t); again == pid {
		t.Errorf("still pid %d", pid)
	}
	d.clear(t)
}

// TestCannotStart has something in the place of the socket.
func TestCannotStart(t *testing.T) {
	d := newDesk(t)
	if err := os.Remove(filepath.Join(d.dir, "stderr")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(d.dir, name+".sock"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, stderr, status := d.run(t, "status")
	if status != 1 || !strings.Contains(stderr, "the daemon does not start") {
		t.Errorf("exit status %d, %q", status, stderr)
	}
	if said, err := os.ReadFile(filepath.Join(d.dir, "stderr")); err != nil || !bytes.Contains(said, []byte("daemon.sock")) {
		t.Errorf("the daemon says %q, %v", said, err)
	}
}

// TestOtherTools has tools that are not ours: nothing of what they send is left
// without an answer.
func TestOtherTools(t *testing.T) {
	d := newDesk(t)
	d.pid(t)
	client, err := connect(t.Context(), d.dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for data, code := range map[string]int{
		"":         exitUsage,
		"[]":       exitUsage,
		"{":        exitUsage,
		`["logs"]`: exitFailed, // in parts, which Request does not take
	} {
		_, err := client.Request(t.Context(), typeCommand, []byte(data))
		var refused *ipc.ReplyError
		if !errors.As(err, &refused) || refused.Code != code {
			t.Errorf("%s: %v, want code %d", data, err, code)
		}
	}
	status, err := json.Marshal([]string{"status"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := client.Request(t.Context(), typeCommand, status); err != nil || !strings.Contains(string(m.Data), "tools ") {
		t.Errorf("status: %v, %v", m, err)
	}
	d.clear(t)
}

func TestJournal(t *testing.T) {
	j := newJournal()
	_, next, added := j.from(0)
	for i := range 2500 {
		fmt.Fprintln(j, "line", i)
	}
	<-added
	if next != 0 {
		t.Errorf("the next line of an empty journal is %d", next)
	}
	lines, next, added := j.from(0)
	if len(lines) != 1000 || string(lines[0]) != "line 1500\n" || string(lines[999]) != "line 2499\n" || next != 2500 {
		t.Errorf("%d lines from %q to %q, the next is %d", len(lines), lines[0], lines[len(lines)-1], next)
	}
	select {
	case <-added:
		t.Error("a line was added to the last one")
	default:
	}
	if lines, _, _ := j.from(2499); len(lines) != 1 {
		t.Errorf("%d lines from the last one on", len(lines))
	}
}
