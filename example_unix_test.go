//go:build unix

package ipc_test

import (
	"fmt"
	"log"
	"os"
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
