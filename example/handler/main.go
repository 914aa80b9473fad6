// Command handler is a small server with a Handler, and a client that it greets,
// in one program. It ends by itself.
package main

import (
	"fmt"
	"log"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// greeting is the type of the messages, which the program chooses.
const greeting = 1

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
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
		Handler:   greet,
	})
	if err != nil {
		return err
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "handler", SocketDir: dir})
	if err != nil {
		return err
	}
	defer client.Close()
	for _, name := range []string{"ann", "ben"} {
		answer, err := ask(client, name)
		if err != nil {
			return err
		}
		fmt.Println("client hears:", answer)
	}
	return nil
}

// greet is called with each message and event of a client: one at a time for
// each client, and at the same time for several clients. The message is lent: it
// is valid until greet returns, and Clone makes a copy to keep.
func greet(client *ipc.Server, m *ipc.Message) {
	if m.MsgType < 0 {
		fmt.Printf("server: client %d: %s\n", client.ClientID(), m.Status)
		return
	}
	if err := client.Write(m.MsgType, fmt.Appendf(nil, "hello, %s", m.Data)); err != nil {
		log.Print(err) // the client has left
	}
}

// ask sends a name and waits for the answer. A client that waits for one message
// is simpler with Read than with a Handler.
func ask(client *ipc.Client, name string) (string, error) {
	if err := client.Write(greeting, []byte(name)); err != nil {
		return "", err
	}
	for {
		m, err := client.Read()
		if err != nil {
			return "", err
		}
		if m.MsgType > 0 { // and not an event, such as Connected
			return string(m.Data), nil
		}
	}
}
