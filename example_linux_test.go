package ipc_test

import (
	"errors"
	"fmt"
	"log"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Authorize is told which process wants to connect, and decides.
func ExampleServerConfig_authorize() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:              name,
		UnmaskPermissions: true, // all users may try
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
		fmt.Println(err)
		return
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
			return fmt.Errorf("the server runs as user %d", p.UID)
		},
	})
	fmt.Println(errors.Is(err, ipc.ErrUnauthorized))
	// Output: true
}

// Peer is the process at the other end, as the kernel reports it.
func ExampleServer_Peer() {
	server, client := connect()
	defer server.Close()
	defer client.Close()

	peer, err := server.Peer()
	fmt.Println(peer.PID == os.Getpid(), err)
	fmt.Println(peer.UID == uint32(os.Geteuid()), peer.GID == uint32(os.Getegid()))
	// Output:
	// true <nil>
	// true true
}

func ExampleSameUser() {
	own := uint32(os.Geteuid())
	fmt.Println(ipc.SameUser(ipc.Peer{UID: own}))
	fmt.Println(ipc.SameUser(ipc.Peer{UID: 0})) // root
	err := ipc.SameUser(ipc.Peer{UID: own + 1})
	fmt.Println(errors.Is(err, ipc.ErrUnauthorized))
	// Output:
	// <nil>
	// <nil>
	// true
}
