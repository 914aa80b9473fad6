package main

import (
	"bytes"
	"sync"
)

// journal keeps the last lines that were written to it.
type journal struct {
	mu    sync.Mutex
	lines [1000][]byte  // line n is at n modulo their number
	next  int           // the number of the next line
	added chan struct{} // closed when there is one more
}

func newJournal() *journal { return &journal{added: make(chan struct{})} }

// Write adds a line. A log.Logger calls it once for each.
func (j *journal) Write(text []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines[j.next%len(j.lines)] = bytes.Clone(text)
	j.next++
	close(j.added)
	j.added = make(chan struct{})
	return len(text), nil
}

// from returns the lines from number n on that are kept, the number of the next
// one, and a channel that is closed when there is that.
func (j *journal) from(n int) (lines [][]byte, next int, added <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for n = max(n, j.next-len(j.lines)); n < j.next; n++ {
		lines = append(lines, j.lines[n%len(j.lines)])
	}
	return lines, j.next, j.added
}
