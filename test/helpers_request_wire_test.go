package ipc_test

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Kinds of control frames, beside the announcement's, which is 1.
const (
	requestKind = 2 + iota
	replyKind
	partKind
	errorKind
	cancelKind
)

// partsWelcome is the flag of a request.
const partsWelcome = 1

// control is a control frame of one of the kinds above.
type control struct {
	kind, flags byte
	n           uint32
	id          uint64
	data        string
}

func (c control) String() string {
	return fmt.Sprintf("kind %d, flags %d, n %d, id %d, %d bytes %.20q", c.kind, c.flags, c.n, c.id, len(c.data), c.data)
}

// encode is the data of the frame.
func (c control) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{c.kind, c.flags, 0, 0}, c.n)
	return append(binary.BigEndian.AppendUint64(b, c.id), c.data...)
}

func parseControl(data []byte) (c control, ok bool) {
	if len(data) < 16 || data[2] != 0 || data[3] != 0 {
		return c, false
	}
	return control{data[0], data[1], binary.BigEndian.Uint32(data[4:]), binary.BigEndian.Uint64(data[8:]), string(data[16:])}, true
}

// announces is an announcement that accepts so many unanswered requests.
func announces(requests uint32) []byte {
	return append(binary.BigEndian.AppendUint32([]byte("\x01ipc\x01\x00\x00\x00"), requests), 0, 0, 0, 0)
}

// none is what ends a request without a reply.
func none(id uint64) control { return control{kind: errorKind, id: id} }

// askingKind is a kind of side of ours, and of its connection with a raw peer.
type askingKind struct {
	client, multi, sealed, handler bool
}

func (k askingKind) String() string {
	name := "server single"
	switch {
	case k.client:
		name = "client"
	case k.multi:
		name = "server multi"
	}
	if k.sealed {
		name += " sealed"
	}
	if k.handler {
		name += " handler"
	}
	return name
}

// askingKinds have each value with each side.
var askingKinds = []askingKind{
	{client: true},
	{multi: true},
	{handler: true},
	{client: true, sealed: true, handler: true},
	{multi: true, sealed: true, handler: true},
	{sealed: true},
}

// wireAsker is a side of ours with a raw peer that may know requests.
type wireAsker struct {
	side
	askingKind
	t      testing.TB
	setup  setup
	route  *route
	server *ipc.Server // as StartServer returned it; nil for a client
	ours   sync.Map    // of what has a Handler to *handledSide
	joined chan side   // of those
	on     atomic.Pointer[func(self side, m *ipc.Message)]
	accept func() *wireConn
	lost   ipc.Status // the event after the raw end has gone
	max    uint32     // of a raw server
	raw    *wireConn
	ref    *refPeer // nil: plain
}

// handledSide is a side with a Handler that can be read. It gets copies.
type handledSide struct {
	side
	got chan *ipc.Message
}

func (h *handledSide) Read() (*ipc.Message, error) { return <-h.got, nil }

// ReadTimed is for d of 0 only.
func (h *handledSide) ReadTimed(_ time.Duration, onTimeout *ipc.Message) (*ipc.Message, error) {
	select {
	case m := <-h.got:
		return m, nil
	default:
		return ipc.TimeoutMessage, nil
	}
}

// handle is the Handler of one.
func (p *wireAsker) handle(self side, m *ipc.Message) {
	known, ok := p.ours.Load(self)
	if !ok {
		known = &handledSide{self, make(chan *ipc.Message, 100_000)}
		p.ours.Store(self, known)
		p.joined <- known.(side)
	}
	if on := p.on.Load(); on != nil && m.MsgType > 0 {
		(*on)(self, m)
		return
	}
	known.(*handledSide).got <- m.Clone()
}

// setOn changes what a Handler does with messages from its next call on.
func (p *wireAsker) setOn(f func(self side, m *ipc.Message)) { p.on.Store(&f) }

// newWireAsker starts a side of a kind, and connects it with a raw peer, which has
// not announced itself.
func newWireAsker(t testing.TB, k askingKind, tr transport, tweaks ...tweak) *wireAsker {
	t.Helper()
	p := &wireAsker{askingKind: k, t: t, setup: setup{tr, k.multi}, route: tr.open(t), joined: make(chan side, 10_000),
		lost: ipc.Disconnected, max: defaultMaxMsgSize}
	limit := ipc.ServerConfig{MaxMsgSize: defaultMaxMsgSize}
	for _, tweak := range tweaks {
		tweak(&limit, nil)
	}
	p.max = uint32(limit.MaxMsgSize)
	tweaks = append([]tweak{quiet}, tweaks...)
	if k.handler {
		tweaks = append(tweaks, func(s *ipc.ServerConfig, c *ipc.ClientConfig) {
			if s != nil {
				s.Handler = func(s *ipc.Server, m *ipc.Message) { p.handle(s, m) }
			} else {
				c.Handler = func(c *ipc.Client, m *ipc.Message) { p.handle(c, m) }
			}
		})
	}
	if !k.client {
		if k.sealed {
			tweaks = append(tweaks, encrypts)
		}
		p.server = p.setup.startServer(t, p.route, tweaks...)
		p.connect()
		return p
	}
	p.lost = ipc.ReConnecting
	ln := p.route.listen(t)
	p.accept = func() *wireConn { return accept(p.t, ln) }
	started := background(func() *ipc.Client {
		if !k.handler {
			return p.route.startClient(t, tweaks...)
		}
		config := p.route.client
		for _, tweak := range tweaks {
			tweak(nil, &config)
		}
		client, err := ipc.StartClient(&config)
		noError(t, "StartClient", err)
		t.Cleanup(func() { client.Close() })
		return client
	})
	p.shake()
	p.side = started()
	if k.handler {
		p.side = <-p.joined
		wantEvents(t, p, ipc.Connecting, ipc.Connected)
	}
	return p
}

// shake opens another connection, up to the end of the handshake.
func (p *wireAsker) shake() {
	p.t.Helper()
	if p.client {
		p.raw = p.accept()
	} else {
		p.raw = p.route.dial(p.t)
	}
	p.ref = nil
	if p.sealed {
		p.ref = &refPeer{wireConn: p.raw, max: p.max}
	}
	switch {
	case p.client && p.sealed:
		p.ref.asServer()
	case p.client:
		p.raw.openServer(p.max)
	case p.sealed:
		p.ref.asClient()
	default:
		p.raw.want("step 1", 2, 0)
		p.raw.send([]byte{0})
		p.raw.want("step 4", head(4, p.max)...)
		p.raw.send([]byte{0})
	}
}

// connect gives the side another connection, and reads the event.
func (p *wireAsker) connect() {
	p.t.Helper()
	p.shake()
	switch {
	case p.client:
		wantEvents(p.t, p, ipc.Connected)
	case !p.handler:
		p.side = p.setup.join(p.t, p.server)
	default:
		if p.side == nil || p.multi {
			p.side = <-p.joined
		}
		wantEvents(p.t, p, ipc.Connected)
	}
}

// announce has the raw peer say that it knows requests, and takes the answer of a
// server.
func (p *wireAsker) announce() {
	p.t.Helper()
	p.announceAs(announcement)
}

func (p *wireAsker) announceAs(data []byte) {
	p.t.Helper()
	p.send(0, data)
	if !p.client {
		p.wantFrame(0, announcement)
	}
}

// frame is a frame as it is sent.
func (p *wireAsker) frame(msgType int, data []byte) []byte {
	if p.ref != nil {
		return p.ref.encode(msgType, data)
	}
	return encode(msgType, data)
}

// send sends a frame.
func (p *wireAsker) send(msgType int, data []byte) {
	p.t.Helper()
	p.raw.send(p.frame(msgType, data))
}

// say sends control frames, in one write.
func (p *wireAsker) say(controls ...control) {
	p.t.Helper()
	var all [][]byte
	for _, c := range controls {
		all = append(all, p.frame(0, c.encode()))
	}
	p.raw.send(all...)
}

// hear reads the next frame.
func (p *wireAsker) hear() (msgType int, data []byte) {
	p.t.Helper()
	msgType, data, err := p.tryHear()
	noError(p.t, "raw read of a frame", err)
	return msgType, data
}

func (p *wireAsker) tryHear() (msgType int, data []byte, err error) {
	if p.ref == nil {
		return readFrame(p.raw)
	}
	frame, err := readSealed(p.raw)
	if err != nil {
		return 0, nil, err
	}
	plain, err := p.ref.unseal(frame[4:])
	if err != nil {
		return 0, nil, err
	}
	return int(int32(binary.BigEndian.Uint32(plain))), plain[4:], nil
}

// hearControl reads the next frame, which must be a control frame.
func (p *wireAsker) hearControl() control {
	p.t.Helper()
	msgType, data := p.hear()
	c, ok := parseControl(data)
	if msgType != 0 || !ok {
		p.t.Fatalf("frame of type %d, %d bytes %.30q, want a control frame", msgType, len(data), data)
	}
	return c
}

// wantControl reads exactly this control frame.
func (p *wireAsker) wantControl(want control) {
	p.t.Helper()
	if got := p.hearControl(); got != want {
		p.t.Fatalf("control frame of %v, want %v", got, want)
	}
}

// wantRequest reads a request of this type, and returns its id.
func (p *wireAsker) wantRequest(msgType int, flags byte, data string) uint64 {
	p.t.Helper()
	got := p.hearControl()
	if want := (control{requestKind, flags, uint32(msgType), got.id, data}); got != want || got.id == 0 {
		p.t.Fatalf("control frame of %v, want %v and an id", got, want)
	}
	return got.id
}

// wantFrame reads exactly this message.
func (p *wireAsker) wantFrame(msgType int, data []byte) {
	p.t.Helper()
	if got, gotData := p.hear(); got != msgType || string(gotData) != string(data) {
		p.t.Fatalf("frame of type %d, %d bytes %.30q, want type %d, %d bytes %.30q", got, len(gotData), gotData, msgType, len(data), data)
	}
}

// renew closes the connection and gives the side another one, with announcements.
func (p *wireAsker) renew() {
	p.t.Helper()
	p.raw.Close()
	wantEvents(p.t, p, p.lost)
	p.connect()
	p.announce()
}

// checkRequests shows that messages and requests work both ways. ours is the id of
// the raw end's request.
func (p *wireAsker) checkRequests(ours uint64) {
	p.t.Helper()
	p.send(41, []byte("there?"))
	wantMessage(p.t, p, 41, []byte("there?"))
	noError(p.t, "Write", p.Write(42, []byte("here")))
	p.wantFrame(42, []byte("here"))

	p.say(control{requestKind, 0, 43, ours, "what?"})
	m := nextRequest(p.t, p, 43)
	wantSame(p.t, m, 43, []byte("what?"))
	noError(p.t, "Reply", m.Reply(44, []byte("that")))
	p.wantControl(control{replyKind, 0, 44, ours, "that"})

	_, wait := requesting(p.t.Context(), p, 45, []byte("you?"))
	id := p.wantRequest(45, 0, "you?")
	p.say(control{replyKind, 0, uint32(echoType(45)), id, "you?"})
	noError(p.t, "Request", wait())
}

// eachAsker runs test, guarded by begin, for each of kinds.
func eachAsker(t *testing.T, kinds []askingKind, tr transport, test func(t *testing.T, p *wireAsker), tweaks ...tweak) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			begin(t)
			test(t, newWireAsker(t, k, tr, tweaks...))
		})
	}
}

// eachAskerBubble is eachAsker in synthetic time.
func eachAskerBubble(t *testing.T, kinds []askingKind, test func(t *testing.T, p *wireAsker), tweaks ...tweak) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { test(t, newWireAsker(t, k, pipeTransport, tweaks...)) })
		})
	}
}
