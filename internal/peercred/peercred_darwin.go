package peercred

import "syscall"

// See sys/un.h.
const (
	peerLevel  = 0 // SOL_LOCAL
	peerOption = 1 // LOCAL_PEERCRED
	localPID   = 2 // LOCAL_PEERPID
)

func parsePeer(b []byte) (Cred, error) { return parseXucred(b, 0) }

// withPID adds the PID, that of the last process to have used the peer's end.
// The kernel does not know it any more once the peer has closed that.
func withPID(fd int, cred Cred) Cred {
	if pid, err := syscall.GetsockoptInt(fd, peerLevel, localPID); err == nil {
		cred.PID = pid
	}
	return cred
}
