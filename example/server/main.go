// Command server answers any number of clients. Start it and example/client in
// two terminals, in either order, and stop either of them with Ctrl-C or with
// kill -9: the other one goes on when it is back. With -echo it sends every
// message, and the data of every request, back as it came.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func main() {
	config := ipc.ServerConfig{
		MultiMode: true, // any number of clients at once, each with a Server of its own
		Handler:   answer,
	}
	flag.StringVar(&config.Name, "name", "example", "`name` of the server")
	flag.StringVar(&config.SocketDir, "dir", "", "`folder` of the socket (default /tmp)")
	flag.BoolVar(&config.Encryption, "encrypt", false, "encrypt all connections")
	echo := flag.Bool("echo", false, "send every message back as it came")
	flag.Parse()
	if *echo {
		config.Handler = sendBack
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &config); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. All work is done by the Handler, which is called for
// each message: several at once if several clients talk, so what they share would
// need a mutex. Here they share nothing.
func run(ctx context.Context, config *ipc.ServerConfig) error {
	server, err := ipc.StartServer(config)
	if err != nil {
		return err
	}
	fmt.Println("listening on", server.Addr())
	<-ctx.Done()
	fmt.Println("closing")
	return server.Close()
}

// answer answers a message of a client with one of the same type.
func answer(client *ipc.Server, m *ipc.Message) {
	if isEvent(client, m) {
		return
	}
	fmt.Printf("client %d says: %s\n", client.ClientID(), m.Data)
	if err := respond(client, m, fmt.Appendf(nil, "you said %q", m.Data)); err != nil {
		fmt.Println("no answer:", err)
	}
}

// sendBack sends a message of a client back.
func sendBack(client *ipc.Server, m *ipc.Message) {
	if isEvent(client, m) {
		return
	}
	if err := respond(client, m, m.Data); err != nil {
		fmt.Println("no echo:", err)
	}
}

// respond replies to a request, and sends a message for a message, of the same
// type.
func respond(client *ipc.Server, m *ipc.Message, data []byte) error {
	if m.IsRequest() {
		return m.Reply(m.MsgType, data)
	}
	return client.Write(m.MsgType, data)
}

// isEvent reports whether m is an event, and prints it if so.
func isEvent(client *ipc.Server, m *ipc.Message) bool {
	switch {
	case m.MsgType > 0:
		return false
	case m.Err != nil:
		fmt.Printf("client %d: %s: %v\n", client.ClientID(), m.Status, m.Err)
	default:
		fmt.Printf("client %d: %s\n", client.ClientID(), m.Status)
	}
	return true
}
