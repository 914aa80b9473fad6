// Package peercred asks the kernel which process is at the other end of a
// connection.
package peercred

import (
	"errors"
	"fmt"
	"math"
	"net"
)

// Cred is what the kernel reports of a process. See ipc.Peer for what it means.
type Cred struct {
	PID      int
	UID, GID uint32 // NoID where users are not numbers
	SID      string // "" where they are
}

// NoID is the number of no user and of no group.
const NoID = math.MaxUint32

// noPeer is the error of Of for a connection of which the kernel knows no peer.
func noPeer(conn net.Conn) error {
	return fmt.Errorf("credentials of a %T: %w", conn, errors.ErrUnsupported)
}
