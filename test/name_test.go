package ipc_test

import (
	"syscall"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A live server keeps its name, and does not notice who else wanted it.
//
// Pins doc.go, "Starting": A live server keeps its name
// Pins doc.go, "Errors": ErrInUse, ErrName: a server cannot have this name
func TestNameInUse(t *testing.T) {
	eachPair(t, unixSetups, func(t *testing.T, p *pair) {
		config := p.route.server()
		for range 3 {
			server, err := ipc.StartServer(&config)
			wantError(t, "StartServer", err, ipc.ErrInUse, syscall.EADDRINUSE)
			if server != nil {
				t.Error("StartServer returned a server together with an error")
			}
		}
		p.check(t)
		if n := p.server.Stats().HandshakeFailures; n != 0 {
			t.Errorf("HandshakeFailures = %d: the probe was a connection", n)
		}
		wantStatus(t, "server's end", p.peer, ipc.Connected)
		noError(t, "Close", p.server.Close())
		second, err := ipc.StartServer(&config)
		noError(t, "StartServer after Close", err)
		defer second.Close()
	})
}
