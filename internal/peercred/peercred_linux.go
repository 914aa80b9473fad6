package peercred

import (
	"os"
	"syscall"
)

// credentials asks by SO_PEERCRED, see unix(7).
func credentials(fd uintptr) (Cred, error) {
	// For another family, SO_PEERCRED would succeed and tell no peer.
	domain, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_DOMAIN)
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockopt", err)
	}
	if domain != syscall.AF_UNIX {
		return Cred{}, errUnknown
	}
	cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockopt", err)
	}
	if cred.Uid == NoID { // nothing is connected
		return Cred{}, errUnknown
	}
	return Cred{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, nil
}
