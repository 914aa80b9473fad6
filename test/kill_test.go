package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func init() {
	helpers["victim server"] = func() { victimServerMain(false) }
	helpers["victim multi server"] = func() { victimServerMain(true) }
	helpers["victim client"] = victimClientMain
}

// Types of the messages that victims and tests exchange.
const (
	stampType = 1
	replyType = 2
	goType    = 3
)

// stampSize is how large message n is: most are small, and for some time there
// are large ones between them, which are not copied and so hold the writer up.
func stampSize(n int) int {
	if n%5000 > 4000 && n%20 == 19 {
		return 30_000 + n*997%70_000
	}
	return 8 + n*61%1500
}

// stamped is message n. All of it tells that it is that one.
func stamped(n int) []byte {
	data := bytes.Repeat([]byte{byte(n)}, stampSize(n))
	copy(data, fmt.Sprintf("%08d", n))
	return data
}

// stampOf is the number of a message that is whole, or -1.
func stampOf(data []byte) int {
	if n := numberOf(data); n >= 0 && bytes.Equal(data, stamped(n)) {
		return n
	}
	return -1
}

// victimServerMain prints the number of each message, and answers it with
// numbers of its own, which start anew with each connection.
func victimServerMain(multi bool) {
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name: "test", SocketDir: os.Getenv(directoryVariable), MultiMode: multi,
	})
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	fmt.Println("ready")
	replies := 0
	for {
		server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			switch {
			case err != nil:
				os.Exit(0)
			case m.Status == ipc.Connected.String():
				replies = 0
			case m.MsgType == stampType:
				fmt.Println(stampOf(m.Data))
				s.Write(replyType, stamped(replies))
				replies++
			}
		})
	}
}

// victimClientMain writes, once it is told to, for as long as it lives.
func victimClientMain() {
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "test", SocketDir: os.Getenv(directoryVariable)})
	if err != nil {
		fmt.Println("StartClient:", err)
		return
	}
	fmt.Println("ready")
	for {
		m, err := client.Read()
		if err != nil {
			return
		}
		if m.MsgType == goType {
			break
		}
	}
	go func() {
		for {
			if _, err := client.Read(); err != nil {
				return
			}
		}
	}()
	for n := 0; ; n++ {
		if client.Write(stampType, stamped(n)) != nil {
			return
		}
	}
}

// flat watches what should not grow from round to round.
type flat struct {
	heap       uint64
	goroutines int
}

func newFlat() flat { return flat{live(), runtime.NumGoroutine()} }

// check compares with the state at newFlat, at a moment that is like it.
func (f flat) check(t testing.TB) {
	t.Helper()
	const most = 8 << 20 // an outbox more or less
	if now := live(); now > f.heap+most {
		t.Errorf("heap was %d KiB, and is %d KiB", f.heap>>10, now>>10)
	}
	// One flush may be about, and one not.
	if !eventually(func() bool { return runtime.NumGoroutine() <= f.goroutines+1 }) {
		t.Errorf("%d goroutines were there, and %d are", f.goroutines, runtime.NumGoroutine())
	}
}

// halted returns when a count goes up no more, which nothing tells.
func halted(count func() int64) {
	for same, last := 0, int64(-1); same < 20; time.Sleep(2 * time.Millisecond) {
		now := count()
		same++
		if now != last {
			same, last = 0, now
		}
	}
}

// A server is killed at arbitrary moments while its client writes and reads,
// sometimes after it has been stopped until the client can write no more.
// What arrives, does so in order, whole and once; what is missing is no more
// than the dead server and the kernel had; and in the end all has arrived.
func TestServersKilledAtRandom(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	begin(t)
	route := unixRoute(t)
	removeAfter(t, route)
	start := func(round int) *child {
		return startChild(t, []string{"victim server", "victim multi server"}[round%2], route)
	}
	server := start(0)
	client := route.startClient(t)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var accepted atomic.Int64
	written := background(func() error {
		for n := 0; ; {
			switch err := client.WriteContext(ctx, stampType, stamped(n)); {
			case err == nil:
				n++
				accepted.Store(int64(n))
			case !errors.Is(err, ipc.ErrNotConnected): // a large message, and nothing of it has left
				return err
			}
		}
	})
	read := background(func() error {
		reply := 0
		for {
			m, err := client.Read()
			switch {
			case err != nil:
				return err
			case m.Status == ipc.Connected.String():
				reply = 0
			case m.MsgType == replyType:
				if n := stampOf(m.Data); n != reply {
					return fmt.Errorf("client read %d, want %d", n, reply)
				}
				reply++
			case m.MsgType > 0 || m.Status == ipc.Error.String():
				return fmt.Errorf("client read %s", describe(m))
			}
		}
	})

	// What a server takes with it: the kernel's, its inbox with one message
	// that did not fit, and what it had just read.
	mostLost := max(kernelHolds(), kernelHoldsOfLarge) + 1<<20 + 100_000 + 68<<10
	last, fresh := -1, false
	check := func(line string) {
		t.Helper()
		n, err := strconv.Atoi(line)
		switch {
		case err != nil:
			t.Fatalf("server says %q", line)
		case n < 0:
			t.Fatalf("server read a torn message after %d", last)
		case n <= last:
			t.Fatalf("server read %d after %d", n, last)
		case n != last+1 && !fresh:
			t.Fatalf("server read %d after %d from the same connection", n, last)
		}
		lost := 0
		for missing := last + 1; missing < n; missing++ {
			lost += stampSize(missing) + 8
		}
		if lost > mostLost {
			t.Fatalf("%d bytes are missing between %d and %d, and no more than %d can have been taken", lost, last, n, mostLost)
		}
		last, fresh = n, false
	}
	var before flat
	for round := 1; round <= rounds; round++ {
		for range 1 + rand.IntN(300) {
			check(server.line())
		}
		if canStop && round%4 == 0 {
			server.stop()
			halted(accepted.Load)
		}
		server.slaughter(check)
		fresh = true
		server = start(round)
		if round == 2 {
			before = newFlat()
		}
	}
	for range 100 {
		check(server.line())
	}
	before.check(t)
	stop()
	wantError(t, "WriteContext", written(), context.Canceled)
	for int64(last+1) < accepted.Load() {
		check(server.line())
	}
	noError(t, "Flush", client.Flush(t.Context()))
	noError(t, "Close", client.Close())
	if err := read(); !errors.Is(err, ipc.ErrClosed) {
		t.Error(err)
	}
	if n := client.Stats().Reconnects; n != uint64(rounds) {
		t.Errorf("Reconnects = %d, want %d", n, rounds)
	}
	t.Logf("%d messages, %d servers", last+1, rounds+1)
}

// A client is killed at arbitrary moments while it writes and its server
// answers: what is read is what it wrote, from the first on, in order, whole
// and once, and then comes its end.
func TestClientsKilledAtRandom(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		var before flat
		total := 0
		for round := range rounds {
			client := startChild(t, "victim client", route)
			peer := s.join(t, server)
			noError(t, "Write", peer.Write(goType, nil))
			n, left := 0, 1+rand.IntN(1000)
			for {
				m := next(t, peer)
				if m.Status == ipc.Disconnected.String() {
					break
				}
				if m.MsgType != stampType || stampOf(m.Data) != n {
					t.Fatalf("round %d: read %s, number %d, want message %d", round, describe(m), stampOf(m.Data), n)
				}
				n++
				switch err := peer.Write(replyType, m.Data); {
				case err != nil && n <= left:
					t.Fatalf("round %d: Write: %v", round, err)
				case n == left:
					client.slaughter(func(string) {})
				}
			}
			if n < left {
				t.Fatalf("round %d: the client has left after %d messages", round, n)
			}
			total += n
			wantError(t, "Write to a dead client", peer.Write(replyType, nil), ipc.ErrNotConnected)
			if round == 1 {
				before = newFlat()
			}
		}
		before.check(t)
		t.Logf("%d messages, %d clients", total, rounds)
	})
}
