//go:build unix

package main

import "syscall"

// detached has a process started in a session of its own: Ctrl-C in the terminal
// and the terminal's end do not reach it.
var detached = &syscall.SysProcAttr{Setsid: true}
