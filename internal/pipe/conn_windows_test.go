package pipe

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// soon is a deadline that passes while a call waits.
const soon = 50 * time.Millisecond

func TestReadDeadline(t *testing.T) {
	eachEnd(t, func(t *testing.T, near, far *conn) {
		b := make([]byte, 10)
		near.SetReadDeadline(time.Now().Add(soon))
		if _, err := near.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: want ErrDeadlineExceeded", err)
		}
		near.SetReadDeadline(time.Time{})
		read := make(chan error)
		go func() { _, err := near.Read(b); read <- err }()
		near.SetReadDeadline(time.Unix(1, 0)) // before Read, or while it waits
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: want ErrDeadlineExceeded", err)
		}
		near.SetReadDeadline(time.Time{})
		if _, err := far.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		if n, err := near.Read(b); string(b[:n]) != "late" || err != nil {
			t.Errorf("%q, %v: want what came after the deadlines", b[:n], err)
		}
	})
}

// A write that a deadline interrupts is the end of writing, and not of reading.
//
// Pins doc.go, "Elsewhere": ends its connection, as over TLS
func TestInterruptedWrite(t *testing.T) {
	eachEnd(t, func(t *testing.T, near, far *conn) {
		var err error
		for !errors.Is(err, syscall.EPIPE) { // it may also have passed between two pieces
			var n int
			near.SetWriteDeadline(time.Now().Add(soon))
			n, err = near.Write(make([]byte, 10<<20))
			if !errors.Is(err, os.ErrDeadlineExceeded) || n >= 10<<20 {
				t.Fatalf("%d, %v: want ErrDeadlineExceeded", n, err)
			}
		}
		near.SetWriteDeadline(time.Time{})
		_, err = near.Write([]byte("more"))
		var timeout interface{ Timeout() bool }
		if !errors.Is(err, syscall.EPIPE) || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%v: want EPIPE, and no timeout", err)
		}
		if _, err := far.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if n, err := near.Read(b); string(b[:n]) != "answer" || err != nil {
			t.Errorf("%q, %v", b[:n], err)
		}
	})
}

// A deadline that has passed before a write does no harm.
func TestLateWrite(t *testing.T) {
	eachEnd(t, func(t *testing.T, near, far *conn) {
		near.SetDeadline(time.Unix(1, 0))
		if n, err := near.Write([]byte("early")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v: want ErrDeadlineExceeded", n, err)
		}
		near.SetDeadline(time.Time{})
		if _, err := near.Write([]byte("now")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if n, err := far.Read(b); string(b[:n]) != "now" || err != nil {
			t.Errorf("%q, %v", b[:n], err)
		}
	})
}

func TestCloseWakes(t *testing.T) {
	eachEnd(t, func(t *testing.T, near, _ *conn) {
		ended := make(chan error)
		go func() { _, err := near.Read(make([]byte, 1)); ended <- err }()
		go func() { _, err := near.Write(make([]byte, 10<<20)); ended <- err }()
		time.Sleep(soon) // both wait, which nothing tells; if they do not, it is as good
		if err := near.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v: want net.ErrClosed", err)
			}
		}
		if err := near.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
	})
}

// What was written before Close can be read after it, as far as the buffer goes.
func TestCloseKeepsData(t *testing.T) {
	eachEnd(t, func(t *testing.T, near, far *conn) {
		want := bytes.Repeat([]byte("0123456789"), 6000)
		if n, err := near.Write(want); err != nil {
			t.Fatal(n, err)
		}
		near.Close()
		got, err := io.ReadAll(far)
		if !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d bytes, %v: want %d", len(got), err, len(want))
		}
		if _, err := far.Write([]byte("x")); err == nil {
			t.Error("writing to a closed end succeeds")
		}
	})
}

// A write of nothing is not the end.
func TestEmptyWrite(t *testing.T) {
	eachEnd(t, func(t *testing.T, near, far *conn) {
		if n, err := near.Write(nil); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if _, err := near.file.Write(nil); err != nil { // which hands it to the system
			t.Error(err)
		}
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		n, err := far.Read(b)
		if n == 0 && err == nil {
			n, err = far.Read(b)
		}
		if string(b[:n]) != "x" || err != nil {
			t.Errorf("%q, %v", b[:n], err)
		}
		near.Close()
		if n, err := far.Read(b); n != 0 || err != io.EOF {
			t.Errorf("%d, %v: want io.EOF", n, err)
		}
	})
}

func TestConn(t *testing.T) {
	eachEnd(t, func(t *testing.T, near, far *conn) {
		if a := near.LocalAddr(); a.Network() != "pipe" || a.String() != near.path || near.RemoteAddr() != a {
			t.Errorf("%v %v", a, near.RemoteAddr())
		}
		want := bytes.Repeat([]byte("abcdefg"), 1<<20)
		go near.Write(want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(far, got); !bytes.Equal(got, want) || err != nil {
			t.Errorf("7 MiB arrive otherwise, %v", err)
		}
	})
}
