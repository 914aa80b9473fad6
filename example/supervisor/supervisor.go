package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// pause is between the end of a worker and the start of the next one in its place,
// so that one that cannot work does not keep the machine busy.
const pause = 100 * time.Millisecond

// supervisor is what the goroutines of the workers share.
type supervisor struct {
	jobs    chan int        // has room for all of them, so that one can be put back
	pending sync.WaitGroup  // jobs without a result
	drain   context.Context // ends when no more jobs are to be begun

	mu  sync.Mutex
	out io.Writer // guarded by mu
}

// supervise has workers do the jobs, and writes their results to out. It returns
// when all workers have ended.
func supervise(ctx context.Context, workers, jobs int, out io.Writer) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	drain, stop := context.WithCancel(ctx)
	defer stop()
	s := &supervisor{jobs: make(chan int, jobs), drain: drain, out: out}
	for n := range jobs {
		s.pending.Add(1)
		s.jobs <- n
	}
	name := fmt.Sprintf("supervisor-%d", os.Getpid())
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      name,
		MultiMode: true,
		Authorize: ipc.SameUser,
		Handler:   s.handle,
	})
	if err != nil {
		return err
	}
	defer server.Close()

	var processes sync.WaitGroup
	for range workers {
		processes.Go(func() { s.keep(program, name) })
	}
	go func() { // to the end of the program, if Ctrl-C leaves jobs undone
		s.pending.Wait()
		stop()
	}()
	processes.Wait()
	return ctx.Err()
}

// keep starts a worker, and another one when that has died, until there is nothing
// more to do.
func (s *supervisor) keep(program, name string) {
	for s.drain.Err() == nil {
		worker := exec.Command(program, "-work-for", name)
		worker.Stderr = os.Stderr
		if err := worker.Run(); err != nil {
			log.Printf("a worker has ended: %v", err)
		}
		select {
		case <-s.drain.Done():
		case <-time.After(pause):
		}
	}
}

// handle is called with the events of a worker. A worker that has joined gets jobs
// from a goroutine of its own, since the Handler must not wait for them.
func (s *supervisor) handle(worker *ipc.Server, m *ipc.Message) {
	switch {
	case m.Err != nil:
		log.Print(m)
	case m.Status == "Connected":
		go s.feed(worker)
	}
}

// feed hands jobs to a worker, one after the other, until the worker is lost, or has
// to stop.
func (s *supervisor) feed(worker *ipc.Server) {
	peer, err := worker.Peer() // its PID is that of the process
	if err != nil {
		log.Print(err) // it has gone already
		return
	}
	log.Printf("worker %d has joined", peer.PID)
	for s.drain.Err() == nil {
		select {
		case <-s.drain.Done():
		case n := <-s.jobs:
			if err := s.do(worker, peer, n); err != nil {
				log.Printf("job %d: %v", n, err)
				s.jobs <- n
				return
			}
		}
	}
	_ = worker.Write(typeStop, nil) // in vain if it has gone
}

// do has a worker do a job. An error means that the worker is lost. If it matches
// [ipc.ErrNoReply], the job may have been done: these jobs may be done twice. A worker
// that might hang would need a context with a limit here.
func (s *supervisor) do(worker *ipc.Server, peer ipc.Peer, n int) error {
	reply, err := worker.Request(context.Background(), typeJob, []byte(strconv.Itoa(n)))
	var refused *ipc.ReplyError
	result := ""
	switch {
	case errors.As(err, &refused):
		result = "failed: " + refused.Text
	case err != nil:
		return err
	default:
		result = string(reply.Data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "job %d: %s (worker %d)\n", n, result, peer.PID)
	s.pending.Done()
	return nil
}
