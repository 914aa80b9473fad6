package errs

import (
	"errors"
	"io/fs"
	"testing"
)

func TestSentinel(t *testing.T) {
	plain, also := &Sentinel{Text: "plain"}, &Sentinel{Text: "also", Also: fs.ErrExist}
	for _, tt := range []struct {
		err, target error
		want        bool
	}{
		{plain, plain, true},
		{plain, also, false},
		{plain, fs.ErrExist, false},
		{also, also, true},
		{also, fs.ErrExist, true},
		{also, plain, false},
		{&Sentinel{Text: "plain"}, plain, false}, // the text does not make it the same
		{InUse, addrInUse, true},
	} {
		if got := errors.Is(tt.err, tt.target); got != tt.want {
			t.Errorf("errors.Is(%q, %q) = %t", tt.err, tt.target, got)
		}
	}
	if got := also.Error(); got != "also" {
		t.Errorf("text %q", got)
	}
}

func TestDetailf(t *testing.T) {
	err := Detailf(InUse, "%d servers", 2)
	if got := err.Error(); got != "2 servers" {
		t.Errorf("text %q", got)
	}
	for _, target := range []error{InUse, addrInUse} {
		if !errors.Is(err, target) {
			t.Errorf("%v is not %v", err, target)
		}
	}
	if errors.Is(err, Name) {
		t.Errorf("%v is %v", err, Name)
	}
}
