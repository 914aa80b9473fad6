// Package frames is the plainest way to send messages on a stream of bytes. The
// references are no more than that, and some peers have nothing of the kind.
package frames

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

// SmallMessage is up to where a buffered reader pays.
const SmallMessage = 16 << 10

// Framer sends and receives messages on a stream of bytes. With w set, writes
// gather in it; without, each message is one write.
type Framer struct {
	conn    net.Conn
	r       io.Reader
	w       *bufio.Writer
	head    [headerSize]byte // of the message that is read
	out, in []byte
	pieces  [2][]byte
	vector  net.Buffers
}

// New returns a Framer that buffers both directions, or only what is read, or nothing.
func New(conn net.Conn, buffered, bufferedReads bool) *Framer {
	f := &Framer{conn: conn, r: conn}
	if buffered {
		f.w = bufio.NewWriterSize(conn, bufferSize)
	}
	if buffered || bufferedReads {
		f.r = bufio.NewReaderSize(conn, bufferSize)
	}
	return f
}

func (f *Framer) Send(p []byte) error {
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

func (f *Framer) Flush() error {
	if f.w == nil {
		return nil
	}
	return f.w.Flush()
}

// Receive returns a message that is valid until the next call.
func (f *Framer) Receive() ([]byte, error) {
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

func (f *Framer) Call(p []byte) ([]byte, error) {
	if err := f.Send(p); err != nil {
		return nil, err
	}
	if err := f.Flush(); err != nil {
		return nil, err
	}
	return f.Receive()
}

func (f *Framer) Close() error { return f.conn.Close() }

// echo answers until the other end goes.
func (f *Framer) echo() error {
	for {
		p, err := f.Receive()
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

func (f *Framer) sink(sink func([]byte)) error {
	for {
		p, err := f.Receive()
		if err != nil {
			return err
		}
		sink(p)
	}
}

// Server serves every connection in a goroutine of its own.
type Server struct {
	Listener net.Listener
	Open     func(net.Conn) (*Framer, error)

	all []*Framer // those of Await
}

func (s *Server) Echo() error { return s.serve((*Framer).echo) }

func (s *Server) Sink(sink func([]byte)) error {
	return s.serve(func(f *Framer) error { return f.sink(sink) })
}

func (s *Server) serve(handle func(*Framer) error) error {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if f, err := s.Open(conn); err == nil {
				// An error is the end of the connection. Were it too early,
				// the client would say so.
				_ = handle(f)
			}
		}()
	}
}

// Await accepts the clients of a broadcast.
func (s *Server) Await(clients int) error {
	for len(s.all) < clients {
		conn, err := s.Listener.Accept()
		if err != nil {
			return err
		}
		f, err := s.Open(conn)
		if err != nil {
			return err
		}
		s.all = append(s.all, f)
	}
	return nil
}

// Broadcast sends to one client after another, and waits for each that has a
// full socket.
func (s *Server) Broadcast(p []byte) error { return s.each(func(f *Framer) error { return f.Send(p) }) }

// Flush flushes all clients of a broadcast.
func (s *Server) Flush() error { return s.each((*Framer).Flush) }

func (s *Server) each(do func(*Framer) error) error {
	for _, f := range s.all {
		if err := do(f); err != nil {
			return err
		}
	}
	return nil
}

// Dial tries again while the backlog of the server is full: Linux refuses at
// once then, whatever the timeout.
func Dial(s *harness.Spec) (net.Conn, error) {
	for giveUp := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", s.Path())
		if err == nil || !errors.Is(err, syscall.EAGAIN) || time.Now().After(giveUp) {
			return conn, err
		}
	}
}
