package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The limits that a server sets to its clients. All of them have defaults.
func ExampleServerConfig_limits() {
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:             uniqueName(),
		MultiMode:        true,
		MaxClients:       100,              // more wait for their turn
		MaxMsgSize:       64 << 10,         // bytes of Data
		WriteTimeout:     2 * time.Second,  // for a client that makes no progress
		HandshakeTimeout: 10 * time.Second, // for one that says nothing
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	err = server.ServerManager.Broadcast(1, make([]byte, 100<<10))
	fmt.Println(errors.Is(err, ipc.ErrMsgTooLarge))
	_, err = ipc.StartServer(&ipc.ServerConfig{Name: uniqueName(), MaxClients: 100})
	fmt.Println(err)
	// Output:
	// true
	// ipc: start server: ServerConfig.MaxClients 100 needs MultiMode: invalid argument
}

// Encryption is the server's choice, and clients follow it. A client may insist on
// it: then it refuses a server that does not encrypt.
func ExampleServerConfig_encryption() {
	sealed, open := uniqueName(), uniqueName()
	for name, encryption := range map[string]bool{sealed: true, open: false} {
		server, err := ipc.StartServer(&ipc.ServerConfig{Name: name, Encryption: encryption})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer server.Close()
	}

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: sealed, Encryption: true})
	fmt.Println(err)
	client.Close()
	_, err = ipc.StartClient(&ipc.ClientConfig{Name: open, Encryption: true})
	fmt.Println(errors.Is(err, ipc.ErrEncryptionRequired))
	// Output:
	// <nil>
	// true
}

// BusyPoll, here on both ends, saves the time that waking up takes. It costs a core
// while it polls.
func ExampleServerConfig_busyPoll() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      name,
		MultiMode: true,
		BusyPoll:  50 * time.Microsecond,
		Handler: func(_ *ipc.Server, message *ipc.Message) {
			if message.IsRequest() {
				message.Reply(1, message.Data)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name, BusyPoll: 50 * time.Microsecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	reply, err := client.Request(context.Background(), 1, []byte("quick"))
	fmt.Printf("%s %v\n", reply.Data, err)
	// Output: quick <nil>
}

// A Logger decides where the log goes, and from which level on. Stats can be
// logged, too. Where LogLevel is enough, the log is text on standard error.
func ExampleServerConfig_logger() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "socket" || slices.Contains(groups, "peer") {
				return slog.Attr{} // they differ from run to run
			}
			return a
		},
	}))
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name, Logger: logger})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name, LogLevel: "warn"})
	if err != nil {
		fmt.Println(err)
		return
	}
	client.Write(1, []byte("its data is never logged"))
	client.Close()
	server.Read() // Connected
	server.Read() // the message
	server.Read() // Disconnected
	fmt.Println(server.Stats().BytesIn)

	_, err = ipc.StartClient(&ipc.ClientConfig{Name: name, LogLevel: "loud"})
	fmt.Println(err != nil)
	// Unordered output:
	// level=INFO msg="ipc: listening"
	// level=INFO msg="ipc: client connected"
	// level=INFO msg="ipc: client disconnected" reason=EOF
	// 24
	// true
	// level=INFO msg="ipc: server closed"
}

// The statuses, with the texts that events have.
func ExampleStatus() {
	for _, s := range []ipc.Status{
		ipc.NotConnected, ipc.Listening, ipc.Connecting, ipc.Connected, ipc.ReConnecting,
		ipc.Closed, ipc.Closing, ipc.Error, ipc.Timeout, ipc.Disconnected,
	} {
		fmt.Println(s)
	}
	// Output:
	// Not Connected
	// Listening
	// Connecting
	// Connected
	// Reconnecting
	// Closed
	// Closing
	// Error
	// Timeout
	// Disconnected
}

// The counts of a server, after a message, an answer, and a request without a
// reply.
func ExampleStats() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	client.Write(1, []byte("ping"))
	server.Read()
	server.Write(1, []byte("pong!"))
	client.Read()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		server.Read()
		cancel() // the request has come, and is not answered
	}()
	client.Request(ctx, 1, []byte("who?"))

	stats := client.Stats()
	fmt.Println("messages:", stats.MessagesOut, stats.MessagesIn, "bytes:", stats.BytesOut, stats.BytesIn)
	fmt.Println("requests:", stats.RequestsOut, stats.RequestsIn)
	fmt.Println("without a reply:", stats.RequestsCancelled, stats.RequestsUnanswered)
	fmt.Println("trouble:", stats.Reconnects, stats.HandshakeFailures)
	// Output:
	// messages: 2 1 bytes: 8 5
	// requests: 1 0
	// without a reply: 1 0
	// trouble: 0 0
}

// A client that does not read is left out of a Broadcast when its outbox is full.
// The Server that stands for all clients has no Write.
func ExampleServerManager_Broadcast_full() {
	server, clients := connectMany(1)
	defer server.Close()
	defer clients[0].Close()

	var err error
	for err == nil {
		err = server.ServerManager.Broadcast(1, make([]byte, 1<<20))
	}
	fmt.Println(errors.Is(err, ipc.ErrFull))
	fmt.Println(errors.Is(server.Write(1, nil), ipc.ErrMultiMode))
	// Output:
	// true
	// true
}

// advise says what a person can do about the error of a start or a request.
func advise(err error) string {
	switch {
	case errors.Is(err, ipc.ErrInUse):
		return "it is running already"
	case errors.Is(err, ipc.ErrTimeout):
		return "is it running?"
	case errors.Is(err, ipc.ErrUnauthorized):
		return "another user's program has this name"
	case errors.Is(err, ipc.ErrVersion), errors.Is(err, ipc.ErrNoRequests):
		return "update the older one of the two programs"
	case err != nil:
		return err.Error()
	}
	return "all is well"
}

// What a person can do about an error.
func Example_advice() {
	name := uniqueName()
	_, err := ipc.StartClient(&ipc.ClientConfig{Name: name, Timeout: time.Millisecond})
	fmt.Println(advise(err))

	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
	fmt.Println(advise(err))
	defer server.Close()
	_, err = ipc.StartServer(&ipc.ServerConfig{Name: name})
	fmt.Println(advise(err))
	// Output:
	// is it running?
	// all is well
	// it is running already
}

// A user is a number, and on Windows a SID.
func ExamplePeer() {
	fmt.Println(ipc.Peer{PID: 12, UID: 1000, GID: 100})
	fmt.Println(ipc.Peer{PID: 12, UID: 4294967295, GID: 4294967295, SID: "S-1-5-18"})
	// Output:
	// pid 12 uid 1000 gid 100
	// pid 12 sid S-1-5-18
}
