//go:build !plan9

package errs

import "syscall"

// addrInUse is the system's error that InUse matches.
const addrInUse = syscall.EADDRINUSE

// BrokenPipe is the error of a write to a pipe that can take no more.
const BrokenPipe = syscall.EPIPE
