package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Pins doc.go, "Events": An event is a Message with MsgType -1 and a Status
func TestStatusStrings(t *testing.T) {
	for status, want := range map[ipc.Status]string{
		ipc.NotConnected: "Not Connected",
		ipc.Listening:    "Listening",
		ipc.Connecting:   "Connecting",
		ipc.Connected:    "Connected",
		ipc.ReConnecting: "Reconnecting",
		ipc.Closed:       "Closed",
		ipc.Closing:      "Closing",
		ipc.Error:        "Error",
		ipc.Timeout:      "Timeout",
		ipc.Disconnected: "Disconnected",
	} {
		if got := status.String(); got != want {
			t.Errorf("Status %d is %q, want %q", int(status), got, want)
		}
		if got := fmt.Sprint(status); got != want {
			t.Errorf("Status %d prints as %q, want %q", int(status), got, want)
		}
	}
	if got := ipc.Status(999).String(); got == "" {
		t.Error("an unknown Status has no text")
	}
}

// The rows "start" and "a client joins" of the table of events. startClient
// and join read exactly what they should.
//
// Pins doc.go, "Events": the first two that a client reads. A server reads "Connected" for each client that joins
func TestEventsOfStart(t *testing.T) {
	eachSetup(t, everySetup, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		wantStatus(t, "server", server, ipc.Listening)
		var got []delivery
		server.ServerManager.ReadTimed(0, nil, collect(&got))
		if len(got) != 1 || got[0].message != ipc.TimeoutMessage {
			t.Errorf("a server that starts has %v", got)
		}

		client := route.startClient(t)
		wantStatus(t, "client", client, ipc.Connected)
		peer := s.join(t, server)
		wantStatus(t, "server's end", peer, ipc.Connected)
		if s.multi {
			wantStatus(t, "listening server", server, ipc.Listening)
		}
		if want := map[bool]int{false: 0, true: 1}[s.multi]; peer.ClientID() != want {
			t.Errorf("ClientID = %d, want %d", peer.ClientID(), want)
		}
		if peer.ServerManager == nil || peer.ServerManager != server.ServerManager {
			t.Error("the client's Server has another manager")
		}
	})
}

// The row "the other end goes away", seen from the server: what was sent is
// delivered, then the event.
//
// Pins doc.go, "Events": a server's client is gone. What it had sent comes before
// Pins doc.go, "Errors": with ErrClosed as well, that client has left for good
func TestClientGoesAway(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		const n = 100
		noError(t, "Write", writeRising(p.client, n))
		noError(t, "Close", p.client.Close())
		wantRising(t, p.peer, n)
		wantEvents(t, p.peer, ipc.Disconnected)
		wantStatus(t, "server without its client", p.peer, ipc.Disconnected)
		wantError(t, "Write to a client that left", p.peer.Write(1, nil), ipc.ErrNotConnected)
		if left := p.server.ServerManager.Servers(); len(left) != 0 {
			t.Errorf("manager still has %d clients", len(left))
		}
		if p.multi {
			wantStatus(t, "listening server", p.server, ipc.Listening)
			wantEnd(t, p.peer, ipc.ErrClosed, ipc.ErrNotConnected)
		}

		p.client = p.route.startClient(t)
		before := p.peer
		p.peer = p.join(t, p.server)
		if (p.peer == before) == p.multi {
			t.Errorf("the next client has the same Server: %t, in MultiMode: %t", p.peer == before, p.multi)
		}
		wantStatus(t, "server with the next client", p.peer, ipc.Connected)
		p.check(t)
	})
}

// The same row, seen from the client.
//
// Pins doc.go, "Events": a client has lost its server, and found it
func TestServerGoesAway(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		const n = 100
		noError(t, "Write", writeRising(p.peer, n))
		noError(t, "Close", p.server.Close())
		wantRising(t, p.client, n)
		wantEvents(t, p.client, ipc.ReConnecting)
		wantStatus(t, "client without its server", p.client, ipc.ReConnecting)
		if reconnects := p.client.Stats().Reconnects; reconnects != 0 {
			t.Errorf("Reconnects = %d before the first", reconnects)
		}

		p.server = p.startServer(t, p.route)
		wantEvents(t, p.client, ipc.Connected)
		if reconnects := p.client.Stats().Reconnects; reconnects != 1 {
			t.Errorf("Reconnects = %d after the event, want 1", reconnects)
		}
		p.peer = p.join(t, p.server)
		p.check(t)
	})
}

// The same row, for a client that gives up.
//
// Pins doc.go, "Events": a client has not found it again within ClientConfig.Timeout
func TestClientGivesUp(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t, clientTimeout(time.Second), quiet)
		noError(t, "Close of the server", p.server.Close())
		wantEvents(t, p.client, ipc.ReConnecting, ipc.Timeout)
		wantStatus(t, "client that gave up", p.client, ipc.Timeout)
		wantEnd(t, p.client, ipc.ErrTimeout)
		wantText(t, "Read", second(p.client.Read()), "timed out trying to re-connect")

		// The first end wins.
		p.client.Close()
		wantStatus(t, "client closed after it gave up", p.client, ipc.Timeout)
		wantEnd(t, p.client, ipc.ErrTimeout)
	})
}

// The row "Close": what had arrived, the event, the error.
//
// Pins doc.go, "Events": after Close. This is the end
// Pins doc.go, "Errors": An error from Read is the end of a Server or Client. It is the same every time
func TestEventsOfClose(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		for i := range 3 {
			noError(t, "Write", from.Write(i+1, payload(i, 1000)))
		}
		if !eventually(func() bool { return to.Stats().MessagesIn == 3 }) {
			t.Fatal("messages do not arrive")
		}
		noError(t, "Close", to.Close())
		wantStatus(t, "closed side", to, ipc.Closed)
		for i := range 3 {
			wantMessage(t, to, i+1, payload(i, 1000))
		}
		wantEvents(t, to, ipc.Closed)
		wantEnd(t, to, ipc.ErrClosed, net.ErrClosed)
	})
}

// Close of the listening Server in MultiMode is the Close of all.
func TestEventsOfCloseInMultiMode(t *testing.T) {
	eachPair(t, multiSetup, func(t *testing.T, p *pair) {
		noError(t, "Close", p.server.Close())
		wantStatus(t, "listening server", p.server, ipc.Closed)
		wantEvents(t, p.peer, ipc.Closed)
		wantEnd(t, p.peer, ipc.ErrClosed, net.ErrClosed)
		wantError(t, "Read", second(p.server.Read()), ipc.ErrMultiMode, ipc.ErrClosed)
		wantError(t, "Write", p.server.Write(1, nil), ipc.ErrMultiMode, ipc.ErrClosed)
		wantError(t, "Flush", p.server.Flush(t.Context()), ipc.ErrClosed)
	})
}

// Close of a side that has no peer.
func TestEventsOfCloseUnconnected(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		server := s.startServer(t, s.open(t))
		noError(t, "Close", server.Close())
		if !s.multi {
			wantEvents(t, server, ipc.Closed)
			wantEnd(t, server, ipc.ErrClosed, net.ErrClosed)
		}
	})
	t.Run("after the client left", func(t *testing.T) {
		begin(t)
		p := unixSingle.pair(t)
		p.client.Close()
		wantEvents(t, p.peer, ipc.Disconnected)
		noError(t, "Close", p.server.Close())
		wantEvents(t, p.peer, ipc.Closed)
		wantEnd(t, p.peer, ipc.ErrClosed, net.ErrClosed)
	})
	t.Run("while reconnecting", func(t *testing.T) {
		begin(t)
		p := unixSingle.pair(t)
		p.server.Close()
		wantEvents(t, p.client, ipc.ReConnecting)
		noError(t, "Close", p.client.Close())
		wantEvents(t, p.client, ipc.Closed)
		wantEnd(t, p.client, ipc.ErrClosed, net.ErrClosed)
	})
}

// A Server that closes itself in MultiMode loses its client and nothing else.
func TestCloseOfOneClient(t *testing.T) {
	eachPair(t, multiSetup, func(t *testing.T, p *pair) {
		second := p.route.startClient(t)
		other := p.join(t, p.server)
		if p.peer.ClientID() != 1 || other.ClientID() != 2 || p.server.ClientID() != 0 {
			t.Errorf("ids %d, %d and %d for the listening server, want 1, 2, 0",
				p.peer.ClientID(), other.ClientID(), p.server.ClientID())
		}
		noError(t, "Close", p.peer.Close())
		wantEvents(t, p.peer, ipc.Closed)
		wantEnd(t, p.peer, ipc.ErrClosed)
		wantRoundTrip(t, second, other)
		wantRoundTrip(t, other, second)

		// The client comes back, as another one.
		wantEvents(t, p.client, ipc.ReConnecting, ipc.Connected)
		p.peer = p.join(t, p.server)
		if id := p.peer.ClientID(); id != 3 {
			t.Errorf("id %d after a reconnect, want 3", id)
		}
		if ids := clientIDs(p.server); !slices.Equal(ids, []int{2, 3}) {
			t.Errorf("manager has clients %v, want 2 and 3", ids)
		}
		p.check(t)
	})
}

// clientIDs are those that the manager of server knows, in order.
func clientIDs(server *ipc.Server) []int {
	var ids []int
	for _, s := range server.ServerManager.Servers() {
		ids = append(ids, s.ClientID())
	}
	slices.Sort(ids)
	return ids
}

// On the Server that stands for all, calls for one are refused, at once.
//
// Pins doc.go, "Errors": ErrMultiMode: a call for one client was made on the Server that stands for all
func TestListeningServerHasNoPeer(t *testing.T) {
	eachPair(t, multiSetup, func(t *testing.T, p *pair) {
		ctx := t.Context()
		for name, call := range map[string]func() error{
			"Read":         func() error { return second(p.server.Read()) },
			"ReadTimed":    func() error { return second(p.server.ReadTimed(time.Hour, nil)) },
			"ReadContext":  func() error { return second(p.server.ReadContext(ctx)) },
			"Write":        func() error { return p.server.Write(1, nil) },
			"WriteContext": func() error { return p.server.WriteContext(ctx, 1, nil) },
			"Peer":         func() error { _, err := p.server.Peer(); return err },
			"Messages": func() (last error) {
				for _, last = range p.server.Messages(ctx) {
				}
				return last
			},
		} {
			err := call()
			wantError(t, name, err, ipc.ErrMultiMode)
			if errors.Is(err, ipc.ErrClosed) {
				t.Errorf("%s: %v on a server that is open", name, err)
			}
		}
		noError(t, "Flush", p.server.Flush(ctx))
		wantStatus(t, "listening server", p.server, ipc.Listening)
		p.check(t)
	})
}

// Without a reader, clients come and go: the oldest pairs of events go, the
// messages between them stay.
//
// Pins doc.go, "Events": At most 64 unread events are kept
func TestUnreadEventsAreBounded(t *testing.T) {
	const visits = 100
	t.Run("server", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			s := pipeSingle
			route := s.open(t)
			server := s.startServer(t, route)
			for i := range visits {
				raw := route.dial(t)
				raw.openClient()
				raw.send(encode(i+1, nil))
				raw.Close()
				time.Sleep(time.Minute) // for the server to notice
			}
			server.Close()
			events, messages := drain(t, server)
			wantNewest(t, events, ipc.Connected, ipc.Disconnected)
			if len(messages) != visits {
				t.Fatalf("%d messages left, want all %d", len(messages), visits)
			}
			for i, m := range messages {
				wantSame(t, m, i+1, nil)
			}
		})
	})
	t.Run("client", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireServerPair(t, pipeTransport)
			for i := range visits {
				p.raw.send(encode(i+1, nil))
				p.raw.Close()
				p.raw = accept(t, p.ln)
				p.raw.openServer(100)
				time.Sleep(time.Minute)
			}
			p.Close()
			events, messages := drain(t, p)
			wantNewest(t, events, ipc.ReConnecting, ipc.Connected)
			if len(messages) != visits {
				t.Fatalf("%d messages left, want all %d", len(messages), visits)
			}
		})
	})
}

// drain reads what is left of a side that is closed, but for the last
// event, Closed.
func drain(t testing.TB, e side) (events []string, messages []*ipc.Message) {
	t.Helper()
	for m, err := range e.Messages(context.Background()) {
		switch {
		case err != nil:
			wantError(t, "end of Messages", err, ipc.ErrClosed)
		case m.MsgType < 0:
			events = append(events, m.Status)
		default:
			messages = append(messages, m)
		}
	}
	if n := len(events); n == 0 || events[n-1] != ipc.Closed.String() {
		t.Fatalf("events %q, want Closed as the last", events)
	}
	return events[:len(events)-1], messages
}

// wantNewest checks that events are whole pairs of first and second, and about
// as many as a side keeps.
func wantNewest(t testing.TB, events []string, first, second ipc.Status) {
	t.Helper()
	if n := len(events); n < 60 || n > 64 {
		t.Errorf("%d events left, want about 64", n)
	}
	pair := []string{first.String(), second.String()}
	for got := range slices.Chunk(events, 2) {
		if !slices.Equal(got, pair) {
			t.Fatalf("events %q, want pairs of %q", events, pair)
		}
	}
}

// Stats count messages and bytes where they are accepted and where they
// arrive; the listening Server's are the sum, of those who left too.
//
// Pins doc.go, "Logging": counts messages, bytes, requests, reconnects and failed handshakes
func TestStats(t *testing.T) {
	eachPair(t, unixSetups, func(t *testing.T, p *pair) {
		exchange := func(c *ipc.Client, s *ipc.Server) {
			for i := range 10 {
				noError(t, "Write", c.Write(1, make([]byte, 10*i)))
				wantMessage(t, s, 1, make([]byte, 10*i))
			}
			for i := range 5 {
				noError(t, "Write", s.Write(1, make([]byte, 100_000*i)))
				wantMessage(t, c, 1, make([]byte, 100_000*i))
			}
		}
		want := func(what string, e side, want ipc.Stats) {
			t.Helper()
			if got := e.Stats(); got != want {
				t.Errorf("%s has %+v, want %+v", what, got, want)
			}
		}
		exchange(p.client, p.peer)
		want("client", p.client, ipc.Stats{MessagesOut: 10, BytesOut: 450, MessagesIn: 5, BytesIn: 1_000_000})
		want("server's end", p.peer, ipc.Stats{MessagesIn: 10, BytesIn: 450, MessagesOut: 5, BytesOut: 1_000_000})
		want("server", p.server, ipc.Stats{MessagesIn: 10, BytesIn: 450, MessagesOut: 5, BytesOut: 1_000_000})

		p.client.Close()
		wantEvents(t, p.peer, ipc.Disconnected)
		next := p.route.startClient(t)
		exchange(next, p.join(t, p.server))
		want("next client", next, ipc.Stats{MessagesOut: 10, BytesOut: 450, MessagesIn: 5, BytesIn: 1_000_000})
		want("server after two clients", p.server, ipc.Stats{MessagesIn: 20, BytesIn: 900, MessagesOut: 10, BytesOut: 2_000_000})
		p.server.Close()
		want("server after Close", p.server, ipc.Stats{MessagesIn: 20, BytesIn: 900, MessagesOut: 10, BytesOut: 2_000_000})
	})
}

// Single mode has a place for one, MultiMode for MaxClients; the others wait
// as long as they like, first come first served.
//
// Pins doc.go, "Many clients": bounds how many there are at once, and more wait for a place
// Pins doc.go, "Many clients": one client at a time and others wait for their turn
func TestWaitingForAPlace(t *testing.T) {
	places := func(n int) tweak {
		return func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			if s != nil && s.MultiMode {
				s.MaxClients = n
			}
		}
	}
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t, places(1))
		type arrival struct {
			n      int
			client *ipc.Client
			after  time.Duration
		}
		start := time.Now()
		arrivals := make(chan arrival)
		for n := range 3 {
			go func() {
				client := p.route.startClient(t)
				arrivals <- arrival{n, client, time.Since(start)}
			}()
			synctest.Wait() // it is in the queue
		}

		// One that cannot wait gives up, and leaves its place in the queue. It
		// says what it has waited for.
		const noPlace = "the server has no place for this client: is it in single mode, or at MaxClients?"
		config := p.route.client
		config.Timeout = time.Minute
		var log lockedBuffer
		config.Logger = slog.New(slog.NewTextHandler(&log, nil))
		_, err := ipc.StartClient(&config)
		wantError(t, "StartClient at a full server", err, ipc.ErrTimeout)
		wantText(t, "StartClient at a full server", err, "timed out trying to connect: "+noPlace)
		wantElapsed(t, "StartClient at a full server", start, time.Minute)
		if n := strings.Count(log.String(), "level=INFO msg=\"ipc: waiting for a place"); n != 1 {
			t.Errorf("%d lines about the wait in the log, want 1:\n%s", n, &log)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = ipc.StartClientContext(ctx, &p.route.client)
		wantError(t, "StartClientContext at a full server", err, context.DeadlineExceeded)
		wantText(t, "StartClientContext at a full server", err, noPlace)
		p.check(t)

		for n := range 3 {
			time.Sleep(time.Hour)
			p.client.Close()
			got := <-arrivals
			if want := time.Minute + time.Millisecond + time.Duration(n+1)*time.Hour; got.n != n || got.after != want {
				t.Errorf("client %d got the place after %v, want client %d after %v", got.n, got.after, n, want)
			}
			wantEvents(t, p.peer, ipc.Disconnected)
			p.client, p.peer = got.client, p.join(t, p.server)
			p.check(t)
		}
	})
}
