package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// next reads one message.
func next(t testing.TB, e side) *ipc.Message {
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
func wantEvents(t testing.TB, e side, statuses ...ipc.Status) *ipc.Message {
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
func wantErrorEvent(t testing.TB, e side, want error) {
	t.Helper()
	if m := wantEvents(t, e, ipc.Error); !errors.Is(m.Err, want) {
		t.Fatalf("event Error has Err %v, want %v", m.Err, want)
	}
}

// wantMessage reads exactly this message.
func wantMessage(t testing.TB, e side, msgType int, data []byte) {
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
func wantEnd(t testing.TB, e side, want ...error) {
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

// wantOnePrefix checks that an error says "ipc:" once, in front, and the rest
// after it.
func wantOnePrefix(t *testing.T, err error, rest string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	text := err.Error()
	if !strings.HasPrefix(text, "ipc: ") || strings.Count(text, "ipc:") != 1 || !strings.Contains(text, rest) {
		t.Errorf(`%q: want one "ipc: ", in front, and %q`, text, rest)
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
func wantRoundTrip(t testing.TB, from, to side) {
	t.Helper()
	noError(t, "Write", from.Write(42, []byte("are you there?")))
	wantMessage(t, to, 42, []byte("are you there?"))
}

// writeRising writes n messages of rising type and size, from 1 and 0 on.
func writeRising(e side, n int) error {
	for i := range n {
		if err := e.Write(i+1, payload(i, i)); err != nil {
			return err
		}
	}
	return nil
}

// wantRising reads what writeRising wrote.
func wantRising(t testing.TB, e side, n int) {
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
// on. They are shared and must not be changed.
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

// numberOf is the number in the data of a numbered message, or -1 for what is
// none.
func numberOf(data []byte) int {
	n, err := strconv.Atoi(string(data[:min(len(data), 8)]))
	if err != nil {
		return -1
	}
	return n
}

// wantStatus checks both forms of the status.
func wantStatus(t testing.TB, what string, e side, want ipc.Status) {
	t.Helper()
	if e.StatusCode() != want || e.Status() != want.String() {
		t.Errorf("status of %s is %v, %q, want %v", what, e.StatusCode(), e.Status(), want)
	}
}

// nothing is what reads return in TestTimeoutsLoseNothing when a wait ends.
var nothing = &ipc.Message{}

// largeSize is a message that is not copied.
const largeSize = 100_000

// wantBlocked checks that a call has not returned, when all that could happen
// in the bubble has happened.
func wantBlocked(t *testing.T, what string, returned func() bool) {
	t.Helper()
	synctest.Wait()
	if returned() {
		t.Fatalf("%s does not wait", what)
	}
}

// numbered is the data of a message that begins with a number, as far as size
// has room for it.
func numbered(n, size int) []byte {
	data := make([]byte, size)
	copy(data, fmt.Sprintf("%08d", n))
	return data
}

// fill writes numbered messages of type 1 until one has to wait for room.
// It returns how many were accepted.
func fill(t testing.TB, e side, size int) int {
	t.Helper()
	return fillFrom(t, e, 0, size)
}

// fillFrom is fill that begins with number n. It returns the first number that
// was not accepted.
func fillFrom(t testing.TB, e side, n, size int) int {
	t.Helper()
	// One that times out may only have been slow itself.
	for first, waits := n, 0; waits < 3; {
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
		err := e.WriteContext(ctx, 1, numbered(n, size))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			waits++
			continue
		}
		noError(t, "WriteContext", err)
		if n, waits = n+1, 0; (n-first)*size > 64<<20 {
			t.Fatal("a writer is not held back within 64 MiB")
		}
	}
	return n
}

// wantNumber checks that an error states this number.
func wantNumber(t *testing.T, err error, want int) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %d", want)
	}
	numbers := regexp.MustCompile(`\b\d+\b`).FindAllString(err.Error(), -1)
	if !slices.Contains(numbers, fmt.Sprint(want)) {
		t.Errorf("error %q does not say %d", err, want)
	}
}
