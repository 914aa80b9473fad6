//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package sockfile

import (
	"errors"
	"fmt"
)

// LookupGroup fails: there is no socket to give to a group.
func LookupGroup(s string) (int, error) {
	return 0, fmt.Errorf("group %q: %w", s, errors.ErrUnsupported)
}
