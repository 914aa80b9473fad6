// Command supervisor starts workers, hands jobs to them, starts those again that
// die, and has all of them finish at the end.
//
//	go run ./example/supervisor    # 5 workers, 100 jobs
//
// Kill a worker meanwhile: its job is done by another one. After Ctrl-C the jobs that
// have been begun are finished, and no others are begun. Workers whose supervisor was
// killed end, too.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The types of the messages.
const (
	typeJob  = 1 // supervisor to worker, a request: a number, as text
	typeDone = 2 // worker to supervisor, the reply: text
	typeStop = 3 // supervisor to worker: there are no more jobs
)

func main() {
	log.SetFlags(log.Ltime)
	workers := flag.Uint("workers", 5, "how many processes")
	jobs := flag.Uint("jobs", 100, "how many jobs")
	server := flag.String("work-for", "", "be a worker of the server with this `name`; supervisor starts them so")
	flag.Parse()
	if *server != "" {
		signal.Ignore(os.Interrupt) // which the supervisor gets, too: it says when to stop
		if err := work(*server, countPrimes); err != nil {
			log.Fatalf("worker %d: %v", os.Getpid(), err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := supervise(ctx, int(*workers), int(*jobs), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// work does jobs, one at a time, until the supervisor says stop, or is gone.
func work(server string, do func(n int) string) error {
	client, err := ipc.StartClient(&ipc.ClientConfig{
		Name:      server,
		Timeout:   -1, // the supervisor is there, and another one is of no use
		Authorize: ipc.SameUser,
	})
	if err != nil {
		return err
	}
	defer client.Close() // sends what is not sent yet
	for {
		m, err := client.Read()
		switch {
		case err != nil:
			return err
		case m.MsgType == typeStop:
			return nil
		case m.IsRequest():
			if err := answer(m, do); err != nil {
				return err
			}
		}
	}
}

// answer does a job. An error that the supervisor gets is an answer, too.
func answer(m *ipc.Message, do func(n int) string) error {
	n, err := strconv.Atoi(string(m.Data))
	if err != nil {
		return m.ReplyError(1, err.Error())
	}
	return m.Reply(typeDone, []byte(do(n)))
}

// countPrimes is the work.
func countPrimes(n int) string {
	limit, count := 10_000*n, 0
	for i := 2; i < limit; i++ {
		prime := true
		for d := 2; d*d <= i && prime; d++ {
			prime = i%d != 0
		}
		if prime {
			count++
		}
	}
	return fmt.Sprintf("%d primes below %d", count, limit)
}
