package ipc

import (
	"fmt"
	"log/slog"
	"net"

	"github.com/joe-at-startupmedia/golang-ipc/internal/peercred"
)

// Peer is the process at the other end of a connection, as the kernel reports it
// for the time when the connection was made: of a client, when it connected;
// of a server, when it began to listen. The process may since have changed its
// user, handed on the connection, or ended, and another may have its PID. So a PID
// is good for a log; decide by the user.
//
// Users are numbers, and on Windows a SID: an Authorize that refuses some UIDs
// admits all users there. A PID is not known in a PID namespace that cannot be seen
// from ours, on DragonFly, and on FreeBSD before 13. On macOS it is that of the last
// process to have used the peer's end.
type Peer struct {
	PID int    // 0 if it is not known
	UID uint32 // effective user; 65534 for one without an id in our user namespace, 4294967295 on Windows
	GID uint32 // effective group, likewise
	SID string // on Windows the user, of a server the owner of the pipe; empty elsewhere
}

// String returns "pid 12 uid 0 gid 0", or on Windows "pid 12 sid S-1-5-18".
func (p Peer) String() string {
	if p.SID != "" {
		return fmt.Sprintf("pid %d sid %s", p.PID, p.SID)
	}
	return fmt.Sprintf("pid %d uid %d gid %d", p.PID, p.UID, p.GID)
}

// LogValue implements [slog.LogValuer].
func (p Peer) LogValue() slog.Value {
	if p.SID != "" {
		return slog.GroupValue(slog.Int("pid", p.PID), slog.String("sid", p.SID))
	}
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
// user, and root's; on Windows our own user's, SYSTEM's, and servers whose pipe is
// owned by the administrators. For others it returns the reason, an error that
// matches [ErrUnauthorized].
//
// In a user namespace, do not use it as user 65534: all users without an id there
// look like that one.
func SameUser(p Peer) error { return sameUser(p) }
