// Command server answers one client at a time. Start it and example/client in
// two terminals, in either order, and stop either of them with Ctrl-C or with
// kill -9: the other one goes on when it is back.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func main() {
	config := ipc.ServerConfig{}
	flag.StringVar(&config.Name, "name", "example", "`name` of the server")
	flag.StringVar(&config.SocketDir, "dir", "", "`folder` of the socket (default /tmp)")
	flag.BoolVar(&config.MultiMode, "multi", false, "serve any number of clients at once")
	flag.BoolVar(&config.Encryption, "encrypt", false, "encrypt all connections")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &config); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, config *ipc.ServerConfig) error {
	server, err := ipc.StartServer(config)
	if err != nil {
		return err
	}
	fmt.Println("listening on", server.Addr())
	for {
		// The ServerManager serves one client as well as many.
		err := server.ServerManager.ReadContext(ctx, handle)
		if errors.Is(err, context.Canceled) {
			fmt.Println("closing")
			return server.Close()
		}
		if err != nil {
			return err
		}
	}
}

// handle answers a message of a client with one of the same type.
func handle(client *ipc.Server, m *ipc.Message, err error) {
	switch {
	case err != nil:
	case m.Err != nil:
		fmt.Printf("client %d: %s: %v\n", client.ClientID(), m.Status, m.Err)
	case m.MsgType < 0:
		fmt.Printf("client %d: %s\n", client.ClientID(), m.Status)
	default:
		fmt.Printf("client %d says: %s\n", client.ClientID(), m.Data)
		if err := client.Write(m.MsgType, fmt.Appendf(nil, "you said %q", m.Data)); err != nil {
			fmt.Println("no answer:", err)
		}
	}
}
