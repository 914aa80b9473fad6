// Package fifo has a queue.
package fifo

// Queue is a first-in-first-out queue. Its zero value is empty. It has no lock.
type Queue[T any] struct {
	items []T // items[head:] are in the queue
	head  int
}

// maxIdle is how many items an empty Queue keeps the memory of.
const maxIdle = 64

// Len returns how many items are in the queue.
func (q *Queue[T]) Len() int { return len(q.items) - q.head }

// All returns the items in the queue, the oldest first, until the next Push
// or Pop.
func (q *Queue[T]) All() []T { return q.items[q.head:] }

// Push adds items at the end.
func (q *Queue[T]) Push(items ...T) {
	if q.head > len(q.items)/2 {
		q.compact()
	}
	q.items = append(q.items, items...)
}

// Pop takes the oldest item from a queue that is not empty.
func (q *Queue[T]) Pop() T {
	var none T
	item := q.items[q.head]
	q.items[q.head] = none
	q.head++
	if q.Len() == 0 {
		q.head = 0
		q.items = q.items[:0]
		if cap(q.items) > maxIdle {
			q.items = nil
		}
	}
	return item
}

// RemoveFirst removes the oldest item that is one of those that match says.
func (q *Queue[T]) RemoveFirst(match func(T) bool) {
	for i, item := range q.All() {
		if match(item) {
			q.Remove(i)
			return
		}
	}
}

// Remove removes All()[i].
func (q *Queue[T]) Remove(i int) {
	q.compact()
	copy(q.items[i:], q.items[i+1:])
	clear(q.items[len(q.items)-1:])
	q.items = q.items[:len(q.items)-1]
}

func (q *Queue[T]) compact() {
	n := copy(q.items, q.items[q.head:])
	clear(q.items[n:])
	q.items = q.items[:n]
	q.head = 0
}
