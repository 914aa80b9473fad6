package sockfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

func TestBadName(t *testing.T) {
	for _, c := range []struct{ dir, name, text string }{
		{"/tmp", "", "ipcName cannot be an empty string"},
		{"/tmp", ".", `"."`},
		{"/tmp", "..", `".."`},
		{"/tmp", "a/b", "separator"},
		{"/tmp", "../a", "separator"},
		{"/tmp", "/a", "separator"},
		{"/tmp", "a\x00b", "NUL"},
		{"/t\x00mp", "a", "SocketDir"},
	} {
		got, err := Path(c.dir, c.name)
		if got != "" || !errors.Is(err, errs.Name) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("Path(%q, %q) = %q, %v: want errs.Name with %q", c.dir, c.name, got, err, c.text)
		}
	}
}
