//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sockfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

func TestPath(t *testing.T) {
	for _, c := range []struct{ dir, name, want string }{
		{"/tmp", "a", "/tmp/a.sock"},
		{"run", "a b", "run/a b.sock"},
		{"/tmp", "...", "/tmp/....sock"},
		{"/tmp", ".hidden", "/tmp/.hidden.sock"},
		{"/tmp", `back\slash`, `/tmp/back\slash.sock`},
		{"/tmp", "@a", "/tmp/@a.sock"},
		{"@run", "a", "./@run/a.sock"},
		{"/tmp", "größe", "/tmp/größe.sock"},
	} {
		got, err := Path(c.dir, c.name)
		if got != c.want || err != nil {
			t.Errorf("Path(%q, %q) = %q, %v: want %q", c.dir, c.name, got, err, c.want)
		}
	}
}

// TestPathLimit checks that the limit is the system's own: the longest path
// works, and one byte more does not.
func TestPathLimit(t *testing.T) {
	dir := socktest.Dir(t)
	name := strings.Repeat("n", maxPath-len(dir)-len("/.sock"))
	path, err := Path(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	mustServe(t, mustListen(t, path, ownerOnly), path)

	_, err = Path(dir, name+"n")
	if !errors.Is(err, errs.Name) {
		t.Fatalf("%v: want errs.Name", err)
	}
	for _, want := range []any{maxPath, maxPath + 1, "Name", "SocketDir"} {
		if !strings.Contains(err.Error(), fmt.Sprint(want)) {
			t.Errorf("%q does not mention %v", err, want)
		}
	}
	// The "./" counts too.
	dir = "@" + strings.Repeat("d", maxPath-len("./@/a.sock"))
	if _, err := Path(dir, "a"); err != nil {
		t.Error(err)
	}
	if _, err := Path(dir+"d", "a"); !errors.Is(err, errs.Name) {
		t.Errorf("%v: want errs.Name", err)
	}
}

func TestPathIsNeverAbstract(t *testing.T) {
	dir := socktest.Dir(t, "@run")
	t.Chdir(dir)
	if err := os.Mkdir("@run", 0o700); err != nil {
		t.Fatal(err)
	}
	path, err := Path("@run", "a")
	if err != nil {
		t.Fatal(err)
	}
	l := mustListen(t, path, ownerOnly)
	mustServe(t, l, path)
	if _, err := os.Lstat(filepath.Join(dir, "@run", "a.sock")); err != nil {
		t.Error(err)
	}
	mustRefuse(t, path, errs.InUse)
	socktest.Close(t, l)
	if entries, err := os.ReadDir("@run"); len(entries) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
