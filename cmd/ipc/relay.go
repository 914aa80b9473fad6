package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// side is the connection to one of the two sides of a conversation. One goroutine
// reads from it, and another one writes to it.
type side struct {
	conn   net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	dec    wire.Decoder
	cipher *wire.Cipher
	body   []byte // of the frame that was read last
	sealed []byte // the frame that was written last, if the connection is encrypted
}

func newSide(conn net.Conn, n wire.Negotiated) *side {
	return &side{
		conn:   conn,
		r:      bufio.NewReaderSize(conn, 64<<10),
		w:      bufio.NewWriterSize(conn, 64<<10),
		dec:    wire.Decoder(n),
		cipher: n.Cipher,
	}
}

// read reads a frame. The data is valid until the next one is read.
func (s *side) read() (msgType int, data []byte, err error) {
	var length [wire.LengthSize]byte
	if _, err := io.ReadFull(s.r, length[:]); err != nil {
		return 0, nil, err
	}
	n, err := s.dec.Length(length[:])
	if err != nil {
		return 0, nil, err
	}
	if n > cap(s.body) {
		s.body = make([]byte, n)
	}
	s.body = s.body[:n]
	if _, err := io.ReadFull(s.r, s.body); err != nil {
		return 0, nil, err
	}
	return s.dec.Body(s.body)
}

// write writes a frame. More says that another one follows at once.
func (s *side) write(msgType int, data []byte, more bool) error {
	var head [wire.HeaderSize]byte
	wire.PutHeader(head[:], msgType, len(data))
	var err error
	if s.cipher != nil {
		s.sealed = s.cipher.AppendFrame(s.sealed[:0], head[:], data)
		_, err = s.w.Write(s.sealed)
	} else if _, err = s.w.Write(head[:]); err == nil {
		_, err = s.w.Write(data)
	}
	if err == nil && !more {
		err = s.w.Flush()
	}
	return err
}

// holdsFrame reports whether a whole frame has been received and is to be read.
func (s *side) holdsFrame() bool {
	if s.r.Buffered() < wire.LengthSize {
		return false
	}
	b, _ := s.r.Peek(wire.LengthSize)
	return uint64(s.r.Buffered()) >= wire.LengthSize+uint64(binary.BigEndian.Uint32(b))
}

// direction is that of a frame.
type direction int

const (
	toServer direction = iota
	toClient
)

// from returns the side whose frames go in that direction.
func (d direction) from() string { return [...]string{"client", "server"}[d] }

// conversation is what one client and the server say to each other.
type conversation struct {
	number int
	out    *transcript

	mu    sync.Mutex
	began [2]map[uint64]time.Time // when the requests of each direction, by id, passed by
}

// relay passes on what either side says, until one has left and the other has what
// it had said. It returns which side that was, and what it did wrong, if anything.
func (c *conversation) relay(client, server *side) (left direction, err error) {
	type end struct {
		direction
		err error
	}
	ends := make(chan end, 2)
	go func() { ends <- end{toServer, c.pass(client, server, toServer)} }()
	go func() { ends <- end{toClient, c.pass(server, client, toClient)} }()
	first := <-ends
	waiting := 1
	if first.err == errNoReader {
		first = <-ends // the side that has left may have said more than has been passed on
		waiting = 0
	}
	client.conn.Close()
	server.conn.Close()
	for range waiting {
		<-ends
	}
	if !errors.Is(first.err, ipc.ErrProtocol) {
		return first.direction, nil
	}
	return first.direction, first.err
}

// errNoReader says that the side has left to which something is to be passed on.
var errNoReader = errors.New("left")

// pass passes on what from says to the other side, until from has left.
func (c *conversation) pass(from, to *side, d direction) error {
	for {
		msgType, data, err := from.read()
		if err != nil {
			to.w.Flush()
			return err
		}
		c.record(d, msgType, data)
		if err := to.write(msgType, data, from.holdsFrame()); err != nil {
			return errNoReader
		}
	}
}
