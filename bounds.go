package ipc

// The bounds of what a Server or Client holds in memory. What peers send is
// held in inboxes, what the program sends in outboxes, and a length is checked
// (internal/wire) before memory is given to a frame (recvbuffer.go).
const (
	// inboxBound and outboxBound are in bytes, for each Server of a client and
	// for each Client. A message that comes with room left is admitted whole. A
	// broadcast does not wait for room, so an outbox should have some behind a
	// message of the default limit.
	inboxBound  = 1 << 20
	outboxBound = 4 << 20

	// messageCost is what a queued message counts beyond its Data.
	messageCost = 100

	// maxEvents is how many unread events a session keeps.
	maxEvents = 64

	// maxUnfinished bounds the handshakes that run beside each other, and
	// the clients that wait for a place; more wait in the backlog.
	maxUnfinished = 256

	// maxHeld is how many bytes of unread messages the clients that have left
	// may hold. While there are more, no new client gets a place: an unread
	// backlog blocks new clients, and memory stays bounded. Each such client
	// counts departedCost more than its messages.
	maxHeld      = 64 << 20
	departedCost = 2 << 10

	// maxDeparted is how many clients that have left, with only events unread,
	// are kept for a program that does not read.
	maxDeparted = 1024
)
