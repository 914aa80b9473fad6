package bridge

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/nats-io/nats.go"
)

// The codes of the errors with which a gateway answers a request itself. A client
// gets them in an [ipc.ReplyError], as it gets those of its server, which should
// use none of 2147483392 to 2147483647.
//
// After the first two the server may have handled the request, after the others it
// has not.
const (
	// CodeNoReply says that no reply will come, as [ipc.ErrNoReply] does within
	// one machine: the server's Handler returned without one, the connection to
	// the server was lost, parts were lost, or there was no sign of the gateway
	// that had the request.
	CodeNoReply = 0x7fffff01 + iota

	// CodeReplyTooLarge says that NATS, or the client's gateway, does not take a
	// reply of that size.
	CodeReplyTooLarge

	// CodeTooLarge says that NATS or the server does not take a request of that
	// size: the counterpart of [ipc.ErrMsgTooLarge].
	CodeTooLarge

	// CodeNotConnected says that the client's gateway has no connection to NATS.
	CodeNotConnected

	// CodeNoServer says that no machine exposes the name, or that the server was
	// lost before it had the request.
	CodeNoServer

	// CodeBusy says that the gateway that got the request has as many as it can
	// keep.
	CodeBusy

	// CodeDenied says that NATS does not permit the client's gateway to publish
	// requests of that type.
	CodeDenied

	// CodeRefused says that this is nothing that the server can be asked: the
	// subject does not end with a type, the server knows no requests, or a server
	// has asked a gateway as if it were a client.
	CodeRefused
)

// The headers of requests.
const (
	headerParts = "Ipc-Parts" // "1": a reply in parts is welcome
	headerAlive = "Ipc-Alive" // milliseconds; in what comes back: the request is being handled
)

// The headers of what comes back for a request. A message without Ipc-Part,
// Ipc-End, Ipc-Alive and an error is the only reply.
const (
	headerType      = "Ipc-Type" // of a reply or a part; without it that of the request
	headerPart      = "Ipc-Part" // the number of a part, from 1
	headerEnd       = "Ipc-End"  // the number of parts there were: the reply is whole
	headerErrorCode = "Nats-Service-Error-Code"
	headerErrorText = "Nats-Service-Error"
	headerStatus    = "Status" // NATS's own
)

// statusNoResponders is what NATS answers if nothing subscribes to a subject.
const statusNoResponders = "503"

// maxErrorHeader is how much of the text of an error the header repeats. The
// payload has all of it.
const maxErrorHeader = 256

// errorf returns an answer of the gateway itself.
func errorf(code int, format string, args ...any) *ipc.ReplyError {
	return &ipc.ReplyError{Code: code, Text: "gateway: " + fmt.Sprintf(format, args...)}
}

// newReply returns a reply of type msgType to a request of type asked.
func newReply(subject string, asked, msgType int, data []byte) *nats.Msg {
	m := &nats.Msg{Subject: subject, Data: data}
	if msgType != asked {
		m.Header = nats.Header{headerType: {strconv.Itoa(msgType)}}
	}
	return m
}

// newError returns an error as a reply.
func newError(subject string, e *ipc.ReplyError) *nats.Msg {
	text := e.Text
	if len(text) > maxErrorHeader {
		text = text[:maxErrorHeader]
	}
	return &nats.Msg{
		Subject: subject,
		Header: nats.Header{
			headerErrorCode: {strconv.Itoa(e.Code)},
			headerErrorText: {headerSafe(text)},
		},
		Data: []byte(e.Text),
	}
}

// headerSafe returns text as one line of printable ASCII, which every NATS client
// can read.
func headerSafe(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text)
}

// isNoResponders reports whether m is NATS's answer that nothing subscribes to the
// subject.
func isNoResponders(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get(headerStatus) == statusNoResponders
}

// replyType returns the type of a reply, or of a part, to a request of type asked.
func replyType(m *nats.Msg, asked int) (int, error) {
	token := m.Header.Get(headerType)
	if token == "" {
		return asked, nil
	}
	msgType, ok := parseType(token)
	if !ok {
		return 0, fmt.Errorf("%s %q is no message type", headerType, token)
	}
	return msgType, nil
}

// replyError returns the error that m answers with.
func replyError(m *nats.Msg) *ipc.ReplyError {
	token := m.Header.Get(headerErrorCode)
	text := m.Header.Get(headerErrorText)
	if len(m.Data) > 0 {
		text = string(m.Data)
	}
	code, err := strconv.Atoi(token)
	if err != nil || code < 1 || int64(code) > math.MaxInt32 {
		return errorf(CodeNoReply, "an error with the code %q: %s", token, text)
	}
	return &ipc.ReplyError{Code: code, Text: text}
}

// isTooLarge reports whether err says that NATS does not take a message of that
// size.
func isTooLarge(err error) bool { return errors.Is(err, nats.ErrMaxPayload) }
