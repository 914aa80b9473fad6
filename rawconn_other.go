//go:build !unix

package ipc

import "net"

// rawConn does not exist here: bytes go through the connection's methods.
type rawConn struct{}

func newRawConn(net.Conn) *rawConn { return nil }

func (*rawConn) read(*recvBuffer, bool) (int, error) { panic("ipc: no raw connections here") }

func (*rawConn) write([]byte, bool) (int, error) { panic("ipc: no raw connections here") }
