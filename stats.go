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
	// Bytes are those of Data. Events do not count.
	MessagesIn, MessagesOut, BytesIn, BytesOut uint64

	// Reconnects counts the connections of a Client after its first.
	Reconnects uint64

	// HandshakeFailures counts the connections that failed before they were
	// established.
	HandshakeFailures uint64
}

// String returns all counts in a line, such as "messages: 3 in, 2 out; bytes: 30
// in, 20 out; reconnects: 0; failed handshakes: 1".
func (s Stats) String() string {
	return fmt.Sprintf("messages: %d in, %d out; bytes: %d in, %d out; reconnects: %d; failed handshakes: %d",
		s.MessagesIn, s.MessagesOut, s.BytesIn, s.BytesOut, s.Reconnects, s.HandshakeFailures)
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
	)
}

func (s *Stats) add(t Stats) {
	s.MessagesIn += t.MessagesIn
	s.MessagesOut += t.MessagesOut
	s.BytesIn += t.BytesIn
	s.BytesOut += t.BytesOut
	s.Reconnects += t.Reconnects
	s.HandshakeFailures += t.HandshakeFailures
}
