// Command handler is a server and a client in one program, both with a Handler:
// each asks the other. It ends by itself.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The types of the messages, which the program chooses.
const (
	typeGreetMe = 1 // client to server, a request
	typeName    = 2 // server to client, a request: what is your name?
	typeText    = 3 // a reply to either
	typeSecret  = 4 // client to server, a message that needs no reply
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	// A folder of its own keeps two runs apart.
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      "handler",
		SocketDir: dir,
		MultiMode: true,
		Handler:   serve,
	})
	if err != nil {
		return err
	}
	defer server.Close()

	for _, name := range []string{"ann", "ben"} {
		if err := visit(ctx, dir, name); err != nil {
			return err
		}
	}
	return nil
}

// visit is a client that has itself greeted.
func visit(ctx context.Context, dir, name string) error {
	client, err := ipc.StartClient(&ipc.ClientConfig{
		Name:      "handler",
		SocketDir: dir,
		Handler: func(_ *ipc.Client, m *ipc.Message) {
			if m.MsgType == typeName {
				logError(m.Reply(typeText, []byte(name)))
			}
		},
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Write(typeSecret, []byte("I like "+name)); err != nil {
		return err
	}
	reply, err := client.Request(ctx, typeGreetMe, nil)
	if err != nil {
		return err
	}
	fmt.Printf("%s hears: %s\n", name, reply.Data)
	return nil
}

// serve is called with each message and event of a client: one at a time for
// each client, and at the same time for several clients. The message is lent: it
// is valid until serve returns, and Clone makes a copy to keep.
func serve(client *ipc.Server, m *ipc.Message) {
	switch m.MsgType {
	case typeGreetMe:
		// To ask the client takes as long as the client likes, and meanwhile serve
		// would not be called for it again. So it returns, and goes on with the
		// clone, which can be replied to.
		request := m.Clone()
		go func() { logError(greet(client, request)) }()
	case typeSecret:
		fmt.Printf("server hears: %s\n", m.Data)
	default: // an event
		fmt.Printf("server: client %d: %s\n", client.ClientID(), m.Status)
	}
}

// greet asks the client for its name, and replies to its request. It ends when the
// client no longer waits for the reply.
func greet(client *ipc.Server, request *ipc.Message) error {
	name, err := client.Request(request.Context(), typeName, nil)
	if err != nil {
		return request.ReplyError(1, err.Error())
	}
	return request.Reply(typeText, fmt.Appendf(nil, "hello, %s", name.Data))
}

func logError(err error) {
	if err != nil {
		log.Print(err) // the other side has left
	}
}
