package ipc

// Bounds of what an endpoint holds in memory.
const (
	// inboxBound and outboxBound are in bytes. A broadcast does not wait for
	// room, so there should be some behind a message of the default limit.
	inboxBound  = 1 << 20
	outboxBound = 4 << 20

	// messageCost is what a queued message counts beyond its Data.
	messageCost = 100

	// maxEvents is how many unread events an endpoint keeps.
	maxEvents = 64
)

// inbox holds what has been received and not yet read: a queue of slabs, each
// of one batch or one event. The endpoint's mutex guards it.
type inbox struct {
	slab   []Message       // the one that is being read; empty if none is
	read   int             // messages of slab that have been read
	slabs  fifo[[]Message] // the next ones, none of them empty
	cost   int             // of the unread messages, for inboxBound
	events int             // unread
}

func (q *inbox) empty() bool { return len(q.slab) == 0 && q.slabs.len() == 0 }

// hasRoom reports whether the bound admits more. An empty inbox admits a
// message of any size.
func (q *inbox) hasRoom() bool { return q.cost < inboxBound }

// hasEventsOnly reports whether no message of the peer is unread.
func (q *inbox) hasEventsOnly() bool { return q.cost == 0 }

func (q *inbox) add(b *batch) {
	q.slabs.push(b.slabs...)
	q.cost += b.bytes + b.messages*messageCost
}

// addEvent queues an event. If there are too many, the oldest pair of a
// connection's coming and going is dropped, or else the oldest event.
func (q *inbox) addEvent(m Message) {
	if q.events == maxEvents {
		q.dropEvents()
	}
	q.slabs.push([]Message{m})
	q.events++
}

// popInner returns the oldest unread message if it is not the last of its slab:
// what changes with the last one need not be looked at then, and it is no event,
// which has a slab of its own.
func (q *inbox) popInner() *Message {
	n := q.read + 1
	if n >= len(q.slab) {
		return nil
	}
	m := &q.slab[q.read]
	q.read = n
	q.cost -= len(m.Data) + messageCost
	return m
}

// pop returns the oldest unread message or event, or nil.
func (q *inbox) pop() *Message {
	if len(q.slab) == 0 {
		if q.slabs.len() == 0 {
			return nil
		}
		q.slab = q.slabs.pop()
	}
	m := &q.slab[q.read]
	if q.read++; q.read == len(q.slab) {
		q.slab, q.read = nil, 0
	}
	if m.MsgType == eventType {
		q.events--
	} else {
		q.cost -= len(m.Data) + messageCost
	}
	return m
}

// dropEvents makes room for an event.
func (q *inbox) dropEvents() {
	oldest := -1
	joined := -1 // the first of a pair
	for i, slab := range q.slabs.all() {
		m := &slab[0]
		switch {
		case m.MsgType != eventType:
			continue
		case oldest < 0:
			oldest = i
		}
		switch {
		case !paired(m.Status):
		case joined < 0:
			joined = i
		default:
			q.slabs.remove(i)
			q.slabs.remove(joined)
			q.events -= 2
			return
		}
	}
	q.slabs.remove(oldest)
	q.events--
}

// paired reports whether status is one of those that follow each other as a
// connection comes and goes.
func paired(status string) bool {
	switch status {
	case Connected.String(), Disconnected.String(), ReConnecting.String():
		return true
	}
	return false
}
