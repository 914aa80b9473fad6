//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package sockfile

// listenerPID returns 0: the system does not tell which process has a socket,
// unless one connects to it, and the server would take that for a client.
func listenerPID(string) int { return 0 }
