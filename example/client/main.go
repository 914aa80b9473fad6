// Command client sends a message to example/server every second, and goes on when
// the server was restarted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func main() {
	config := ipc.ClientConfig{
		RetryTimer: time.Second, // so that a server that comes back is found within a second
	}
	flag.StringVar(&config.Name, "name", "example", "`name` of the server")
	flag.StringVar(&config.SocketDir, "dir", "/tmp", "`folder` of the socket")
	every := flag.Duration("every", time.Second, "`pause` between two messages")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &config, *every); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context, config *ipc.ClientConfig, every time.Duration) error {
	fmt.Println("looking for the server at", filepath.Join(config.SocketDir, config.Name+".sock"))
	client, err := ipc.StartClientContext(ctx, config)
	if err != nil {
		return err
	}
	defer client.Close()
	go listen(client)

	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		// WriteContext waits while the server is away; Write would return
		// ErrNotConnected.
		if err := client.WriteContext(ctx, 1, fmt.Appendf(nil, "hello number %d", n)); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			fmt.Println("closing")
			return ctx.Err()
		}
	}
}

// listen prints what the server says, and the state of the connection.
func listen(client *ipc.Client) {
	for m, err := range client.Messages(context.Background()) {
		switch {
		case err != nil:
			return // the client was closed
		case m.Err != nil:
			fmt.Printf("* %s: %v\n", m.Status, m.Err)
		case m.MsgType < 0:
			fmt.Println("*", m.Status)
		default:
			fmt.Printf("the server says: %s\n", m.Data)
		}
	}
}
