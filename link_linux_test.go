package ipc

import (
	"net"
	"syscall"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// Only a large message makes the kernel's buffer wide, and only the sender's.
func TestWideBuffer(t *testing.T) {
	server, client := startPair(t, false)
	defer socktest.Close(t, client)

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
