//go:build !windows

package ipc

import "os"

func sameUser(p Peer) error {
	own := uint32(os.Geteuid())
	if p.UID == own || p.UID == 0 {
		return nil
	}
	return detailf(ErrUnauthorized, "uid %d is neither %d nor root", p.UID, own)
}
