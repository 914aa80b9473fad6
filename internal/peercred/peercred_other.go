//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package peercred

import "net"

// Of fails: the kernel is not asked who the peer is.
func Of(conn net.Conn) (Cred, error) { return Cred{}, noPeer(conn) }
