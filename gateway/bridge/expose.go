package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/nats-io/nats.go"
)

const (
	// Bounds of the requests that a gateway keeps for its server, which has 1,024
	// at a time: beyond them it answers CodeBusy.
	maxRequests     = 8192
	maxRequestBytes = 64 << 20

	// serverRetry is the longest pause between two attempts to reach the server.
	serverRetry = time.Second
)

// Why a request ends that the server has not answered.
var (
	errServerLost = errors.New("the server has gone")
	errCancelled  = errors.New("the requester has cancelled the request")
)

// exposer stands beside a server: it is its client, and one of the queue group on
// NATS. It is in that group only while it is connected to the server, so that
// otherwise another machine gets the work:
//
//	         event Connected            subscribed
//	waiting ─────────────────► serving ─────────────► …
//	   ▲                                      │ event Reconnecting
//	   └──────────── drained ◄── leaving ◄────┘
type exposer struct {
	*Gateway
	client *ipc.Client
	inbox  string // the beginning of the reply subjects of parts and signs of life

	changed chan struct{} // server is not what follow has seen

	mu      sync.Mutex // guards what follows
	server  *lifetime  // of the connection to the server; nil while there is none
	closed  bool       // no request is taken any more
	bytes   int        // of the data of requests
	lastID  uint64
	byReply map[string]*serving
	byID    map[uint64]*serving
	early   recent         // reply subjects of cancels that came before their requests
	tasks   sync.WaitGroup // a goroutine for each request
}

// lifetime is that of a connection to the server.
type lifetime struct {
	ctx context.Context
	end context.CancelCauseFunc
}

// Expose starts a gateway beside the server called config.Name: as a client of it,
// it hands over what comes from NATS, and sends back what it answers. It returns at
// once. The server and NATS may be started later, and may go and come back.
//
// Errors are those of the configuration; later ones are Wait's.
func Expose(config *Config) (*Gateway, error) {
	g, err := newGateway(config, "expose")
	if err != nil {
		return nil, err
	}
	e := &exposer{
		Gateway: g,
		changed: make(chan struct{}, 1),
		byReply: make(map[string]*serving),
		byID:    make(map[uint64]*serving),
	}
	if g.config.Mode != 0 || g.config.Group != "" {
		err = invalid("Config.Mode and Group are those of a socket, which Expose does not make")
	} else {
		err = g.connect("expose")
	}
	if err != nil {
		return nil, fmt.Errorf("gateway: expose %s: %w", g.config.Name, err)
	}
	e.inbox = g.nc.NewInbox()
	g.start("expose", e.run)
	return g, nil
}

// run is the gateway until ctx ends.
func (e *exposer) run() error {
	if _, err := e.need(e.subjects.cancels(), "", e.onCancel); err != nil {
		return err
	}
	if _, err := e.need(e.inbox+".*.*", "", e.onProgress); err != nil {
		return err
	}
	e.log.Info("waiting for the server")
	client, err := ipc.StartClientContext(e.ctx, &ipc.ClientConfig{
		Name:       e.config.Name,
		SocketDir:  e.config.SocketDir,
		Authorize:  e.config.Authorize,
		RetryTimer: serverRetry,
		Logger:     e.log,
		Handler:    e.handle,
	})
	if err != nil {
		if e.ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer client.Close()
	e.client = client
	err = e.follow()
	e.finish()
	return err
}

// follow is in the queue group while the server is there, until ctx ends.
func (e *exposer) follow() error {
	for {
		select {
		case <-e.changed:
		case <-e.ctx.Done():
			return nil
		}
		server := e.current()
		if server == nil {
			continue
		}
		sub, err := e.need(e.subjects.all(), queueGroup, e.onMessage)
		if err != nil {
			return err
		}
		e.serving.Store(true)
		if e.nc.IsConnected() && e.nc.FlushTimeout(closeLimit) == nil {
			e.log.Info("exposed", "subject", sub.Subject)
		} else {
			e.log.Info("exposed as soon as NATS is connected", "subject", sub.Subject)
		}
		select {
		case <-server.ctx.Done():
			e.log.Warn("the server has gone")
		case <-e.ctx.Done():
		}
		e.serving.Store(false)
		e.leave(sub)
		e.log.Info("no longer exposed", "subject", sub.Subject)
	}
}

// current returns the connection to the server, or nil.
func (e *exposer) current() *lifetime {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server
}

// leave leaves the queue group, and returns when what had come has been taken. At
// the end of the gateway it does not wait for long.
func (e *exposer) leave(sub *nats.Subscription) {
	connections := e.nc.Stats().Reconnects
	drained := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(drained) })
	if err := sub.Drain(); err != nil {
		return // the connection has been closed
	}
	select {
	case <-drained:
		if e.nc.Stats().Reconnects != connections {
			// NATS's client has subscribed again over the new connection, where it
			// does not unsubscribe: this machine would go on to get requests, which
			// nothing takes.
			e.log.Info("connecting to NATS anew, to leave the queue group")
			_ = e.nc.ForceReconnect() // an error says that it has been closed
		}
		return
	case <-e.ctx.Done():
	}
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case <-drained:
	case <-limit.C:
	}
}

// finish lets requests that are under way go on for a while, and ends them.
func (e *exposer) finish() {
	e.mu.Lock()
	e.closed = true
	server := e.server
	e.mu.Unlock()
	if server == nil {
		return // which has ended them
	}
	limit := time.AfterFunc(closeLimit, func() { server.end(errClosing) })
	defer limit.Stop()
	e.tasks.Wait()
}

// handle is the client's Handler.
func (e *exposer) handle(_ *ipc.Client, m *ipc.Message) {
	switch {
	case m.IsRequest():
		refusal := errorf(CodeRefused, "a request of the server reaches no client on another machine")
		if err := m.ReplyError(refusal.Code, refusal.Text); err != nil {
			e.log.Debug("no answer to the server", "error", err)
		}
	case m.MsgType > 0:
		e.publishOut(m)
	case m.Status == ipc.Connected.String():
		e.setServer(true)
	case m.Err != nil:
		e.log.Warn("connection to the server", "error", m.Err)
	case m.Status == ipc.ReConnecting.String(), m.Status == ipc.Closed.String():
		e.setServer(false)
	}
}

// setServer records that the connection to the server has come, or gone: then the
// requests end that it has not answered.
func (e *exposer) setServer(connected bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		e.server.end(errServerLost)
		e.server = nil
	}
	if connected {
		ctx, end := context.WithCancelCause(context.Background())
		e.server = &lifetime{ctx, end}
	}
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// publishOut publishes what the server sends to its clients.
func (e *exposer) publishOut(m *ipc.Message) {
	if e.nc.MaxPayload() == 0 {
		e.drop("there is no connection to NATS yet", "type", m.MsgType)
		return
	}
	if err := e.nc.Publish(e.subjects.outTyped(m.MsgType), m.Data); err != nil {
		e.drop("of the server, not published", "type", m.MsgType, "bytes", len(m.Data), "error", err)
		return
	}
	e.counters.messagesOut.Add(1)
}

// onMessage takes a message or a request from NATS. Messages are written, and
// requests started, in the order in which they come.
func (e *exposer) onMessage(m *nats.Msg) {
	msgType, ok := parseType(lastToken(m.Subject))
	switch {
	case !ok && m.Reply != "":
		e.refuse(m, errorf(CodeRefused, "the last token of %s is no message type: want 1 to 2147483647", m.Subject))
	case !ok:
		e.drop("the last token of its subject is no message type", "subject", m.Subject)
	case m.Reply != "":
		e.startRequest(m, msgType)
	default:
		if err := e.client.WriteContext(e.ctx, msgType, m.Data); err != nil {
			e.drop("the server does not take it", "type", msgType, "bytes", len(m.Data), "error", err)
			return
		}
		e.counters.messagesIn.Add(1)
	}
}

// refuse answers a request that the server does not get.
func (e *exposer) refuse(m *nats.Msg, reason *ipc.ReplyError) {
	e.counters.countError(reason.Code)
	e.log.Debug("request refused", "subject", m.Subject, "error", reason.Text)
	e.respond(newError(m.Reply, reason))
}

// respond publishes what comes back for a request.
func (e *exposer) respond(m *nats.Msg) error {
	err := e.nc.PublishMsg(m)
	if err != nil && !isTooLarge(err) {
		e.drop("a reply, not published", "subject", m.Subject, "bytes", len(m.Data), "error", err)
	}
	return err
}

// startRequest hands a request over to the server, in a goroutine of its own.
func (e *exposer) startRequest(m *nats.Msg, msgType int) {
	r := &serving{exposer: e, msg: m, msgType: msgType}
	reason := e.admit(r)
	if reason != nil {
		e.refuse(m, reason)
		return
	}
	e.counters.requests.Add(1)
	r.keepAlive()
	go r.run()
}

// admit makes r known, or says why it is refused.
func (e *exposer) admit(r *serving) *ipc.ReplyError {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.server == nil || e.closed:
		return errorf(CodeNoServer, "%v", errServerLost)
	case len(e.byID) >= maxRequests || e.bytes+len(r.msg.Data) > maxRequestBytes:
		return errorf(CodeBusy, "%d requests wait for their replies", len(e.byID))
	}
	e.lastID++
	r.id = e.lastID
	r.ctx, r.end = context.WithCancelCause(e.server.ctx)
	if e.early.take(r.msg.Reply) {
		r.end(errCancelled)
	}
	e.bytes += len(r.msg.Data)
	e.byReply[r.msg.Reply] = r
	e.byID[r.id] = r
	e.tasks.Add(1)
	e.counters.inFlight.Add(1)
	return nil
}

// forget is the end of r.
func (e *exposer) forget(r *serving) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bytes -= len(r.msg.Data)
	delete(e.byID, r.id)
	if e.byReply[r.msg.Reply] == r {
		delete(e.byReply, r.msg.Reply)
	}
	e.counters.inFlight.Add(-1)
	e.tasks.Done()
}

// onCancel ends the request that a requester gives up. It may be on its way.
func (e *exposer) onCancel(m *nats.Msg) {
	reply := e.subjects.cancelled(m.Subject)
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.byReply[reply]; r != nil {
		r.end(errCancelled)
		return
	}
	e.early.add(reply)
}
