// Command timed reads with a time limit, so that it can do something else while no
// message arrives. It ends by itself, or with Ctrl-C.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "timed", SocketDir: dir})
	if err != nil {
		return err
	}
	defer server.Close()
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "timed", SocketDir: dir})
	if err != nil {
		return err
	}
	defer client.Close()
	go dawdle(ctx, server)

	for ctx.Err() == nil {
		m, err := client.ReadTimed(200*time.Millisecond, ipc.TimeoutMessage)
		switch {
		case err != nil:
			return err
		case m == ipc.TimeoutMessage:
			fmt.Println("nothing yet")
		case m.MsgType < 0:
			fmt.Println("*", m.Status)
		default:
			fmt.Printf("got %q\n", m.Data)
			if string(m.Data) == "that was all" {
				return nil
			}
		}
	}
	return nil
}

// dawdle sends a few messages, each after a pause.
func dawdle(ctx context.Context, server *ipc.Server) {
	for _, text := range []string{"one", "two", "that was all"} {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return
		}
		if err := server.Write(1, []byte(text)); err != nil {
			log.Print(err)
			return
		}
	}
}
