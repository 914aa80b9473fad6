package ipc

import (
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/joe-at-startupmedia/golang-ipc/internal/peercred"
)

// Peer is the process at the other end of a connection, as the kernel reports it
// for the time when the connection was made: of a client, when it connected;
// of a server, when it began to listen. The process may since have changed its
// user, handed on the connection, or ended, and another may have its PID.
type Peer struct {
	PID int    // 0 if it is in a PID namespace that cannot be seen from ours
	UID uint32 // effective user; one that has no id in our user namespace is 65534
	GID uint32 // effective group, likewise
}

// String returns "pid 12 uid 0 gid 0".
func (p Peer) String() string {
	return fmt.Sprintf("pid %d uid %d gid %d", p.PID, p.UID, p.GID)
}

// LogValue implements [slog.LogValuer].
func (p Peer) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("pid", p.PID),
		slog.Uint64("uid", uint64(p.UID)),
		slog.Uint64("gid", uint64(p.GID)),
	)
}

// peerOf returns the process at the other end of conn. Where the kernel does not
// report it, the error matches [errors.ErrUnsupported].
func peerOf(conn net.Conn) (Peer, error) {
	cred, err := peercred.Of(conn)
	return Peer(cred), err
}

// SameUser is an Authorize function that admits processes of our own effective
// user, and root's. For others it returns the reason, an error that matches
// [ErrUnauthorized].
//
// In a user namespace, do not use it as user 65534: all users without an id there
// look like that one.
func SameUser(p Peer) error {
	own := uint32(os.Geteuid())
	if p.UID == own || p.UID == 0 {
		return nil
	}
	return detailf(ErrUnauthorized, "uid %d is neither %d nor root", p.UID, own)
}
