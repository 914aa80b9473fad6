// Command logging shows the log of the library, in a format that the program
// chooses, and its counts, for a monitoring system.
//
// The lines of the log have these attributes:
//
//	socket   path of the socket; or Name, or the Listener's address
//	client   ClientID, on the lines of a client of a MultiMode server
//	peer     the process at the other end: peer.pid, peer.uid, peer.gid
//	reason   why a connection ended
//	error    what went wrong
//	repeated how many lines of this kind were left out before it
//	pause    until the next attempt to accept a connection
//
// Message data and keys are never logged.
package main

import (
	"context"
	"expvar"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func main() {
	if err := run(os.Stdout, expvar.Publish); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer, publish func(string, expvar.Var)) error {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	// A Logger replaces LogLevel and IPC_DEBUG: its handler decides which lines
	// it writes. This one writes JSON, from level info on, and names the part of
	// the program.
	logger := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      "logging",
		SocketDir: dir,
		MultiMode: true,
		Logger:    logger.With("part", "server"),
	})
	if err != nil {
		return err
	}
	defer server.Close()

	// Where a program serves HTTP with the default mux, this is in /debug/vars.
	counts := expvar.Func(func() any { return server.Stats() })
	publish("ipc", counts)

	client, err := ipc.StartClient(&ipc.ClientConfig{
		Name:      "logging",
		SocketDir: dir,
		Logger:    logger.With("part", "client"),
	})
	if err != nil {
		return err
	}
	for range 3 {
		if err := client.Write(1, []byte("hello")); err != nil {
			return err
		}
	}
	if err := client.Close(); err != nil {
		return err
	}

	for left := false; !left; {
		err := server.ServerManager.ReadContext(context.Background(), func(_ *ipc.Server, m *ipc.Message, err error) {
			left = left || err == nil && m.Status == ipc.Disconnected.String()
		})
		if err != nil {
			return err
		}
	}
	if err := server.Close(); err != nil {
		return err
	}
	fmt.Fprintln(out, "counts:", counts)
	return nil
}
