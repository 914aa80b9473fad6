package ipc_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func init() { helpers["poller"] = pollerMain }

// pollVariable tells the poller its BusyPoll.
const pollVariable = "IPC_TEST_POLL"

// pollerMain is a server and a client that answer each other with BusyPoll. It
// prints the microseconds of processor time that this took.
func pollerMain() {
	runtime.GOMAXPROCS(4)
	dir := os.Getenv(directoryVariable)
	poll, err := time.ParseDuration(os.Getenv(pollVariable))
	if err != nil {
		fmt.Println("ParseDuration:", err)
		return
	}
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "test", SocketDir: dir, BusyPoll: poll})
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	defer server.Close()
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "test", SocketDir: dir, BusyPoll: poll})
	if err != nil {
		fmt.Println("StartClient:", err)
		return
	}
	defer client.Close()
	fmt.Println("ready")
	go func() {
		for m, err := range server.Messages(context.Background()) {
			if err == nil && m.MsgType > 0 {
				err = server.Write(m.MsgType, nil)
			}
			if err != nil {
				return
			}
		}
	}()
	before := processorTime()
	for range 200 {
		if err := client.Write(1, nil); err != nil {
			fmt.Println("Write:", err)
			return
		}
		for m := new(ipc.Message); m.MsgType <= 0; {
			if m, err = client.Read(); err != nil {
				fmt.Println("Read:", err)
				return
			}
		}
	}
	fmt.Println((processorTime() - before).Microseconds())
}

// Two ends that share a processor give it to each other while they poll: else a
// message takes until the kernel takes the processor away, which can be some ms.
func TestBusyPollSharesTheProcessor(t *testing.T) {
	used := func(poll time.Duration) (used int) {
		t.Run(poll.String(), func(t *testing.T) {
			begin(t)
			route := unixRoute(t)
			c := onOneProcessor(t, func() *child { return startChild(t, "poller", route, pollVariable+"="+poll.String()) })
			used = c.number()
			noError(t, "Wait", c.cmd.Wait())
		})
		return used
	}
	sleeping, polling := used(0), used(time.Second)
	t.Logf("%d µs without BusyPoll, %d µs with it", sleeping, polling)
	const trying = 400 * 40 // µs: each message is waited for a little before the processor is given away
	if most := trying + 10*sleeping; polling > most {
		t.Errorf("200 round trips need %d µs of a processor with BusyPoll, want %d at most", polling, most)
	}
}

// onOneProcessor calls f in a thread that is bound to one processor. A process
// that it starts is, too.
func onOneProcessor[T any](t *testing.T, f func() T) T {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one [16]uint64
	call := func(trap uintptr, set *[16]uint64) {
		t.Helper()
		if _, _, errno := syscall.Syscall(trap, 0, unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set))); errno != 0 {
			t.Fatal("affinity:", errno)
		}
	}
	call(syscall.SYS_SCHED_GETAFFINITY, &all)
	for i, word := range all {
		if word != 0 {
			one[i] = word & -word
			break
		}
	}
	call(syscall.SYS_SCHED_SETAFFINITY, &one)
	defer call(syscall.SYS_SCHED_SETAFFINITY, &all)
	return f()
}
