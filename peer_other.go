//go:build !linux

package ipc

import (
	"errors"
	"fmt"
	"net"
)

// peerOf fails: an Authorize function would have nothing to go by.
func peerOf(net.Conn) (Peer, error) {
	return Peer{}, fmt.Errorf("ipc: peer: %w on this system", errors.ErrUnsupported)
}
