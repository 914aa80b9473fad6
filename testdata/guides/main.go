// Command guides runs the Go snippets of the guides. The other file of this
// program is made from them by guides_test.go: a function for each.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// dir is the folder of all sockets.
var dir = os.Args[1]

// The two sides of TLS, for the snippet about it.
var serverTLS, clientTLS *tls.Config

func main() {
	ctx := context.Background()
	web := httptest.NewTLSServer(nil)
	serverTLS = web.TLS
	clientTLS = web.Client().Transport.(*http.Transport).TLSClientConfig
	defer web.Close()

	s, err := ipc.StartServer(&ipc.ServerConfig{Name: "many", SocketDir: dir, MultiMode: true})
	check(err)
	c := connect("many")
	s.ServerManager.Read(func(*ipc.Server, *ipc.Message, error) {}) // Connected
	run(ctx, "README.md: Many clients/1", s, nil)
	fmt.Println(read(c))
	check(c.Close())
	check(s.Close())

	documentation(ctx)
	migrating(ctx)
	run(ctx, "example/remote/README.md: With TLS/1", nil, nil)
	for name := range snippets {
		log.Fatalf("%s: this snippet is not run", name)
	}
}

// documentation runs the snippets of doc.go.
func documentation(ctx context.Context) {
	stop := serve(ctx, "doc.go: Starting/1")
	run(ctx, "doc.go: Starting/2", nil, nil)
	stop()

	s, err := ipc.StartServer(&ipc.ServerConfig{Name: "loop", SocketDir: dir, MultiMode: true})
	check(err)
	c := connect("loop")
	stop = serveWith(ctx, "doc.go: Many clients/1", s)
	check(c.Write(1, []byte("back")))
	fmt.Println(read(c))
	stop()
	check(c.Close())
	check(s.Close())

	run(ctx, "doc.go: Security/1", nil, nil)
}

// migrating runs the snippets of docs/MIGRATING.md.
func migrating(ctx context.Context) {
	const file = "docs/MIGRATING.md: "

	stop := serve(ctx, file+"A server that answers/1")
	run(ctx, file+"A client that waits for its connection/1", nil, nil)
	c := connect("calc")
	check(c.Write(1, []byte("eight")))
	fmt.Println(read(c))
	stop()
	check(c.Close())

	stop = serve(ctx, file+"A server with many clients/1")
	c, c2 := connect("room"), connect("room")
	for _, client := range []*ipc.Client{c, c2} {
		check(client.Write(1, []byte("to all"))) // the server knows it from then on
		fmt.Println(read(client))
	}
	fmt.Println(read(c), "again")
	stop()
	check(c.Close())
	check(c2.Close())

	stop = serve(ctx, file+"Ask, and wait for the answer/1")
	run(ctx, file+"Ask, and wait for the answer/2", nil, nil)
	stop()

	run(ctx, file+"Many answers to one question/1", nil, nil)

	stop = serve(ctx, file+"From a plain net.UnixConn/1")
	c = connect("echo")
	check(c.Write(1, []byte("echo")))
	fmt.Println(read(c))
	stop()
	check(c.Close())

	run(ctx, file+"From net/rpc/1", nil, nil)
	run(ctx, file+"From gRPC over a Unix socket/1", nil, nil)
}

type snippet = func(ctx context.Context, server *ipc.Server, client *ipc.Client) error

// take returns a snippet, once.
func take(name string) snippet {
	f := snippets[name]
	delete(snippets, name)
	if f == nil {
		log.Fatalf("%s: there is no such snippet", name)
	}
	fmt.Println("==", name)
	return f
}

// run runs a snippet.
func run(ctx context.Context, name string, server *ipc.Server, client *ipc.Client) {
	if err := take(name)(ctx, server, client); err != nil {
		log.Fatalf("%s: %v", name, err)
	}
}

// serve runs a snippet that serves until its context ends, and returns what ends
// it.
func serve(ctx context.Context, name string) (stop func()) { return serveWith(ctx, name, nil) }

func serveWith(ctx context.Context, name string, server *ipc.Server) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	f := take(name)
	ended := make(chan error)
	go func() { ended <- f(ctx, server, nil) }()
	return func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			log.Fatalf("%s: %v", name, err)
		}
	}
}

// connect returns a client that is connected.
func connect(name string) *ipc.Client {
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name, SocketDir: dir})
	check(err)
	return client
}

// read returns the data of the next message.
func read(client *ipc.Client) string {
	for {
		m, err := client.Read()
		check(err)
		if m.MsgType > 0 {
			return string(m.Data)
		}
	}
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}
