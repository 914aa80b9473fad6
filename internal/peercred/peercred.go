// Package peercred asks the kernel which process is at the other end of a
// connection.
package peercred

// Cred is what the kernel reports of a process. See ipc.Peer for what it means.
type Cred struct {
	PID int
	UID uint32
	GID uint32
}
