package pipe

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

var (
	kernel32 = syscall.NewLazyDLL("kernel32.dll")
	advapi32 = syscall.NewLazyDLL("advapi32.dll")

	createEvent         = kernel32.NewProc("CreateEventW")
	setEvent            = kernel32.NewProc("SetEvent")
	waitMultiple        = kernel32.NewProc("WaitForMultipleObjects")
	getOverlappedResult = kernel32.NewProc("GetOverlappedResult")
	createNamedPipe     = kernel32.NewProc("CreateNamedPipeW")
	connectNamedPipe    = kernel32.NewProc("ConnectNamedPipe")
	waitNamedPipe       = kernel32.NewProc("WaitNamedPipeW")
	peekNamedPipe       = kernel32.NewProc("PeekNamedPipe")
	convertDescriptor   = advapi32.NewProc("ConvertStringSecurityDescriptorToSecurityDescriptorW")
)

// Constants of winbase.h.
const (
	accessDuplex        = 0x3     // PIPE_ACCESS_DUPLEX
	firstInstance       = 0x80000 // FILE_FLAG_FIRST_PIPE_INSTANCE
	rejectRemoteClients = 0x8     // PIPE_REJECT_REMOTE_CLIENTS; 0 is a pipe of bytes
	unlimitedInstances  = 255     // PIPE_UNLIMITED_INSTANCES
	sqosPresent         = 0x100000
	sqosIdentification  = 0x10000
)

// Errors of winerror.h.
const (
	errTooManyFiles  = syscall.Errno(4)
	errNoMemory      = syscall.Errno(8)
	errOutOfMemory   = syscall.Errno(14)
	errSemTimeout    = syscall.Errno(121)
	errPipeBusy      = syscall.Errno(231)
	errNoData        = syscall.Errno(232)
	errNotConnected  = syscall.Errno(233)
	errPipeConnected = syscall.Errno(535)
	errNoResources   = syscall.Errno(1450)
	errNoCommit      = syscall.Errno(1455)
	errNoQuota       = syscall.Errno(1816)
	errInvalidName   = syscall.Errno(123)
)

// newEvent returns an event that stays set.
func newEvent() (syscall.Handle, error) {
	h, _, err := createEvent.Call(0, 1, 0, 0)
	if h == 0 {
		return 0, os.NewSyscallError("CreateEvent", err)
	}
	return syscall.Handle(h), nil
}

// newDescriptor makes a security descriptor of its text. The caller frees it with
// syscall.LocalFree.
func newDescriptor(sddl string) (syscall.Handle, error) {
	text, err := syscall.UTF16PtrFromString(sddl)
	if err != nil {
		return 0, err
	}
	const revision = 1
	var d syscall.Handle
	ok, _, err := convertDescriptor.Call(uintptr(unsafe.Pointer(text)), revision, uintptr(unsafe.Pointer(&d)), 0)
	if ok == 0 {
		return 0, os.NewSyscallError("ConvertStringSecurityDescriptorToSecurityDescriptor", err)
	}
	return d, nil
}

// newInstance creates an instance of a pipe, which a client can take from now on.
func newInstance(path string, descriptor syscall.Handle, flags uint32) (syscall.Handle, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return syscall.InvalidHandle, err
	}
	sa := &syscall.SecurityAttributes{SecurityDescriptor: uintptr(descriptor)}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	r, _, err := createNamedPipe.Call(uintptr(unsafe.Pointer(name)),
		uintptr(accessDuplex|syscall.FILE_FLAG_OVERLAPPED|flags), rejectRemoteClients, unlimitedInstances,
		bufferSize, bufferSize, 0, uintptr(unsafe.Pointer(sa)))
	if h := syscall.Handle(r); h != syscall.InvalidHandle {
		return h, nil
	}
	return syscall.InvalidHandle, os.NewSyscallError("CreateNamedPipe", err)
}

// Probe returns nil if the pipe of a name exists, and otherwise an error, which is
// fs.ErrNotExist if it does not. Its server does not notice.
func Probe(path string) error {
	if err := ask(path); err != errSemTimeout {
		return err
	}
	return nil // all instances have clients, or the server is gone and they are not
}

// ask tells, without connecting, whether an instance of the pipe waits for a client:
// nil if one does, errSemTimeout if there are others, and an error that is
// fs.ErrNotExist if there are none.
func ask(path string) error { return awaitInstance(path, time.Millisecond) } // 0 would be a default

// awaitInstance is ask, but waits for at most d until an instance waits for a client.
func awaitInstance(path string, d time.Duration) error {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	if ok, _, err := waitNamedPipe.Call(uintptr(unsafe.Pointer(name)), uintptr(d.Milliseconds())); ok == 0 {
		return err
	}
	return nil
}
