//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// The contest: contenders start a server at once, and exactly one may win.
const (
	contenders    = 8
	threadRounds  = 100
	processRounds = 24
	successions   = 500
)

// TestContestOfThreads holds the contest inside one process.
func TestContestOfThreads(t *testing.T) {
	path := socktest.Path(t)
	for range threadRounds {
		socktest.LeaveStale(t, path)
		start := make(chan struct{})
		var wg sync.WaitGroup
		var won [contenders]*Listener
		for i := range contenders {
			wg.Go(func() {
				<-start
				l, err := listenQuietly(path)
				if err == nil {
					won[i] = l
				} else if !errors.Is(err, errs.InUse) {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		winners := slices.DeleteFunc(won[:], func(l *Listener) bool { return l == nil })
		if len(winners) != 1 {
			t.Fatalf("%d winners", len(winners))
		}
		mustServe(t, winners[0], path)
		socktest.Close(t, winners[0])
		mustBeEmpty(t, filepath.Dir(path))
		if t.Failed() {
			return
		}
	}
}

// TestSuccession has servers come and go all the time, by Close and by death, while
// others try to start. There must never be two.
func TestSuccession(t *testing.T) {
	path := socktest.Path(t)
	var wins atomic.Int32
	var live atomic.Bool
	var wg sync.WaitGroup
	for range contenders {
		wg.Go(func() {
			for wins.Load() < successions && !t.Failed() {
				l, err := listenQuietly(path)
				if errors.Is(err, errs.InUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if live.Swap(true) {
					t.Error("two servers have the name")
				}
				if c, err := net.Dial("unix", path); err != nil {
					t.Error(err)
				} else {
					socktest.Close(t, c)
				}
				live.Store(false)
				if wins.Add(1)%2 == 0 {
					socktest.Close(t, l)
				} else {
					socktest.Close(t, l.UnixListener) // its file stays
				}
			}
		})
	}
	wg.Wait()
	socktest.Close(t, mustListen(t, path, ownerOnly))
}

// contestVariable tells a copy of the test binary that it is a contender, the path
// in question, and the file at which contenders wait for each other.
const contestVariable = "IPC_TEST_CONNECT"

// TestHelperProcessConnect is no test but a contender in a process of its own. It
// tells what becomes of each command.
func TestHelperProcessConnect(t *testing.T) {
	args := filepath.SplitList(os.Getenv(contestVariable))
	if len(args) != 2 {
		t.Skip("only for TestContestOfProcesses")
	}
	gate, err := os.Open(args[1])
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	var l *Listener
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		switch commands.Text() {
		case "listen":
			fmt.Println("ready")
			passGate(t, gate, syscall.LOCK_SH)
			l, err = listenQuietly(args[0])
			switch {
			case err == nil:
				fmt.Println("won")
			case errors.Is(err, errs.InUse):
				fmt.Println("in use")
			default:
				fmt.Println(err)
			}
		case "close":
			fmt.Println(l.Close())
		}
	}
}

// passGate waits for a lock of the gate and gives it back.
func passGate(t *testing.T, gate *os.File, how int) {
	t.Helper()
	for _, how := range []int{how, syscall.LOCK_UN} {
		if err := ignoringEINTR(func() error { return syscall.Flock(int(gate.Fd()), how) }); err != nil {
			t.Fatal(err)
		}
	}
}

// contender is such a process.
type contender struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startContender(t *testing.T, path, gate string) *contender {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperProcessConnect$")
	cmd.Env = append(os.Environ(), contestVariable+"="+path+string(filepath.ListSeparator)+gate,
		"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // the default is a second
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &contender{cmd, in, bufio.NewScanner(out)}
}

func (c *contender) say(t *testing.T, command string) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, command); err != nil {
		t.Fatal(err)
	}
}

// answer returns the next line that the process says, or "" if it has ended.
func (c *contender) answer() string {
	c.out.Scan()
	return c.out.Text()
}

// kill ends the process with SIGKILL: it cannot tidy up. What it still said before
// can be read afterwards.
func (c *contender) kill(t *testing.T) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// end waits for the end of the process, which comes with that of its input.
func (c *contender) end() {
	c.in.Close()
	for c.out.Scan() {
	}
	c.Wait() // fails for all that were killed
}

// TestContestOfProcesses holds the contest between processes. By turns the winner
// closes its server; is killed; and wins while another contender is killed at an
// arbitrary instant, which may be while that one holds the lock, or has won.
//
// Pins doc.go, "Starting": of several that are started under one name one gets it, and the others ErrInUse
func TestContestOfProcesses(t *testing.T) {
	path := socktest.Path(t)
	gate, err := os.Create(filepath.Join(t.TempDir(), "gate"))
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	all := make([]*contender, contenders)
	for i := range all {
		all[i] = startContender(t, path, gate.Name())
	}
	defer func() {
		for _, c := range all {
			c.end()
		}
	}()

	for round := range processRounds {
		how := round % 3
		if round == processRounds-1 {
			how = 0
		}
		if err := syscall.Flock(int(gate.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			c.say(t, "listen")
		}
		for _, c := range all {
			if got := c.answer(); got != "ready" {
				t.Fatalf("round %d: %q", round, got)
			}
		}
		if err := syscall.Flock(int(gate.Fd()), syscall.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		victim := -1
		if how == 2 {
			victim = rand.IntN(len(all))
			for range rand.IntN(1_000_000) { // spend up to a start's time
			}
			all[victim].kill(t)
		}
		var winners []int
		victimWon := false
		for i, c := range all {
			switch got := c.answer(); {
			case i == victim:
				victimWon = got != "in use" // or died before it could tell
			case got == "won":
				winners = append(winners, i)
			case got != "in use":
				t.Errorf("round %d: %s", round, got)
			}
		}
		if len(winners) != 1 && (len(winners) != 0 || !victimWon) {
			t.Fatalf("round %d: %d winners", round, len(winners))
		}
		if len(winners) == 1 {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			socktest.Close(t, c)
			winner := all[winners[0]]
			if how == 1 {
				winner.kill(t)
				victim = winners[0]
			} else {
				winner.say(t, "close")
				if got := winner.answer(); got != "<nil>" {
					t.Fatalf("round %d: close: %s", round, got)
				}
			}
		}
		if victim >= 0 {
			all[victim].end()
			all[victim] = startContender(t, path, gate.Name())
		}
		// What a killed one has left behind is the next round's to tidy up.
		if how == 0 {
			mustBeEmpty(t, filepath.Dir(path))
		}
		if t.Failed() {
			return
		}
	}
}
