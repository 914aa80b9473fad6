package ipc

import (
	"errors"
	"net"
	"os"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// The errors of this package, for [errors.Is]. What a call returns says more:
// what was being done, to which socket, and the cause.
var (
	// ErrClosed is the end of a Server or Client that was closed, or of the
	// Server of a client that left. It also matches [net.ErrClosed].
	ErrClosed error = &errs.Sentinel{Text: "closed", Also: net.ErrClosed}

	// ErrTimeout says that no connection was made within
	// ClientConfig.Timeout, or that a client made no progress for
	// ServerConfig.WriteTimeout. It also matches [os.ErrDeadlineExceeded].
	ErrTimeout error = &errs.Sentinel{Text: "timed out", Also: os.ErrDeadlineExceeded}

	// ErrName refuses a name, or the path that follows from it.
	ErrName = errs.Name

	// ErrInUse says that a live server has the name and, on Linux, which process
	// that is, if it can be seen. It also matches [syscall.EADDRINUSE].
	ErrInUse = errs.InUse

	// ErrReservedType refuses a message type outside 1 … 2147483647.
	ErrReservedType error = &errs.Sentinel{Text: "message type 0 is reserved"}

	// ErrMsgTooLarge refuses data longer than the server's MaxMsgSize.
	ErrMsgTooLarge error = &errs.Sentinel{Text: "message exceeds maximum message length"}

	// ErrNotConnected says that there is no peer at the moment: the connection of a
	// Client is lost, or a Server is between two clients. The Server of a client in
	// MultiMode gets no other client: once that has left, calls fail with an error
	// that matches ErrClosed as well. A Request that was under way when its connection
	// was lost ends with an error that matches this and ErrNoReply.
	ErrNotConnected error = &errs.Sentinel{Text: "cannot write under current status"}

	// ErrMultiMode refuses a call for one client on the Server that stands
	// for all of them: use the Server that ServerManager hands to the
	// callback, or Broadcast.
	ErrMultiMode error = &errs.Sentinel{Text: "not on a MultiMode server: use its ServerManager"}

	// ErrHandler refuses a call that reads where a Handler does.
	ErrHandler error = &errs.Sentinel{Text: "a Handler reads the messages"}

	// ErrVersion says that the peer speaks another version of the protocol.
	ErrVersion = errs.Version

	// ErrEncryptionRequired says that the client insists on encryption and
	// the server does not encrypt.
	ErrEncryptionRequired = errs.EncryptionRequired

	// ErrProtocol says that the peer broke the rules of the wire format.
	ErrProtocol = errs.Protocol

	// ErrUnauthorized says that our Authorize refused the peer. A peer that is
	// refused is not told.
	ErrUnauthorized error = &errs.Sentinel{Text: "peer is not authorized"}

	// ErrFull comes from Broadcast, which left a client out because its outbox had
	// no room; and from a Request whose context ended while the inbox was full: a
	// reply is not read before the program has read what came before it.
	ErrFull error = &errs.Sentinel{Text: "outbox is full"}

	// ErrNoReply says that a Request was sent and that no reply will come: the
	// peer may have handled it, or not.
	ErrNoReply error = &errs.Sentinel{Text: "no reply"}

	// ErrNoRequests says that the peer knows no requests: it uses an older version
	// of this library, or another one. It also matches [errors.ErrUnsupported].
	ErrNoRequests error = &errs.Sentinel{Text: "the peer knows no requests", Also: errors.ErrUnsupported}

	// ErrNotAsked refuses a reply to what is no request, or has been answered, and
	// a part where the peer expects one reply.
	ErrNotAsked error = &errs.Sentinel{Text: "no reply is expected"}
)

func detailf(err error, format string, args ...any) error {
	return errs.Detailf(err, format, args...)
}
