package ipc

import (
	"fmt"
	"log/slog"
)

// Stats are the counts of a Server or Client since its start. They are current
// before the message or event that they belong to can be read.
type Stats struct {
	// MessagesIn and BytesIn count what has been received, whether it has
	// been read or not; MessagesOut and BytesOut what Write has accepted.
	// Bytes are those of Data. Requests, replies and their parts count as messages,
	// too; a ReplyError and events do not.
	MessagesIn, MessagesOut, BytesIn, BytesOut uint64

	// Reconnects counts the connections of a Client after its first.
	Reconnects uint64

	// HandshakeFailures counts the connections that failed before they were
	// established.
	HandshakeFailures uint64

	// RequestsIn counts the requests that have been received, and RequestsOut those
	// that have been accepted for sending. Of both together, RequestsCancelled counts
	// those that the side that asked gave up, and RequestsUnanswered those that ended
	// without a reply for another reason.
	RequestsIn, RequestsOut, RequestsCancelled, RequestsUnanswered uint64
}

// String returns all counts in a line, such as "messages: 3 in, 2 out; bytes: 30
// in, 20 out; reconnects: 0; failed handshakes: 1; requests: 0 in, 1 out, 0
// cancelled, 0 unanswered".
func (s Stats) String() string {
	return fmt.Sprintf("messages: %d in, %d out; bytes: %d in, %d out; reconnects: %d; failed handshakes: %d; "+
		"requests: %d in, %d out, %d cancelled, %d unanswered",
		s.MessagesIn, s.MessagesOut, s.BytesIn, s.BytesOut, s.Reconnects, s.HandshakeFailures,
		s.RequestsIn, s.RequestsOut, s.RequestsCancelled, s.RequestsUnanswered)
}

// LogValue implements [slog.LogValuer].
func (s Stats) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Uint64("messagesIn", s.MessagesIn),
		slog.Uint64("messagesOut", s.MessagesOut),
		slog.Uint64("bytesIn", s.BytesIn),
		slog.Uint64("bytesOut", s.BytesOut),
		slog.Uint64("reconnects", s.Reconnects),
		slog.Uint64("handshakeFailures", s.HandshakeFailures),
		slog.Uint64("requestsIn", s.RequestsIn),
		slog.Uint64("requestsOut", s.RequestsOut),
		slog.Uint64("requestsCancelled", s.RequestsCancelled),
		slog.Uint64("requestsUnanswered", s.RequestsUnanswered),
	)
}

func (s *Stats) add(t Stats) {
	s.MessagesIn += t.MessagesIn
	s.MessagesOut += t.MessagesOut
	s.BytesIn += t.BytesIn
	s.BytesOut += t.BytesOut
	s.Reconnects += t.Reconnects
	s.HandshakeFailures += t.HandshakeFailures
	s.RequestsIn += t.RequestsIn
	s.RequestsOut += t.RequestsOut
	s.RequestsCancelled += t.RequestsCancelled
	s.RequestsUnanswered += t.RequestsUnanswered
}

// counts are the Stats that a session keeps beside those of its outbox and of its
// requests: an idle connection should be small.
type counts struct {
	MessagesIn, BytesIn, Reconnects, HandshakeFailures uint64
}

// public returns the Stats, but for those of the outbox. a may be nil.
func (c *counts) public(a *asking) Stats {
	s := Stats{
		MessagesIn:        c.MessagesIn,
		BytesIn:           c.BytesIn,
		Reconnects:        c.Reconnects,
		HandshakeFailures: c.HandshakeFailures,
	}
	if a != nil {
		s.RequestsIn, s.RequestsOut = a.in, a.out
		s.RequestsCancelled, s.RequestsUnanswered = a.cancelled, a.unanswered
	}
	return s
}
