// Command bench measures requests across two gateways beside plain NATS requests, in
// turn, in one process with one embedded NATS server on loopback:
//
//	go run ./bench
//
// With -nats it uses another NATS server, through which what both send passes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	name = "bench"
	kind = 1
	size = 64 // bytes of a request and of its reply
)

func main() {
	rounds := flag.Int("rounds", 5, "`number` of rounds, of which the medians are shown")
	count := flag.Int("count", 4000, "`number` of requests in each measurement")
	url := flag.String("nats", "", "`URL` of a NATS server; one is embedded by default")
	flag.Parse()
	if err := run(*url, *rounds, *count); err != nil {
		log.Fatal(err)
	}
}

// request makes one request.
type request func(ctx context.Context, data []byte) error

func run(url string, rounds, count int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if url == "" {
		ns, err := startNATS()
		if err != nil {
			return err
		}
		defer ns.Shutdown()
		url = ns.ClientURL()
	}
	plain, closePlain, err := startPlain(url)
	if err != nil {
		return err
	}
	defer closePlain()
	across, local, closeAcross, err := startAcross(ctx, url)
	if err != nil {
		return err
	}
	defer closeAcross()

	contestants := []struct {
		name string
		ask  request
	}{{"one machine", local}, {"plain NATS", plain}, {"across", across}}
	for _, n := range []int{1, 64} {
		medians := make([][]time.Duration, len(contestants))
		rates := make([][]float64, len(contestants))
		for range rounds {
			for i, c := range contestants {
				p50, rate, err := measure(ctx, c.ask, n, count)
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				medians[i] = append(medians[i], p50)
				rates[i] = append(rates[i], rate)
			}
		}
		fmt.Printf("%d at a time, %d bytes, medians of %d rounds of %d\n", n, size, rounds, count)
		base := median(medians[1])
		for i, c := range contestants {
			fmt.Printf("  %-12s p50 %8v  %8.0f requests/s  %.2f × the p50 of plain NATS\n", c.name,
				median(medians[i]).Round(100*time.Nanosecond), median(rates[i]), float64(median(medians[i]))/float64(base))
		}
	}
	return nil
}

func startNATS() (*server.Server, error) {
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, err
	}
	ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		ns.Shutdown()
		return nil, errors.New("NATS does not start")
	}
	return ns, nil
}

// measure makes count requests, n at a time, after a tenth as many that do not
// count.
func measure(ctx context.Context, ask request, n, count int) (p50 time.Duration, rate float64, err error) {
	data := make([]byte, size)
	for range count / 10 {
		if err := ask(ctx, data); err != nil {
			return 0, 0, err
		}
	}
	times := make([][]time.Duration, n)
	errs := make([]error, n)
	var tasks sync.WaitGroup
	began := time.Now()
	for i := range n {
		tasks.Go(func() {
			for range count / n {
				t := time.Now()
				if errs[i] = ask(ctx, data); errs[i] != nil {
					return
				}
				times[i] = append(times[i], time.Since(t))
			}
		})
	}
	tasks.Wait()
	took := time.Since(began)
	for _, err := range errs {
		if err != nil {
			return 0, 0, err
		}
	}
	all := slices.Concat(times...)
	return median(all), float64(len(all)) / took.Seconds(), nil
}

func median[T float64 | time.Duration](list []T) T {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// startPlain returns a request of plain NATS, from one connection to another that
// sends back what it gets.
func startPlain(url string) (request, func(), error) {
	responder, err := nats.Connect(url)
	if err != nil {
		return nil, nil, err
	}
	requester, err := nats.Connect(url)
	if err != nil {
		return nil, nil, err
	}
	if _, err := responder.QueueSubscribe("plain.*", "q", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		return nil, nil, err
	}
	if err := responder.Flush(); err != nil {
		return nil, nil, err
	}
	ask := func(ctx context.Context, data []byte) error {
		_, err := requester.RequestWithContext(ctx, "plain.1", data)
		return err
	}
	return ask, func() { requester.Close(); responder.Close() }, nil
}

// startAcross returns a request of a client on one machine to a server on another,
// which sends back what it gets, and one of a client on the server's machine.
func startAcross(ctx context.Context, url string) (across, local request, closeAll func(), err error) {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		return nil, nil, nil, err
	}
	var closers []func()
	closeAll = func() {
		for _, f := range slices.Backward(closers) {
			f()
		}
		os.RemoveAll(dir)
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	there, here := filepath.Join(dir, "there"), filepath.Join(dir, "here")
	for _, d := range []string{there, here} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, nil, nil, err
		}
	}
	s, err := ipc.StartServer(&ipc.ServerConfig{
		Name: name, SocketDir: there, MultiMode: true,
		Handler: func(_ *ipc.Server, m *ipc.Message) {
			if m.IsRequest() {
				m.Reply(m.MsgType, m.Data)
			}
		},
	})
	if err != nil {
		return nil, nil, nil, err
	}
	closers = append(closers, func() { s.Close() })
	quiet := slog.New(slog.DiscardHandler)
	for dir, start := range map[string]func(*bridge.Config) (*bridge.Gateway, error){there: bridge.Expose, here: bridge.Join} {
		g, err := start(&bridge.Config{Name: name, SocketDir: dir, URL: url, Logger: quiet})
		if err != nil {
			return nil, nil, nil, err
		}
		closers = append(closers, func() { g.Close() })
	}
	newClient := func(dir string) (request, error) {
		c, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{Name: name, SocketDir: dir})
		if err != nil {
			return nil, err
		}
		closers = append(closers, func() { c.Close() })
		return func(ctx context.Context, data []byte) error {
			_, err := c.Request(ctx, kind, data)
			return err
		}, nil
	}
	if local, err = newClient(there); err != nil {
		return nil, nil, nil, err
	}
	if across, err = newClient(here); err != nil {
		return nil, nil, nil, err
	}
	for ctx.Err() == nil { // the exposing side has just been started
		if err = across(ctx, make([]byte, size)); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return across, local, closeAll, err
}
