package pipe

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// network is what the addresses of pipes have for it.
const network = "pipe"

type addr string

func (addr) Network() string  { return network }
func (a addr) String() string { return string(a) }

// conn is one end of a pipe. An [os.File] does its overlapped reads and writes,
// with deadlines.
type conn struct {
	file *os.File
	path string

	writing sync.Mutex   // held by Write
	torn    bool         // a write was interrupted; guarded by writing
	late    atomic.Int64 // the write deadline, in ns since 1970, or 0
}

func newConn(h syscall.Handle, path string) *conn {
	return &conn{file: os.NewFile(uintptr(h), path), path: path}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.file.Read(b)
	switch {
	case errors.Is(err, io.EOF) && len(b) > 0:
		err = c.atEnd()
	case errors.Is(err, errNotConnected):
		err = io.EOF
	}
	return n, c.fail("read", err)
}

// atEnd returns io.EOF if the peer has closed its end and left nothing to read. If it
// has not, it has written nothing, which is no end.
func (c *conn) atEnd() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var ok uintptr
	if err := raw.Control(func(h uintptr) { ok, _, _ = peekNamedPipe.Call(h, 0, 0, 0, 0, 0) }); err != nil {
		return err
	}
	if ok == 0 {
		return io.EOF
	}
	return nil
}

// Write differs from that of a socket. Of a write that a deadline interrupts
// Windows does not tell how much the peer has got: the connection is at its end
// then. That write's error matches EPIPE as well as [os.ErrDeadlineExceeded], and all
// that follow fail with EPIPE. A deadline that has passed before is harmless.
func (c *conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	sum := 0
	for sum < len(b) {
		if c.torn {
			return sum, c.fail("write", syscall.EPIPE)
		}
		if t := c.late.Load(); t != 0 && time.Now().UnixNano() >= t {
			return sum, c.fail("write", os.ErrDeadlineExceeded)
		}
		// In pieces that have room in the buffer, so that most of what was
		// written is known to be.
		n, err := c.file.Write(b[sum:min(len(b), sum+bufferSize)])
		sum += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.torn = true
			return sum, c.fail("write", fmt.Errorf("%w: %w", syscall.EPIPE, os.ErrDeadlineExceeded))
		}
		if err != nil {
			return sum, c.fail("write", err)
		}
	}
	return sum, nil
}

// Close closes this end. The peer can still read what was written.
func (c *conn) Close() error { return c.fail("close", c.file.Close()) }

func (c *conn) LocalAddr() net.Addr  { return addr(c.path) }
func (c *conn) RemoteAddr() net.Addr { return addr(c.path) }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.fail("set deadline", c.file.SetReadDeadline(t))
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	late := int64(0)
	if !t.IsZero() {
		late = t.UnixNano()
	}
	c.late.Store(late)
	return c.fail("set deadline", c.file.SetWriteDeadline(t))
}

// SyscallConn is for the handle of the pipe.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.file.SyscallConn() }

// fail words an error of the file as package net does.
func (c *conn) fail(op string, err error) error {
	var ofFile *fs.PathError
	switch {
	case err == nil || err == io.EOF:
		return err
	case errors.Is(err, fs.ErrClosed):
		err = net.ErrClosed
	case errors.As(err, &ofFile):
		err = ofFile.Err
	}
	return &net.OpError{Op: op, Net: network, Addr: addr(c.path), Err: err}
}
