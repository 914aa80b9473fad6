package ipc

import (
	"fmt"

	"github.com/joe-at-startupmedia/golang-ipc/internal/peercred"
)

// Well-known SIDs.
const (
	sidSystem         = "S-1-5-18"
	sidAdministrators = "S-1-5-32-544" // owns what a process creates that runs as one of them
)

func sameUser(p Peer) error {
	own, err := peercred.Self()
	if err != nil {
		return fmt.Errorf("%w: own user: %w", ErrUnauthorized, err)
	}
	switch p.SID {
	case own, sidSystem, sidAdministrators:
		return nil
	}
	return fmt.Errorf("%w: user %s is neither %s nor SYSTEM", ErrUnauthorized, p.SID, own)
}
