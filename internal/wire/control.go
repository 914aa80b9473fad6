package wire

import (
	"encoding/binary"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// Kind says what a control frame is for.
type Kind uint8

// The kinds of control frames. Receivers ignore others.
const (
	Announce Kind = 1 + iota // the sender knows requests
	Request                  // a question
	Reply                    // its answer: the final one
	Part                     // one of several answers
	Error                    // instead of an answer; final
	Cancel                   // the answer is no longer wanted
)

const (
	// ControlSize is the size of what a control frame's data starts with: kind,
	// flags, 2 unused bytes, a number and an id. What follows is its payload.
	ControlSize = 16

	// ControlHeaderSize is the size of what precedes the payload of a plain
	// control frame.
	ControlHeaderSize = HeaderSize + ControlSize

	// PartsWelcome is the flag of a Request that may be answered with Parts.
	PartsWelcome = 1

	// MaxRequests is how many requests of the other side this one accepts
	// without having answered them, on one connection.
	MaxRequests = 1024

	controlVersion = 1
)

var announceMagic = [4]byte{byte(Announce), 'i', 'p', 'c'}

// Control is the data of a control frame.
type Control struct {
	Kind  Kind
	Flags uint8

	// N is the type of a Request, Reply or Part, the code of an Error, and of an
	// Announce how many requests its sender accepts. Reply's may be 0: there is
	// nothing after the Parts. An Error's 0 is "no reply".
	N uint32

	ID uint64 // of the Request that it belongs to

	Payload []byte // shares the memory of the frame
}

// Final reports whether the frame ends its Request.
func (c *Control) Final() bool { return c.Kind == Reply || c.Kind == Error }

// PutControlHeader writes what precedes the payload, of size bytes, of a plain
// control frame to the first ControlHeaderSize bytes of b. It panics if b is
// shorter.
func PutControlHeader(b []byte, c *Control, size int) {
	PutHeader(b, ControlType, ControlSize+size)
	b = b[HeaderSize:]
	b[0], b[1], b[2], b[3] = byte(c.Kind), c.Flags, 0, 0
	binary.BigEndian.PutUint32(b[4:], c.N)
	binary.BigEndian.PutUint64(b[8:], c.ID)
}

// ParseFrame parses a plain frame that this side has made, and reports whether it
// is a control frame. Of an announcement the Kind alone counts.
func ParseFrame(frame []byte) (c Control, isControl bool) {
	if binary.BigEndian.Uint32(frame[LengthSize:]) != ControlType {
		return Control{}, false
	}
	return parseControl(frame[HeaderSize:]), true
}

// IsRequest reports whether data, of a control frame, is that of a Request.
func IsRequest(data []byte) bool { return len(data) > 0 && Kind(data[0]) == Request }

// Ignore makes data, of a control frame, one that is to be ignored.
func Ignore(data []byte) { data[0] = 0 }

// Announcement returns the plain frame that says that its sender knows requests.
func Announcement() []byte {
	b := make([]byte, ControlHeaderSize)
	PutAnnouncement(b)
	return b
}

// PutAnnouncement writes that frame to the first ControlHeaderSize bytes of b. It
// panics if b is shorter.
func PutAnnouncement(b []byte) {
	PutHeader(b, ControlType, ControlSize)
	data := b[HeaderSize:ControlHeaderSize]
	clear(data)
	copy(data, announceMagic[:])
	data[4] = controlVersion
	binary.BigEndian.PutUint32(data[8:], MaxRequests)
}

// ParseControl parses the data of a control frame. It returns a Kind of 0 for a
// frame that is to be ignored. An error, with which the Kind counts, matches
// errs.Protocol.
func ParseControl(data []byte) (Control, error) {
	if len(data) == 0 {
		return Control{}, nil
	}
	kind := Kind(data[0])
	switch {
	case kind < Announce || kind > Cancel:
		return Control{}, nil
	case kind == Announce && !isAnnounce(data):
		return Control{}, nil
	case len(data) < ControlSize:
		return Control{Kind: kind}, errs.Detailf(errs.Protocol, "control frame of kind %d with %d bytes, want %d at least",
			kind, len(data), ControlSize)
	case kind == Announce:
		return parseAnnounce(data), nil
	}
	c := parseControl(data)
	return c, c.checkN()
}

func parseControl(data []byte) Control {
	return Control{
		Kind:    Kind(data[0]),
		Flags:   data[1],
		N:       binary.BigEndian.Uint32(data[4:]),
		ID:      binary.BigEndian.Uint64(data[8:]),
		Payload: data[ControlSize:],
	}
}

// isAnnounce reports whether data starts like an announcement, as far as it
// goes.
func isAnnounce(data []byte) bool {
	n := min(len(data), len(announceMagic))
	return string(data[:n]) == string(announceMagic[:n])
}

func parseAnnounce(data []byte) Control {
	if data[4] < controlVersion {
		return Control{}
	}
	return Control{Kind: Announce, N: binary.BigEndian.Uint32(data[8:])}
}

// checkN returns an error if the frame's number is none that it may have.
func (c *Control) checkN() error {
	least := uint32(0)
	if c.Kind == Request || c.Kind == Part {
		least = 1
	}
	if c.Kind != Cancel && (c.N < least || c.N > MaxType) {
		return errs.Detailf(errs.Protocol, "control frame of kind %d with number %d, want %d to %d", c.Kind, c.N, least, MaxType)
	}
	return nil
}
