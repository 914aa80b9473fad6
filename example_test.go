package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"sync/atomic"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

var names atomic.Int32

// uniqueName returns a name that no other server has, in no other run of these
// examples either.
func uniqueName() string { return fmt.Sprintf("example-%d-%d", os.Getpid(), names.Add(1)) }

// connect returns a server and a client that are connected. The events of the
// start have been read.
func connect() (*ipc.Server, *ipc.Client) {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	client.Read() // Connecting
	client.Read() // Connected
	server.Read() // Connected
	return server, client
}

// connectMany returns a server in MultiMode and n clients. The events of the start
// have been read.
func connectMany(n int) (*ipc.Server, []*ipc.Client) {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name, MultiMode: true})
	if err != nil {
		log.Fatal(err)
	}
	var clients []*ipc.Client
	for range n {
		client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
		if err != nil {
			log.Fatal(err)
		}
		client.Read()                                                        // Connecting
		client.Read()                                                        // Connected
		server.ServerManager.Read(func(*ipc.Server, *ipc.Message, error) {}) // Connected
		clients = append(clients, client)
	}
	return server, clients
}

// A server and a client, which are usually two programs.
func Example() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	go func() {
		client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
		if err != nil {
			log.Print(err)
			return
		}
		defer client.Close() // sends what Write has accepted
		if err := client.Write(1, []byte("hello, server")); err != nil {
			log.Print(err)
		}
	}()

	for {
		message, err := server.Read()
		switch {
		case err != nil:
			fmt.Println(err)
			return
		case message.MsgType > 0:
			fmt.Printf("message of type %d: %s\n", message.MsgType, message.Data)
		default:
			fmt.Println("event:", message.Status)
			if message.Status == ipc.Disconnected.String() {
				return
			}
		}
	}
	// Output:
	// event: Connected
	// message of type 1: hello, server
	// event: Disconnected
}

func ExampleStartServer() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:       name,
		SocketDir:  os.TempDir(),
		MaxMsgSize: 1 << 20,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Println(server.Status())

	// A live server keeps its name.
	_, err = ipc.StartServer(&ipc.ServerConfig{Name: name, SocketDir: os.TempDir()})
	fmt.Println(errors.Is(err, ipc.ErrInUse))
	// Output:
	// Listening
	// true
}

func ExampleStartClient() {
	name := uniqueName()
	go func() { // in any order: StartClient waits for the server
		server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
		if err != nil {
			log.Fatal(err)
		}
		defer server.Close()
		if err := server.Write(1, []byte("welcome")); err != nil { // waits for the first client
			log.Print(err)
		}
	}()

	client, err := ipc.StartClient(&ipc.ClientConfig{
		Name:       name,
		Timeout:    10 * time.Second,      // to connect, and each time to reconnect
		RetryTimer: 50 * time.Millisecond, // the longest pause between attempts
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	for {
		message, err := client.Read()
		if err != nil {
			fmt.Println(err)
			return
		}
		if message.MsgType > 0 {
			fmt.Printf("%s\n", message.Data)
			return
		}
		fmt.Println(message.Status)
	}
	// Output:
	// Connecting
	// Connected
	// welcome
}

func ExampleStartClientContext() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{Name: uniqueName()})
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleServer_Read() {
	server, client := connect()
	defer server.Close()

	client.Write(7, []byte("a message"))
	client.Close()

	message, err := server.Read()
	fmt.Printf("%d %s %v\n", message.MsgType, message.Data, err)
	message, err = server.Read()
	fmt.Println(message.MsgType, message.Status, err)
	// Output:
	// 7 a message <nil>
	// -1 Disconnected <nil>
}

// Each client of a MultiMode server has a Server with a number of its own.
func ExampleServer_ClientID() {
	server, clients := connectMany(2)
	defer server.Close()

	fmt.Println(server.ClientID()) // 0: it stands for all clients
	for i, s := range server.ServerManager.Servers() {
		fmt.Println(s.ClientID())
		clients[i].Close()
	}
	// Output:
	// 0
	// 1
	// 2
}

// Close sends what Write has accepted.
func ExampleServer_Close() {
	server, client := connect()
	defer client.Close()

	server.Write(1, []byte("the last message"))
	fmt.Println(server.Close())
	fmt.Println(server.Close()) // the same every time

	message, err := client.Read()
	fmt.Printf("%s %v\n", message.Data, err)
	// Output:
	// <nil>
	// <nil>
	// the last message <nil>
}

func ExampleServer_Write() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	data := []byte("first")
	server.Write(1, data)
	copy(data, "again") // Write has a copy
	server.Write(2, data)

	for range 2 {
		message, err := client.Read()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d %s\n", message.MsgType, message.Data)
	}
	// Output:
	// 1 first
	// 2 again
}

func ExampleClient_Read() {
	server, client := connect()
	defer server.Close()

	server.Write(1, []byte("one"))
	message, err := client.Read()
	fmt.Printf("%s %v\n", message.Data, err)

	// After an error every further Read returns the same one.
	client.Close()
	message, err = client.Read()
	fmt.Println(message.Status, err)
	_, err = client.Read()
	fmt.Println(errors.Is(err, ipc.ErrClosed))
	// Output:
	// one <nil>
	// Closed <nil>
	// true
}

// On a nil Client, which StartClient returns with an error, Close does nothing.
func ExampleClient_Close() {
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: uniqueName(), Timeout: time.Millisecond})
	fmt.Println(client == nil, errors.Is(err, ipc.ErrTimeout))
	fmt.Println(client.Close())
	// Output:
	// true true
	// <nil>
}

func ExampleClient_ReadTimed() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	message, err := client.ReadTimed(10*time.Millisecond, ipc.TimeoutMessage)
	if err != nil {
		fmt.Println(err)
		return
	}
	if message == ipc.TimeoutMessage {
		fmt.Println("nothing yet")
	}

	server.Write(1, []byte("here I am"))
	message, err = client.ReadTimed(10*time.Second, ipc.TimeoutMessage)
	fmt.Printf("%s %v\n", message.Data, err)
	// Output:
	// nothing yet
	// here I am <nil>
}

func ExampleClient_ReadContext() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := client.ReadContext(ctx)
	fmt.Println(err)
	fmt.Println(client.Status()) // only the call has ended
	// Output:
	// context deadline exceeded
	// Connected
}

func ExampleClient_Messages() {
	server, client := connect()
	defer client.Close()

	for i := range 3 {
		server.Write(i+1, []byte("tick"))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for message, err := range client.Messages(ctx) {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Printf("%d %s\n", message.MsgType, message.Data)
		if message.MsgType == 3 {
			cancel()
		}
	}
	server.Close()
	// Output:
	// 1 tick
	// 2 tick
	// 3 tick
	// context canceled
}

func ExampleClient_Write() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	fmt.Println(client.Write(1, []byte("accepted")))
	fmt.Println(errors.Is(client.Write(0, nil), ipc.ErrReservedType))
	fmt.Println(errors.Is(client.Write(1, make([]byte, 4<<20)), ipc.ErrMsgTooLarge))
	// Output:
	// <nil>
	// true
	// true
}

func ExampleClient_WriteContext() {
	server, client := connect()
	defer client.Close()

	server.Close()
	client.Read() // Reconnecting
	err := client.Write(1, []byte("now or never"))
	fmt.Println(errors.Is(err, ipc.ErrNotConnected))

	// WriteContext waits for the reconnect.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	fmt.Println(client.WriteContext(ctx, 1, []byte("if it does not take too long")))
	// Output:
	// true
	// context deadline exceeded
}

func ExampleClient_Flush() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	for range 1000 {
		client.Write(1, []byte("small")) // queued, and sent in the background
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(client.Flush(ctx)) // the kernel has it all
	// Output: <nil>
}

func ExampleClient_Status() {
	server, client := connect()
	defer client.Close()

	fmt.Println(client.Status(), client.StatusCode() == ipc.Connected)
	server.Close()
	client.Read() // Reconnecting
	fmt.Println(client.Status(), client.StatusCode() == ipc.ReConnecting)
	// Output:
	// Connected true
	// Reconnecting true
}

func ExampleServer_Stats() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	client.Write(1, []byte("12345"))
	server.Read()
	fmt.Println(server.Stats().MessagesIn, server.Stats().BytesIn)
	fmt.Println(client.Stats())
	// Output:
	// 1 5
	// messages: 0 in, 1 out; bytes: 0 in, 5 out; reconnects: 0; failed handshakes: 0; requests: 0 in, 0 out, 0 cancelled, 0 unanswered
}

func ExampleServerManager_Read() {
	server, clients := connectMany(3)
	defer server.Close()

	for i, client := range clients {
		client.Write(i+1, []byte("Who am I?"))
	}
	var closed error
	for answered := 0; answered < len(clients) && closed == nil; {
		server.ServerManager.Read(func(s *ipc.Server, message *ipc.Message, err error) {
			switch {
			case err != nil:
				closed = err // the loop has to end
			case message.MsgType > 0:
				s.Write(message.MsgType, fmt.Appendf(nil, "You are number %d.", s.ClientID()))
				answered++
			}
		})
	}
	for _, client := range clients {
		message, err := client.Read()
		fmt.Printf("%s %v\n", message.Data, err)
		client.Close()
	}
	// Output:
	// You are number 1. <nil>
	// You are number 2. <nil>
	// You are number 3. <nil>
}

func ExampleServerManager_ReadTimed() {
	server, clients := connectMany(1)
	defer server.Close()
	defer clients[0].Close()

	callback := func(_ *ipc.Server, message *ipc.Message, err error) {
		switch {
		case err != nil: // the server was closed
			fmt.Println(err)
		case message == ipc.TimeoutMessage:
			fmt.Println("nothing for a while")
		default:
			fmt.Printf("%s\n", message.Data)
		}
	}
	server.ServerManager.ReadTimed(10*time.Millisecond, ipc.TimeoutMessage, callback)
	clients[0].Write(1, []byte("something"))
	server.ServerManager.ReadTimed(10*time.Second, ipc.TimeoutMessage, callback)
	// Output:
	// nothing for a while
	// something
}

func ExampleServerManager_ReadContext() {
	server, clients := connectMany(1)
	defer server.Close()
	defer clients[0].Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	clients[0].Write(1, []byte("stop"))
	for {
		err := server.ServerManager.ReadContext(ctx, func(s *ipc.Server, message *ipc.Message, err error) {
			if err == nil && string(message.Data) == "stop" {
				cancel()
			}
		})
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	// Output: context canceled
}

func ExampleServerManager_Broadcast() {
	server, clients := connectMany(2)
	defer server.Close()

	// The error, if there is one, names the clients that have no room.
	fmt.Println(server.ServerManager.Broadcast(1, []byte("to all")))
	for _, client := range clients {
		message, err := client.Read()
		fmt.Printf("%s %v\n", message.Data, err)
		client.Close()
	}
	// Output:
	// <nil>
	// to all <nil>
	// to all <nil>
}

func ExampleServerManager_Servers() {
	server, clients := connectMany(2)
	defer server.Close()

	for _, s := range server.ServerManager.Servers() {
		s.Write(1, fmt.Appendf(nil, "for client %d", s.ClientID()))
	}
	for _, client := range clients {
		message, err := client.Read()
		fmt.Printf("%s %v\n", message.Data, err)
		client.Close()
	}
	// Output:
	// for client 1 <nil>
	// for client 2 <nil>
}

// What clients have sent before Close is still handed over. Then the callback gets
// ErrClosed, and a loop has to end.
func ExampleServerManager_Close() {
	server, clients := connectMany(1)
	clients[0].Write(1, []byte("sent in time"))
	clients[0].Close()
	for server.Stats().MessagesIn == 0 {
		time.Sleep(time.Millisecond)
	}
	fmt.Println(server.ServerManager.Close())

	for ended := false; !ended; {
		server.ServerManager.Read(func(_ *ipc.Server, message *ipc.Message, err error) {
			switch {
			case err != nil:
				fmt.Println(errors.Is(err, ipc.ErrClosed))
				ended = true
			case message.MsgType > 0:
				fmt.Printf("%s\n", message.Data)
			}
		})
	}
	// Output:
	// <nil>
	// sent in time
	// true
}

// A Message is printed without its data.
func ExampleMessage_String() {
	server, client := connect()
	defer client.Close()

	server.Write(1, []byte("for your eyes only"))
	fmt.Println(client.Read())
	server.Close()
	fmt.Println(client.Read())
	// Output:
	// message of type 1, 18 bytes <nil>
	// event Reconnecting <nil>
}

func ExampleMessage_Release() {
	server, client := connect()
	defer server.Close()

	go func() {
		defer client.Close()
		for range 10 {
			if err := client.Write(1, make([]byte, 1<<20)); err != nil {
				log.Print(err)
			}
		}
	}()
	total := 0
	for message, err := range server.Messages(context.Background()) {
		if err != nil || message.Status == ipc.Disconnected.String() {
			break
		}
		total += len(message.Data)
		message.Release() // its memory is used for a later message
	}
	fmt.Println(total)
	// Output: 10485760
}

// A server may accept from any listener, and a client may make its connections
// itself: over TCP, with TLS, or within a process.
func ExampleServerConfig_listener() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server, err := ipc.StartServer(&ipc.ServerConfig{Listener: listener})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close() // closes the listener, too

	client, err := ipc.StartClient(&ipc.ClientConfig{
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", server.Addr().String())
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Println(client.Write(1, []byte("over TCP")))
	server.Read() // Connected
	message, err := server.Read()
	fmt.Printf("%s %v\n", message.Data, err)
	// Output:
	// <nil>
	// over TCP <nil>
}

// A Handler is called with each message and event of a client. A message is lent
// to it: Write copies what it is given.
func ExampleServerConfig_handler() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      name,
		MultiMode: true,
		Handler: func(client *ipc.Server, message *ipc.Message) {
			if message.MsgType > 0 {
				client.Write(message.MsgType, append([]byte("hello, "), message.Data...))
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	client.Read() // Connecting
	client.Read() // Connected
	client.Write(1, []byte("world"))
	message, err := client.Read()
	fmt.Printf("%s %v\n", message.Data, err)
	// Output: hello, world <nil>
}

// The Handler of a Client gets its events, too. Read returns ErrHandler then.
func ExampleClientConfig_handler() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	closed := make(chan struct{})
	client, err := ipc.StartClient(&ipc.ClientConfig{
		Name: name,
		Handler: func(client *ipc.Client, message *ipc.Message) {
			if message.MsgType > 0 {
				fmt.Printf("message: %s\n", message.Data)
				client.Close() // does not wait for the Handler
				return
			}
			fmt.Println("event:", message.Status)
			if message.Status == ipc.Closed.String() {
				close(closed) // the last call
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	server.Write(1, []byte("goodbye"))
	<-closed
	_, err = client.Read()
	fmt.Println(errors.Is(err, ipc.ErrHandler))
	server.Close()
	// Output:
	// event: Connecting
	// event: Connected
	// message: goodbye
	// event: Closed
	// true
}

// A Handler that keeps messages keeps clones of them.
func ExampleMessage_Clone() {
	name := uniqueName()
	kept := make(chan *ipc.Message, 2)
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name: name,
		Handler: func(_ *ipc.Server, message *ipc.Message) {
			if message.MsgType > 0 {
				kept <- message.Clone()
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	client.Write(1, []byte("one"))
	client.Write(2, []byte("two"))
	first, second := <-kept, <-kept
	fmt.Printf("%s, %s\n", first.Data, second.Data)
	// Output: one, two
}

// Errors are matched with errors.Is.
func Example_errors() {
	_, err := ipc.StartServer(&ipc.ServerConfig{Name: "not/a/name"})
	fmt.Println(errors.Is(err, ipc.ErrName))

	_, err = ipc.StartClient(&ipc.ClientConfig{Name: uniqueName(), Timeout: time.Millisecond})
	fmt.Println(errors.Is(err, ipc.ErrTimeout), errors.Is(err, os.ErrDeadlineExceeded))

	server, client := connect()
	client.Close()
	server.Close()
	err = client.Write(1, nil)
	fmt.Println(errors.Is(err, ipc.ErrClosed), errors.Is(err, net.ErrClosed))
	// Output:
	// true
	// true true
	// true true
}
