package pipe

import (
	"fmt"
	"io/fs"
)

// Perm says who may connect: the own user, SYSTEM and administrators always, and
// others by Mode.
type Perm struct {
	Mode  fs.FileMode
	Group string // SID of the group that the bits of a group are for, or ""
}

// clientRights are what a client needs: FILE_GENERIC_READ and FILE_GENERIC_WRITE
// less FILE_CREATE_PIPE_INSTANCE, with which it could serve the name, too.
const clientRights = 0x12019b

// sddl returns the security descriptor of a pipe that own owns, in the security
// descriptor definition language. A right to write is one to connect, as it is for a
// Unix socket. Bits of a group that has no name admit nobody: the primary group of a
// user is all users of the machine, or of the domain.
func (p Perm) sddl(own string) string {
	client := fmt.Sprintf("(A;;%#x;;;", clientRights)
	// The own user creates the further instances: FA is FILE_ALL_ACCESS.
	d := "O:" + own + "D:P(A;;FA;;;" + own + ")" + client + "SY)" + client + "BA)"
	if p.Group != "" && p.Mode&0o020 != 0 {
		d += client + p.Group + ")"
	}
	if p.Mode&0o002 != 0 {
		d += client + "AU)" // authenticated users: nobody without an account
	}
	return d
}
