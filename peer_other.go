//go:build !windows

package ipc

import (
	"fmt"
	"os"
)

func sameUser(p Peer) error {
	own := uint32(os.Geteuid())
	if p.UID == own || p.UID == 0 {
		return nil
	}
	return fmt.Errorf("%w: uid %d is neither %d nor root", ErrUnauthorized, p.UID, own)
}
