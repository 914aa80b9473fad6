package ipc_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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
	_, err = cmd.StdinPipe() // nothing is written to it: its end is the signal
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

// fewer returns how often to do what a test repeats: n times, or a quarter of that
// in a short run, which is for the race detector and for emulators.
func fewer(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
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

// background runs f in a goroutine, and returns a function that waits for its
// result.
func background[T any](f func() T) (wait func() T) {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return sync.OnceValue(func() T { return <-result })
}

// live is how many bytes of the heap are in use.
func live() uint64 {
	runtime.GC()
	runtime.GC() // and the second empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// call runs f in a goroutine. It returns functions that tell whether f has
// returned, and that wait for its result.
func call(f func() error) (returned func() bool, wait func() error) {
	done := make(chan struct{})
	wait = background(func() error {
		defer close(done)
		return f()
	})
	return func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}, wait
}
