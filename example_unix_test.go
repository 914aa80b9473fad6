//go:build unix

package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The socket has exactly the mode that is asked for, whatever the umask.
func ExampleServerConfig_permissions() {
	for _, config := range []ipc.ServerConfig{
		{}, // processes of the same user, and root
		{Mode: 0o660, Group: strconv.Itoa(os.Getgid())}, // of a group
		{UnmaskPermissions: true},                       // of all users
	} {
		config.Name = uniqueName()
		server, err := ipc.StartServer(&config)
		if err != nil {
			log.Fatal(err)
		}
		info, err := os.Stat(server.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.Mode().Perm())
		server.Close()
	}
	// Output:
	// -rw-------
	// -rw-rw----
	// -rwxrwxrwx
}

func ExampleServer_Addr() {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "greeter", SocketDir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	addr := server.Addr()
	fmt.Println(addr.Network(), filepath.Base(addr.String()))
	// Output: unix greeter.sock
}

// Dial makes each connection of a client. This one prints each attempt.
func ExampleClientConfig_dial() {
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: uniqueName()})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{
		Dial: func(ctx context.Context) (net.Conn, error) {
			fmt.Println("dialling")
			var d net.Dialer
			return d.DialContext(ctx, "unix", server.Addr().String())
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Println(client.Status())
	// Output:
	// dialling
	// Connected
}

// A peer that breaks the protocol loses its connection, and the program gets an
// event.
func Example_protocol() {
	server, clients := connectMany(0)
	defer server.Close()
	conn, err := net.Dial("unix", server.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	// PROTOCOL.md has the handshake: the version, the limit, and an answer to each.
	for _, n := range []int64{2, 8} {
		io.CopyN(io.Discard, conn, n)
		conn.Write([]byte{0})
	}
	conn.Write([]byte{0, 0, 0, 0}) // a frame without a type

	for left := false; !left; {
		server.ServerManager.Read(func(client *ipc.Server, message *ipc.Message, err error) {
			switch {
			case err != nil:
				left = true
			case message.Status == ipc.Error.String():
				fmt.Println(message.Status, errors.Is(message.Err, ipc.ErrProtocol))
			default:
				fmt.Println(message.Status)
				left = message.Status == ipc.Disconnected.String()
			}
		})
	}
	fmt.Println(len(clients))
	// Output:
	// Connected
	// Error true
	// Disconnected
	// 0
}
