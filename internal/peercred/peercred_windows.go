package peercred

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

var (
	kernel32 = syscall.NewLazyDLL("kernel32.dll")
	advapi32 = syscall.NewLazyDLL("advapi32.dll")

	getNamedPipeInfo            = kernel32.NewProc("GetNamedPipeInfo")
	getNamedPipeClientProcessID = kernel32.NewProc("GetNamedPipeClientProcessId")
	getNamedPipeServerProcessID = kernel32.NewProc("GetNamedPipeServerProcessId")
	getSecurityInfo             = advapi32.NewProc("GetSecurityInfo")
	impersonateNamedPipeClient  = advapi32.NewProc("ImpersonateNamedPipeClient")
	openThreadToken             = advapi32.NewProc("OpenThreadToken")
	revertToSelf                = advapi32.NewProc("RevertToSelf")
)

// Constants of winbase.h, winnt.h and accctrl.h.
const (
	pipeServerEnd            = 1 // PIPE_SERVER_END
	kernelObject             = 6 // SE_KERNEL_OBJECT
	ownerSecurityInformation = 1
	currentThread            = ^uintptr(1) // what GetCurrentThread returns
)

// errAnonymous is ERROR_CANT_OPEN_ANONYMOUS: the client lets no server identify it.
const errAnonymous = syscall.Errno(1347)

// credentials asks the pipe itself. A PID does not tell the user: its process may
// have ended, with the pipe in the hands of another, and somebody else's process
// may have the PID by now. So a client is known by impersonation, and a server
// by the owner of the pipe, whom nobody can choose but from among himself.
func credentials(h uintptr) (Cred, error) {
	var flags uint32
	if ok, _, _ := getNamedPipeInfo.Call(h, uintptr(unsafe.Pointer(&flags)), 0, 0, 0); ok == 0 {
		return Cred{}, errUnknown
	}
	cred := Cred{UID: NoID, GID: NoID}
	who, askPID := ownerOf, getNamedPipeServerProcessID
	if flags&pipeServerEnd != 0 {
		who, askPID = clientOf, getNamedPipeClientProcessID
	}
	var pid uint32
	if ok, _, err := askPID.Call(h, uintptr(unsafe.Pointer(&pid))); ok == 0 {
		return Cred{}, os.NewSyscallError(askPID.Name, err)
	}
	cred.PID = int(pid)
	var err error
	cred.SID, err = who(h)
	return cred, err
}

// ownerOf returns the owner of a pipe.
func ownerOf(h uintptr) (string, error) {
	var owner *syscall.SID
	var descriptor syscall.Handle
	code, _, _ := getSecurityInfo.Call(h, kernelObject, ownerSecurityInformation,
		uintptr(unsafe.Pointer(&owner)), 0, 0, 0, uintptr(unsafe.Pointer(&descriptor)))
	if code != 0 {
		return "", os.NewSyscallError(getSecurityInfo.Name, syscall.Errno(code))
	}
	defer syscall.LocalFree(descriptor) // owner lies in it
	if owner == nil {
		return "", fmt.Errorf("the pipe has no owner: %w", syscall.EINVAL)
	}
	return owner.String()
}

// clientOf returns the user that the client at the other end of a pipe had when
// it connected. Clients that do not let a server identify them, or before
// the first byte do not, are an error.
//
// A goroutine of its own impersonates the client. If that cannot be undone it
// ends without letting go of its thread, and the thread ends with it.
func clientOf(h uintptr) (sid string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if ok, _, e := impersonateNamedPipeClient.Call(h); ok == 0 {
			err = os.NewSyscallError(impersonateNamedPipeClient.Name, e)
			runtime.UnlockOSThread()
			return
		}
		sid, err = threadUser()
		if ok, _, e := revertToSelf.Call(); ok == 0 {
			sid, err = "", os.NewSyscallError(revertToSelf.Name, e)
			return
		}
		runtime.UnlockOSThread()
	}()
	<-done
	return sid, err
}

// threadUser returns the user that the calling thread impersonates.
func threadUser() (string, error) {
	var token syscall.Token
	// With the rights of the process: the client's may not do.
	ok, _, err := openThreadToken.Call(currentThread, syscall.TOKEN_QUERY, 1, uintptr(unsafe.Pointer(&token)))
	if err == errAnonymous {
		return "", errUnknown
	}
	if ok == 0 {
		return "", os.NewSyscallError(openThreadToken.Name, err)
	}
	defer token.Close()
	return userOf(token)
}

// Self returns the SID of the user that this process runs as.
func Self() (string, error) {
	token, err := syscall.OpenCurrentProcessToken()
	if err != nil {
		return "", os.NewSyscallError("OpenProcessToken", err)
	}
	defer token.Close()
	return userOf(token)
}

func userOf(token syscall.Token) (string, error) {
	u, err := token.GetTokenUser()
	if err != nil {
		return "", os.NewSyscallError("GetTokenInformation", err)
	}
	return u.User.Sid.String()
}
