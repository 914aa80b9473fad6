package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// These tests are the contract of the package in short: what a server and a
// client with a name do, from their start to their end. They use the exported
// API only. What happens at the limits of each promise is tested in test/.

// A server listens under a name, and a client connects to that name. Both then
// read what has happened to the connection as events, before any message.
//
// Pins doc.go, "Starting": StartServer returns when clients can connect, StartClient when it has connected
func TestStart(t *testing.T) {
	name := uniqueName()
	_, err := ipc.StartClient(&ipc.ClientConfig{Name: name, Timeout: 20 * time.Millisecond})
	wantError(t, "StartClient without a server", err, ipc.ErrTimeout)

	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
	noError(t, "StartServer", err)
	defer server.Close()
	_, err = ipc.StartServer(&ipc.ServerConfig{Name: name})
	wantError(t, "StartServer under a name in use", err, ipc.ErrInUse)

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
	noError(t, "StartClient", err)
	defer client.Close()
	want(t, client, "Connecting", "Connected")
	want(t, server, "Connected")
	if client.StatusCode() != ipc.Connected || server.Status() != "Connected" {
		t.Errorf("the statuses are %v and %v", client.StatusCode(), server.Status())
	}
}

// Messages have a type above 0 and any bytes, and arrive in order, each once.
// The sender may change its bytes as soon as Write has returned.
//
// Pins doc.go, "Writing": copy the message into a queue and return
func TestWrite(t *testing.T) {
	server, client := start(t, ipc.ServerConfig{MaxMsgSize: 100})
	data := []byte("ping")
	noError(t, "Write", client.Write(1, data))
	copy(data, "PONG")
	noError(t, "Write", server.Write(2, data))
	noError(t, "Write", server.Write(3, nil))
	want(t, server, "1 ping")
	want(t, client, "2 PONG", "3 ")

	wantError(t, "Write of type 0", client.Write(0, nil), ipc.ErrReservedType)
	wantError(t, "Write of 101 bytes", client.Write(1, make([]byte, 101)), ipc.ErrMsgTooLarge)
	noError(t, "Flush", client.Flush(t.Context())) // the kernel has what was written
	counts := ipc.Stats{MessagesIn: 2, MessagesOut: 1, BytesIn: 4, BytesOut: 4}
	if got := client.Stats(); got != counts {
		t.Errorf("the client's Stats are %+v, want %+v", got, counts)
	}
}

// ReadTimed and ReadContext give up waiting, and lose nothing by it. Messages
// is an iterator over what Read would return.
//
// Pins doc.go, "Reading": Client.Read waits without a limit
func TestRead(t *testing.T) {
	server, client := start(t, ipc.ServerConfig{})
	if m, err := client.ReadTimed(time.Millisecond, nil); err != nil || m != ipc.TimeoutMessage {
		t.Errorf("ReadTimed returns %s (%v), want TimeoutMessage", describe(m), err)
	}
	nothing := &ipc.Message{}
	if m, err := client.ReadTimed(0, nothing); err != nil || m != nothing {
		t.Errorf("ReadTimed returns %s (%v), want the message that it was given", describe(m), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := client.ReadContext(ctx)
	wantError(t, "ReadContext", err, context.DeadlineExceeded)

	for i := 1; i <= 3; i++ {
		noError(t, "Write", server.Write(i, []byte("late")))
	}
	if m, err := client.ReadTimed(time.Minute, nil); err != nil || describe(m) != "1 late" {
		t.Errorf("ReadTimed returns %s (%v), want 1 late", describe(m), err)
	}
	if m, err := client.ReadContext(t.Context()); err != nil || describe(m) != "2 late" {
		t.Errorf("ReadContext returns %s (%v), want 2 late", describe(m), err)
	}
	for m, err := range client.Messages(t.Context()) {
		if err != nil || describe(m) != "3 late" {
			t.Errorf("Messages yields %s (%v), want 3 late", describe(m), err)
		}
		m.Release() // its memory may be used for messages to come
		break
	}
}

// In MultiMode each client has a Server of its own. The ServerManager reads from
// all of them, and writes to all of them.
//
// Pins doc.go, "Many clients": any number of clients on its one socket, and for each of them another Server
func TestMultiMode(t *testing.T) {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name, MultiMode: true})
	noError(t, "StartServer", err)
	defer server.Close()
	manager := server.ServerManager

	var clients []*ipc.Client
	for id := 1; id <= 3; id++ { // the ids of the clients, as they come
		client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
		noError(t, "StartClient", err)
		defer client.Close()
		want(t, client, "Connecting", "Connected")
		noError(t, "Write", client.Write(1, fmt.Appendf(nil, "I am %d", id)))
		clients = append(clients, client)

		// The callback gets the client's Server and may answer with it.
		for answered := false; !answered; {
			manager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
				noError(t, "ServerManager.Read", err)
				switch got := describe(m); {
				case s.ClientID() != id:
					t.Errorf("the message %s is of client %d, want %d", got, s.ClientID(), id)
				case got == fmt.Sprint("1 I am ", id):
					noError(t, "Write", s.Write(2, fmt.Appendf(nil, "hello, %d", id)))
					answered = true
				case got != "Connected":
					t.Errorf("the manager reads %s", got)
				}
			})
		}
		want(t, client, fmt.Sprint("2 hello, ", id))
	}

	noError(t, "Broadcast", manager.Broadcast(3, []byte("hello, all")))
	for _, client := range clients {
		want(t, client, "3 hello, all")
	}
	noError(t, "Close of one client's Server", manager.Servers()[0].Close())
	want(t, clients[0], "Reconnecting", "Connected")
	want(t, clients[1]) // which has nothing to read
}

// A client that loses its server waits for the next one under the name, and
// goes on. Meanwhile Write fails, and WriteContext waits.
func TestReconnect(t *testing.T) {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
	noError(t, "StartServer", err)
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name, RetryTimer: 5 * time.Millisecond})
	noError(t, "StartClient", err)
	defer client.Close()
	want(t, client, "Connecting", "Connected")

	noError(t, "Close", server.Close())
	want(t, client, "Reconnecting")
	wantError(t, "Write", client.Write(1, nil), ipc.ErrNotConnected)
	wrote := make(chan error)
	go func() { wrote <- client.WriteContext(t.Context(), 1, []byte("still there?")) }()

	server, err = ipc.StartServer(&ipc.ServerConfig{Name: name})
	noError(t, "StartServer", err)
	defer server.Close()
	noError(t, "WriteContext", <-wrote)
	want(t, client, "Connected")
	want(t, server, "Connected", "1 still there?")
	if n := client.Stats().Reconnects; n != 1 {
		t.Errorf("the client has reconnected %d times, want once", n)
	}
}

// Close sends what Write has accepted, and ends every call. The peer reads the
// messages first, and then that the other has gone.
func TestClose(t *testing.T) {
	server, client := start(t, ipc.ServerConfig{})
	noError(t, "Write", client.Write(1, []byte("goodbye")))
	noError(t, "Close", client.Close())
	noError(t, "Close again", client.Close())
	want(t, client, "Closed")
	_, err := client.Read()
	wantError(t, "Read", err, ipc.ErrClosed)
	wantError(t, "Write", client.Write(1, nil), ipc.ErrClosed)
	wantError(t, "Flush", client.Flush(t.Context()), ipc.ErrClosed)

	want(t, server, "1 goodbye", "Disconnected")
	wantError(t, "Write", server.Write(1, nil), ipc.ErrNotConnected)
	waiting := make(chan error)
	go func() {
		for {
			if _, err := server.Read(); err != nil { // after the event Closed
				waiting <- err
				return
			}
		}
	}()
	noError(t, "Close", server.Close())
	wantError(t, "Read", <-waiting, ipc.ErrClosed)
	server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
		if s != server || m != nil {
			t.Errorf("the manager reads %s after the end", describe(m))
		}
		wantError(t, "ServerManager.Read", err, ipc.ErrClosed)
	})
}

// start returns a server and its client, with the events of their start read.
func start(t *testing.T, config ipc.ServerConfig) (*ipc.Server, *ipc.Client) {
	t.Helper()
	config.Name = uniqueName()
	server, err := ipc.StartServer(&config)
	noError(t, "StartServer", err)
	t.Cleanup(func() { server.Close() })
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: config.Name})
	noError(t, "StartClient", err)
	t.Cleanup(func() { client.Close() })
	want(t, client, "Connecting", "Connected")
	want(t, server, "Connected")
	return server, client
}

// want reads exactly these events and messages, as describe gives them, and
// checks that nothing else is there yet.
func want(t *testing.T, from interface {
	Read() (*ipc.Message, error)
	ReadTimed(time.Duration, *ipc.Message) (*ipc.Message, error)
}, all ...string) {
	t.Helper()
	for _, want := range all {
		if m, err := from.Read(); err != nil || describe(m) != want {
			t.Fatalf("read %s (%v), want %s", describe(m), err, want)
		}
	}
	if m, err := from.ReadTimed(0, nil); err == nil && m != ipc.TimeoutMessage {
		t.Fatalf("read %s, want nothing", describe(m))
	}
}

// describe gives the status of an event, and the type and data of a message.
func describe(m *ipc.Message) string {
	switch {
	case m == nil:
		return "nil"
	case m.MsgType < 0:
		return m.Status
	}
	return fmt.Sprintf("%d %s", m.MsgType, m.Data)
}

// noError fails the test at once.
func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// wantError checks that err matches want.
func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}
