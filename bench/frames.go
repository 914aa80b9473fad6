package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// The smallest useful protocol on a stream of bytes: 8 bytes of header, of which
// 4 are the length, and the message. This library's own frames have as many.
const headerSize = 8

// bufferSize is that of the buffered readers and writers.
const bufferSize = 64 << 10

// largeMessage is where copying a message into one piece with its header costs
// more than handing the kernel two pieces.
const largeMessage = 32 << 10

// smallMessage is up to where a buffered reader pays.
const smallMessage = 16 << 10

// framer sends and receives messages on a stream of bytes. With w set, writes
// gather in it; without, each message is one write.
type framer struct {
	conn    net.Conn
	r       io.Reader
	w       *bufio.Writer
	head    [headerSize]byte // of the message that is read
	out, in []byte
	pieces  [2][]byte
	vector  net.Buffers
}

// newFramer buffers both directions, or only what is read, or nothing.
func newFramer(conn net.Conn, buffered, bufferedReads bool) *framer {
	f := &framer{conn: conn, r: conn}
	if buffered {
		f.w = bufio.NewWriterSize(conn, bufferSize)
	}
	if buffered || bufferedReads {
		f.r = bufio.NewReaderSize(conn, bufferSize)
	}
	return f
}

func (f *framer) Send(p []byte) error {
	f.out = append(f.out[:0], 0, 0, 0, 0, 0, 0, 0, 1)
	binary.BigEndian.PutUint32(f.out, uint32(len(p)))
	switch {
	case f.w != nil:
		if _, err := f.w.Write(f.out); err != nil {
			return err
		}
		_, err := f.w.Write(p)
		return err
	case len(p) < largeMessage:
		f.out = append(f.out, p...)
		_, err := f.conn.Write(f.out)
		return err
	default:
		f.pieces = [2][]byte{f.out, p}
		f.vector = f.pieces[:]
		_, err := f.vector.WriteTo(f.conn)
		return err
	}
}

func (f *framer) Flush() error {
	if f.w == nil {
		return nil
	}
	return f.w.Flush()
}

// receive returns a message that is valid until the next call.
func (f *framer) receive() ([]byte, error) {
	if _, err := io.ReadFull(f.r, f.head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(f.head[:]))
	if n > cap(f.in) {
		f.in = make([]byte, n)
	}
	_, err := io.ReadFull(f.r, f.in[:n])
	return f.in[:n], err
}

func (f *framer) Call(p []byte) ([]byte, error) {
	if err := f.Send(p); err != nil {
		return nil, err
	}
	if err := f.Flush(); err != nil {
		return nil, err
	}
	return f.receive()
}

func (f *framer) Close() error { return f.conn.Close() }

// echo answers until the other end goes.
func (f *framer) echo() error {
	for {
		p, err := f.receive()
		if err != nil {
			return err
		}
		if err := f.Send(p); err != nil {
			return err
		}
		if err := f.Flush(); err != nil {
			return err
		}
	}
}

func (f *framer) sink(sink func([]byte)) error {
	for {
		p, err := f.receive()
		if err != nil {
			return err
		}
		sink(p)
	}
}

// framedServer serves every connection in a goroutine of its own.
type framedServer struct {
	ln   net.Listener
	open func(net.Conn) (*framer, error)
}

func (s *framedServer) Echo() error { return s.serve((*framer).echo) }

func (s *framedServer) Sink(sink func([]byte)) error {
	return s.serve(func(f *framer) error { return f.sink(sink) })
}

func (s *framedServer) serve(handle func(*framer) error) error {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if f, err := s.open(conn); err == nil {
				// An error is the end of the connection. Were it too early,
				// the client would say so.
				_ = handle(f)
			}
		}()
	}
}

// dialUnix tries again while the backlog of the server is full: Linux refuses at
// once then, whatever the timeout.
func dialUnix(s *harness.Spec) (net.Conn, error) {
	for giveUp := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", s.Path())
		if err == nil || !errors.Is(err, syscall.EAGAIN) || time.Now().After(giveUp) {
			return conn, err
		}
	}
}
