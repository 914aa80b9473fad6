//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// What the test binary is, where that is not the tests.
const (
	asTool   = "IPC_TEST_TOOL"   // the tool
	asServer = "IPC_TEST_SERVER" // a server called "child" in the folder that is the value, to be killed
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asTool) != "":
		main()
	case os.Getenv(asServer) != "":
		beServer(os.Getenv(asServer))
	default:
		os.Exit(m.Run())
	}
}

// beServer says on standard output that it listens, and serves until it is
// killed.
func beServer(dir string) {
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "child", SocketDir: dir})
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("listening\n")
	server.Read()
	select {}
}

// The types that the server of the tests knows.
const (
	typeEcho  = 1 // answers a request, and a message, with the same
	typeFail  = 2 // answers a request with a ReplyError
	typeParts = 3 // answers a request with its words as parts
	typeHold  = 4 // answers no request, until it is cancelled
	typeLast  = 5 // answers a request with a part and a last reply
	typeNone  = 6 // returns without a reply
	typeAsk   = 7 // asks the client a request of type 1 with the same data, and writes the reply as a message
	typeFlood = 8 // answers a request when it has sent more messages than an inbox holds
)

// fake is a server of the tests.
type fake struct {
	*ipc.Server
	dir  string
	got  chan message      // but for events
	held chan *ipc.Message // requests of typeHold
	came chan *ipc.Server  // clients that have joined
	left chan int          // ids of clients that have left
}

// message is what a server has got. (A clone of a request would have to be
// answered.)
type message struct {
	MsgType   int
	Data      []byte
	isRequest bool
}

// serve starts a server called "fake", which ends with the test. change may be nil.
func serve(t *testing.T, change func(*ipc.ServerConfig)) *fake {
	t.Helper()
	return serveIn(t, socktest.Dir(t), change)
}

func serveIn(t *testing.T, dir string, change func(*ipc.ServerConfig)) *fake {
	t.Helper()
	f := &fake{dir: dir, got: make(chan message, 4096), held: make(chan *ipc.Message, 16),
		came: make(chan *ipc.Server, 16), left: make(chan int, 16),
	}
	config := &ipc.ServerConfig{Name: "fake", SocketDir: dir, MultiMode: true, Handler: f.handle}
	if change != nil {
		change(config)
	}
	server, err := ipc.StartServer(config)
	if err != nil {
		t.Fatal(err)
	}
	f.Server = server
	t.Cleanup(func() { server.Close() })
	return f
}

func (f *fake) handle(client *ipc.Server, m *ipc.Message) {
	if m.MsgType < 0 {
		switch m.Status {
		case ipc.Connected.String():
			f.came <- client
		case ipc.Disconnected.String():
			f.left <- client.ClientID()
		}
		return
	}
	select {
	case f.got <- message{m.MsgType, bytes.Clone(m.Data), m.IsRequest()}:
	default: // a benchmark
	}
	if !m.IsRequest() {
		switch m.MsgType {
		case typeEcho:
			client.Write(m.MsgType, m.Data)
		case typeAsk:
			question := m.Clone()
			go func() {
				answer, err := client.Request(context.Background(), typeEcho, question.Data)
				if err != nil {
					client.Write(typeFail, []byte(err.Error()))
					return
				}
				client.Write(typeAsk, answer.Data)
			}()
		}
		return
	}
	if m.MsgType == typeNone {
		return
	}
	request := m.Clone()
	switch m.MsgType {
	case typeFail:
		request.ReplyError(7, "no such\nanimal")
	case typeParts:
		for word := range strings.FieldsSeq(string(m.Data)) {
			if err := request.ReplyPart(typeParts, []byte(word)); err != nil {
				request.ReplyError(8, err.Error())
				return
			}
		}
		request.ReplyEnd()
	case typeHold:
		f.held <- request
	case typeLast:
		request.ReplyPart(1, []byte("first"))
		request.Reply(2, []byte("last"))
	case typeFlood:
		for range 3 {
			client.Write(9, make([]byte, 1<<20))
		}
		request.Reply(m.MsgType, m.Data)
	default:
		request.Reply(m.MsgType, m.Data)
	}
}

// next returns the next message that the server has got.
func (f *fake) next(t *testing.T) message {
	t.Helper()
	return receive(t, f.got)
}

// receive waits for what comes from c.
func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatal("nothing has come")
	}
	return v
}

// tool is the tool, running.
type tool struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *bufio.Reader
	err    *bufio.Reader
	shown  bytes.Buffer // what has been read of out
	said   bytes.Buffer // and of err
	finish sync.Once

	collecting sync.WaitGroup // a goroutine that reads out
}

// newTool returns the tool, which may be changed before it is started.
func newTool(t *testing.T, args ...string) *tool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	r := &tool{t: t, cmd: exec.CommandContext(ctx, self, args...)}
	r.cmd.Env = append(os.Environ(), asTool+"=1", "TERM=xterm", "NO_COLOR=", "IPC_DEBUG=",
		"GORACE=atexit_sleep_ms=0") // with the race detector, do not end a second later
	return r
}

func (r *tool) start() *tool {
	r.t.Helper()
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	r.out, r.err = bufio.NewReader(out), bufio.NewReader(stderr)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		r.cmd.Process.Kill()
		r.end()
	})
	return r
}

// start starts the tool.
func start(t *testing.T, args ...string) *tool {
	t.Helper()
	return newTool(t, args...).start()
}

// collect reads what the tool prints, so that it does not have to wait for the
// test. There must be no calls of line.
func (r *tool) collect() {
	r.collecting.Go(func() { io.Copy(&r.shown, r.out) })
}

// line returns the next line that the tool prints.
func (r *tool) line() string {
	r.t.Helper()
	line, err := r.out.ReadString('\n')
	r.shown.WriteString(line)
	if err != nil {
		_, said, status := r.end()
		r.t.Fatalf("%v after %q: exit status %d, %s", err, &r.shown, status, said)
	}
	return strings.TrimSuffix(line, "\n")
}

// complaint returns the next line on standard error.
func (r *tool) complaint() string {
	r.t.Helper()
	line, err := r.err.ReadString('\n')
	r.said.WriteString(line)
	if err != nil {
		r.t.Fatalf("%v after %q", err, &r.said)
	}
	return strings.TrimSuffix(line, "\n")
}

func (r *tool) interrupt() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		r.t.Error(err)
	}
}

// end waits for the end of the tool, and returns all that it has shown, and its
// exit status.
func (r *tool) end() (stdout, stderr string, status int) {
	r.finish.Do(func() {
		r.collecting.Wait()
		r.collect()
		io.Copy(&r.said, r.err)
		r.collecting.Wait()
		var exit *exec.ExitError
		if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
			r.t.Error(err)
		}
	})
	return r.shown.String(), r.said.String(), r.cmd.ProcessState.ExitCode()
}

// want waits for the end of the tool. What it has shown must be what is wanted,
// and what it has complained about must contain it.
func (r *tool) want(status int, stdout, stderr string) {
	r.t.Helper()
	out, said, got := r.end()
	if got != status || out != stdout || !strings.Contains(said, stderr) || stderr == "" && said != "" {
		r.t.Errorf("%q: exit status %d, %q, %q: want %d, %q, %q", r.cmd.Args[1:], got, out, said, status, stdout, stderr)
	}
	if strings.Count(said, "\n") > 1 {
		r.t.Errorf("%q: more than a line on standard error: %s", r.cmd.Args[1:], said)
	}
	if strings.Contains(out+said, "\x1b") {
		r.t.Errorf("%q: colors without a terminal: %q", r.cmd.Args[1:], out+said)
	}
	if strings.Contains(said, "ipc: ipc:") || strings.Count(said, ".sock") > 1 && !strings.Contains(said, "lock") {
		r.t.Errorf("%q: it says something twice: %s", r.cmd.Args[1:], said)
	}
}

// parseJSON parses a line.
func parseJSON(t *testing.T, line string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return v
}

// wantJSON compares the fields that are wanted.
func wantJSON(t *testing.T, line string, want map[string]any) {
	t.Helper()
	got := parseJSON(t, line)
	for key, v := range want {
		if n, ok := v.(int); ok {
			v = float64(n)
		}
		if got[key] != v {
			t.Errorf("%s: %q is %v, want %v", line, key, got[key], v)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{nil, 2, "", "usage: ipc COMMAND"},
		{[]string{"help"}, 0, "usage: ipc COMMAND", ""},
		{[]string{"-h"}, 0, "exit status:", ""},
		{[]string{"--help"}, 0, "exit status:", ""},
		{[]string{"help", "send"}, 0, "usage: ipc send [flags] NAME TYPE [DATA]", ""},
		{[]string{"help", "ls"}, 0, "usage: ipc ls [flags]\n", ""},
		{[]string{"send", "-h"}, 0, "-timeout limit", ""},
		{[]string{"send", "a", "--help"}, 0, "-timeout limit", ""},
		{[]string{"help", "dance"}, 2, "", `no command "dance"`},
		{[]string{"dance"}, 2, "", `no command "dance"`},
		{[]string{"-dir", "/tmp", "ls"}, 2, "", "flags come after the command"},
		{[]string{"send", "a"}, 2, "", "too few arguments; usage: ipc send NAME TYPE [DATA]"},
		{[]string{"ls", "a"}, 2, "", "too many arguments; usage: ipc ls; see"},
		{[]string{"proxy", "a"}, 2, "", "too few arguments; usage: ipc proxy NAME AS"},
		{[]string{"send", "-x", "a", "1"}, 2, "", "-x"},
		{[]string{"send", "a", "1", "-timeout", "soon"}, 2, "", "soon"},
		{[]string{"send", "a", "0", "x"}, 2, "", `TYPE "0" is not a number from 1 to 2147483647`},
		{[]string{"send", "a", "2147483648", "x"}, 2, "", "2147483647"},
		{[]string{"send", "a", "one", "x"}, 2, "", `TYPE "one"`},
		{[]string{"send", "a/b", "1", "x"}, 2, "", "separator; NAME is without a folder"},
		{[]string{"request", "a", "1", "x", "-timeout", "-1s"}, 2, "", "negative"},
		{[]string{"listen", ""}, 2, "", "empty"},
		{[]string{"bench", "a", "-c", "0"}, 2, "", "-c 0"},
		{[]string{"bench", "a", "-size", "-1"}, 2, "", "-size -1"},
		{[]string{"bench", "a", "-for", "0"}, 2, "", "-for 0s"},
		{[]string{"bench", "a", "x"}, 2, "", `TYPE "x"`},
		{[]string{"proxy", "a", "b/c"}, 2, "", "separator"},
		{[]string{"send", "a", "1", "@/no/such/file"}, 5, "", "/no/such/file"},
		{[]string{"ls", "-dir", "/no/such/folder"}, 5, "", "-dir"},
	} {
		stdout, stderr, status := start(t, c.args...).end()
		if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) ||
			(stdout == "") != (c.stdout == "") || (stderr == "") != (c.stderr == "") {
			t.Errorf("%q: exit status %d, %q, %q: want %d, %q, %q", c.args, status, stdout, stderr, c.status, c.stdout, c.stderr)
		}
	}
}

// TestHelpIsWhole looks for every command and exit status in the three texts that
// tell of them.
func TestHelpIsWhole(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, _, _ := strings.Cut(string(manual), "\npackage main")
	usage, _, _ := start(t, "help").end()
	_, statuses, _ := strings.Cut(usage, "exit status:\n")
	for line := range strings.Lines(statuses) {
		if !strings.Contains(doc, "//\t"+strings.TrimLeft(line, " ")) {
			t.Errorf("the package comment does not have %q", line)
		}
	}
	for _, c := range commands {
		if !strings.Contains(doc, "ipc "+c.name+" "+c.args) && !strings.Contains(doc, "ipc "+c.name+"  ") {
			t.Errorf("the package comment does not have ipc %s %s", c.name, c.args)
		}
		flags, _ := c.flags()
		flags.VisitAll(func(f *flag.Flag) {
			if strings.Contains(f.Usage, "\n") || f.Usage == "" {
				t.Errorf("%s -%s: usage %q", c.name, f.Name, f.Usage)
			}
		})
		for line := range strings.Lines(c.help) {
			if len(line) > 88 {
				t.Errorf("help of %s: a line of %d bytes: %s", c.name, len(line), line)
			}
		}
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	dir := socktest.Dir(t, "dead.sock", "file.sock")
	socktest.LeaveStale(t, filepath.Join(dir, "dead.sock"))
	if err := os.WriteFile(filepath.Join(dir, "file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"send", "NAME", "1", "x"},
		{"request", "NAME", "1", "x"},
		{"listen", "NAME"},
		{"bench", "NAME"},
		{"proxy", "NAME", "as"},
	} {
		for name, want := range map[string]string{
			"absent": "there is no socket " + dir + "/absent.sock; start the server, wait for it with -wait",
			"dead":   dir + "/dead.sock was left behind by one that has ended",
			"file":   dir + "/file.sock is not a socket",
		} {
			args := slices.Clone(args)
			args[1] = name
			start(t, append(args, "-dir", dir)...).want(3, "", want)
		}
		args[1] = "absent"
		start(t, append(args, "-dir", dir+"/no")...).want(3, "", "there is no folder "+dir+"/no; name the right one with -dir")
	}
	// With -wait it is waited for as long as -timeout says.
	start(t, "send", "absent", "1", "x", "-dir", dir, "-wait", "-timeout", "50ms").want(3, "", "(after 50ms)")
}

func TestNoPlace(t *testing.T) {
	t.Parallel()
	f := serve(t, func(c *ipc.ServerConfig) { c.MultiMode = false })
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "fake", SocketDir: f.dir})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, args := range [][]string{{"send", "fake", "1", "x"}, {"request", "fake", "1", "x"}, {"listen", "fake"}, {"bench", "fake"}} {
		start(t, append(args, "-dir", f.dir, "-timeout", "50ms")...).want(4, "", "the server is there and has not admitted this client within 50ms")
	}
	waiting := start(t, "send", "fake", "1", "x", "-dir", f.dir, "-timeout", "1m")
	client.Close()
	waiting.want(0, "", "")
	if m := f.next(t); string(m.Data) != "x" {
		t.Errorf("got %v", m)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	dir := socktest.Dir(t)
	waiting := start(t, "request", "fake", "1", "x", "-dir", dir, "-wait", "-timeout", "1m")
	serveIn(t, dir, nil)
	waiting.want(0, "x", "")
}

// listenRaw has talk serve the first connection to the socket name in dir. What the
// client says after that is ignored.
func listenRaw(t *testing.T, dir, name string, talk func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		talk(conn)
		io.Copy(io.Discard, conn)
	}()
}

// TestOtherProtocol connects to a server of another kind.
func TestOtherProtocol(t *testing.T) {
	t.Parallel()
	dir := socktest.Dir(t)
	listenRaw(t, dir, "other", func(conn net.Conn) { io.WriteString(conn, "220 ready\r\n") })
	start(t, "send", "other", "1", "x", "-dir", dir).want(3, "", "is it a server of package ipc?")
}

// TestNoRequests has a server of before there were requests, and does not wait until
// that is known.
func TestNoRequests(t *testing.T) {
	t.Parallel()
	dir := socktest.Dir(t)
	listenRaw(t, dir, "old", func(conn net.Conn) {
		io.WriteString(conn, "\x02\x00")
		io.ReadFull(conn, make([]byte, 1))
		io.WriteString(conn, "\x00\x00\x00\x04\x00\x00\x04\x00") // messages of 1024 bytes
	})
	start(t, "request", "old", "1", "x", "-dir", dir, "-timeout", "100ms").want(4, "", "it was not sent: that a server knows no requests shows")
}

func TestEncrypt(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	for _, args := range [][]string{{"send", "fake", "1", "x"}, {"request", "fake", "1", "x"}, {"listen", "fake"}, {"bench", "fake"}} {
		start(t, append(args, "-dir", f.dir, "-encrypt")...).want(3, "", "the server does not encrypt: leave -encrypt out")
	}
	f = serve(t, func(c *ipc.ServerConfig) { c.Encryption = true })
	start(t, "request", "-encrypt", "fake", "1", "x", "-dir", f.dir).want(0, "x", "")
	start(t, "request", "fake", "1", "x", "-dir", f.dir).want(0, "x", "")
}
