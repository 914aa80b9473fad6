package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// room is the server's view of the chat. One goroutine reads for all clients,
// through the ServerManager, so nothing here needs a mutex, and all clients see
// the lines in the same order. A Handler would be called for several clients at
// once: the names and the order of the broadcasts would need a mutex then. It
// would be faster, but people do not type that fast.
type room struct {
	manager *ipc.ServerManager
	names   map[int]string // by ClientID
	out     io.Writer
}

// serve runs the room until ctx ends.
func serve(ctx context.Context, config *ipc.ServerConfig, out io.Writer) error {
	server, err := ipc.StartServer(config)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "the room is open at", server.Addr())
	r := &room{server.ServerManager, make(map[int]string), out}
	for {
		if err := r.manager.ReadContext(ctx, r.handle); err != nil {
			if ctx.Err() == nil {
				return err
			}
			if err := server.Close(); err != nil {
				fmt.Fprintln(out, "!", err) // some clients have not got everything
			}
			return nil
		}
	}
}

func (r *room) handle(client *ipc.Server, m *ipc.Message, err error) {
	switch {
	case err != nil: // the server was closed
	case m.Status == ipc.Disconnected.String():
		r.leave(client)
	case m.Err != nil: // such as a client that makes no progress for too long
		fmt.Fprintf(r.out, "! %v\n", m.Err)
	case m.MsgType == typeHere, m.MsgType == typeSay:
		var p post
		if err := json.Unmarshal(m.Data, &p); err != nil || p.Name == "" {
			fmt.Fprintf(r.out, "! client %d talks nonsense\n", client.ClientID())
			client.Close()
			return
		}
		r.join(client, p.Name)
		if m.MsgType == typeSay {
			r.tell(post{client.ClientID(), p.Name, p.Text})
		}
	}
}

// join adds a client, unless it has joined already, and tells all clients.
func (r *room) join(client *ipc.Server, name string) {
	id := client.ClientID()
	if _, known := r.names[id]; known {
		return
	}
	r.names[id] = name
	// If this fails, the client has left, and that event is on its way.
	_ = client.Write(typeYou, encode(post{Number: id}))
	r.tell(post{Text: name + " joins"})
}

func (r *room) leave(client *ipc.Server) {
	id := client.ClientID()
	if name, known := r.names[id]; known {
		delete(r.names, id)
		r.tell(post{Text: name + " leaves"})
	}
}

// tell sends p to all clients. Broadcast does not wait: a client with no room for
// another message misses it, and does not delay the others.
func (r *room) tell(p post) {
	if err := r.manager.Broadcast(typeSaid, encode(p)); err != nil {
		fmt.Fprintf(r.out, "! %v\n", err)
	}
	fmt.Fprintln(r.out, p)
}

// String returns the line that people see, without anything that might do more
// to their terminals than show text.
func (p post) String() string {
	line := p.Name + ": " + p.Text
	if p.Number == 0 {
		line = "* " + p.Text
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}

func encode(p post) []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and a number can be encoded
	}
	return b
}
