package ipc

import "github.com/joe-at-startupmedia/golang-ipc/internal/fifo"

// inbox holds what has been received and not yet read: a queue of slabs, each
// of one batch or one event. session.mu guards it.
type inbox struct {
	slab   []Message             // the one that is being read; empty if none is
	read   int                   // messages of slab that have been read
	slabs  fifo.Queue[[]Message] // the next ones, none of them empty
	cost   int                   // of the unread messages, for inboxBound
	events int                   // unread
}

func (q *inbox) empty() bool { return len(q.slab) == 0 && q.slabs.Len() == 0 }

// hasEventsOnly reports whether no message of the peer is unread.
func (q *inbox) hasEventsOnly() bool { return q.cost == 0 }

func (q *inbox) add(b *batch) {
	q.slabs.Push(b.slabs...)
	q.cost += b.bytes + b.messages*messageCost
}

// addEvent queues an event. If there are too many, the oldest pair of a
// connection's coming and going is dropped, or else the oldest event.
func (q *inbox) addEvent(m Message) {
	if q.events == maxEvents {
		q.dropEvents()
	}
	q.slabs.Push([]Message{m})
	q.events++
}

// popInner returns the oldest unread message if it is not the last of its slab,
// or nil. Then the inbox does not turn empty, and the message is no event: each
// event has a slab of its own.
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
		if q.slabs.Len() == 0 {
			return nil
		}
		q.slab = q.slabs.Pop()
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
	first := -1 // of a pair
	for i, slab := range q.slabs.All() {
		m := &slab[0]
		switch {
		case m.MsgType != eventType:
			continue
		case oldest < 0:
			oldest = i
		}
		switch {
		case !paired(m.Status):
		case first < 0:
			first = i
		default:
			q.slabs.Remove(i)
			q.slabs.Remove(first)
			q.events -= 2
			return
		}
	}
	q.slabs.Remove(oldest)
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
