package pipe

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	// busyTime is how long Dial waits for an instance of a pipe whose instances all
	// have clients. The server makes others as fast as it can.
	busyTime = time.Second

	// busyStep is how long it waits before it looks at its context again.
	busyStep = 50 * time.Millisecond
)

// Dial makes one attempt to connect to the pipe of a name. It lets the server
// know who the client is, and not act as the client. If the server's backlog is
// full it waits for 1 s at most.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	h, err := open(ctx, path)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr(path), Err: err}
	}
	return newConn(h, path), nil
}

func open(ctx context.Context, path string) (syscall.Handle, error) {
	if err := ctx.Err(); err != nil {
		return syscall.InvalidHandle, err
	}
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return syscall.InvalidHandle, err
	}
	for began := time.Now(); ; {
		h, err := syscall.CreateFile(name, clientRights, 0, nil, syscall.OPEN_EXISTING,
			syscall.FILE_FLAG_OVERLAPPED|sqosPresent|sqosIdentification, 0)
		if err != errPipeBusy || time.Since(began) > busyTime {
			return h, os.NewSyscallError("CreateFile", err)
		}
		awaitInstance(path, busyStep) // for whichever client is first
		if err := ctx.Err(); err != nil {
			return syscall.InvalidHandle, err
		}
	}
}

// transient are the reasons for a failed open that pass by themselves: no server
// yet (or one that is just closing), its backlog full, or the system's resources
// used up for the moment.
var transient = []error{
	syscall.ERROR_FILE_NOT_FOUND, syscall.ERROR_BROKEN_PIPE,
	errPipeBusy, errNoData, errNotConnected, errSemTimeout,
	errTooManyFiles, errNoMemory, errOutOfMemory, errNoResources, errNoCommit, errNoQuota,
	errInvalidName, // a pipe has the name that is the beginning of this one
}

// MayPass reports whether a later Dial may succeed where one failed with err.
func MayPass(err error) bool {
	return slices.ContainsFunc(transient, func(t error) bool { return errors.Is(err, t) })
}
