//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// A client that has left is held against the bound with more than its message,
// which may be tiny, until that has been read.
func TestDepartedClientsCount(t *testing.T) {
	server, client := startPair(t, true)
	var here *link
	server.ServerManager.Read(func(c *Server, _ *Message, _ error) { here = linkOf(c) }) // Connected
	if err := client.Write(1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	socktest.Close(t, client)
	<-here.done // it has left
	held := func() int {
		server.places.mu.Lock()
		defer server.places.mu.Unlock()
		return server.places.held
	}
	if n := held(); n <= departedCost {
		t.Errorf("%d bytes are held of a client that has left a message, want over %d", n, departedCost)
	}
	for last := ""; last != Disconnected.String(); {
		server.ServerManager.Read(func(_ *Server, m *Message, err error) { last = m.Status })
	}
	if n := held(); n != 0 {
		t.Errorf("%d bytes are held when everything has been read", n)
	}
}
