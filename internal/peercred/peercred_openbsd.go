package peercred

import "syscall"

// See getsockopt(2).
const (
	peerLevel  = syscall.SOL_SOCKET
	peerOption = syscall.SO_PEERCRED
)

func parsePeer(b []byte) (Cred, error) { return parseSockpeercred(b) }

func withPID(_ int, cred Cred) Cred { return cred }
