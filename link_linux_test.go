package ipc

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
)

// Only a large message makes the kernel's buffer wide, and only the sender's.
func TestWideBuffer(t *testing.T) {
	dir := filepath.Dir(inFolder(t))
	server, err := StartServer(&ServerConfig{Name: "wide", SocketDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, server)
	client, err := StartClient(&ClientConfig{Name: "wide", SocketDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, client)

	sendBuffer := func(e any) int {
		t.Helper()
		raw, err := linkOf(e).conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if ctlErr := raw.Control(func(fd uintptr) {
			n, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
		}); ctlErr != nil || err != nil {
			t.Fatal(ctlErr, err)
		}
		return n
	}
	before := sendBuffer(client)
	deliver := func(size int) {
		t.Helper()
		if err := client.Write(1, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := server.Read()
			if err != nil {
				t.Fatal(err)
			}
			if m.MsgType == 1 && len(m.Data) == size {
				return
			}
		}
	}
	for range 100 {
		deliver(largeSize - 1)
	}
	if n := sendBuffer(client); n != before {
		t.Errorf("%d bytes after small messages, %d before", n, before)
	}
	deliver(largeSize)
	if n := sendBuffer(client); n <= before {
		t.Errorf("%d bytes after a large message, %d before", n, before)
	}
	if n := sendBuffer(server); n != before {
		t.Errorf("%d bytes in the direction without a large message, %d before", n, before)
	}
}
