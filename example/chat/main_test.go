package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// screen is what a person sees.
type screen struct {
	mu      sync.Mutex
	shown   bytes.Buffer
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{})} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.shown.Write(b)
}

// count returns how many lines contain text, and a channel that is closed when
// there are more lines.
func (s *screen) count(text string) (n int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.shown.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n, s.changed
}

// await waits until n lines contain text.
func (s *screen) await(t *testing.T, n int, text string) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		got, changed := s.count(text)
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			s.mu.Lock()
			defer s.mu.Unlock()
			shown := s.shown.String()
			t.Fatalf("%d lines with %.100q, want %d:\n%s", got, text, n, shown[max(0, len(shown)-2000):])
		}
	}
}

func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown.Reset()
}

// start runs f beside the test, and returns what stops it and waits for it.
func start(t *testing.T, f func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

type building struct{ dir string }

func newBuilding(t *testing.T) building {
	if runtime.GOOS == "windows" {
		t.Skip("no sockets of our own on this system")
	}
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return building{dir}
}

func (b building) open(t *testing.T) (shown *screen, stop func()) {
	t.Helper()
	shown = newScreen()
	stop = start(t, func(ctx context.Context) error {
		return serve(ctx, &ipc.ServerConfig{Name: "room", SocketDir: b.dir, MultiMode: true}, shown)
	})
	shown.await(t, 1, "the room is open")
	return shown, stop
}

func (b building) client() *ipc.ClientConfig {
	return &ipc.ClientConfig{Name: "room", SocketDir: b.dir}
}

type person struct {
	*screen
	keys  io.WriteCloser
	leave func()
}

func (b building) enter(t *testing.T, name string) *person {
	t.Helper()
	in, keys := io.Pipe()
	p := &person{screen: newScreen(), keys: keys}
	p.leave = start(t, func(ctx context.Context) error { return chat(ctx, b.client(), name, in, p) })
	t.Cleanup(func() { keys.Close() })
	p.await(t, 1, "* "+name+" joins")
	return p
}

func (p *person) say(t *testing.T, text string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.keys, text); err != nil {
		t.Fatal(err)
	}
}

func TestTalk(t *testing.T) {
	b := newBuilding(t)
	b.open(t)
	ann := b.enter(t, "ann")
	ben := b.enter(t, "ben")
	ann.await(t, 1, "* ben joins")

	ann.say(t, "hello")
	ben.await(t, 1, "ann: hello")
	ben.say(t, "hello\x1b[2J yourself")
	ann.await(t, 1, "ben: hello[2J yourself")
	if n, _ := ann.count("ann: hello"); n != 0 {
		t.Error("ann sees her own line again")
	}

	ben.keys.Close() // Ctrl-D
	ann.await(t, 1, "* ben leaves")
	ben = b.enter(t, "ben")
	ben.leave() // Ctrl-C
	ann.await(t, 2, "* ben leaves")
}

func TestPipedIn(t *testing.T) {
	b := newBuilding(t)
	shown, _ := b.open(t)
	if err := chat(t.Context(), b.client(), "pipe", strings.NewReader("one\n\ntwo\n"), io.Discard); err != nil {
		t.Fatal(err)
	}
	shown.await(t, 1, "pipe: two")
	shown.await(t, 1, "pipe leaves")
}

func TestRestart(t *testing.T) {
	b := newBuilding(t)
	_, stop := b.open(t)
	ann := b.enter(t, "ann")
	ben := b.enter(t, "ben")
	for round := 1; round <= 3; round++ {
		stop()
		ann.await(t, round, "* the server is away")
		ann.say(t, fmt.Sprint("can you hear me, ", round)) // waits for the server
		var shown *screen
		shown, stop = b.open(t)
		shown.await(t, 1, fmt.Sprint("ann: can you hear me, ", round))
		shown.await(t, 1, "ben joins")
		ann.say(t, fmt.Sprint("and now, ", round))
		ben.await(t, 1, fmt.Sprint("ann: and now, ", round))
	}
}

// TestSlow has a client in the room that never reads: the others get every line,
// as fast as they read.
func TestSlow(t *testing.T) {
	if testing.Short() {
		t.Skip("moves some megabytes")
	}
	b := newBuilding(t)
	shown, _ := b.open(t)
	slow, err := ipc.StartClient(b.client())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.Write(typeHere, encode(post{Name: "slow"})); err != nil {
		t.Fatal(err)
	}
	shown.await(t, 1, "slow joins")
	ann := b.enter(t, "ann")
	ben := b.enter(t, "ben")
	long := strings.Repeat("x", 60_000)
	for i := range 160 {
		ben.say(t, fmt.Sprint(i, long))
		ann.await(t, 1, fmt.Sprint("ben: ", i, "x"))
		ann.clear()
	}
	shown.await(t, 1, "client 1: "+ipc.ErrFull.Error())
}

func TestNonsense(t *testing.T) {
	b := newBuilding(t)
	shown, _ := b.open(t)
	ann := b.enter(t, "ann")
	troll, err := ipc.StartClient(b.client())
	if err != nil {
		t.Fatal(err)
	}
	if err := troll.Write(typeSay, []byte("{")); err != nil {
		t.Fatal(err)
	}
	shown.await(t, 1, "talks nonsense")
	if err := troll.Close(); err != nil && !errors.Is(err, ipc.ErrClosed) {
		t.Log(err)
	}
	ann.say(t, "still here")
	shown.await(t, 1, "ann: still here")
}
