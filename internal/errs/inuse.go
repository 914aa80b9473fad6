//go:build !plan9

package errs

import "syscall"

// addrInUse is the system's error that InUse matches.
const addrInUse = syscall.EADDRINUSE
