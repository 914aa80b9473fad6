// Command readme runs the Go snippets of README.md. The other file of this
// program is made from them by readme_test.go: a function for each.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// dir is the folder of all sockets.
var dir = os.Args[1]

func main() {
	ctx := context.Background()

	serving, stop := context.WithCancel(ctx)
	var server sync.WaitGroup
	server.Go(func() { run(serving, "A server and a client/1", nil, nil) })
	run(ctx, "A server and a client/2", nil, nil)
	stop()
	server.Wait()

	s, c := pair(ipc.ServerConfig{Name: "reading"})
	check(s.Write(7, []byte("seven")))
	check(s.Flush(ctx))
	check(c.Close()) // what has arrived is still read
	run(ctx, "Reading/1", s, c)
	check(s.Close())

	s, c = pair(ipc.ServerConfig{Name: "timed"})
	drain(c, 2)
	check(s.Write(1, []byte("in time")))
	run(ctx, "Reading/2", s, c)
	check(c.Close())
	check(s.Close())

	serving, stop = context.WithCancel(ctx)
	server.Go(func() { run(serving, "Many clients/1", nil, nil) })
	c, err := ipc.StartClient(&ipc.ClientConfig{Name: "many", SocketDir: dir})
	check(err)
	drain(c, 2)
	check(c.Write(1, []byte("echo")))
	fmt.Printf("%s\n", drain(c, 1).Data)
	stop()
	server.Wait()
	check(c.Close())

	s, c = pair(ipc.ServerConfig{Name: "manager", MultiMode: true})
	s.ServerManager.Read(func(*ipc.Server, *ipc.Message, error) {}) // Connected
	check(c.Write(1, []byte("to the manager")))
	run(ctx, "Many clients/2", s, c)
	run(ctx, "Many clients/3", s, c)
	fmt.Printf("%s\n", drain(c, 3).Data)
	check(c.Close())
	check(s.Close())

	serving, stop = context.WithCancel(ctx)
	server.Go(func() { run(serving, "Handlers/1", nil, nil) })
	c, err = ipc.StartClient(&ipc.ClientConfig{Name: "handled", SocketDir: dir})
	check(err)
	drain(c, 2)
	check(c.Write(1, []byte("echo of the handler")))
	fmt.Printf("%s\n", drain(c, 1).Data)
	stop()
	server.Wait()
	check(c.Close())

	serving, stop = context.WithCancel(ctx)
	server.Go(func() { run(serving, "Requests/1", nil, nil) })
	c, err = ipc.StartClient(&ipc.ClientConfig{Name: "asked", SocketDir: dir})
	check(err)
	run(ctx, "Requests/2", nil, c)
	_, err = c.Request(ctx, 3, nil)
	fmt.Println(err)
	stop()
	server.Wait()
	check(c.Close())

	s, c = pair(ipc.ServerConfig{Name: "writing"})
	run(ctx, "Writing/1", s, c)
	s.Read() // Connected
	m, err := s.Read()
	check(err)
	fmt.Printf("%s\n", m.Data)
	check(c.Close())
	check(s.Close())

	run(ctx, "Errors/1", nil, nil)
	run(ctx, "Permissions/1", nil, nil)
	run(ctx, "Logging/1", nil, nil)
	for name := range snippets {
		log.Fatalf("%s: this snippet is not run", name)
	}
}

var mu sync.Mutex // guards snippets

// run runs a snippet, once.
func run(ctx context.Context, name string, server *ipc.Server, client *ipc.Client) {
	mu.Lock()
	f := snippets[name]
	delete(snippets, name)
	mu.Unlock()
	if f == nil {
		log.Fatalf("%s: there is no such snippet", name)
	}
	fmt.Println("==", name)
	f(ctx, server, client)
}

// pair returns a server and a client of its.
func pair(config ipc.ServerConfig) (*ipc.Server, *ipc.Client) {
	config.SocketDir = dir
	server, err := ipc.StartServer(&config)
	check(err)
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: config.Name, SocketDir: dir})
	check(err)
	return server, client
}

// drain reads n messages or events, and returns the last one.
func drain(client *ipc.Client, n int) (m *ipc.Message) {
	for range n {
		var err error
		m, err = client.Read()
		check(err)
	}
	return m
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}
