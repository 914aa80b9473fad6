package peercred

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"testing"
)

// words returns numbers as a kernel copies them out.
func words(numbers ...uint32) (b []byte) {
	for _, n := range numbers {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

// xucred returns a struct xucred up to its groups, which are 20, 12, 61 and zeros.
func xucred(version, uid uint32, groups int16) []byte {
	b := words(version, uid)
	b = binary.NativeEndian.AppendUint16(b, uint16(groups))
	b = append(b, 0xAA, 0xAA) // padding: the kernel need not clear it
	b = append(b, words(20, 12, 61)...)
	return append(b, make([]byte, 4*13)...)
}

// longXucred is FreeBSD's, of 64 bits.
func longXucred(pid uint32) []byte {
	return slices.Concat(xucred(0, 501, 3), words(0, pid, 0))
}

func TestParse(t *testing.T) {
	macOS := func(b []byte) (Cred, error) { return parseXucred(b, 0) }
	freeBSD := func(b []byte) (Cred, error) { return parseXucred(b, 80) }
	freeBSD32 := func(b []byte) (Cred, error) { return parseXucred(b, 76) }
	user := Cred{UID: 501, GID: 20}
	withPID := Cred{PID: 4711, UID: 501, GID: 20}
	for name, c := range map[string]struct {
		parse func([]byte) (Cred, error)
		b     []byte
		want  Cred // the zero value for a refusal
	}{
		"macOS":                      {macOS, xucred(0, 501, 3), user},
		"macOS, root":                {macOS, xucred(0, 0, 1), Cred{GID: 20}},
		"macOS, 16 groups":           {macOS, xucred(0, 501, 16), user},
		"macOS, another version":     {macOS, xucred(1, 501, 3), Cred{}},
		"macOS, no group":            {macOS, xucred(0, 501, 0), Cred{}},
		"macOS, negative groups":     {macOS, xucred(0, 501, -1), Cred{}},
		"macOS, too many groups":     {macOS, xucred(0, 501, 17), Cred{}},
		"macOS, no user":             {macOS, xucred(0, NoID, 3), Cred{}},
		"macOS, cut":                 {macOS, xucred(0, 501, 3)[:75], Cred{}},
		"macOS, up to one group":     {macOS, xucred(0, 501, 3)[:16], Cred{}},
		"macOS, nothing":             {macOS, nil, Cred{}},
		"macOS, zeros":               {macOS, make([]byte, 76), Cred{}},
		"macOS, far longer":          {macOS, append(xucred(0, 501, 3), make([]byte, 20)...), Cred{}},
		"DragonFly":                  {macOS, longXucred(4711), user}, // the last field is unused there
		"FreeBSD":                    {freeBSD, longXucred(4711), withPID},
		"FreeBSD 12":                 {freeBSD, longXucred(0), user},
		"FreeBSD, negative PID":      {freeBSD, longXucred(NoID), Cred{}},
		"FreeBSD, without PID":       {freeBSD, xucred(0, 501, 3), user},
		"FreeBSD, 32 bits":           {freeBSD32, append(xucred(0, 501, 3), words(4711)...), withPID},
		"FreeBSD, half a PID":        {freeBSD, longXucred(4711)[:82], user},
		"NetBSD":                     {parseUnpcbid, words(4711, 501, 20), withPID},
		"NetBSD, empty":              {parseUnpcbid, words(0, 0, 0), Cred{}},
		"NetBSD, negative PID":       {parseUnpcbid, words(NoID, 501, 20), Cred{}},
		"NetBSD, no group":           {parseUnpcbid, words(4711, 501, NoID), Cred{}},
		"NetBSD, cut":                {parseUnpcbid, words(4711, 501), Cred{}},
		"NetBSD, longer":             {parseUnpcbid, words(4711, 501, 20, 0), Cred{}},
		"OpenBSD":                    {parseSockpeercred, words(501, 20, 4711), withPID},
		"OpenBSD, empty":             {parseSockpeercred, words(0, 0, 0), Cred{}},
		"OpenBSD, no user":           {parseSockpeercred, words(NoID, 20, 4711), Cred{}},
		"OpenBSD, cut":               {parseSockpeercred, words(501, 20)[:7], Cred{}},
		"OpenBSD, longer":            {parseSockpeercred, words(501, 20, 4711, 1), Cred{}},
		"OpenBSD, nothing copied":    {parseSockpeercred, nil, Cred{}},
		"NetBSD, nothing copied":     {parseUnpcbid, nil, Cred{}},
		"FreeBSD, version of others": {freeBSD, xucred(2, 501, 3), Cred{}},
	} {
		got, err := c.parse(c.b)
		switch {
		case got != c.want:
			t.Errorf("%s: %+v, %v: want %+v", name, got, err, c.want)
		case c.want == (Cred{}) && !errors.Is(err, fs.ErrInvalid):
			t.Errorf("%s: %v: want ErrInvalid", name, err)
		case c.want != (Cred{}) && err != nil:
			t.Errorf("%s: %v", name, err)
		}
	}
}
