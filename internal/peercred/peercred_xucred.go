//go:build dragonfly || freebsd

package peercred

// See unix(4).
const (
	peerLevel  = 0 // SOL_LOCAL
	peerOption = 1 // LOCAL_PEERCRED
)

func parsePeer(b []byte) (Cred, error) { return parseXucred(b, xucredPID) }

func withPID(_ int, cred Cred) Cred { return cred }
