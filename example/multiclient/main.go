// Command multiclient is a server with several clients, all in one program. The
// server reads with ServerManager.ReadTimed. It ends by itself, or with Ctrl-C.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

const (
	clients = 5
	rounds  = 3
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

	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "multi", SocketDir: dir, MultiMode: true})
	if err != nil {
		return err
	}
	defer server.Close()

	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			if err := talk(ctx, dir, n+1); err != nil && ctx.Err() == nil {
				log.Printf("client %d: %v", n+1, err)
			}
		})
	}

	var closed error
	for left := 0; left < clients && closed == nil && ctx.Err() == nil; {
		server.ServerManager.ReadTimed(time.Second, ipc.TimeoutMessage, func(s *ipc.Server, m *ipc.Message, err error) {
			switch {
			case err != nil:
				closed = err // ReadTimed no longer waits: the loop has to end
			case m == ipc.TimeoutMessage:
				fmt.Println("server: nothing to do")
			case m.MsgType == -1:
				fmt.Printf("server: client %d: %s\n", s.ClientID(), m.Status)
				if m.Status == ipc.Disconnected.String() {
					left++
				}
			default:
				fmt.Printf("server: client %d says %q\n", s.ClientID(), m.Data)
				if err := s.Write(m.MsgType, []byte("thank you")); err != nil {
					log.Print(err)
				}
			}
		})
	}
	wg.Wait()
	return closed
}

// talk is one client: in each round it sends a message and waits for the answer.
func talk(ctx context.Context, dir string, n int) error {
	client, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{Name: "multi", SocketDir: dir})
	if err != nil {
		return err
	}
	defer client.Close()
	for round := range rounds {
		if err := client.Write(1, fmt.Appendf(nil, "I am number %d, round %d", n, round+1)); err != nil {
			return err
		}
		for {
			m, err := client.ReadContext(ctx)
			if err != nil {
				return err
			}
			if m.MsgType > 0 {
				break
			}
		}
	}
	return nil
}
