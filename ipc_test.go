package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// helperVariable names, for a copy of the test binary that a test starts, the
// function of helpers that it is to run instead of the tests.
const helperVariable = "IPC_TEST_HELPER"

// helpers are the main functions of other processes. Files add theirs in init.
var helpers = map[string]func(){}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		go dieWithParent()
		helpers[name]()
		return
	}
	// The runtime opens the descriptors of its network poller with the first
	// socket and keeps them: they must be there before begin counts.
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	flag.Set("test.parallel", "8") // see parallel; the command line can set it yet
	leaks := leakCheck()
	code := m.Run()
	if code == 0 && anyParallel.Load() {
		if err := leaks(); err != nil {
			fmt.Println("FAIL: the parallel tests together leave", err)
			code = 1
		}
	}
	os.Exit(code)
}

// dieWithParent ends a helper when the test has died that holds the other end
// of its standard input.
func dieWithParent() {
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}
}

// helperCommand is a process that runs a helper, for as long as the test does
// at most.
func helperCommand(t testing.TB, helper string, env ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	noError(t, "Executable", err)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), helperVariable+"="+helper, "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	_, err = cmd.StdinPipe() // nobody writes to it: its end is what tells
	noError(t, "StdinPipe", err)
	return cmd
}

// watchdog is how long a test may take. It is no expectation of speed:
// whatever takes so long hangs.
const watchdog = 2 * time.Minute

// begin guards a test: it must not hang and, when everything that it cleans
// up is cleaned up, must leave no goroutine and no descriptor behind. What
// parallel tests leave is counted at the end of them all, in TestMain.
func begin(t testing.TB) {
	t.Helper()
	timer := time.AfterFunc(watchdog, func() {
		debug.SetTraceback("all")
		panic(t.Name() + " hangs")
	})
	root, _, _ := strings.Cut(t.Name(), "/")
	_, parallel := parallelTests.Load(root)
	leaks := leakCheck()
	t.Cleanup(func() {
		timer.Stop()
		if parallel {
			return
		}
		if err := leaks(); err != nil {
			t.Error("left behind:", err)
		}
	})
}

// parallelTests has the names of those that have called parallel.
var (
	parallelTests sync.Map
	anyParallel   atomic.Bool
)

// parallel lets a test that mostly waits, for other processes or for a timer,
// run together with others of the kind.
func parallel(t *testing.T) {
	t.Helper()
	parallelTests.Store(t.Name(), true)
	anyParallel.Store(true)
	t.Parallel()
}

// leakCheck counts goroutines and descriptors. What it returns waits until
// there are no more than now, and says so if that does not happen.
func leakCheck() func() error {
	goroutines, open := runtime.NumGoroutine(), descriptors()
	return func() error {
		if !eventually(func() bool { return runtime.NumGoroutine() <= goroutines }) {
			stacks := make([]byte, 1<<20)
			return fmt.Errorf("%d goroutines before, %d after:\n%s", goroutines, runtime.NumGoroutine(),
				stacks[:runtime.Stack(stacks, true)])
		}
		if !eventually(func() bool { return descriptors() <= open }) {
			return fmt.Errorf("%d descriptors before, %d after", open, descriptors())
		}
		return nil
	}
}

// inBubble runs a test in synthetic time, which moves on only when every
// goroutine waits: pauses cost nothing, are exact, and "stays blocked" can be
// seen. It takes the place of begin. Of the transports only pipe works there.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	begin(t)
	synctest.Test(t, test)
}

// descriptors counts the open ones, where the system tells.
func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// eventually waits for what announces itself by no event, such as the exit of
// a goroutine.
func eventually(condition func() bool) bool {
	for limit := time.Now().Add(10 * time.Second); !condition(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(limit) {
			return false
		}
	}
	return true
}

// endpoint is what a Server and a Client have in common.
type endpoint interface {
	Read() (*ipc.Message, error)
	ReadTimed(d time.Duration, onTimeout *ipc.Message) (*ipc.Message, error)
	ReadContext(ctx context.Context) (*ipc.Message, error)
	Messages(ctx context.Context) iter.Seq2[*ipc.Message, error]
	Write(msgType int, data []byte) error
	WriteContext(ctx context.Context, msgType int, data []byte) error
	Flush(ctx context.Context) error
	Status() string
	StatusCode() ipc.Status
	Peer() (ipc.Peer, error)
	Stats() ipc.Stats
	Close() error
}

var (
	_ endpoint = (*ipc.Server)(nil)
	_ endpoint = (*ipc.Client)(nil)
)

// setup is a kind of connection that a test can be run over.
type setup struct {
	transport
	multi bool
}

func (s setup) String() string {
	if s.multi {
		return s.transport.name + " multi"
	}
	return s.transport.name + " single"
}

var (
	unixSingle = setup{unixTransport, false}
	unixMulti  = setup{unixTransport, true}
	pipeSingle = setup{pipeTransport, false}
	pipeMulti  = setup{pipeTransport, true}
)

// everySetup is each transport, and the named socket in both modes; unixSetups is for what differs
// by mode only, multiSetup for what only MultiMode has, pipeSetups for bubbles.
var (
	everySetup = append(oneModeEach(transports[1:]...), unixSetups...)
	unixSetups = modes(unixTransport)
	pipeSetups = modes(pipeTransport)
	multiSetup = []setup{unixMulti}
)

// oneModeEach returns each transport in one of the modes, by turns.
func oneModeEach(transports ...transport) []setup {
	var all []setup
	for i, tr := range transports {
		all = append(all, setup{tr, i%2 == 1})
	}
	return all
}

func modes(transports ...transport) []setup {
	var all []setup
	for _, tr := range transports {
		all = append(all, setup{tr, false}, setup{tr, true})
	}
	return all
}

// eachSetup runs test, guarded by begin, once for each of setups.
func eachSetup(t *testing.T, setups []setup, test func(t *testing.T, s setup)) {
	t.Helper()
	for _, s := range setups {
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			test(t, s)
		})
	}
}

// eachPair is eachSetup for tests that begin with a connected pair.
func eachPair(t *testing.T, setups []setup, test func(t *testing.T, p *pair), tweaks ...tweak) {
	t.Helper()
	eachSetup(t, setups, func(t *testing.T, s setup) { test(t, s.pair(t, tweaks...)) })
}

// eachDirection is eachPair for tests with a sender and a receiver: from the
// client to the server's end, and with another pair the other way.
func eachDirection(t *testing.T, setups []setup, test func(t *testing.T, from, to endpoint), tweaks ...tweak) {
	t.Helper()
	t.Run("to server", func(t *testing.T) {
		eachPair(t, setups, func(t *testing.T, p *pair) { test(t, p.client, p.peer) }, tweaks...)
	})
	t.Run("to client", func(t *testing.T) {
		eachPair(t, setups, func(t *testing.T, p *pair) { test(t, p.peer, p.client) }, tweaks...)
	})
}

// eachBubble is eachSetup for tests in synthetic time, in both modes.
func eachBubble(t *testing.T, test func(t *testing.T, s setup)) {
	t.Helper()
	for _, s := range pipeSetups {
		t.Run(s.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { test(t, s) })
		})
	}
}

// tweak changes the configs of a pair before it starts. Either may be nil,
// where only the other end is ours.
type tweak func(*ipc.ServerConfig, *ipc.ClientConfig)

// maxMsgSize is a tweak.
func maxMsgSize(n int) tweak {
	return func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
		if s != nil {
			s.MaxMsgSize = n
		}
	}
}

// clientTimeout is a tweak.
func clientTimeout(d time.Duration) tweak {
	return func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
		if c != nil {
			c.Timeout = d
		}
	}
}

// startServer starts a server at the far end of l, and closes it after the
// test.
func (s setup) startServer(t testing.TB, l *link, tweaks ...tweak) *ipc.Server {
	t.Helper()
	config := l.server()
	config.MultiMode = s.multi
	for _, tweak := range tweaks {
		tweak(&config, nil)
	}
	server, err := ipc.StartServer(&config)
	if err != nil {
		t.Fatal("StartServer:", err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

// startClient connects a client through l, reads the events of its start, and
// closes it after the test.
func (l *link) startClient(t testing.TB, tweaks ...tweak) *ipc.Client {
	t.Helper()
	config := l.client
	for _, tweak := range tweaks {
		tweak(nil, &config)
	}
	client, err := ipc.StartClient(&config)
	if err != nil {
		t.Fatal("StartClient:", err)
	}
	t.Cleanup(func() { client.Close() })
	wantEvents(t, client, ipc.Connecting, ipc.Connected)
	return client
}

// join waits for the next client of server and returns the Server that talks
// to it: server itself, or in MultiMode the client's own.
func (s setup) join(t testing.TB, server *ipc.Server) *ipc.Server {
	t.Helper()
	if !s.multi {
		wantEvents(t, server, ipc.Connected)
		return server
	}
	got := readManager(t, server.ServerManager)
	if len(got) != 1 || got[0].String() != "Connected" {
		t.Fatalf("manager read %v, want one event Connected", got)
	}
	return got[0].server
}

// pair is a server and a client that are connected, with the events of that
// read.
type pair struct {
	setup
	link   *link
	server *ipc.Server // as StartServer returned it
	peer   *ipc.Server // the server's end of the connection: server itself, or in MultiMode the client's own
	client *ipc.Client
}

func (s setup) pair(t testing.TB, tweaks ...tweak) *pair {
	t.Helper()
	p := &pair{setup: s, link: s.open(t)}
	p.server = s.startServer(t, p.link, tweaks...)
	p.client = p.link.startClient(t, tweaks...)
	p.peer = s.join(t, p.server)
	return p
}

// check shows that both directions work.
func (p *pair) check(t testing.TB) {
	t.Helper()
	wantRoundTrip(t, p.client, p.peer)
	wantRoundTrip(t, p.peer, p.client)
}

// next reads one message.
func next(t testing.TB, e endpoint) *ipc.Message {
	t.Helper()
	m, err := e.Read()
	if err != nil {
		t.Fatal("Read:", err)
	}
	return m
}

// describe is a message in a few words: an event's status, or a type and size.
func describe(m *ipc.Message) string {
	switch {
	case m == nil:
		return "nil"
	case m.MsgType < 0 && m.Err != nil:
		return fmt.Sprintf("%s (%v)", m.Status, m.Err)
	case m.MsgType < 0:
		return m.Status
	}
	return fmt.Sprintf("message of type %d, %d bytes", m.MsgType, len(m.Data))
}

// wantEvents reads exactly these events, and returns the last.
func wantEvents(t testing.TB, e endpoint, statuses ...ipc.Status) *ipc.Message {
	t.Helper()
	var m *ipc.Message
	for _, want := range statuses {
		m = next(t, e)
		if m.MsgType != -1 || m.Status != want.String() || len(m.Data) != 0 {
			t.Fatalf("read %s, want event %v", describe(m), want)
		}
	}
	return m
}

// wantErrorEvent reads one event with Status Error for want.
func wantErrorEvent(t testing.TB, e endpoint, want error) {
	t.Helper()
	if m := wantEvents(t, e, ipc.Error); !errors.Is(m.Err, want) {
		t.Fatalf("event Error has Err %v, want %v", m.Err, want)
	}
}

// wantMessage reads exactly this message.
func wantMessage(t testing.TB, e endpoint, msgType int, data []byte) {
	t.Helper()
	wantSame(t, next(t, e), msgType, data)
}

// wantSame checks a user message. The data of both may be large, so it is not
// printed.
func wantSame(t testing.TB, m *ipc.Message, msgType int, data []byte) {
	t.Helper()
	switch {
	case m.MsgType != msgType || len(m.Data) != len(data):
		t.Fatalf("read %s, want type %d, %d bytes", describe(m), msgType, len(data))
	case !bytes.Equal(m.Data, data):
		t.Fatalf("data of a %s differs", describe(m))
	case m.Err != nil || m.Status != "":
		t.Fatalf("user message has Err %v, Status %q", m.Err, m.Status)
	}
}

// wantEnd checks that e has come to the end that is want, for every call and
// for good. What Read still had must have been read.
func wantEnd(t testing.TB, e endpoint, want ...error) {
	t.Helper()
	ctx := context.Background()
	calls := []struct {
		name string
		call func() error
	}{
		{"Read", func() error { return second(e.Read()) }},
		{"ReadTimed", func() error { return second(e.ReadTimed(time.Hour, nil)) }},
		{"ReadTimed(0)", func() error { return second(e.ReadTimed(0, nil)) }},
		{"ReadContext", func() error { return second(e.ReadContext(ctx)) }},
		{"Messages", func() (last error) {
			n := 0
			for _, err := range e.Messages(ctx) {
				n, last = n+1, err
			}
			if n != 1 {
				t.Errorf("Messages yielded %d times after the end, want 1", n)
			}
			return last
		}},
		{"Write", func() error { return e.Write(1, nil) }},
		{"WriteContext", func() error { return e.WriteContext(ctx, 1, nil) }},
		{"Flush", func() error { return e.Flush(ctx) }},
	}
	for range 2 {
		for _, c := range calls {
			wantError(t, c.name+" after the end", c.call(), want...)
		}
	}
}

// second drops the message of a call that is about its error.
func second(_ *ipc.Message, err error) error { return err }

// wantError checks that err matches all of want.
func wantError(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("%s: error %v, want %v", what, err, w)
		}
	}
}

// wantText checks the words that users know.
func wantText(t testing.TB, what string, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v, want %q in it", what, err, text)
	}
}

// wantElapsed checks how much synthetic time has passed.
func wantElapsed(t testing.TB, what string, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

// noError fails the test at once.
func noError(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// wantRoundTrip sends one message and reads it at the other end.
func wantRoundTrip(t testing.TB, from, to endpoint) {
	t.Helper()
	noError(t, "Write", from.Write(42, []byte("are you there?")))
	wantMessage(t, to, 42, []byte("are you there?"))
}

// writeRising writes n messages of rising type and size, from 1 and 0 on.
func writeRising(e endpoint, n int) error {
	for i := range n {
		if err := e.Write(i+1, payload(i, i)); err != nil {
			return err
		}
	}
	return nil
}

// wantRising reads what writeRising wrote.
func wantRising(t testing.TB, e endpoint, n int) {
	t.Helper()
	for i := range n {
		wantMessage(t, e, i+1, payload(i, i))
	}
}

// delivery is one call of a manager's callback.
type delivery struct {
	server  *ipc.Server
	message *ipc.Message
	err     error
}

func (d delivery) String() string {
	if d.err != nil {
		return d.err.Error()
	}
	return describe(d.message)
}

// readManager calls Read once and returns what the callback got.
func readManager(t testing.TB, m *ipc.ServerManager) []delivery {
	t.Helper()
	var all []delivery
	m.Read(collect(&all))
	if len(all) == 0 {
		t.Fatal("ServerManager.Read returned without a call of the callback")
	}
	return all
}

// collect is a callback that appends to all.
func collect(all *[]delivery) func(*ipc.Server, *ipc.Message, error) {
	return func(s *ipc.Server, m *ipc.Message, err error) {
		*all = append(*all, delivery{s, m, err})
	}
}

// payload returns n bytes that only a message with this seed has, from -65536
// on. They are shared: whoever changes them must do so in a copy.
func payload(seed, n int) []byte {
	at := (seed + 1<<16) * 7919 % (len(noise()) - n)
	return noise()[at : at+n : at+n]
}

// noise is what payloads are cut from.
var noise = sync.OnceValue(func() []byte {
	b := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
})

// socketDir makes a folder for sockets, which must be empty again after the
// test. (t.TempDir's paths grow with the test's name, over the limit of a
// socket's path.)
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ipc")
	noError(t, "MkdirTemp", err)
	t.Cleanup(func() {
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
		os.RemoveAll(dir)
	})
	return dir
}

// background runs f in a goroutine, and returns a function that waits for its
// result.
func background[T any](f func() T) (wait func() T) {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return sync.OnceValue(func() T { return <-result })
}

func TestBothDirections(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to endpoint) {
		const n = 500
		sent := background(func() error { return writeRising(from, n) })
		wantRising(t, to, n)
		noError(t, "Write", sent())
		wantRoundTrip(t, to, from)
		noError(t, "Close", from.Close())
		noError(t, "Close", to.Close())
	})
}

// One answers the other, with messages of all sizes.
func TestPingPong(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to endpoint) {
		for i := range 200 {
			ping, pong := payload(i, i*i%40_000), payload(-i, i*i%50_000)
			sent := background(func() error { return from.Write(1, ping) })
			wantMessage(t, to, 1, ping)
			noError(t, "Write", sent())
			sent = background(func() error { return to.Write(2, pong) })
			wantMessage(t, from, 2, pong)
			noError(t, "Write", sent())
		}
	})
}

// Both ends write without a pause and read beside it: neither may wait for
// the other to stop.
func TestFullDuplex(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		const n = 100
		size := func(i int) int { return i * i * 7 } // small and large ones
		write := func(e endpoint) func() error {
			return background(func() error {
				for i := range n {
					if err := e.Write(i+1, payload(i, size(i))); err != nil {
						return err
					}
				}
				return nil
			})
		}
		client, server := write(p.client), write(p.peer)
		for i := range n {
			wantMessage(t, p.client, i+1, payload(i, size(i)))
			wantMessage(t, p.peer, i+1, payload(i, size(i)))
		}
		noError(t, "Write of the client", client())
		noError(t, "Write of the server", server())
	})
}
