// Package wire implements the protocol that PROTOCOL.md describes: the
// handshake, frames, and their sealing. It transforms bytes. When they are read
// and written, by which goroutine and into which memory, is up to its caller.
//
// Unless a comment says otherwise, no function keeps a slice that it is given,
// and slices that are returned share the memory of an argument.
package wire

import (
	"encoding/binary"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// A frame is its length, 4 bytes, then its body of that many bytes: a type, 4
// bytes, and data. In an encrypted connection the body is sealed. Numbers are
// big-endian.
const (
	LengthSize = 4                     // size of a frame's length, in bytes
	TypeSize   = 4                     // size of a frame's type, in bytes
	HeaderSize = LengthSize + TypeSize // size of what precedes the data of a plain frame

	// MaxType is the largest type of a message.
	MaxType = 1<<31 - 1

	// ControlType is the type of control frames, which are not messages.
	ControlType = 0

	// MaxLimit is the largest MaxMsgSize. The size of a sealed frame with so
	// much data fits into an int of 32 bits.
	MaxLimit = 1<<31 - 64
)

// PutHeader writes the header of a plain frame with size bytes of data to the
// first HeaderSize bytes of b. It panics if b is shorter. The caller has checked
// that msgType is at most MaxType and size at most MaxLimit.
func PutHeader(b []byte, msgType, size int) {
	binary.BigEndian.PutUint32(b, uint32(TypeSize+size))
	binary.BigEndian.PutUint32(b[LengthSize:], uint32(msgType))
}

// FrameSize returns the size of the frame that b starts with, length included.
// b must hold at least the LengthSize bytes of the length, which FrameSize does
// not check: it is for frames that this side has made.
func FrameSize(b []byte) int {
	return LengthSize + int(binary.BigEndian.Uint32(b))
}

// A Decoder parses the frames that one connection receives. It owns no memory
// and has no state: the data that it returns is a part of the bytes that it was
// given.
type Decoder struct {
	// MaxMsgSize is how much data a frame may have, in bytes, from 0 to
	// MaxLimit.
	MaxMsgSize int

	// Cipher opens the bodies of frames. It is nil if the connection is not
	// encrypted.
	Cipher *Cipher
}

// Next parses the frame that b starts with. It returns the frame's type, its
// data and its size in b, length included. If b does not hold the whole frame,
// Next returns a size of 0 and leaves b as it is, so that the caller can call
// it again once more bytes have arrived.
//
// The data is a part of b, valid as long as the caller leaves b alone, and its
// capacity ends within the frame. The body of a sealed frame is opened in
// place, so Next must not be called for it twice.
//
// An error matches errs.Protocol: the peer has broken the rules, and the
// connection is over. The length is checked before the frame is complete, the
// type and the seal are checked after.
func (d *Decoder) Next(b []byte) (msgType int, data []byte, size int, err error) {
	if len(b) < LengthSize {
		return 0, nil, 0, nil
	}
	n := binary.BigEndian.Uint32(b)
	if !d.allows(n) {
		return 0, nil, 0, d.badLength(n)
	}
	if uint(len(b)-LengthSize) < uint(n) {
		return 0, nil, 0, nil
	}
	size = LengthSize + int(n)
	// The rest is Body, without the call: every message comes by here.
	body := b[LengthSize:size:size]
	if d.Cipher != nil {
		if body, err = d.Cipher.Open(body); err != nil {
			return 0, nil, 0, err
		}
	}
	t := binary.BigEndian.Uint32(body)
	if t > MaxType {
		return 0, nil, 0, badType(t)
	}
	return int(t), body[TypeSize:], size, nil
}

// Length returns the length of the body of the frame that b starts with. b must
// hold at least the LengthSize bytes of the length. An error matches
// errs.Protocol: the decoder does not accept frames of this length.
func (d *Decoder) Length(b []byte) (int, error) {
	n := binary.BigEndian.Uint32(b)
	if !d.allows(n) {
		return 0, d.badLength(n)
	}
	return int(n), nil
}

// Body parses the body of a frame, all of it, whose length Length has accepted.
// It returns what Next does: the data is a part of body, a sealed body is opened
// in place, and an error matches errs.Protocol.
func (d *Decoder) Body(body []byte) (msgType int, data []byte, err error) {
	if d.Cipher != nil {
		if body, err = d.Cipher.Open(body); err != nil {
			return 0, nil, err
		}
	}
	msgType, err = ParseType(body)
	if err != nil {
		return 0, nil, err
	}
	return msgType, body[TypeSize:], nil
}

// ParseType returns the type that a plain body starts with. body must hold at
// least the TypeSize bytes of the type. An error matches errs.Protocol: the type
// is larger than MaxType.
func ParseType(body []byte) (int, error) {
	t := binary.BigEndian.Uint32(body)
	if t > MaxType {
		return 0, badType(t)
	}
	return int(t), nil
}

// limits returns the smallest and the largest length that a frame may have.
func (d *Decoder) limits() (least, most uint32) {
	least = TypeSize
	if d.Cipher != nil {
		least += SealOverhead
	}
	return least, least + uint32(d.MaxMsgSize)
}

func (d *Decoder) allows(length uint32) bool {
	least, most := d.limits()
	return least <= length && length <= most
}

func (d *Decoder) badLength(length uint32) error {
	least, most := d.limits()
	return errs.Detailf(errs.Protocol, "frame of %d bytes, want %d to %d", length, least, most)
}

func badType(t uint32) error {
	return errs.Detailf(errs.Protocol, "message type %d, want 0 to %d", t, MaxType)
}

// Opened takes the frame that b starts with apart once more, after Next has
// returned it: it neither checks it nor opens its seal.
func Opened(b []byte, sealed bool) (msgType int, data []byte, size int) {
	size = FrameSize(b)
	start, end := LengthSize, size
	if sealed {
		start, end = start+nonceSize, end-tagSize
	}
	body := b[start:end:end]
	return int(binary.BigEndian.Uint32(body)), body[TypeSize:], size
}
