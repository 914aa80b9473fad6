// Command originals runs a server or a client of one of the libraries that this
// one descends from. It sends each message back, and prints the status of each
// event. It is a module of its own because the fork has the import path of the
// library of this repository.
//
//	originals original|fork server|client NAME plain|encrypted
package main

import (
	"fmt"
	"log"
	"os"

	original "github.com/james-barrow/golang-ipc"
)

// endpoint is a Server or a Client of either library.
type endpoint interface {
	read() (*message, error)
	Write(msgType int, data []byte) error
}

// message is that of either library.
type message original.Message

// originalEndpoint is one of the original.
type originalEndpoint struct{ originalActor }

type originalActor interface {
	Read() (*original.Message, error)
	Write(msgType int, data []byte) error
}

func (e originalEndpoint) read() (*message, error) {
	m, err := e.Read()
	return (*message)(m), err
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: originals original|fork server|client NAME plain|encrypted")
	}
	e, err := start(os.Args[1]+" "+os.Args[2], os.Args[3], os.Args[4] == "encrypted")
	if err != nil {
		log.Fatal("start: ", err)
	}
	if os.Args[2] == "server" {
		fmt.Println("Listening") // there is no event for it
	}
	if err := echo(e); err != nil {
		log.Fatal(err)
	}
}

func start(what, name string, encrypted bool) (endpoint, error) {
	switch what {
	case "original server":
		s, err := original.StartServer(name, &original.ServerConfig{Encryption: encrypted})
		return originalEndpoint{s}, err
	case "original client":
		c, err := original.StartClient(name, &original.ClientConfig{Encryption: encrypted})
		return originalEndpoint{c}, err
	}
	return startFork(what, name, encrypted)
}

// echo returns at the first thing that is neither an event nor a message of a
// program.
func echo(e endpoint) error {
	for {
		m, err := e.read()
		switch {
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case m.MsgType == -1:
			fmt.Println(m.Status)
		case m.MsgType < 1:
			return fmt.Errorf("read a message of type %d with data %q", m.MsgType, m.Data)
		default:
			if err := e.Write(m.MsgType, m.Data); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
	}
}
