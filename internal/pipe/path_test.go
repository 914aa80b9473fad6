package pipe

import (
	"errors"
	"strings"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// Pins doc.go, "Elsewhere": the pipe is \\.\pipe\NAME, or \\.\pipe\DIR\NAME with a SocketDir
func TestPath(t *testing.T) {
	for _, c := range []struct{ dir, name, want string }{
		{"", "app", `\\.\pipe\app`},
		{"", "My App (é)", `\\.\pipe\My App (é)`},
		{"", ".app", `\\.\pipe\.app`},
		{"", "a:b*?", `\\.\pipe\a:b*?`},
		{"company", "app", `\\.\pipe\company\app`},
		{`a\b`, "app", `\\.\pipe\a\b\app`},
		{"/tmp/", "app", `\\.\pipe\tmp\app`},
		{`C:\Users\x`, "app", `\\.\pipe\C:\Users\x\app`},
		{"", strings.Repeat("n", 247), prefix + strings.Repeat("n", 247)},
		{"", strings.Repeat("é", 247), prefix + strings.Repeat("é", 247)}, // characters, not bytes
	} {
		if got, err := Path(c.dir, c.name); got != c.want || err != nil {
			t.Errorf("Path(%q, %q) = %q, %v: want %q", c.dir, c.name, got, err, c.want)
		}
	}
}

func TestBadPath(t *testing.T) {
	for _, c := range []struct{ dir, name, text string }{
		{"", "", "ipcName cannot be an empty string"},
		{"", ".", `"."`},
		{"", "..", `".."`},
		{"", "app.", "dot or a space"},
		{"", "app ", "dot or a space"},
		{"", "a/b", "separator"},
		{"", `a\b`, "separator"},
		{"", `..\a`, "separator"},
		{"", "a\x00b", "NUL"},
		{"a\x00b", "app", "SocketDir"},
		{"..", "app", `".."`},
		{`a\..\b`, "app", `".."`},
		{"./a", "app", `"."`},
		{"a ", "app", "SocketDir"},
		{"", strings.Repeat("n", 248), "256"},
		{"", strings.Repeat("\U0001F600", 124), "256"}, // two of UTF-16 each
		{strings.Repeat("d", 200), strings.Repeat("n", 50), "256"},
	} {
		got, err := Path(c.dir, c.name)
		if got != "" || !errors.Is(err, errs.Name) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("Path(%q, %q) = %q, %v: want errs.Name with %q", c.dir, c.name, got, err, c.text)
		}
	}
}
