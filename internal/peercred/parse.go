package peercred

import (
	"encoding/binary"
	"fmt"
	"io/fs"
)

// What the kernels of macOS and the BSDs copy out for a peer, in their byte order
// and with 4 bytes a field unless said. Anything that is not exactly as expected
// is an error: a peer that is not known is better than a wrong one.

// A struct xucred of sys/ucred.h: version, user, number of groups (2 bytes, and 2
// of padding) and 16 groups, of which the first is the effective one. FreeBSD has
// a pointer's room for the PID after that.
const (
	xucredVersion = 0
	xucredGroups  = 12
	xucredSize    = xucredGroups + 4*16
	xucredMax     = xucredSize + 4 + 8 // with padding and a pointer
)

// parseXucred reads a struct xucred, with the PID at pidAt if that is not 0.
func parseXucred(b []byte, pidAt int) (Cred, error) {
	if len(b) < xucredSize || len(b) > xucredMax {
		return Cred{}, malformed("xucred", b)
	}
	groups := int16(binary.NativeEndian.Uint16(b[8:]))
	if word(b, 0) != xucredVersion || groups < 1 || groups > 16 {
		return Cred{}, malformed("xucred", b)
	}
	cred := Cred{UID: word(b, 4), GID: word(b, xucredGroups)}
	if pidAt != 0 && len(b) >= pidAt+4 {
		cred.PID = int(int32(word(b, pidAt)))
	}
	return checked("xucred", b, cred)
}

// parseUnpcbid reads NetBSD's struct unpcbid of sys/un.h: PID, user, group.
func parseUnpcbid(b []byte) (Cred, error) {
	if len(b) != 12 {
		return Cred{}, malformed("unpcbid", b)
	}
	cred := Cred{PID: int(int32(word(b, 0))), UID: word(b, 4), GID: word(b, 8)}
	return checkedPID("unpcbid", b, cred)
}

// parseSockpeercred reads OpenBSD's struct sockpeercred of sys/socket.h: user,
// group, PID.
func parseSockpeercred(b []byte) (Cred, error) {
	if len(b) != 12 {
		return Cred{}, malformed("sockpeercred", b)
	}
	cred := Cred{PID: int(int32(word(b, 8))), UID: word(b, 0), GID: word(b, 4)}
	return checkedPID("sockpeercred", b, cred)
}

// checkedPID is checked for a struct that always has the PID: without it the
// kernel has not filled the struct.
func checkedPID(name string, b []byte, cred Cred) (Cred, error) {
	if cred.PID == 0 {
		return Cred{}, malformed(name, b)
	}
	return checked(name, b, cred)
}

// checked returns cred if its numbers can be those of a process.
func checked(name string, b []byte, cred Cred) (Cred, error) {
	if cred.PID < 0 || cred.UID == NoID || cred.GID == NoID {
		return Cred{}, malformed(name, b)
	}
	return cred, nil
}

func malformed(name string, b []byte) error {
	return fmt.Errorf("the kernel's struct %s, of %d bytes, is not as expected: %w", name, len(b), fs.ErrInvalid)
}

func word(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
