//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"math"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"
)

func TestLookupGroup(t *testing.T) {
	id, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Skip("own group has no name:", err)
	}
	for _, s := range []string{id.Name, id.Gid} {
		if got, err := LookupGroup(s); got != os.Getgid() || err != nil {
			t.Errorf("LookupGroup(%q) = %d, %v: want %d", s, got, err, os.Getgid())
		}
	}
	unknown := user.UnknownGroupError("no such group")
	if _, err := LookupGroup(string(unknown)); !errors.Is(err, unknown) || !strings.Contains(err.Error(), string(unknown)) {
		t.Errorf("%v: want %v", err, unknown)
	}
	if got, err := LookupGroup("4294967294"); uint32(got) != math.MaxUint32-1 || err != nil {
		t.Errorf("largest id: %d, %v", got, err)
	}
	for _, s := range []string{"", "-1", "4294967295", "4294967296", "+1", "0x1"} {
		if got, err := LookupGroup(s); err == nil {
			t.Errorf("LookupGroup(%q) = %d", s, got)
		}
	}
}
