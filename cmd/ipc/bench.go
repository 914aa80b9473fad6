package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

var benchCommand = command{
	name: "bench", args: "NAME [TYPE [DATA]]", min: 1, max: 3,
	summary: "measure how fast a server answers",
	help: `
Bench sends requests of type TYPE (1) to the server NAME for some time, one after the
other or -c at once over one connection. It prints how many a second were answered,
and how long they took. The server must answer requests of the type, with anything.

With -echo it sends messages instead, of which -c are on their way at a time. The
server must send a message of the same type back for each, in order.

What is sent is DATA (text, @file, or - for standard input), or -size bytes that are 0.
Ctrl-C ends it early.`,
	setup: func(flags *flag.FlagSet) runner {
		var b bench
		b.declare(flags)
		b.declareTimeout(flags, ", and then for each answer")
		flags.DurationVar(&b.duration, "for", 5*time.Second, "how `long` to measure")
		flags.IntVar(&b.atOnce, "c", 1, "how many requests wait for their replies at once, or messages for their echo")
		flags.IntVar(&b.size, "size", 64, "`bytes` of data, if there is no DATA")
		flags.BoolVar(&b.echo, "echo", false, "send messages, which the server sends back, instead of requests")
		return b.run
	},
}

// bench is one measurement.
type bench struct {
	target
	duration time.Duration
	atOnce   int
	size     int
	echo     bool

	client  *ipc.Client
	msgType int
	data    []byte
	over    context.Context // ends with the duration: nothing more is sent
	done    atomic.Uint64   // answers so far, for the progress
}

func (b *bench) run(ctx context.Context, args []string) error {
	if err := b.prepare(args); err != nil {
		return err
	}
	client, err := b.connect(ctx, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	b.client = client
	measure := b.requests
	if b.echo {
		measure = b.echoes
	}
	// Once unmeasured: does it answer at all?
	var stop context.CancelFunc
	b.over, stop = context.WithCancel(ctx)
	stop()
	if _, err := measure(ctx); err != nil {
		return errors.Join(ctx.Err(), b.explain(ctx, err))
	}
	b.done.Store(0)
	b.over, stop = context.WithTimeout(ctx, b.duration)
	defer stop()
	start := time.Now()
	watched, end := b.watch(ctx)
	results, err := measure(watched)
	took := time.Since(start)
	end()
	if results.n > 0 {
		b.print(results, took)
	}
	return b.explain(ctx, err)
}

// prepare checks the arguments.
func (b *bench) prepare(args []string) (err error) {
	b.name, b.msgType = args[0], 1
	switch {
	case b.atOnce < 1:
		return usageError("-c %d is under 1", b.atOnce)
	case b.size < 0:
		return usageError("-size %d is negative", b.size)
	case b.duration <= 0:
		return usageError("-for %v is not over 0", b.duration)
	}
	if len(args) > 1 {
		if b.msgType, err = parseType(args[1]); err != nil {
			return err
		}
	}
	if len(args) > 2 {
		b.data, err = readData(args[2])
		return err
	}
	b.data = make([]byte, b.size)
	return nil
}

// explain returns err, of a measurement that was not ended by Ctrl-C, with what to
// do about it.
func (b *bench) explain(ctx context.Context, err error) error {
	var refused *ipc.ReplyError
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case errors.As(err, &refused):
		return fmt.Errorf("%s answers request %d with an error: %w", printable(b.name), b.msgType, err)
	case errors.Is(err, ipc.ErrNoRequests):
		return fmt.Errorf("%w; is it a server that echoes messages? Then try -echo", err)
	case errors.Is(err, errTimeout) && b.echo:
		return failf(statusTimeout, "%s has sent no message of type %d back within %v; -echo needs a server that echoes messages",
			printable(b.name), b.msgType, b.timeout)
	case errors.Is(err, errTimeout):
		return failf(statusTimeout, "%s has not answered a request of type %d within %v; is there a TYPE that it answers? For a server that echoes "+
			"messages there is -echo", printable(b.name), b.msgType, b.timeout)
	}
	return err
}

// requests has b.atOnce goroutines send requests until b.over ends, at least one
// each. It returns when all of them have ended, and the first error.
func (b *bench) requests(ctx context.Context) (*histogram, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	results := make([]histogram, b.atOnce)
	var workers sync.WaitGroup
	for i := range results {
		workers.Go(func() {
			if err := b.ask(ctx, &results[i]); err != nil {
				fail(err)
			}
		})
	}
	workers.Wait()
	for i := range results[1:] {
		results[0].merge(&results[1+i])
	}
	return &results[0], context.Cause(ctx)
}

// ask sends one request after the other until b.over ends.
func (b *bench) ask(ctx context.Context, results *histogram) error {
	p := newPatience(ctx, b.timeout)
	defer p.end()
	for {
		start := time.Now()
		m, err := b.client.Request(p, b.msgType, b.data)
		if err != nil {
			return causeOf(p, err)
		}
		results.add(time.Since(start))
		b.done.Add(1)
		m.Release()
		if b.over.Err() != nil {
			return nil
		}
		p.renew()
	}
}

// echoes keeps b.atOnce messages on their way until b.over ends, and then waits
// for those that still are.
func (b *bench) echoes(ctx context.Context) (*histogram, error) {
	p := newPatience(ctx, b.timeout)
	defer p.end()
	results := new(histogram)
	sent := make([]time.Time, b.atOnce) // a ring: when the messages on their way were sent
	first, n := 0, 0
	for {
		for n == 0 && results.n == 0 || n < b.atOnce && b.over.Err() == nil {
			sent[(first+n)%b.atOnce] = time.Now()
			if err := b.client.WriteContext(p, b.msgType, b.data); err != nil {
				return results, causeOf(p, err)
			}
			n++
		}
		if n == 0 {
			return results, nil
		}
		m, err := b.client.ReadContext(p)
		switch {
		case err != nil:
			return results, causeOf(p, err)
		case m.MsgType < 0 && m.Status == ipc.ReConnecting.String():
			return results, errLost
		case m.MsgType == b.msgType:
			results.add(time.Since(sent[first]))
			first, n = (first+1)%b.atOnce, n-1
			b.done.Add(1)
			p.renew()
		}
		m.Release()
	}
}

// causeOf returns err, or why p has ended, if that is what it says.
func causeOf(p *patience, err error) error {
	if p.Err() != nil {
		return context.Cause(p)
	}
	return err
}

func (b *bench) print(h *histogram, took time.Duration) {
	what := "requests"
	if b.echo {
		what = "echoes"
	}
	fmt.Printf("%d %s of %d bytes in %v, %d at once: %.0f a second\n", h.n, what, len(b.data), took.Round(time.Millisecond), b.atOnce,
		float64(h.n)/took.Seconds())
	for _, p := range []float64{50, 90, 99, 99.9} {
		fmt.Printf("p%-5v %v\n", p, short(h.percentile(p)))
	}
	fmt.Printf("max    %v\n", short(h.max))
}

// short returns d with three digits.
func short(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// watch returns a context that ends with ctx, or when the connection is lost, for
// which a request would wait. On a terminal it shows how far the measurement is. Its
// goroutine ends when end is called, which waits for that.
func (b *bench) watch(ctx context.Context) (watched context.Context, end func()) {
	ctx, fail := context.WithCancelCause(ctx)
	visible := isTerminal(os.Stderr)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		start := time.Now()
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				if visible {
					b.showProgress(now.Sub(start))
				}
				if b.client.StatusCode() != ipc.Connected {
					fail(errLost)
				}
			case <-stop:
				if visible {
					fmt.Fprintf(os.Stderr, "\r%s\r", strings.Repeat(" ", progressWidth))
				}
				return
			}
		}
	}()
	return ctx, func() {
		close(stop)
		<-stopped
		fail(nil)
	}
}

// errLost says that the server has ended the connection.
var errLost = fmt.Errorf("%w: the server has ended the connection", ipc.ErrNotConnected)

const progressWidth = 60

func (b *bench) showProgress(took time.Duration) {
	line := fmt.Sprintf("%v of %v, %.0f a second", took.Round(time.Second), b.duration, float64(b.done.Load())/took.Seconds())
	fmt.Fprintf(os.Stderr, "\r%-*s", progressWidth, line)
}
