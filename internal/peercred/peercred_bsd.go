//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package peercred

import (
	"os"
	"syscall"
	"unsafe"
)

// maxStruct is more than any of the structs has.
const maxStruct = 128

// credentials asks by the option that peerOption names.
func credentials(fd uintptr) (Cred, error) {
	// The level of the option is 0 on most of these systems. That is IPPROTO_IP
	// to an Internet socket, which would answer with its IP options.
	sa, err := syscall.Getsockname(int(fd))
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockname", err)
	}
	if _, unix := sa.(*syscall.SockaddrUnix); !unix {
		return Cred{}, errUnknown
	}
	var b [maxStruct]byte
	n := uint32(len(b))
	switch err := getsockopt(int(fd), peerLevel, peerOption, unsafe.Pointer(&b), &n); err {
	case nil:
	case syscall.ENOTCONN, syscall.EINVAL:
		return Cred{}, errUnknown // not connected, or not any more
	default:
		return Cred{}, os.NewSyscallError("getsockopt", err)
	}
	cred, err := parsePeer(b[:min(int(n), len(b))])
	if err != nil {
		return Cred{}, err
	}
	return withPID(int(fd), cred), nil
}

// getsockopt is that of package syscall, which exports it for certain types of
// values only. x/sys links to it in the same way, and hence it keeps its name and
// its type, as badlinkname_unix.go of package syscall says.
//
//go:linkname getsockopt syscall.getsockopt
func getsockopt(s, level, name int, val unsafe.Pointer, vallen *uint32) error
