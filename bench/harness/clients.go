package harness

import (
	"errors"
	"fmt"
	"sync"
)

// dialers is how many connections are opened side by side: enough to be quick,
// few enough not to overrun the backlog of a library that gives up then.
const dialers = 16

// dialAll opens n connections.
func dialAll(p Peer, spec *Spec, n int) ([]Client, error) {
	clients := make([]Client, n)
	next := make(chan int)
	go func() {
		defer close(next)
		for i := range clients {
			next <- i
		}
	}()
	var wg sync.WaitGroup
	errs := make([]error, dialers)
	for d := range dialers {
		wg.Go(func() {
			for i := range next {
				var err error
				if clients[i], err = p.Dial(spec); err != nil && errs[d] == nil {
					errs[d] = fmt.Errorf("connection %d: %w", i, err)
				}
			}
		})
	}
	wg.Wait()
	return clients, errors.Join(errs...)
}

// each runs f for every client, or whatever else there is one of for each, in a
// goroutine of its own if there are more than one, and returns the first error.
func each[C any](clients []C, f func(i int, c C) error) error {
	if len(clients) == 1 {
		return f(0, clients[0])
	}
	var wg sync.WaitGroup
	first := make(chan error, 1)
	for i, c := range clients {
		wg.Go(func() {
			if err := f(i, c); err != nil {
				select {
				case first <- fmt.Errorf("client %d: %w", i, err):
				default:
				}
			}
		})
	}
	wg.Wait()
	close(first)
	return <-first
}
