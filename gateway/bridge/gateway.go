package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// reconnectWait is the pause between two rounds of attempts to reach NATS.
	reconnectWait = 500 * time.Millisecond

	// How long a NATS server may take nothing of what is written, and the time
	// between two pings, of which two may be without an answer, until the
	// connection is given up. While a write waits, so does all else that needs the
	// connection, Close too.
	writeLimit   = 10 * time.Second
	pingInterval = 10 * time.Second

	// closeLimit is how long Close lets requests that are under way go on, and
	// how long it waits for NATS to take what is sent at the end.
	closeLimit = time.Second
)

// errClosing is why requests end that are under way when a gateway is closed.
var errClosing = errors.New("the gateway is closing")

// A Gateway is one of the two that [Expose] and [Join] start. It runs until it is
// closed, or until it cannot go on: Wait says why. All methods may be called at
// once from any goroutine.
//
// One goroutine, start's, runs the side and closes what it has opened. The others
// are those of package nats, which make the calls that callbacks counts, those of
// package ipc, which call the Handler, and those of requests. It waits for them
// at the end, so that nothing is called or logged after it.
type Gateway struct {
	config   Config
	subjects subjects
	log      *slog.Logger
	limited  *limitedLog
	nc       *nats.Conn
	calls    callbacks
	slow     slowConsumers
	serving  atomic.Bool
	counters counters

	ctx  context.Context // ends when the gateway is to end
	end  context.CancelCauseFunc
	done chan struct{} // closed when it has ended
	err  error         // why, once done is closed

	// onDenied is called when NATS does not permit publishing to a subject. It is
	// set before there is a connection.
	onDenied func(subject string)

	mu      sync.Mutex                    // guards what follows
	needs   map[string]*nats.Subscription // without which the gateway is of no use
	reasons map[string]bool               // why NATS cannot be reached, as logged
}

// newGateway returns a gateway that is not connected.
func newGateway(config *Config, side string) (*Gateway, error) {
	c, err := config.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("gateway: %s: %w", side, err)
	}
	g := &Gateway{
		config:   c,
		subjects: newSubjects(c.Name),
		log:      c.Logger.With("gateway", side, "name", c.Name),
		done:     make(chan struct{}),
		onDenied: func(string) {},
		needs:    make(map[string]*nats.Subscription),
		reasons:  make(map[string]bool),
	}
	g.limited = &limitedLog{log: g.log}
	g.ctx, g.end = context.WithCancelCause(context.Background())
	return g, nil
}

// connect connects to NATS, or begins to try until that works. What the
// configuration has wrong is an error.
func (g *Gateway) connect(side string) error {
	opts, err := g.config.natsOptions()
	if err != nil {
		return err
	}
	opts = append([]nats.Option{
		nats.Name("golang-ipc gateway: " + side + " " + g.config.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.FlusherTimeout(writeLimit),
		nats.PingInterval(pingInterval),
		nats.ConnectHandler(func(nc *nats.Conn) {
			g.reached()
			g.calls.do(func() { g.log.Info("connected to NATS", "url", redacted(nc.ConnectedUrl())) })
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			g.counters.reconnects.Add(1)
			g.reached()
			g.calls.do(func() { g.log.Info("connected to NATS again", "url", redacted(nc.ConnectedUrl())) })
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if g.ctx.Err() == nil {
				g.calls.do(func() { g.log.Warn("connection to NATS lost", "reason", err) })
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			g.calls.do(func() { g.unreachable(err) })
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			g.calls.do(func() { g.natsError(sub, err) })
		}),
		nats.ClosedHandler(func(nc *nats.Conn) {
			g.end(fmt.Errorf("NATS refuses the connection: %w", nc.LastError()))
		}),
	}, opts...)
	g.nc, err = nats.Connect(g.config.URL, opts...)
	if e := (*url.Error)(nil); errors.As(err, &e) { // which has the password
		return invalid("Config.URL %q is no URL", redacted(g.config.URL))
	}
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	return nil
}

// start runs a side of the gateway until it ends, and then closes the connection
// to NATS.
func (g *Gateway) start(side string, run func() error) {
	go func() {
		defer close(g.done)
		err := run()
		if err == nil {
			err = context.Cause(g.ctx)
		}
		if g.nc.IsConnected() {
			// In vain if the connection is lost meanwhile.
			_ = g.nc.FlushTimeout(closeLimit)
		}
		g.disconnect()
		if !errors.Is(err, errClosing) {
			g.err = fmt.Errorf("gateway: %s %s: %w", side, g.config.Name, err)
			g.log.Error("the gateway ends", "error", err)
		}
	}()
}

// disconnect closes the connection to NATS.
func (g *Gateway) disconnect() {
	g.end(errClosing)
	g.nc.Close()
	g.calls.end()
}

// callbacks are the calls of package nats, whose connection, once closed, does not
// wait for those that are under way.
type callbacks struct {
	mu    sync.RWMutex // held for reading during a call
	ended bool
}

// do calls f, unless end was called before.
func (c *callbacks) do(f func()) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.ended {
		f()
	}
}

// end returns when no call is under way. None begins after it.
func (c *callbacks) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

// Wait returns when the gateway has ended: nil after Close, and otherwise why it
// could not go on. NATS that is away, or a server that is, is no such reason.
func (g *Gateway) Wait() error {
	<-g.done
	return g.err
}

// Close ends the gateway and returns what Wait does. Requests that are under way
// may go on for 1 s, and then end with CodeNoReply. It may be called more than
// once.
func (g *Gateway) Close() error {
	g.end(errClosing)
	return g.Wait()
}

// need subscribes to a subject, on a queue if that is not empty. The gateway ends
// if NATS does not permit that. f is called by one goroutine, in the order in which
// messages come.
func (g *Gateway) need(subject, queue string, f func(*nats.Msg)) (*nats.Subscription, error) {
	g.mu.Lock()
	sub, err := g.nc.QueueSubscribe(subject, queue, func(m *nats.Msg) {
		g.calls.do(func() { f(m) })
	})
	if err == nil {
		g.needs[subject] = sub // before natsError can look for it
	}
	g.mu.Unlock()
	if errors.Is(err, nats.ErrConnectionClosed) {
		<-g.ctx.Done() // which the ClosedHandler ends
		return nil, context.Cause(g.ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return sub, nil
}

// natsError is called with the errors of NATS that belong to no call.
func (g *Gateway) natsError(sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		g.slow.add(sub)
		g.limited.warn("too slow for NATS: messages are dropped", "subject", sub.Subject)
	case errors.Is(err, nats.ErrPermissionViolation):
		// The protocol of NATS names the subject in the text alone.
		subject := quoted(err.Error())
		g.mu.Lock()
		sub := g.needs[subject]
		g.mu.Unlock()
		if sub != nil {
			g.end(fmt.Errorf("subscribe to %s: %w", subject, err))
			return
		}
		g.limited.warn("NATS does not permit to publish", "subject", subject, "error", err)
		g.onDenied(subject)
	default:
		g.limited.warn("error of NATS", "error", err)
	}
}

// quoted returns what text has between its first two quotation marks.
func quoted(text string) string {
	_, rest, _ := strings.Cut(text, `"`)
	subject, _, _ := strings.Cut(rest, `"`)
	return subject
}

// maxReasons is how many reasons are logged for which NATS cannot be reached: each
// server may have its own, and some texts are never the same.
const maxReasons = 16

// unreachable logs why NATS cannot be reached, each reason once until it is.
func (g *Gateway) unreachable(err error) {
	g.mu.Lock()
	reason := err.Error()
	old := g.reasons[reason] || len(g.reasons) == maxReasons
	if !old {
		g.reasons[reason] = true
	}
	g.mu.Unlock()
	if !old {
		g.log.Warn("NATS cannot be reached", "url", redacted(g.config.URL), "error", err)
	}
}

// reached has unreachable begin anew.
func (g *Gateway) reached() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.reasons)
}

// notConnected returns the answer to a request that cannot be sent.
func (g *Gateway) notConnected() error {
	text := "no connection to NATS at " + redacted(g.config.URL)
	if err := g.nc.LastError(); err != nil {
		text += ": " + err.Error()
	}
	return errorf(CodeNotConnected, "%s", text)
}

// drop counts and logs a message that is lost.
func (g *Gateway) drop(reason string, args ...any) {
	g.counters.dropped.Add(1)
	g.limited.warn("message dropped: "+reason, args...)
}

// slowConsumers are the subscriptions that NATS's client has dropped messages of.
type slowConsumers struct {
	mu      sync.Mutex
	dropped map[*nats.Subscription]int
}

func (s *slowConsumers) add(sub *nats.Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped == nil {
		s.dropped = make(map[*nats.Subscription]int)
	}
	s.dropped[sub] = 1
}

func (s *slowConsumers) total() (sum uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub, n := range s.dropped {
		if now, err := sub.Dropped(); err == nil {
			n = now
			s.dropped[sub] = n
		}
		sum += uint64(n)
	}
	return sum
}
