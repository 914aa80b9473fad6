package sockfile

import "io/fs"

// Perm says who may connect to a socket. It holds whatever the umask.
type Perm struct {
	Mode fs.FileMode // permission bits
	GID  int         // group, as of [LookupGroup]; -1 leaves the one that the file gets by itself
}
