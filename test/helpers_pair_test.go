package ipc_test

import (
	"context"
	"iter"
	"log/slog"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// side is what a Server and a Client have in common.
type side interface {
	Read() (*ipc.Message, error)
	ReadTimed(d time.Duration, onTimeout *ipc.Message) (*ipc.Message, error)
	ReadContext(ctx context.Context) (*ipc.Message, error)
	Messages(ctx context.Context) iter.Seq2[*ipc.Message, error]
	Write(msgType int, data []byte) error
	WriteContext(ctx context.Context, msgType int, data []byte) error
	Flush(ctx context.Context) error
	Request(ctx context.Context, msgType int, data []byte) (*ipc.Message, error)
	RequestParts(ctx context.Context, msgType int, data []byte) iter.Seq2[*ipc.Message, error]
	Status() string
	StatusCode() ipc.Status
	Peer() (ipc.Peer, error)
	Stats() ipc.Stats
	Close() error
}

var (
	_ side = (*ipc.Server)(nil)
	_ side = (*ipc.Client)(nil)
)

// setup is a kind of connection that a test can be run over.
type setup struct {
	transport
	multi bool
}

func (s setup) String() string {
	if s.multi {
		return s.transport.name + " multi"
	}
	return s.transport.name + " single"
}

var (
	unixSingle = setup{unixTransport, false}
	unixMulti  = setup{unixTransport, true}
	pipeSingle = setup{pipeTransport, false}
	pipeMulti  = setup{pipeTransport, true}
)

// everySetup is each transport, and the named socket in both modes; unixSetups is for what differs
// by mode only, multiSetup for what only MultiMode has, pipeSetups for bubbles.
var (
	everySetup = append(oneModeEach(transports[1:]...), unixSetups...)
	unixSetups = modes(unixTransport)
	pipeSetups = modes(pipeTransport)
	multiSetup = []setup{unixMulti}
)

// oneModeEach returns each transport in one of the modes, by turns.
func oneModeEach(transports ...transport) []setup {
	var all []setup
	for i, tr := range transports {
		all = append(all, setup{tr, i%2 == 1})
	}
	return all
}

func modes(transports ...transport) []setup {
	var all []setup
	for _, tr := range transports {
		all = append(all, setup{tr, false}, setup{tr, true})
	}
	return all
}

// eachSetup runs test, guarded by begin, once for each of setups.
func eachSetup(t *testing.T, setups []setup, test func(t *testing.T, s setup)) {
	t.Helper()
	for _, s := range setups {
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			test(t, s)
		})
	}
}

// eachPair is eachSetup for tests that begin with a connected pair.
func eachPair(t *testing.T, setups []setup, test func(t *testing.T, p *pair), tweaks ...tweak) {
	t.Helper()
	eachSetup(t, setups, func(t *testing.T, s setup) { test(t, s.pair(t, tweaks...)) })
}

// eachDirection is eachPair for tests with a sender and a receiver: from the
// client to the server's end, and with another pair the other way.
func eachDirection(t *testing.T, setups []setup, test func(t *testing.T, from, to side), tweaks ...tweak) {
	t.Helper()
	t.Run("to server", func(t *testing.T) {
		eachPair(t, setups, func(t *testing.T, p *pair) { test(t, p.client, p.peer) }, tweaks...)
	})
	t.Run("to client", func(t *testing.T) {
		eachPair(t, setups, func(t *testing.T, p *pair) { test(t, p.peer, p.client) }, tweaks...)
	})
}

// eachBubble is eachSetup for tests in synthetic time, in both modes.
func eachBubble(t *testing.T, test func(t *testing.T, s setup)) {
	t.Helper()
	for _, s := range pipeSetups {
		t.Run(s.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { test(t, s) })
		})
	}
}

// tweak changes the configs of a pair before it starts. Either may be nil,
// where only the other end is ours.
type tweak func(*ipc.ServerConfig, *ipc.ClientConfig)

// maxMsgSize is a tweak.
func maxMsgSize(n int) tweak {
	return func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
		if s != nil {
			s.MaxMsgSize = n
		}
	}
}

// clientTimeout is a tweak.
func clientTimeout(d time.Duration) tweak {
	return func(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
		if c != nil {
			c.Timeout = d
		}
	}
}

// startServer starts a server at the far end of route, and closes it after the
// test.
func (s setup) startServer(t testing.TB, route *route, tweaks ...tweak) *ipc.Server {
	t.Helper()
	config := route.server()
	config.MultiMode = s.multi
	for _, tweak := range tweaks {
		tweak(&config, nil)
	}
	server, err := ipc.StartServer(&config)
	if err != nil {
		t.Fatal("StartServer:", err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

// startClient connects a client through route, reads the events of its start, and
// closes it after the test.
func (route *route) startClient(t testing.TB, tweaks ...tweak) *ipc.Client {
	t.Helper()
	config := route.client
	for _, tweak := range tweaks {
		tweak(nil, &config)
	}
	client, err := ipc.StartClient(&config)
	if err != nil {
		t.Fatal("StartClient:", err)
	}
	t.Cleanup(func() { client.Close() })
	wantEvents(t, client, ipc.Connecting, ipc.Connected)
	return client
}

// join waits for the next client of server and returns the Server that talks
// to it: server itself, or in MultiMode the client's own.
func (s setup) join(t testing.TB, server *ipc.Server) *ipc.Server {
	t.Helper()
	if !s.multi {
		wantEvents(t, server, ipc.Connected)
		return server
	}
	got := readManager(t, server.ServerManager)
	if len(got) != 1 || got[0].String() != "Connected" {
		t.Fatalf("manager read %v, want one event Connected", got)
	}
	return got[0].server
}

// pair is a server and a client that are connected, with the events of that
// read.
type pair struct {
	setup
	route  *route
	server *ipc.Server // as StartServer returned it
	peer   *ipc.Server // the server's end of the connection: server itself, or in MultiMode the client's own
	client *ipc.Client
}

func (s setup) pair(t testing.TB, tweaks ...tweak) *pair {
	t.Helper()
	p := &pair{setup: s, route: s.open(t)}
	p.server = s.startServer(t, p.route, tweaks...)
	p.client = p.route.startClient(t, tweaks...)
	p.peer = s.join(t, p.server)
	return p
}

// check shows that both directions work.
func (p *pair) check(t testing.TB) {
	t.Helper()
	wantRoundTrip(t, p.client, p.peer)
	wantRoundTrip(t, p.peer, p.client)
}

// encrypts is a tweak for the server only.
func encrypts(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
	if s != nil {
		s.Encryption = true
	}
}

// quiet is a tweak for tests in which something is worth an error in the log.
func quiet(s *ipc.ServerConfig, c *ipc.ClientConfig) {
	logger := slog.New(slog.DiscardHandler)
	if s != nil {
		s.Logger = logger
	}
	if c != nil {
		c.Logger = logger
	}
}
