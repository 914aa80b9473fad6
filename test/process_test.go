package ipc_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func init() {
	helpers["reader"] = readerMain
	helpers["writer"] = writerMain
}

// readerMain is a server that prints the number of each message.
func readerMain() {
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "test", SocketDir: os.Getenv(directoryVariable)})
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	fmt.Println("ready")
	for {
		m, err := server.Read()
		if err != nil {
			fmt.Println("Read:", err)
			return
		}
		if m.MsgType > 0 {
			fmt.Println(numberOf(m.Data))
		}
	}
}

// writerMain is a client that, once it is told to, sends numbers until it is
// killed.
func writerMain() {
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "test", SocketDir: os.Getenv(directoryVariable)})
	if err != nil {
		fmt.Println("StartClient:", err)
		return
	}
	fmt.Println("ready")
	for m := new(ipc.Message); m.MsgType <= 0; {
		if m, err = client.Read(); err != nil {
			fmt.Println("Read:", err)
			return
		}
	}
	for n := 0; ; n++ {
		if err := client.Write(1, numbered(n, n%5000)); err != nil {
			fmt.Println("Write:", err)
			return
		}
	}
}

// A server is stopped until its client's outbox is full, and then killed: the
// next one gets the rest, contiguous, nothing twice, and no more is missing
// than the kernel held.
//
// Pins doc.go, "Writing": What the kernel had taken and the server had not read is lost with the server
func TestServersStoppedAndKilled(t *testing.T) {
	parallel(t)
	begin(t)
	const size = 1000
	route := unixRoute(t)
	removeAfter(t, route)
	server := startChild(t, "reader", route)
	client := route.startClient(t)
	written, read := 0, 0
	for round := range 3 {
		// The server has read everything, so that it can hold nothing of
		// what follows.
		for range 10 {
			noError(t, "Write", client.Write(1, numbered(written, size)))
			written++
		}
		for ; read < written; read++ {
			if n := server.number(); n != read {
				t.Fatalf("round %d: server read %d, want %d", round, n, read)
			}
		}

		server.stop()
		written = fillFrom(t, client, written, size)
		server.kill()
		server = startChild(t, "reader", route) // takes over the dead one's socket
		wantEvents(t, client, ipc.ReConnecting, ipc.Connected)
		noError(t, "Write", client.WriteContext(t.Context(), 1, numbered(written, size)))
		written++
		first := server.number()
		if lost := (first - read) * len(encode(1, make([]byte, size))); lost < 0 || lost > kernelHolds() {
			t.Fatalf("round %d: server read %d after %d: %d bytes lost, and the kernel holds up to %d",
				round, first, read-1, lost, kernelHolds())
		}
		for read = first + 1; read < written; read++ {
			if n := server.number(); n != read {
				t.Fatalf("round %d: next server read %d, want %d", round, n, read)
			}
		}
	}
}

// A server is killed while its client writes and does not look: each gets
// messages that are contiguous, and none of those before.
func TestServersKilledUnderLoad(t *testing.T) {
	parallel(t)
	begin(t)
	route := unixRoute(t)
	removeAfter(t, route)
	server := startChild(t, "reader", route)
	client := route.startClient(t)
	written := background(func() int {
		for n := 0; ; n++ {
			if err := client.WriteContext(t.Context(), 1, numbered(n, 300)); err != nil {
				wantError(t, "WriteContext", err, ipc.ErrClosed)
				return n
			}
		}
	})
	last := -1
	for round := range 4 {
		first := server.number()
		if first <= last {
			t.Fatalf("round %d: server read %d after %d", round, first, last)
		}
		for last = first; last < first+3000; last++ {
			if n := server.number(); n != last+1 {
				t.Fatalf("round %d: server read %d after %d", round, n, last)
			}
		}
		server.kill()
		for server.out.Scan() { // what it printed before it died
			if n, err := strconv.Atoi(server.out.Text()); err == nil {
				last = max(last, n)
			}
		}
		server = startChild(t, "reader", route)
		wantEvents(t, client, ipc.ReConnecting, ipc.Connected)
	}
	client.Close()
	if n := written(); n <= last {
		t.Errorf("%d messages accepted, and number %d read", n, last)
	}
}

// A client is killed while it writes: what arrived whole is read, in order,
// and then the event.
func TestClientsKilled(t *testing.T) {
	parallel(t)
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		for range 3 {
			client := startChild(t, "writer", route)
			peer := s.join(t, server)
			noError(t, "Write", peer.Write(1, []byte("go")))
			n := 0
			for ; n < 2000; n++ {
				wantMessage(t, peer, 1, numbered(n, n%5000))
			}
			client.kill()
			for m := next(t, peer); m.MsgType > 0; m = next(t, peer) {
				wantSame(t, m, 1, numbered(n, n%5000))
				n++
			}
			wantStatus(t, "server without its client", peer, ipc.Disconnected)
		}
	})
}
