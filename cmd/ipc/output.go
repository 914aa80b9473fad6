package main

import (
	"encoding/json"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// isTerminal reports whether f is one, or another device without a content, such
// as /dev/null.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// colored reports whether what goes to f may have colors. (Not every console of
// Windows knows them.)
func colored(f *os.File) bool {
	return isTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && runtime.GOOS != "windows"
}

// color is an escape sequence's number; 0 is none.
type color int

const (
	plain  color = 0
	dim    color = 2
	red    color = 31
	green  color = 32
	yellow color = 33
	cyan   color = 36
)

// paint returns s in a color, if on is set.
func paint(on bool, c color, s string) string {
	if !on || c == plain {
		return s
	}
	return "\x1b[" + strconv.Itoa(int(c)) + "m" + s + "\x1b[0m"
}

// printable returns s, or, if it has characters that are none to print, which could
// steer a terminal, s as a Go string.
func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// clock returns the time of day, as lines of text begin with it.
func clock(t time.Time) string { return t.Format("15:04:05.000000") }

// bytesJSON is data in JSON: text where it is text.
type bytesJSON struct {
	Data   *string `json:"data,omitempty"`
	Base64 []byte  `json:"base64,omitempty"`
}

func newBytesJSON(data []byte) bytesJSON {
	if !utf8.Valid(data) {
		return bytesJSON{Base64: data}
	}
	s := string(data)
	return bytesJSON{Data: &s}
}

// writeJSON writes v as a line.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
