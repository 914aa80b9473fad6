package ipc_test

import (
	"errors"
	"fmt"
	"log"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The kernel says who wants to connect, and the program decides.
func ExampleServerConfig_authorize() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:              name,
		UnmaskPermissions: true, // everybody may try
		Authorize: func(p ipc.Peer) error {
			if err := ipc.SameUser(p); err != nil {
				return err
			}
			fmt.Println("a process of ours, or root's")
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	// Output: a process of ours, or root's
}

// A client may check that it has found the right server.
func ExampleClientConfig_authorize() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	_, err = ipc.StartClient(&ipc.ClientConfig{
		Name: name,
		Authorize: func(p ipc.Peer) error {
			return fmt.Errorf("user %d is not whom I want to talk to", p.UID)
		},
	})
	fmt.Println(errors.Is(err, ipc.ErrUnauthorized))
	// Output: true
}
