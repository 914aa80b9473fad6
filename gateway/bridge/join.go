package bridge

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/nats-io/nats.go"
)

// defaultMaxPayload is NATS's own default, for a gateway that does not know that of
// its NATS server yet.
const defaultMaxPayload = 1 << 20

// replyHeader is how much less than MaxMsgSize a reply may have.
const replyHeader = 16

// joiner is the server NAME on a machine that has none: what its clients send is
// published, and what comes back goes to the client that asked.
type joiner struct {
	*Gateway
	server *ipc.Server
	inbox  string // the beginning of the reply subjects of requests

	maxText int // of an error, in bytes

	mu     sync.Mutex // guards what follows
	closed bool       // no request is sent any more
	lastID uint64
	asking map[string]*asking // by the last token of its reply subject
	tasks  sync.WaitGroup     // requests that have not ended
}

// Join starts a gateway in the place of the server called config.Name, on a machine
// that has none: it takes that name, and passes on what clients send to whichever
// machine exposes the name. It returns at once. NATS may be started later, and may
// go and come back; meanwhile requests are answered with CodeNotConnected.
//
// Clients may send messages of NATS's max_payload, or of 1 MiB if that is not known
// yet when Join returns; longer ones are ipc.ErrMsgTooLarge.
//
// Errors are those of the configuration, and of ipc.StartServer: it is ipc.ErrInUse
// if there is a server. Later ones are Wait's.
func Join(config *Config) (*Gateway, error) {
	g, err := newGateway(config, "join")
	if err != nil {
		return nil, err
	}
	j := &joiner{Gateway: g, asking: make(map[string]*asking)}
	g.onDenied = j.denied
	if err := g.connect("join"); err != nil {
		return nil, fmt.Errorf("gateway: join %s: %w", g.config.Name, err)
	}
	j.inbox = g.nc.NewInbox()
	if err := j.open(); err != nil {
		g.disconnect()
		return nil, fmt.Errorf("gateway: join %s: %w", g.config.Name, err)
	}
	g.start("join", j.run)
	return g, nil
}

// open takes the name, and begins to serve it.
func (j *joiner) open() error {
	if _, err := j.need(j.inbox+".*", "", j.onReply); err != nil {
		return err
	}
	maxMsgSize := defaultMaxPayload
	if n := j.nc.MaxPayload(); n > 0 {
		maxMsgSize = int(n)
	}
	j.maxText = max(maxMsgSize-replyHeader, 0)
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:       j.config.Name,
		SocketDir:  j.config.SocketDir,
		Mode:       j.config.Mode,
		Group:      j.config.Group,
		Authorize:  j.config.Authorize,
		MaxMsgSize: maxMsgSize,
		MultiMode:  true,
		Logger:     j.log,
		Handler:    j.handle,
	})
	if err != nil {
		return err
	}
	j.server = server
	if _, err := j.need(j.subjects.out(), "", j.onOut); err != nil {
		server.Close()
		return err
	}
	j.serving.Store(true)
	j.log.Info("joined", "socket", server.Addr().String())
	return nil
}

// run is the gateway until ctx ends.
func (j *joiner) run() error {
	<-j.ctx.Done()
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.serving.Store(false)
	err := j.server.Close() // which ends the contexts of all requests
	j.tasks.Wait()
	if err != nil {
		j.log.Warn("closing the server", "error", err)
	}
	return nil
}

// handle is the server's Handler. For each client it is called with one message at
// a time, and publishes it before the next: so their order is kept.
func (j *joiner) handle(client *ipc.Server, m *ipc.Message) {
	switch {
	case m.IsRequest():
		if err := j.ask(client, m); err != nil {
			j.answerError(m, err)
		}
	case m.MsgType > 0:
		j.publish(m)
	case m.Err != nil:
		j.log.Warn("connection to a client", "error", m.Err)
	}
}

// publish publishes a message that needs no reply. NATS's client keeps 8 MiB of
// them while it reconnects.
func (j *joiner) publish(m *ipc.Message) {
	if j.nc.MaxPayload() == 0 {
		j.drop("there is no connection to NATS yet", "type", m.MsgType)
		return
	}
	if err := j.nc.Publish(j.subjects.typed(m.MsgType), m.Data); err != nil {
		j.drop("of a client, not published", "type", m.MsgType, "bytes", len(m.Data), "error", err)
		return
	}
	j.counters.messagesOut.Add(1)
}

// ask sends a request.
func (j *joiner) ask(client *ipc.Server, m *ipc.Message) error {
	if !j.nc.IsConnected() {
		return j.notConnected()
	}
	a := &asking{joiner: j, client: client, msgType: m.MsgType, parts: wantsParts(m)}
	a.m = m.Clone()
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return errorf(CodeNotConnected, "%v", errClosing)
	}
	j.lastID++
	a.token = strconv.FormatUint(j.lastID, 36)
	j.asking[a.token] = a
	j.tasks.Add(1)
	j.counters.inFlight.Add(1)
	a.watch() // before onReply can find it: the next reply subject can be guessed
	j.mu.Unlock()
	if err := a.publish(); err != nil {
		a.end(func() {})
		return err
	}
	j.counters.requests.Add(1)
	return nil
}

// wantsParts reports whether a reply in parts is welcome. A part of the reserved
// type is refused in either case, for one of two reasons.
func wantsParts(m *ipc.Message) bool {
	return !errors.Is(m.ReplyPart(0, nil), ipc.ErrNotAsked)
}

// forget is the end of a.
func (j *joiner) forget(a *asking) {
	j.mu.Lock()
	delete(j.asking, a.token)
	j.mu.Unlock()
	j.counters.inFlight.Add(-1)
	j.tasks.Done()
}

// answerError answers a request with err, of whose text a client gets what fits.
func (j *joiner) answerError(m *ipc.Message, err error) {
	var e *ipc.ReplyError
	if !errors.As(err, &e) {
		e = errorf(CodeNoReply, "%v", err)
	}
	j.counters.countError(e.Code)
	text := e.Text
	if len(text) > j.maxText {
		text = strings.ToValidUTF8(text[:j.maxText], "")
	}
	if err := m.ReplyError(e.Code, text); err != nil {
		j.log.Debug("no answer to a client", "error", err)
	}
}

// onReply hands what comes back over to the request that it is for. It waits for
// nothing, so that no slow client holds up the others.
func (j *joiner) onReply(m *nats.Msg) {
	j.mu.Lock()
	a := j.asking[lastToken(m.Subject)]
	j.mu.Unlock()
	if a != nil {
		a.add(m)
		return
	}
	if m.Header.Get(headerAlive) != "" {
		// The cancel was lost, or this gateway does not remember the request.
		_ = j.nc.Publish(j.subjects.cancel(m.Subject), nil)
	}
}

// onOut broadcasts what a server sends to its clients.
func (j *joiner) onOut(m *nats.Msg) {
	msgType, ok := parseType(lastToken(m.Subject))
	if !ok {
		j.drop("the last token of its subject is no message type", "subject", m.Subject)
		return
	}
	j.counters.messagesIn.Add(1)
	if err := j.server.ServerManager.Broadcast(msgType, m.Data); err != nil {
		j.drop("not for all clients", "type", msgType, "error", err)
	}
}

// denied ends the requests that NATS did not permit to publish.
func (j *joiner) denied(subject string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, a := range j.asking {
		if j.subjects.typed(a.msgType) == subject {
			go a.deny()
		}
	}
}
