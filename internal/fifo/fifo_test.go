package fifo

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestFifo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var q Queue[*int]
	var model []*int
	for step := range 20_000 {
		grow := step/1000%2 == 0 // it gets long, and empty again
		switch op := r.IntN(10); {
		case op < 4 || grow && op < 6:
			var items []*int
			for i := range r.IntN(4) {
				items = append(items, &i)
			}
			q.Push(items...)
			model = append(model, items...)
		case op < 8 && len(model) > 0:
			if got := q.Pop(); got != model[0] {
				t.Fatalf("step %d: another item was popped", step)
			}
			model = model[1:]
		case op == 8 && len(model) > 0:
			i := r.IntN(len(model))
			q.Remove(i)
			model = slices.Delete(slices.Clone(model), i, i+1)
		case op == 9:
			match := func(p *int) bool { return *p == 2 }
			q.RemoveFirst(match)
			if i := slices.IndexFunc(model, match); i >= 0 {
				model = slices.Delete(slices.Clone(model), i, i+1)
			}
		}
		if q.Len() != len(model) || !slices.Equal(q.All(), model) {
			t.Fatalf("step %d: %d items, want %d, the same", step, q.Len(), len(model))
		}
		for i, p := range q.items[:cap(q.items)] {
			if p != nil && (i < q.head || i >= len(q.items)) {
				t.Fatalf("step %d: an item that has left is kept", step)
			}
		}
		if q.head > len(q.items)/2+1 && q.Len() > 0 && r.IntN(2) == 0 {
			q.Push()
			if q.head != 0 {
				t.Fatalf("step %d: %d of %d items have left and have room", step, q.head, len(q.items))
			}
		}
	}
}

// An empty queue keeps little memory.
func TestFifoForgets(t *testing.T) {
	for _, n := range []int{1, maxIdle, maxIdle + 1, 1000} {
		var q Queue[int]
		q.Push(make([]int, n)...)
		for range n {
			q.Pop()
		}
		if cap(q.items) > maxIdle {
			t.Errorf("room for %d items is kept after %d", cap(q.items), n)
		}
		if n <= maxIdle && cap(q.items) == 0 {
			t.Errorf("no room is kept after %d items", n)
		}
	}
}
