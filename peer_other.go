//go:build !linux

package ipc

import (
	"errors"
	"fmt"
	"net"
)

// peerOf fails: the kernel is not asked who the peer is.
func peerOf(net.Conn) (Peer, error) {
	return Peer{}, fmt.Errorf("credentials: %w on this system", errors.ErrUnsupported)
}
