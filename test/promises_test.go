package ipc_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// These are promises of doc.go that belong to no other file.

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
				var d net.Dialer
				conn, err := d.DialContext(ctx, "unix", dir+"/late.sock")
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
	skipWithoutPeers(t, nil)
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
	var log lockedBuffer
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      "told",
		SocketDir: dir,
		MultiMode: true,
		Logger:    slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	noError(t, "StartServer", err)
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "told", SocketDir: dir})
	noError(t, "StartClient", err)
	noError(t, "Close", client.Close())
	stranger, err := net.Dial("unix", dir+"/told.sock")
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
	for line := range strings.Lines(log.String()) {
		attributes := map[string]any{}
		noError(t, "Unmarshal", json.Unmarshal([]byte(line), &attributes))
		if attributes["socket"] != dir+"/told.sock" {
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
		t.Errorf("too few lines have client, reason or error:\n%s", &log)
	}
}
