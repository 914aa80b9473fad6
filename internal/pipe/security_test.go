package pipe

import (
	"io/fs"
	"testing"
)

// Pins doc.go, "Elsewhere": The own user, SYSTEM and the administrators can connect
func TestSDDL(t *testing.T) {
	const own = "O:S-1-5-21-7D:P(A;;FA;;;S-1-5-21-7)(A;;0x12019b;;;SY)(A;;0x12019b;;;BA)"
	const group, all = "(A;;0x12019b;;;S-1-5-32-545)", "(A;;0x12019b;;;AU)"
	for _, c := range []struct {
		mode  fs.FileMode
		group string
		want  string
	}{
		{0o600, "", own},
		{0o600, "S-1-5-32-545", own},
		{0o644, "S-1-5-32-545", own}, // who may only read cannot connect
		{0o660, "S-1-5-32-545", own + group},
		{0o620, "S-1-5-32-545", own + group},
		{0o660, "", own},
		{0o602, "", own + all},
		{0o606, "S-1-5-32-545", own + all},
		{0o777, "", own + all},
		{0o777, "S-1-5-32-545", own + group + all},
		{0o060, "", own},
	} {
		if got := (Perm{c.mode, c.group}).sddl("S-1-5-21-7"); got != c.want {
			t.Errorf("%v, %q: %s: want %s", c.mode, c.group, got, c.want)
		}
	}
}
