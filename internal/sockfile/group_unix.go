//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"fmt"
	"io/fs"
	"math"
	"os/user"
	"strconv"
)

// LookupGroup returns the id of the group called s. If there is none, s may be an
// id itself, as for chown(1).
func LookupGroup(s string) (int, error) {
	number := s
	g, err := user.LookupGroup(s)
	if err == nil {
		number = g.Gid
	}
	gid, notNumber := strconv.ParseUint(number, 10, 32)
	switch {
	case notNumber == nil && gid != math.MaxUint32: // which chown takes for "leave it"
		return int(gid), nil
	case err != nil:
		return 0, fmt.Errorf("ServerConfig.Group %q: %w", s, err)
	}
	return 0, fmt.Errorf("ServerConfig.Group %q has the id %q: %w", s, number, fs.ErrInvalid)
}
