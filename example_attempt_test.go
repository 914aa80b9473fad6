//go:build !plan9

package ipc_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"syscall"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A negative Timeout makes one attempt: the program goes on at once if there is no
// server.
func ExampleClientConfig_oneAttempt() {
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: uniqueName(), Timeout: -1})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		fmt.Println("not running")
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println("running")
		client.Close()
	}
	// Output: not running
}
