// Command chat is a room for people at several terminals of one machine.
//
//	go run ./example/chat -serve
//	go run ./example/chat -name ann
//	go run ./example/chat -name ben
//
// What one person types, the others see. The server may be stopped and started
// again meanwhile. Ctrl-C ends a server or a client, Ctrl-D a client.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The types of the messages.
const (
	typeHere = 1 // client to server: post, without text
	typeSay  = 2 // client to server: post
	typeYou  = 3 // server to client: post, with only the number that the client has
	typeSaid = 4 // server to client: post
)

// post is what a person says, as JSON. It has the author's name every time, so
// that a server that has just been restarted knows who is talking.
type post struct {
	Number int    `json:"number,omitempty"` // of the client; 0 is the server
	Name   string `json:"name,omitempty"`
	Text   string `json:"text,omitempty"`
}

func main() {
	log.SetFlags(0)
	serving := flag.Bool("serve", false, "be the server")
	name := flag.String("name", "", "`name` to chat under")
	room := flag.String("room", "chat", "`name` of the room")
	dir := flag.String("dir", "/tmp", "`folder` of the socket")
	flag.Parse()
	if *serving == (*name != "") {
		log.Fatal("either -serve or -name is needed")
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *serving {
		err = serve(ctx, &ipc.ServerConfig{Name: *room, SocketDir: *dir, MultiMode: true}, os.Stdout)
	} else {
		log.Println("looking for the room at", filepath.Join(*dir, *room+".sock"))
		err = chat(ctx, &ipc.ClientConfig{Name: *room, SocketDir: *dir}, *name, os.Stdin, os.Stdout)
	}
	if err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}
