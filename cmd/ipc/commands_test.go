//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// TestData sends data from each source, with flags in each place.
func TestData(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, []byte("from\x00a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  []string
		stdin string // "none" is /dev/null
		want  string
	}{
		{[]string{"-dir", f.dir, "fake", "9", "text"}, "unread", "text"},
		{[]string{"fake", "-dir", f.dir, "9", ""}, "unread", ""},
		{[]string{"fake", "9", "-dir=" + f.dir, "@" + file}, "unread", "from\x00a file\n"},
		{[]string{"fake", "9", "-", "--dir", f.dir}, "piped\n", "piped\n"},
		{[]string{"fake", "9", "--dir", f.dir}, "piped\n", "piped\n"},
		{[]string{"fake", "9", "-dir", f.dir}, "none", ""},
		{[]string{"-dir", f.dir, "--", "fake", "9", "-5"}, "unread", "-5"},
		{[]string{"-dir", f.dir, "fake", "9", "--", "-dir"}, "unread", "-dir"},
	} {
		for _, command := range []string{"send", "request"} {
			r := newTool(t, append([]string{command}, c.args...)...)
			if c.stdin != "none" {
				r.cmd.Stdin = strings.NewReader(c.stdin)
			}
			stdout := ""
			if command == "request" {
				stdout = c.want
			}
			r.start().want(0, stdout, "")
			if m := f.next(t); m.MsgType != 9 || string(m.Data) != c.want || m.isRequest != (command == "request") {
				t.Errorf("%q: the server got %v, %q", c.args, m.MsgType, m.Data)
			}
		}
	}
	r := newTool(t, "send", "fake", "9", "-", "-dir", f.dir)
	r.cmd.Stdin = bytes.NewReader(make([]byte, 4<<20))
	r.start().want(5, "", "maximum message length")
}

func TestLargeMessage(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	for _, command := range []string{"send", "request"} {
		r := newTool(t, command, "fake", "1", "-dir", f.dir)
		r.cmd.Stdin = bytes.NewReader(data)
		stdout := ""
		if command == "request" {
			stdout = string(data)
		}
		if out, said, status := r.start().end(); status != 0 || out != stdout {
			t.Errorf("%s: exit status %d, %d bytes, %s", command, status, len(out), said)
		}
		if m := f.next(t); !bytes.Equal(m.Data, data) {
			t.Errorf("the server got %d bytes", len(m.Data))
		}
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	for _, c := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{[]string{"1", "x"}, 0, "x", ""},
		{[]string{"1", "x", "-parts"}, 0, "x", ""},
		{[]string{"1", `a"b`, "-json"}, 0, `{"type":1,"size":3,"data":"a\"b"}` + "\n", ""},
		{[]string{"1", "\xff<", "-json"}, 0, `{"type":1,"size":2,"base64":"/zw="}` + "\n", ""},
		{[]string{"1", "", "-json"}, 0, `{"type":1,"size":0,"data":""}` + "\n", ""},
		{[]string{"3", "a b c", "-parts"}, 0, "abc", ""},
		{[]string{"3", "", "-parts"}, 0, "", ""},
		{[]string{"3", "a b", "-parts", "-json"}, 0, `{"type":3,"size":1,"data":"a"}` + "\n" + `{"type":3,"size":1,"data":"b"}` + "\n", ""},
		{[]string{"5", "x", "-parts"}, 0, "firstlast", ""},
		{[]string{"5", "x"}, 0, "last", ""}, // the part is refused
		{[]string{"8", "x"}, 0, "x", ""},
		{[]string{"2", "x"}, 1, "", `no such\nanimal (code 7)`},
		{[]string{"2", "x", "-parts"}, 1, "", "(code 7)"},
		{[]string{"3", "a"}, 1, "", "(code 8)"}, // no part is expected
		{[]string{"6", "x"}, 5, "", "without a reply"},
		{[]string{"4", "x", "-timeout", "1s"}, 4, "", "timeout after 1s, and the server may have handled it"},
		{[]string{"4", "x", "-timeout", "1s", "-parts"}, 4, "", "timeout after 1s"},
	} {
		start(t, append([]string{"request", "fake", "-dir", f.dir}, c.args...)...).want(c.status, c.stdout, c.stderr)
	}
}

// TestRequestInterrupted presses Ctrl-C. The server is told.
func TestRequestInterrupted(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	for _, more := range []string{"-parts", "-json"} {
		r := start(t, "request", "fake", "4", "x", "-dir", f.dir, "-timeout", "0", more)
		m := receive(t, f.held)
		r.interrupt()
		r.want(130, "", "")
		receive(t, m.Context().Done())
	}
}

func TestServerEndsWhileAsked(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	r := start(t, "request", "fake", "4", "x", "-dir", f.dir)
	receive(t, f.held)
	f.Close()
	r.want(5, "", "no reply")
}

func TestListen(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	plain := start(t, "listen", "fake", "-dir", f.dir)
	lines := start(t, "listen", "fake", "-dir", f.dir, "-json")
	for _, want := range []string{"Connecting", "Connected"} {
		if got := plain.complaint(); got != "ipc listen: fake: "+want {
			t.Errorf("%q, want the event %s", got, want)
		}
		wantJSON(t, lines.line(), map[string]any{"event": want, "type": nil})
	}
	receive(t, f.came)
	receive(t, f.came)
	if err := f.ServerManager.Broadcast(5, []byte("a \x1b[31m\n")); err != nil {
		t.Fatal(err)
	}
	if err := f.ServerManager.Broadcast(6, []byte{0xff}); err != nil {
		t.Fatal(err)
	}
	if got := plain.line(); !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{6}  message  type 5  8 bytes  "a \\x1b\[31m\\n"$`).MatchString(got) {
		t.Errorf("%q", got)
	}
	if got := plain.line(); !strings.HasSuffix(got, `type 6  1 bytes  "\xff"`) {
		t.Errorf("%q", got)
	}
	wantJSON(t, lines.line(), map[string]any{"type": 5, "size": 8, "data": "a \x1b[31m\n", "request": nil})
	wantJSON(t, lines.line(), map[string]any{"type": 6, "size": 1, "base64": "/w==", "data": nil})

	// Requests are answered.
	for _, client := range f.ServerManager.Servers() {
		_, err := client.Request(t.Context(), 8, nil)
		if e, ok := err.(*ipc.ReplyError); !ok || e.Code != 1 {
			t.Errorf("%v, want a ReplyError", err)
		}
	}
	if got := plain.line(); !strings.HasSuffix(got, `  request  type 8  0 bytes  ""`) {
		t.Errorf("%q", got)
	}
	wantJSON(t, lines.line(), map[string]any{"type": 8, "size": 0, "request": true, "data": ""})

	// The server is restarted.
	f.Close()
	wantJSON(t, lines.line(), map[string]any{"event": "Reconnecting"})
	if got := plain.complaint(); got != "ipc listen: fake: Reconnecting" {
		t.Errorf("%q", got)
	}
	serveIn(t, f.dir, nil)
	wantJSON(t, lines.line(), map[string]any{"event": "Connected"})
	if got := plain.complaint(); got != "ipc listen: fake: Connected" {
		t.Errorf("%q", got)
	}
	lines.interrupt()
	if _, said, status := lines.end(); status != 0 || said != "" {
		t.Errorf("exit status %d after Ctrl-C, and %q", status, said)
	}
	if err := plain.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, _, status := plain.end(); status != 0 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
}

// TestLs is not parallel: a process that another test starts has our sockets for a
// moment.
func TestLs(t *testing.T) {
	dir := socktest.Dir(t, "dead.sock", "child.sock", "file.sock", "a.txt")
	start(t, "ls", "-dir", dir).want(0, "", "no servers in "+dir)
	start(t, "ls", "-dir", dir, "-json").want(0, "", "")

	f := serveIn(t, dir, func(c *ipc.ServerConfig) { c.MultiMode = false })
	socktest.LeaveStale(t, filepath.Join(dir, "dead.sock"))
	for _, name := range []string{"file.sock", "a.txt"} { // no sockets
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	child := newTool(t)
	child.cmd.Env = append(os.Environ(), asServer+"="+dir)
	child.start().line()

	for _, run := range []struct {
		child string
		pid   int
	}{{"alive", child.cmd.Process.Pid}, {"stale", 0}} {
		if run.child == "stale" {
			child.cmd.Process.Kill()
			child.end()
		}
		stdout, stderr, status := start(t, "ls", "-dir", dir, "-json").end()
		servers := strings.Split(strings.TrimSpace(stdout), "\n")
		if status != 0 || stderr != "" || len(servers) != 3 {
			t.Fatalf("exit status %d, %q, %q", status, stdout, stderr)
		}
		wantJSON(t, servers[0], map[string]any{"name": "child", "path": dir + "/child.sock", "state": run.child})
		wantJSON(t, servers[1], map[string]any{"name": "dead", "state": "stale", "pids": nil})
		wantJSON(t, servers[2], map[string]any{"name": "fake", "state": "alive"})
		wantPID(t, servers[0], run.pid)
		wantPID(t, servers[2], os.Getpid())

		stdout, _, _ = start(t, "ls", "-dir", dir).end()
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		if len(lines) != 4 || !regexp.MustCompile(`^NAME +PID +USER +STATE$`).MatchString(lines[0]) ||
			!regexp.MustCompile(`^child +\S+ +\S+ +`+run.child+`$`).MatchString(lines[1]) ||
			!regexp.MustCompile(`^dead +- +\S+ +stale$`).MatchString(lines[2]) {
			t.Errorf("%s", stdout)
		}
	}
	// Nothing of it was a connection, and the place is free.
	if s := f.Stats(); s.HandshakeFailures != 0 || f.StatusCode() != ipc.Listening {
		t.Errorf("ls has disturbed the server: %v, %v", s, f.StatusCode())
	}
}

// TestSendAsAnother connects to a socket that is another user's.
func TestSendAsAnother(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	f := serve(t, nil)
	if err := os.Chmod(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// The test binary is in a folder of ours alone.
	program := filepath.Join(f.dir, "tool")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(program) })
	// A process that another test starts meanwhile would have the file open for
	// writing for a moment, in which nobody can run it.
	syscall.ForkLock.RLock()
	err = os.WriteFile(program, binary, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	for _, args := range [][]string{{"send", "fake", "1", "x"}, {"proxy", "fake", "as"}} {
		r := newTool(t, append(args, "-dir", f.dir)...)
		r.cmd.Path, r.cmd.Dir = program, "/"
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: socktest.Stranger, Gid: socktest.Stranger}}
		r.start().want(3, "", "permission denied; it is the socket of user root with mode -rw-------")
	}
	r := newTool(t, "ls", "-dir", f.dir)
	r.cmd.Path, r.cmd.Dir = program, "/"
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: socktest.Stranger, Gid: socktest.Stranger}}
	out, said, status := r.start().end()
	if status != 0 || said != "" || !regexp.MustCompile(`fake +- +root +unknown: .*permission denied\n$`).MatchString(out) {
		t.Errorf("ls: exit status %d, %q, %q", status, out, said)
	}
}

var benchOutput = regexp.MustCompile(`^\d+ (requests|echoes) of (\d+) bytes in \S+, (\d) at once: \d+ a second
p50    \S+s
p90    \S+s
p99    \S+s
p99.9  \S+s
max    \S+s
$`)

func TestBench(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"requests", "64", "1"}},
		{[]string{"-c", "4", "-size", "0"}, []string{"requests", "0", "4"}},
		{[]string{"-echo"}, []string{"echoes", "64", "1"}},
		{[]string{"-echo", "-c", "8", "1", "data"}, []string{"echoes", "4", "8"}},
		// The limit is for each answer.
		{[]string{"-for", "1200ms", "-timeout", "1s"}, []string{"requests", "64", "1"}},
		{[]string{"-for", "1200ms", "-timeout", "1s", "-echo"}, []string{"echoes", "64", "1"}},
	} {
		out, said, status := start(t, append([]string{"bench", "fake", "-dir", f.dir, "-for", "50ms"}, c.args...)...).end()
		got := benchOutput.FindStringSubmatch(out)
		if status != 0 || said != "" || len(got) == 0 || strings.Join(got[1:], " ") != strings.Join(c.want, " ") {
			t.Errorf("%q: exit status %d, %q, %q", c.args, status, out, said)
		}
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"2"}, 1, "answers request 2 with an error: no such"},
		{[]string{"4", "-timeout", "1s"}, 4, "has not answered a request of type 4 within 1s"},
		{[]string{"9", "-timeout", "1s", "-echo"}, 4, "has sent no message of type 9 back within 1s"},
	} {
		start(t, append([]string{"bench", "fake", "-dir", f.dir, "-for", "1h"}, c.args...)...).want(c.status, "", c.want)
	}
}

// TestBenchEnds ends measurements of an hour: by Ctrl-C, and by the end of the
// server.
func TestBenchEnds(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"-echo=false", "-echo"} {
		f := serve(t, nil)
		start := func() *tool {
			r := start(t, "bench", "fake", "-dir", f.dir, "-for", "1h", "-c", "2", mode)
			for range 100 {
				f.next(t)
			}
			return r
		}
		r := start()
		r.interrupt()
		if out, said, status := r.end(); status != 0 || said != "" || !benchOutput.MatchString(out) {
			t.Errorf("after Ctrl-C: exit status %d, %q, %q", status, out, said)
		}
		for len(f.got) > 0 {
			<-f.got
		}
		r = start()
		f.Close()
		if out, said, status := r.end(); status != 5 || strings.Count(said, "\n") != 1 || !benchOutput.MatchString(out) {
			t.Errorf("after the server: exit status %d, %q, %q", status, out, said)
		}
	}
}
