package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func init() {
	helpers["answering server"] = answeringServerMain
	helpers["answering client"] = answeringClientMain
}

// answeringVariable tells a helper how to answer: words of "handler", "multi" and
// "sealed".
const answeringVariable = "IPC_TEST_ANSWERING"

// Types of requests, by what the helpers do with them once they have printed their
// number.
const (
	echoedType   = 1
	keptType     = 2 // without an answer
	streamedType = 3
	laterType    = 4 // is echoed in another goroutine
)

// killedParts is how many parts a stream has that is whole.
const killedParts = 20

// handleNumbered prints the number of a request, which is what counts as handling it,
// and answers.
func handleNumbered(_ side, m *ipc.Message) {
	switch {
	case m.Status == ipc.Error.String():
		fmt.Println("event", describe(m)) // which the test does not take for a number
		return
	case !m.IsRequest():
		return
	}
	fmt.Println(numberOf(m.Data)) // in one write, before anything of the answer
	switch m.MsgType {
	case echoedType:
		m.Reply(echoType(echoedType), m.Data)
	case keptType:
		m.Clone()
	case streamedType:
		for i := range killedParts {
			m.ReplyPart(i+1, m.Data[:8])
		}
		m.ReplyEnd()
	case laterType:
		m = m.Clone()
		go m.Reply(echoType(laterType), m.Data)
	}
}

func answeringServerMain() {
	how := os.Getenv(answeringVariable)
	config := &ipc.ServerConfig{
		Name: "test", SocketDir: os.Getenv(directoryVariable),
		MultiMode: strings.Contains(how, "multi"), Encryption: strings.Contains(how, "sealed"),
	}
	byHandler := strings.Contains(how, "handler")
	if byHandler {
		config.Handler = func(s *ipc.Server, m *ipc.Message) { handleNumbered(s, m) }
	}
	server, err := ipc.StartServer(config)
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	fmt.Println("ready")
	if byHandler {
		select {}
	}
	for ended := false; !ended; {
		server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			if ended = err != nil; !ended {
				handleNumbered(s, m)
			}
		})
	}
}

func answeringClientMain() {
	config := &ipc.ClientConfig{Name: "test", SocketDir: os.Getenv(directoryVariable)}
	byHandler := strings.Contains(os.Getenv(answeringVariable), "handler")
	if byHandler {
		config.Handler = func(c *ipc.Client, m *ipc.Message) { handleNumbered(c, m) }
	}
	client, err := ipc.StartClient(config)
	if err != nil {
		fmt.Println("StartClient:", err)
		return
	}
	fmt.Println("ready")
	if byHandler {
		select {}
	}
	for m, err := range client.Messages(context.Background()) {
		if err == nil {
			handleNumbered(client, m)
		}
	}
}

// A server is killed before a request is sent, while that is under way, and after.
// The error is of the right class each time, and what was not handled is asked of
// the next server, once.
//
// Pins doc.go, "Requests": ErrNotConnected if the connection was lost
func TestServerKilledAtEachMoment(t *testing.T) {
	for _, how := range []string{"read", "multi handler sealed"} {
		t.Run(how, func(t *testing.T) {
			begin(t)
			route := unixRoute(t)
			removeAfter(t, route)
			start := func() *child {
				return startChild(t, "answering server", route, answeringVariable+"="+how)
			}
			wantHandled := func(server *child, number int) {
				t.Helper()
				if n := server.number(); n != number {
					t.Fatalf("the server has handled %d, want %d", n, number)
				}
			}
			server := start()
			client := route.startClient(t)
			_, wait := requesting(t.Context(), client, echoedType, numbered(1, 100))
			noError(t, "Request", wait())
			wantHandled(server, 1)

			// After: it has been handled.
			_, wait = requesting(t.Context(), client, keptType, numbered(2, 100))
			wantHandled(server, 2)
			server.kill()
			wantSentNoReply(t, "Request that was handled", wait(), ipc.ErrNotConnected)

			// Before: there is no server.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := second(client.Request(ctx, echoedType, numbered(3, 100))); err != context.DeadlineExceeded {
				t.Errorf("Request without a server: %v, want the error of ctx", err)
			}
			_, wait = requesting(t.Context(), client, echoedType, numbered(4, 100))
			server = start()
			noError(t, "Request that waited for the server", wait())
			wantHandled(server, 4)

			// In the middle: the kernel does not take so much of one that does not run.
			server.stop()
			const large = 3 << 20
			_, wait = requesting(t.Context(), client, echoedType, numbered(5, large-16))
			if !eventually(func() bool { return client.Stats().RequestsOut == 4 }) {
				t.Fatalf("stats %v: the request has not been accepted", client.Stats())
			}
			ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			wantError(t, "Flush", client.Flush(ctx), context.DeadlineExceeded)
			server.kill()
			server = start()
			noError(t, "Request of which a part was sent", wait())
			wantHandled(server, 5)

			// Whole, and nobody has read it.
			server.stop()
			_, wait = requesting(t.Context(), client, echoedType, numbered(6, 100))
			if !eventually(func() bool { return client.Stats().RequestsOut == 5 }) {
				t.Fatalf("stats %v: the request has not been accepted", client.Stats())
			}
			noError(t, "Flush", client.Flush(t.Context()))
			server.kill()
			wantSentNoReply(t, "Request that nobody has read", wait(), ipc.ErrNotConnected)

			server = start()
			_, wait = requesting(t.Context(), client, echoedType, numbered(7, 100))
			noError(t, "Request", wait())
			wantHandled(server, 7)
		})
	}
}

// killed is what became of the requests in a test with kills.
type killed struct {
	t       *testing.T
	next    atomic.Int64
	mu      sync.Mutex
	handled map[int]int   // by number: how often
	failed  map[int]error // by number; nil for what was answered
}

func newKilled(t *testing.T) *killed {
	return &killed{t: t, handled: make(map[int]int), failed: make(map[int]error)}
}

// line takes a line that a helper has printed.
func (k *killed) line(line string) {
	n, err := strconv.Atoi(line)
	if err != nil || n < 0 {
		k.t.Errorf("helper says %q", line)
		return
	}
	k.handled[n]++
}

// request makes the next request.
func (k *killed) request(ctx context.Context, from side) error {
	number := int(k.next.Add(1))
	msgType := []int{echoedType, echoedType, streamedType, laterType, keptType}[rand.IntN(5)]
	if msgType == keptType || rand.IntN(4) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(3*time.Millisecond))
		defer cancel()
	}
	size := 8 + rand.IntN(2000)
	switch rand.IntN(50) {
	case 0:
		size = 1 << 20
	case 1, 2, 3:
		size = 30_000 + rand.IntN(70_000)
	}
	data := append(numbered(number, 8), payload(number, size-8)...)
	var err error
	if msgType == streamedType {
		n := 0
		for m, partErr := range from.RequestParts(ctx, msgType, data) {
			if err = partErr; err == nil {
				if n++; m.MsgType != n || string(m.Data) != string(data[:8]) {
					k.t.Errorf("part %d of request %d is a %s", n, number, describe(m))
				}
			}
		}
		if err == nil && n != killedParts {
			k.t.Errorf("the stream of request %d ends without an error after %d parts", number, n)
		}
	} else {
		err = ask(ctx, from, msgType, data)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed[number] = err
	return err
}

// check looks at it all, when it is over.
func (k *killed) check() {
	k.t.Helper()
	answered, unsent, unknown := 0, 0, 0
	for number, err := range k.failed {
		n := k.handled[number]
		switch {
		case n > 1:
			k.t.Errorf("request %d was handled %d times (%v)", number, n, err)
		case err == nil:
			if answered++; n != 1 {
				k.t.Errorf("request %d was answered, and handled %d times", number, n)
			}
		case errors.Is(err, ipc.ErrNoReply):
			unknown++
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
			errors.Is(err, ipc.ErrNotConnected), errors.Is(err, ipc.ErrClosed):
			if unsent++; n != 0 {
				k.t.Errorf("request %d was handled, and the error says that it was not: %v", number, err)
			}
		default:
			k.t.Errorf("request %d: %v", number, err)
		}
	}
	for number := range k.handled {
		if _, ok := k.failed[number]; !ok {
			k.t.Errorf("request %d was handled and never made", number)
		}
	}
	k.t.Logf("%d requests answered, %d not sent, %d that may have been handled", answered, unsent, unknown)
	if answered == 0 {
		k.t.Error("no request was answered")
	}
}

// Servers are killed at any moment. No request is handled twice, each that is
// answered was handled, and none whose error does not match ErrNoReply was.
//
// Pins doc.go, "Requests": The peer may have handled it, or not
func TestRequestsToServersKilledAtRandom(t *testing.T) {
	rounds := 6
	switch {
	case *full:
		rounds = 500
	case testing.Short():
		rounds = 3
	}
	for _, sealed := range []string{"", " sealed"} {
		t.Run("plain"+sealed, func(t *testing.T) {
			begin(t)
			route := unixRoute(t)
			removeAfter(t, route)
			start := func(round int) *child {
				how := []string{"read", "handler", "multi read", "multi handler"}[round%4] + sealed
				return startChild(t, "answering server", route, answeringVariable+"="+how)
			}
			server := start(0)
			client := route.startClient(t, clientTimeout(0))
			go answerMessages(t, client, func(side, *ipc.Message) {})
			k := newKilled(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var asking sync.WaitGroup
			for range 8 {
				asking.Go(func() {
					for ctx.Err() == nil {
						k.request(ctx, client)
					}
				})
			}
			for round := 1; round <= rounds; round++ {
				for range 1 + rand.IntN(100) { // one at least, so that the client has connected
					k.line(server.line())
				}
				if round%5 == 0 {
					server.stop()
				}
				server.slaughter(k.line)
				server = start(round)
			}
			for range 50 {
				k.line(server.line())
			}
			// What is under way is still answered, and then nobody asks any more.
			lines := background(func() error {
				for server.out.Scan() {
					k.line(server.out.Text())
				}
				return server.out.Err()
			})
			stop()
			asking.Wait()
			noError(t, "Close", client.Close())
			server.cmd.Process.Kill()
			lines()
			server.cmd.Wait()
			k.check()
			if n := client.Stats().Reconnects; n != uint64(rounds) {
				t.Errorf("Reconnects = %d, want %d", n, rounds)
			}
		})
	}
}

// The same for clients that a server asks, but that the next client is asked
// nothing that was meant for the last.
func TestRequestsToClientsKilledAtRandom(t *testing.T) {
	rounds := 4
	switch {
	case *full:
		rounds = 100
	case testing.Short():
		rounds = 2
	}
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		k := newKilled(t)
		for round := range rounds {
			how := []string{"read", "handler"}[round%2]
			client := startChild(t, "answering client", route, answeringVariable+"="+how)
			peer := s.join(t, server)
			var asking sync.WaitGroup
			for range 8 {
				asking.Go(func() {
					for {
						err := k.request(t.Context(), peer)
						if errors.Is(err, ipc.ErrNotConnected) || errors.Is(err, ipc.ErrClosed) {
							return
						}
					}
				})
			}
			for range 1 + rand.IntN(100) {
				k.line(client.line())
			}
			client.slaughter(k.line)
			asking.Wait()
			wantEvents(t, peer, ipc.Disconnected)
		}
		k.check()
	})
}
