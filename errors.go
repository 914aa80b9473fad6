package ipc

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// The errors of this package, for [errors.Is]. What a call returns says more:
// what was being done, to which socket, and the cause.
var (
	// ErrClosed is the end of a Server or Client that was closed, or of the
	// Server of a client that left. It also matches [net.ErrClosed].
	ErrClosed error = &sentinel{"closed", net.ErrClosed}

	// ErrTimeout says that no connection came about within
	// ClientConfig.Timeout, or that a client took nothing for
	// ServerConfig.WriteTimeout. It also matches [os.ErrDeadlineExceeded].
	ErrTimeout error = &sentinel{"timed out", os.ErrDeadlineExceeded}

	// ErrName refuses a name, or the path that follows from it.
	ErrName error = &sentinel{text: "ipcName cannot be an empty string"}

	// ErrInUse says that a live server has the name. It also matches
	// [syscall.EADDRINUSE].
	ErrInUse error = &sentinel{"a live server has this name", syscall.EADDRINUSE}

	// ErrReservedType refuses a message type outside 1 … 2147483647.
	ErrReservedType error = &sentinel{text: "message type 0 is reserved"}

	// ErrMsgTooLarge refuses data longer than the server's MaxMsgSize.
	ErrMsgTooLarge error = &sentinel{text: "message exceeds maximum message length"}

	// ErrNotConnected says that there is nobody to write to, or to ask about.
	ErrNotConnected error = &sentinel{text: "cannot write under current status"}

	// ErrMultiMode refuses a call for one client on the Server that stands
	// for all of them: use the Server that ServerManager hands to the
	// callback, or Broadcast.
	ErrMultiMode error = &sentinel{text: "not on a MultiMode server: use its ServerManager"}

	// ErrVersion says that the peer speaks another version of the protocol.
	ErrVersion error = &sentinel{text: "protocol version differs"}

	// ErrEncryptionRequired says that the client insists on encryption and
	// the server does not encrypt.
	ErrEncryptionRequired error = &sentinel{text: "encryption is required"}

	// ErrProtocol says that the peer broke the rules of the wire format.
	ErrProtocol error = &sentinel{text: "protocol violation"}

	// ErrUnauthorized says that our Authorize refused the peer. A peer that is
	// refused is not told.
	ErrUnauthorized error = &sentinel{text: "peer is not authorized"}

	// ErrFull says that Broadcast left a client out because its outbox had
	// no room.
	ErrFull error = &sentinel{text: "outbox is full"}
)

// sentinel is an error with a fixed text that may stand for one of the
// standard library's as well.
type sentinel struct {
	text string
	also error
}

func (e *sentinel) Error() string { return e.text }
func (e *sentinel) Unwrap() error { return e.also }

// detail is an error that words err anew, for where the sentinel's own text
// does not fit into the sentence.
type detail struct {
	text string
	err  error
}

func (e *detail) Error() string { return e.text }
func (e *detail) Unwrap() error { return e.err }

func detailf(err error, format string, args ...any) error {
	return &detail{fmt.Sprintf(format, args...), err}
}
