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

// uniqueName returns a name that no other server has, not even that of
// another run of these examples.
func uniqueName() string { return fmt.Sprintf("example-%d-%d", os.Getpid(), names.Add(1)) }

// connect returns a server and its client, whose events of the start have been
// read.
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

// connectMany returns a server in MultiMode, and n clients that it knows.
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
			log.Fatal(err)
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
	go func() { // later, perhaps
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
		log.Fatal(err)
	}
	defer client.Close()
	for {
		message, err := client.Read()
		if err != nil {
			log.Fatal(err)
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
			log.Fatal(err)
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

	// An error is the end, and the same every time.
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

func ExampleClient_ReadTimed() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	message, err := client.ReadTimed(10*time.Millisecond, ipc.TimeoutMessage)
	if err != nil {
		log.Fatal(err)
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
		client.Write(1, []byte("small")) // gathers in memory, and is on its way
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
	// messages: 0 in, 1 out; bytes: 0 in, 5 out; reconnects: 0; failed handshakes: 0
}

func ExampleServerManager_Read() {
	server, clients := connectMany(3)
	defer server.Close()

	for i, client := range clients {
		client.Write(i+1, []byte("Who am I?"))
	}
	for answered := 0; answered < len(clients); {
		server.ServerManager.Read(func(s *ipc.Server, message *ipc.Message, err error) {
			if err != nil {
				log.Fatal(err) // the server was closed
			}
			if message.MsgType > 0 {
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

	clients[0].Write(1, []byte("something"))
	for idle := false; !idle; {
		server.ServerManager.ReadTimed(100*time.Millisecond, ipc.TimeoutMessage,
			func(s *ipc.Server, message *ipc.Message, err error) {
				switch {
				case err != nil:
					log.Fatal(err)
				case message == ipc.TimeoutMessage:
					fmt.Println("nothing for a while")
					idle = true
				default:
					fmt.Printf("%s\n", message.Data)
				}
			})
	}
	// Output:
	// something
	// nothing for a while
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
		message.Release() // its memory serves the next message
	}
	fmt.Println(total)
	// Output: 10485760
}

// A client may make its connections itself: here, to see each attempt.
func ExampleClientConfig_dial() {
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: uniqueName()})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{
		Dial: func(ctx context.Context) (net.Conn, error) {
			fmt.Println("dialling")
			var d net.Dialer
			return d.DialContext(ctx, "unix", server.Addr().String())
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.Status())
	// Output:
	// dialling
	// Connected
}

// A server may accept from any listener and a client dial anything: over TCP,
// with TLS, or within a process.
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
		log.Fatal(err)
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

// What went wrong can be told with errors.Is.
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
