package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// full has the tests of requests run with the numbers that they are about, a
// thousand kills and a million cancels, and take their time for that.
var full = flag.Bool("full", false, "run the tests of requests with full numbers")

// answer is what an end does with each message that comes, and is no event.
type answer func(self side, m *ipc.Message)

// echoType is the type of a reply to a request of a type.
func echoType(msgType int) int { return msgType%1000 + 1000 }

// echoes is an answer: the same data.
func echoes(t testing.TB) answer {
	return func(_ side, m *ipc.Message) {
		if m.IsRequest() {
			if err := m.Reply(echoType(m.MsgType), m.Data); err != nil {
				t.Error("Reply:", err)
			}
		}
	}
}

// echoesLater is echoes by goroutines, after delays of all sizes.
func echoesLater(t testing.TB) answer {
	now := echoes(t)
	return func(self side, m *ipc.Message) {
		m = m.Clone()
		go func() {
			time.Sleep(rand.N(10 * time.Millisecond))
			now(self, m)
		}()
	}
}

// wantEcho checks the reply to a request, if the answer is echoes.
func wantEcho(m *ipc.Message, err error, msgType int, data []byte) error {
	switch {
	case err != nil:
		return fmt.Errorf("request of type %d, %d bytes: %w", msgType, len(data), err)
	case m.MsgType != echoType(msgType) || !bytes.Equal(m.Data, data):
		return fmt.Errorf("the reply to type %d, %d bytes, is a %s", msgType, len(data), describe(m))
	case m.IsRequest() || m.Err != nil || m.Status != "":
		return fmt.Errorf("a reply is a request, or an event: %+v", m)
	}
	return nil
}

// ask makes one request of a side that echoes.
func ask(ctx context.Context, from side, msgType int, data []byte) error {
	m, err := from.Request(ctx, msgType, data)
	return wantEcho(m, err, msgType, data)
}

// answerMessages reads until the end.
func answerMessages(t testing.TB, e side, a answer) {
	for m, err := range e.Messages(context.Background()) {
		if err == nil {
			answerMessage(t, e, m, a)
		}
	}
}

func answerMessage(t testing.TB, self side, m *ipc.Message, a answer) {
	switch {
	case m.MsgType > 0:
		a(self, m)
	case m.Status == ipc.Error.String():
		t.Error("event", describe(m))
	}
}

// answering is a connected pair of which both ends answer: by Handlers, or in a
// goroutine for each that reads.
func (s setup) answering(t testing.TB, byHandler bool, a answer, tweaks ...tweak) *pair {
	t.Helper()
	if !byHandler {
		p := s.pair(t, tweaks...)
		go answerMessages(t, p.peer, a)
		go answerMessages(t, p.client, a)
		return p
	}
	joined := make(chan *ipc.Server, 100)
	p := &pair{setup: s, route: s.open(t)}
	p.server = s.startServer(t, p.route, append(tweaks, serverHandler(func(s *ipc.Server, m *ipc.Message) {
		if m.Status == ipc.Connected.String() {
			joined <- s
		}
		answerMessage(t, s, m, a)
	}))...)
	config := p.route.client
	for _, tweak := range tweaks {
		tweak(nil, &config)
	}
	config.Handler = func(c *ipc.Client, m *ipc.Message) { answerMessage(t, c, m, a) }
	var err error
	p.client, err = ipc.StartClient(&config)
	noError(t, "StartClient", err)
	t.Cleanup(func() { p.client.Close() })
	p.peer = <-joined
	return p
}

// answeringSetup is a setup, with ends that read or that have Handlers.
type answeringSetup struct {
	setup
	byHandler bool
}

func (s answeringSetup) String() string {
	return s.setup.String() + map[bool]string{false: " read", true: " handler"}[s.byHandler]
}

// answeringSetups are everySetup, in one of both ways by turns, and the named socket
// in both.
var answeringSetups = func() (all []answeringSetup) {
	for i, s := range everySetup {
		all = append(all, answeringSetup{s, i/2%2 == 1})
	}
	for _, s := range unixSetups { // which are the last above
		all = append(all, answeringSetup{s, false})
	}
	return all
}()

// answeringUnix is the named socket only.
var answeringUnix = answeringSetups[len(answeringSetups)-4:]

// eachAnswering runs test, guarded by begin, over each of setups.
func eachAnswering(t *testing.T, setups []answeringSetup, a func(testing.TB) answer, test func(t *testing.T, p *pair)) {
	t.Helper()
	for _, s := range setups {
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			test(t, s.answering(t, s.byHandler, a(t)))
		})
	}
}

// eachRequester runs test with either end of the pair as the one that asks.
func (p *pair) eachRequester(test func(name string, from, to side)) {
	test("client", p.client, p.peer)
	test("server", p.peer, p.client)
}

// nextRequest reads up to the next message, which must be a request of this type.
func nextRequest(t testing.TB, e side, msgType int) *ipc.Message {
	t.Helper()
	m := next(t, e)
	if m.MsgType != msgType || !m.IsRequest() {
		t.Fatalf("read %s, request %t, want a request of type %d", describe(m), m.IsRequest(), msgType)
	}
	return m
}

// requesting makes a request in a goroutine. wait returns its error, after a check
// of the echo if there is none.
func requesting(ctx context.Context, from side, msgType int, data []byte) (returned func() bool, wait func() error) {
	return call(func() error { return ask(ctx, from, msgType, data) })
}

// wantNoError checks that err matches none of not, but is an error.
func wantNot(t testing.TB, what string, err error, not ...error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	}
	for _, n := range not {
		if errors.Is(err, n) {
			t.Errorf("%s: error %v, which should not match %v", what, err, n)
		}
	}
}

// wantSentNoReply checks the error of a request that was sent, and may have been
// handled.
func wantSentNoReply(t testing.TB, what string, err error, also ...error) {
	t.Helper()
	wantError(t, what, err, append(also, ipc.ErrNoReply)...)
	var reply *ipc.ReplyError
	if errors.As(err, &reply) {
		t.Errorf("%s: error %v is a *ReplyError", what, err)
	}
	if err != nil && strings.Contains(err.Error(), "cannot request") {
		t.Errorf("%s: %q reads as if nothing had been sent", what, err)
	}
}

// wantUnsent checks the error of a request that was not sent.
func wantUnsent(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	wantError(t, what, err, want...)
	wantNot(t, what, err, ipc.ErrNoReply)
}

// wantNothing checks that nothing can be read.
func wantNothing(t testing.TB, e side) {
	t.Helper()
	if m, err := e.ReadTimed(0, nil); m != ipc.TimeoutMessage || err != nil {
		t.Errorf("read %s (%v), want nothing", describe(m), err)
	}
}

// cutter breaks the connections of a client.
type cutter struct{ latest atomic.Pointer[net.Conn] }

// tweak has the client dial so that its connections can be broken.
func (k *cutter) tweak(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
	if c == nil {
		return
	}
	dial, path := c.Dial, socketPath(c.SocketDir, c.Name)
	c.Dial = func(ctx context.Context) (conn net.Conn, err error) {
		if dial != nil {
			conn, err = dial(ctx)
		} else {
			conn, err = dialAt(ctx, path)
		}
		if err == nil {
			k.latest.Store(&conn)
		}
		return conn, err
	}
}

// cut breaks the latest connection without a word.
func (k *cutter) cut() { breakConn(*k.latest.Load()) }
