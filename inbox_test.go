package ipc

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// addMessages adds a batch of messages, n to a slab, of the types from first on.
func addMessages(q *inbox, first int, sizes []int, n int) {
	var b batch
	for i, size := range sizes {
		b.messages++
		b.bytes += size
		m := Message{MsgType: first + i, Data: make([]byte, size)}
		if i%n == 0 {
			b.slabs = append(b.slabs, nil)
		}
		last := &b.slabs[len(b.slabs)-1]
		*last = append(*last, m)
	}
	q.add(&b)
}

func addStatus(q *inbox, s Status) { q.addEvent(Message{MsgType: eventType, Status: s.String()}) }

// statuses returns the events in q, the oldest first, which it reads.
func statuses(q *inbox) (all []string) {
	for m := q.pop(); m != nil; m = q.pop() {
		if m.MsgType == eventType {
			all = append(all, m.Status)
		}
	}
	return all
}

// Messages and events come in order, each once, and the accounts are right all
// the time.
func TestInbox(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var q inbox
	var model []int // types
	sizes := make(map[int]int)
	next := 1
	for step := range 20_000 {
		switch op := r.IntN(10); {
		case op < 2:
			var batch []int
			for i := range 1 + r.IntN(5) {
				size := r.IntN(100)
				batch = append(batch, size)
				sizes[next+i] = size
				model = append(model, next+i)
			}
			addMessages(&q, next, batch, 1+r.IntN(3))
			next += len(batch)
		case op == 2 && q.events < maxEvents:
			addStatus(&q, Error)
			model = append(model, eventType)
		default:
			m := q.popInner()
			if m != nil && (m.MsgType == eventType || q.empty()) {
				t.Fatalf("step %d: %+v is the last of its slab", step, m)
			}
			if m == nil {
				m = q.pop()
			}
			if m == nil {
				if len(model) > 0 {
					t.Fatalf("step %d: nothing is there, want %d", step, len(model))
				}
				break
			}
			if len(model) == 0 || m.MsgType != model[0] {
				t.Fatalf("step %d: message %d, want the first of %v", step, m.MsgType, model)
			}
			model = model[1:]
		}
		cost, events := 0, 0
		for _, n := range model {
			if n == eventType {
				events++
			} else {
				cost += sizes[n] + messageCost
			}
		}
		if q.cost != cost || q.events != events || q.empty() != (len(model) == 0) || q.hasEventsOnly() != (cost == 0) {
			t.Fatalf("step %d: cost %d, %d events, empty %t; want %d, %d for %v", step, q.cost, q.events, q.empty(), cost, events, model)
		}
	}
}

// The bound is looked at before a read, whatever that brings.
func TestInboxRoom(t *testing.T) {
	var q inbox
	if q.cost >= inboxBound {
		t.Error("an empty inbox has no room")
	}
	for range 2 * maxEvents {
		addStatus(&q, Error)
	}
	addMessages(&q, 1, []int{inboxBound - messageCost - 1}, 1)
	if q.cost >= inboxBound {
		t.Error("there is no room below the bound")
	}
	addMessages(&q, 2, []int{0}, 1)
	if q.cost < inboxBound {
		t.Error("there is room over the bound")
	}
	for q.pop().MsgType != 1 {
	}
	if q.cost >= inboxBound || q.cost != messageCost {
		t.Errorf("cost %d after the large message was read", q.cost)
	}
}

// Of too many events the oldest coming and going of a connection is forgotten
// first, and without a pair of those the oldest event. Messages are not.
func TestInboxForgetsEvents(t *testing.T) {
	connected, lost, failed := Connected.String(), Disconnected.String(), Error.String()

	var q inbox
	addStatus(&q, Error)
	for range maxEvents {
		addStatus(&q, Connected)
		addMessages(&q, 1, []int{10, 10}, 2)
		addStatus(&q, Disconnected)
	}
	if q.events > maxEvents || q.events < maxEvents-1 {
		t.Errorf("%d events are kept, want %d", q.events, maxEvents)
	}
	if want := maxEvents * 2 * (10 + messageCost); q.cost != want {
		t.Errorf("cost %d, want %d", q.cost, want)
	}
	got := statuses(&q)
	want := []string{failed}
	for len(want) < len(got) {
		want = append(want, []string{connected, lost}[1-len(want)%2])
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q are kept, want %q", got, want)
	}
	if q.cost != 0 || q.events != 0 {
		t.Errorf("cost %d, %d events of an empty inbox", q.cost, q.events)
	}

	// A client's, which reconnects.
	for range maxEvents {
		addStatus(&q, ReConnecting)
		addStatus(&q, Connected)
	}
	if got := statuses(&q); got[0] != ReConnecting.String() || got[len(got)-1] != connected {
		t.Errorf("%q are kept", got)
	}

	// One of a connection alone is no pair.
	addStatus(&q, Connecting)
	for range maxEvents - 2 {
		addStatus(&q, Error)
	}
	addStatus(&q, Connected)
	addStatus(&q, Closed)
	got = statuses(&q)
	want = append(slices.Repeat([]string{failed}, maxEvents-2), connected, Closed.String())
	if !slices.Equal(got, want) {
		t.Errorf("%q are kept, want %q", got, want)
	}

	// What is being read is not touched.
	addMessages(&q, 1, []int{1, 1, 1}, 3)
	q.pop()
	for range 2 * maxEvents {
		addStatus(&q, Error)
	}
	for want := 2; want <= 3; want++ {
		if m := q.pop(); m.MsgType != want {
			t.Errorf("message %d, want %d", m.MsgType, want)
		}
	}
	if got := statuses(&q); len(got) != maxEvents {
		t.Errorf("%d events are kept, want %d", len(got), maxEvents)
	}
}
