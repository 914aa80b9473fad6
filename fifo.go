package ipc

// fifo is a queue. Its zero value is empty.
type fifo[T any] struct {
	items []T // items[head:] are in the queue
	head  int
}

// maxIdle is how many items an empty fifo keeps the memory of.
const maxIdle = 64

func (q *fifo[T]) len() int { return len(q.items) - q.head }

// all returns the items in the queue, the oldest first, until the next push
// or pop.
func (q *fifo[T]) all() []T { return q.items[q.head:] }

func (q *fifo[T]) push(items ...T) {
	if q.head > len(q.items)/2 {
		q.compact()
	}
	q.items = append(q.items, items...)
}

// pop takes the oldest item from a queue that is not empty.
func (q *fifo[T]) pop() T {
	var none T
	item := q.items[q.head]
	q.items[q.head] = none
	q.head++
	if q.len() == 0 {
		q.head = 0
		q.items = q.items[:0]
		if cap(q.items) > maxIdle {
			q.items = nil
		}
	}
	return item
}

// removeFirst removes the oldest item that is one of those that match says.
func (q *fifo[T]) removeFirst(match func(T) bool) {
	for i, item := range q.all() {
		if match(item) {
			q.remove(i)
			return
		}
	}
}

// remove removes all()[i].
func (q *fifo[T]) remove(i int) {
	q.compact()
	copy(q.items[i:], q.items[i+1:])
	clear(q.items[len(q.items)-1:])
	q.items = q.items[:len(q.items)-1]
}

func (q *fifo[T]) compact() {
	n := copy(q.items, q.items[q.head:])
	clear(q.items[n:])
	q.items = q.items[:n]
	q.head = 0
}
