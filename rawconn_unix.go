//go:build unix

package ipc

import (
	"net"
	"os"
	"syscall"
)

// rawConn reads and writes the descriptor of a connection without going
// through its methods: so a reader that waits holds no buffer, and a write can
// stop where the kernel has no more room. One goroutine may read while another
// writes.
type rawConn struct {
	rc syscall.RawConn

	// The callbacks are stored once and pass their arguments and results in
	// fields: a closure for every call would be an allocation for each.
	readStep func(fd uintptr) bool
	recv     *recvBuffer
	wait     bool
	readN    int
	readErr  error

	writeStep func(fd uintptr) bool
	out       []byte
	waitOut   bool
	writeN    int
	writeErr  error
}

// newRawConn returns nil for connections other than *net.UnixConn and
// *net.TCPConn: a type that wraps or embeds one has methods of its own.
func newRawConn(conn net.Conn) *rawConn {
	var sc syscall.Conn
	switch c := conn.(type) {
	case *net.UnixConn:
		sc = c
	case *net.TCPConn:
		sc = c
	default:
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	r := &rawConn{rc: rc}
	r.readStep = r.tryRead
	r.writeStep = r.tryWrite
	return r
}

// read reads once, into recv; 0 bytes without an error are the end. With
// wait it waits for the first byte up to the read deadline, else it returns
// errNothingYet.
func (r *rawConn) read(recv *recvBuffer, wait bool) (int, error) {
	r.recv, r.wait = recv, wait
	if err := r.rc.Read(r.readStep); err != nil {
		return 0, err
	}
	return r.readN, r.readErr
}

// tryRead is a step of read: false waits until the descriptor is readable.
func (r *rawConn) tryRead(fd uintptr) bool {
	n, err := retrying(syscall.Read, fd, r.recv.free())
	if err == syscall.EAGAIN {
		r.recv.release()
		if r.wait {
			return false
		}
		n, err = 0, errNothingYet
	} else if err != nil {
		n, err = 0, os.NewSyscallError("read", err)
	}
	r.readN, r.readErr = n, err
	return true
}

// write gives as much of b to the kernel as it takes at once. If that is
// nothing, it waits for room up to the write deadline, or without wait returns
// 0 and no error.
func (r *rawConn) write(b []byte, wait bool) (int, error) {
	r.out, r.waitOut = b, wait
	err := r.rc.Write(r.writeStep)
	r.out = nil
	if err != nil {
		return 0, err
	}
	return r.writeN, r.writeErr
}

// tryWrite is a step of write: false waits until the descriptor is writable.
func (r *rawConn) tryWrite(fd uintptr) bool {
	n, err := retrying(syscall.Write, fd, r.out)
	if err == syscall.EAGAIN {
		if r.waitOut {
			return false
		}
		n, err = 0, nil
	}
	r.writeN, r.writeErr = max(n, 0), os.NewSyscallError("write", err)
	return true
}

func retrying(call func(int, []byte) (int, error), fd uintptr, b []byte) (int, error) {
	for {
		n, err := call(int(fd), b)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
