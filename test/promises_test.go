package ipc_test

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// These are promises of doc.go that belong to no other file.

func init() {
	helpers["panicking handler"] = panickingMain
	helpers["leaver"] = leaverMain
}

// The helpers of this file are told where the socket is, and the leaver how to end.
const (
	promisesDir = "IPC_TEST_PROMISES_DIR"
	leaveBy     = "IPC_TEST_LEAVE_BY"
)

// A client may be started before its server, and waits for it.
//
// Pins doc.go, "Starting": They may be called in either order, in one process or in two
func TestClientBeforeItsServer(t *testing.T) {
	begin(t)
	dir := socketDir(t)
	failed := make(chan struct{}, 1)
	started := make(chan error)
	go func() {
		client, err := ipc.StartClient(&ipc.ClientConfig{
			Dial: func(ctx context.Context) (net.Conn, error) {
				conn, err := dialAt(ctx, socketPath(dir, "late"))
				if err != nil {
					select {
					case failed <- struct{}{}:
					default:
					}
				}
				return conn, err
			},
		})
		client.Close()
		started <- err
	}()
	<-failed // there is no server
	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "late", SocketDir: dir})
	noError(t, "StartServer", err)
	defer server.Close()
	noError(t, "StartClient", <-started)
}

// A client that Authorize refuses is not told, and tries again.
//
// Pins doc.go, "Security": sees a closed connection and tries again
func TestRefusedClientTriesAgain(t *testing.T) {
	begin(t)
	dir := socketDir(t)
	var asked atomic.Int32
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      "picky",
		SocketDir: dir,
		Authorize: func(ipc.Peer) error {
			if asked.Add(1) < 3 {
				return ipc.ErrUnauthorized
			}
			return nil
		},
	})
	noError(t, "StartServer", err)
	defer server.Close()
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "picky", SocketDir: dir})
	noError(t, "StartClient", err)
	defer client.Close()
	if n := asked.Load(); n != 3 {
		t.Errorf("Authorize was asked %d times, want 3", n)
	}
}

// Each line of the log says which socket it is about, and what else applies.
//
// Pins doc.go, "Logging": socket: its path, or Name, or the listener's address
// Pins doc.go, "Logging": client: the ClientID, on the lines of a client of a MultiMode server
// Pins doc.go, "Logging": reason: why a connection ended; error: what went wrong
func TestLogAttributes(t *testing.T) {
	begin(t)
	dir := socketDir(t)
	var text lockedBuffer
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      "told",
		SocketDir: dir,
		MultiMode: true,
		Logger:    slog.New(slog.NewJSONHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	noError(t, "StartServer", err)
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "told", SocketDir: dir})
	noError(t, "StartClient", err)
	noError(t, "Close", client.Close())
	stranger, err := dialAt(t.Context(), socketPath(dir, "told"))
	noError(t, "Dial", err)
	if _, err := stranger.Write([]byte{1}); err != nil { // "the version differs"
		t.Fatal(err)
	}
	io.Copy(io.Discard, stranger) // until the server has closed it
	stranger.Close()
	for left := false; !left; {
		server.ServerManager.Read(func(_ *ipc.Server, m *ipc.Message, err error) {
			left = err != nil || m.Status == "Disconnected"
		})
	}
	noError(t, "Close", server.Close())

	with := map[string]int{}
	for line := range strings.Lines(text.String()) {
		attributes := map[string]any{}
		noError(t, "Unmarshal", json.Unmarshal([]byte(line), &attributes))
		if attributes["socket"] != socketPath(dir, "told") {
			t.Errorf("no socket in %s", line)
		}
		if id, ok := attributes["client"]; ok && id != 1.0 {
			t.Errorf("another client in %s", line)
		}
		for name := range attributes {
			with[name]++
		}
	}
	if with["client"] < 2 || with["reason"] == 0 || with["error"] == 0 {
		t.Errorf("too few lines have client, reason or error:\n%s", text.String())
	}
}

// panickingMain is a server whose Handler panics, and a client that makes it.
func panickingMain() {
	config := ipc.ServerConfig{Name: "panic", SocketDir: os.Getenv(promisesDir), MultiMode: true}
	config.Handler = func(_ *ipc.Server, m *ipc.Message) {
		if m.MsgType > 0 {
			panic(string(m.Data))
		}
	}
	if _, err := ipc.StartServer(&config); err != nil {
		log.Fatal(err)
	}
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: config.Name, SocketDir: config.SocketDir})
	if err != nil {
		log.Fatal(err)
	}
	client.Request(context.Background(), 1, []byte("this is the end"))
	select {} // the panic is on its way
}

// A panic in a Handler is none that the library catches.
//
// Pins doc.go, "Handlers": A Handler that panics ends the program
func TestHandlerPanics(t *testing.T) {
	begin(t)
	dir := socketDir(t)
	output, err := helperCommand(t, "panicking handler", promisesDir+"="+dir).CombinedOutput()
	os.Remove(dir + "/panic.sock")
	if err == nil || !strings.Contains(string(output), "panic: this is the end") {
		t.Errorf("the program ends with %v and prints\n%s", err, output)
	}
}

// leaving is how many messages the leaver sends.
const leaving = 400

// leaverMain is a client that writes, and then ends its program.
func leaverMain() {
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "left", SocketDir: os.Getenv(promisesDir)})
	if err != nil {
		log.Fatal(err)
	}
	for n := range leaving {
		if err := client.Write(n+1, make([]byte, 1000)); err != nil {
			log.Fatal(err)
		}
	}
	switch os.Getenv(leaveBy) {
	case "Close":
		err = client.Close()
	case "Flush":
		err = client.Flush(context.Background())
	}
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(0)
}

// Everything that a program has written arrives if it ends with Close or Flush.
//
// Pins doc.go, "Writing": end with Close, or wait with Client.Flush
func TestProgramEndsAfterWrite(t *testing.T) {
	for _, end := range []string{"Close", "Flush"} {
		t.Run(end, func(t *testing.T) {
			begin(t)
			dir := socketDir(t)
			server, err := ipc.StartServer(&ipc.ServerConfig{Name: "left", SocketDir: dir})
			noError(t, "StartServer", err)
			defer server.Close()
			leaver := helperCommand(t, "leaver", promisesDir+"="+dir, leaveBy+"="+end)
			leaver.Stderr = os.Stderr
			noError(t, "Start", leaver.Start())
			n := 0
			for m, err := range server.Messages(t.Context()) {
				noError(t, "Read", err)
				if m.Status == "Disconnected" {
					break
				}
				if m.MsgType > 0 {
					if n++; m.MsgType != n {
						t.Fatalf("message %d comes as number %d", m.MsgType, n)
					}
				}
			}
			if n != leaving {
				t.Errorf("%d messages arrive, want %d", n, leaving)
			}
			noError(t, "the program", leaver.Wait())
		})
	}
}
