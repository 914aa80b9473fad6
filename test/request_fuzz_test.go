package ipc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Types of the messages that end a session of FuzzRequests: the raw peer's last, and
// the answer to it.
const (
	fuzzedLast   = 100_001
	fuzzedAnswer = 100_002
)

// plainFrame is a frame before it is sent.
type plainFrame struct {
	msgType int
	data    []byte
}

// fuzzedScript makes the frames of a raw peer from bytes. lastIn is what the ids are
// chosen around, and issued those of our own requests.
func fuzzedScript(script []byte, issued uint64) (frames []plainFrame) {
	lastIn := uint64(0)
	take := func() (b byte) {
		if len(script) > 0 {
			b, script = script[0], script[1:]
		}
		return b
	}
	add := func(c control) { frames = append(frames, plainFrame{0, c.encode()}) }
	number := func(b byte) uint32 {
		return []uint32{1, 0, 2, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32, 77, 3}[b&7&(b>>3|1)]
	}
	text := func(b byte) string {
		size := int(b)
		if b > 250 {
			size = 20_000 * int(b-250)
		}
		return string(payload(int(b), size))
	}
	for len(script) > 0 && len(frames) < 3000 {
		switch op, a, b := take(), take(), take(); op % 12 {
		case 0:
			frames = append(frames, plainFrame{int(a) + 1, payload(int(a), len(text(b)))})
		case 1, 2: // a request with the next id
			lastIn += 1 + uint64(a&1)
			add(control{requestKind, a, 1 + uint32(b), lastIn, text(b)})
		case 3: // or another
			id := lastIn - uint64(a%4) + 1
			add(control{requestKind, a, number(b), id, ""})
			lastIn = max(lastIn, id)
		case 4, 5:
			add(control{cancelKind, a, uint32(b), lastIn + 1 - min(uint64(b%16), lastIn+1), text(a)})
		case 6:
			add(control{replyKind, a, number(a), uint64(b) % (issued + 2), text(b)})
		case 7:
			add(control{partKind, a, number(a), uint64(b) % (issued + 2), text(b)})
		case 8:
			add(control{errorKind, a, number(a), uint64(b) % (issued + 2), text(b)})
		case 9:
			n := min(int(a)%64, len(script))
			frames = append(frames, plainFrame{0, script[:n]})
			script = script[n:]
		case 10:
			data := append(bytes.Clone(announcement), text(b&7)...)
			data[4+a%12] += a / 12
			frames = append(frames, plainFrame{0, data[:max(0, len(data)-int(b>>3))]})
		case 11:
			for range int(a) * 5 {
				lastIn++
				add(control{requestKind, 0, 1, lastIn, ""})
			}
		}
	}
	return frames
}

// verdict says what becomes of the connection.
type verdict int

const (
	lives verdict = iota
	breaks
	unsure // it depends on what is answered in time
)

// ourRequest is one that our side has made.
type ourRequest struct {
	parts, cancelled bool
	wait             func() error // the error that it ended with
	got              *[]string    // the replies

	ended bool
	want  []string
	none  bool            // no reply
	err   *ipc.ReplyError // instead of one
}

// fuzzedModel is what the rules say of a connection.
type fuzzedModel struct {
	client    bool // our side
	announced bool // the raw peer
	deaf      bool // its announcement counts no more
	frames    int

	lastIn    uint64
	requests  map[uint64]bool // of the raw peer; true: cancelled
	cancelled int
	ours      map[uint64]*ourRequest
	issued    uint64

	deliver []delivered
}

// delivered is a message that our side has to read.
type delivered struct {
	msgType int
	data    string
	id      uint64 // of a request
}

func (m *fuzzedModel) take(f plainFrame) verdict {
	m.frames++
	if f.msgType != 0 {
		m.deliver = append(m.deliver, delivered{f.msgType, string(f.data), 0})
		m.deaf = m.deaf || !m.client && !m.announced
		return lives
	}
	starts := len(f.data) > 0 && strings.HasPrefix("\x01ipc", string(f.data[:min(4, len(f.data))]))
	if starts {
		switch {
		case len(f.data) < 16 && (m.deaf || m.announced || m.client || m.frames == 1):
			if m.deaf {
				return unsure
			}
			return breaks
		case f.data[4] == 0:
		case m.client || m.frames == 1:
			m.announced = true
		}
		m.deaf = m.deaf || !m.client && !m.announced
		return lives
	}
	m.deaf = m.deaf || !m.client && !m.announced
	if !m.announced || m.deaf || len(f.data) == 0 || f.data[0] < requestKind || f.data[0] > cancelKind {
		return lives
	}
	if len(f.data) < 16 {
		return breaks
	}
	return m.control(control{f.data[0], f.data[1], binary.BigEndian.Uint32(f.data[4:]), binary.BigEndian.Uint64(f.data[8:]), string(f.data[16:])})
}

func (m *fuzzedModel) control(c control) verdict {
	switch {
	case c.kind != cancelKind && c.n > math.MaxInt32, (c.kind == requestKind || c.kind == partKind) && c.n == 0:
		return breaks
	case c.kind == requestKind:
		if c.id <= m.lastIn {
			return breaks
		}
		m.lastIn = c.id
		switch n := len(m.requests) + 1; {
		case n-m.cancelled > 1024:
			return breaks
		case n > 1024:
			return unsure
		}
		m.requests[c.id] = false
		m.deliver = append(m.deliver, delivered{int(c.n), c.data, c.id})
		return lives
	case c.kind == cancelKind:
		if c.id == 0 || c.id > m.lastIn {
			return breaks
		}
		if over, ok := m.requests[c.id]; ok && !over {
			m.requests[c.id] = true
			m.cancelled++
		}
		return lives
	case c.id == 0 || c.id > m.issued:
		return breaks
	}
	r := m.ours[c.id]
	switch {
	case r.ended:
		return lives
	case c.kind == partKind:
		if !r.parts {
			return breaks
		}
		r.want = append(r.want, fmt.Sprint(c.n, c.data))
		return lives
	case c.kind == replyKind && c.n > 0:
		r.want = append(r.want, fmt.Sprint(c.n, c.data))
	case c.kind == replyKind:
		r.none = !r.parts
	case c.n == 0:
		r.none = true
	default:
		r.err = &ipc.ReplyError{Code: int(c.n), Text: strings.ToValidUTF8(c.data, "\uFFFD")}
	}
	r.ended = true
	return lives
}

// ask makes the requests of our side that the script says, and takes them from the
// wire.
func (p *wireAsker) ask(ctx context.Context, m *fuzzedModel, script []byte) []byte {
	if len(script) == 0 {
		return script
	}
	n, bits := int(script[0]%5), script[0]/5
	script = script[1:]
	for i := range n {
		r := &ourRequest{parts: bits>>i&1 == 1, cancelled: bits>>(i+1)&3 == 3, got: new([]string)}
		ctx, cancel := context.WithCancel(ctx)
		r.wait = background(func() (end error) {
			defer cancel()
			if !r.parts {
				reply, err := p.side.Request(ctx, i+1, nil)
				if err == nil {
					*r.got = append(*r.got, fmt.Sprint(reply.MsgType, string(reply.Data)))
				}
				return err
			}
			for part, err := range p.side.RequestParts(ctx, i+1, nil) {
				if err != nil {
					return err
				}
				*r.got = append(*r.got, fmt.Sprint(part.MsgType, string(part.Data)))
			}
			return nil
		})
		flags := byte(0)
		if r.parts {
			flags = partsWelcome
		}
		id := p.wantRequest(i+1, flags, "")
		if r.cancelled {
			cancel()
			p.wantControl(control{cancelKind, 0, 0, id, ""})
		}
		m.ours[id], m.issued = r, id
	}
	return script
}

// checkOurs compares how the requests of our side have ended with the model, which
// has not ended those that the connection has.
func (m *fuzzedModel) checkOurs(t *testing.T, v verdict) {
	for id, r := range m.ours {
		err := r.wait()
		var reply *ipc.ReplyError
		switch {
		case v == unsure:
		case r.cancelled:
			wantSentNoReply(t, "Request that is cancelled", err, context.Canceled)
		case !r.ended:
			wantSentNoReply(t, "Request without an end", err, ipc.ErrNotConnected)
		case r.none:
			wantSentNoReply(t, "Request without a reply", err)
		case r.err != nil:
			if !errors.As(err, &reply) || *reply != *r.err {
				t.Errorf("request %d: error %v, want %v", id, err, r.err)
			}
		default:
			noError(t, "Request", err)
		}
		if got := *r.got; v != unsure && !r.cancelled && strings.Join(got, "\n") != strings.Join(r.want, "\n") {
			t.Errorf("request %d: %d replies, want %d, or they differ", id, len(got), len(r.want))
		}
	}
}

// fuzzedReading is what the program of FuzzRequests has read.
type fuzzedReading struct {
	got    []delivered
	failed bool // the peer has broken a rule
	wrong  error
}

// readFuzzed reads until the connection is lost. It keeps what is asked until the
// last message, answers, and then says so.
func (p *wireAsker) readFuzzed() (r fuzzedReading) {
	var held []*ipc.Message
	for {
		m, err := p.side.Read()
		switch {
		case err != nil:
			r.wrong = err
			return r
		case m.Status == p.lost.String():
			return r
		case m.Status == ipc.Error.String():
			r.failed = errors.Is(m.Err, ipc.ErrProtocol)
		case m.MsgType == fuzzedLast:
			for _, m := range held {
				m.Reply(1, []byte("answer")) // fails if it was cancelled
			}
			p.side.Write(fuzzedAnswer, nil)
		case m.MsgType > 0:
			if m.IsRequest() {
				held = append(held, m)
			}
			r.got = append(r.got, delivered{m.MsgType, string(m.Data), 0})
		}
	}
}

// checkReading compares what was read with what had to be. Requests that were
// cancelled may have been read.
func (m *fuzzedModel) checkReading(t *testing.T, r fuzzedReading, v verdict) {
	noError(t, "Read", r.wrong)
	if v == unsure {
		return
	}
	if r.failed != (v == breaks) {
		t.Fatalf("the peer has broken a rule: %t, want %t", r.failed, v == breaks)
	}
	at := map[int]bool{0: true} // how many of those that were read may be accounted for
	for i, want := range m.deliver {
		then := make(map[int]bool)
		for n := range at {
			if n < len(r.got) && r.got[n].msgType == want.msgType && r.got[n].data == want.data {
				then[n+1] = true
			}
			if m.requests[want.id] {
				then[n] = true
			}
		}
		if at = then; len(at) == 0 {
			t.Fatalf("message %d of %d, of type %d, %d bytes, request %d, is not the one that was read next, of %d",
				i, len(m.deliver), want.msgType, len(want.data), want.id, len(r.got))
		}
	}
	if !at[len(r.got)] {
		t.Fatalf("%d messages were read, and the raw peer has sent %d", len(r.got), len(m.deliver))
	}
}

// hearFuzzed reads what our side sends until that answers the last message, or the
// connection ends. Every request must have its end then.
func (p *wireAsker) hearFuzzed(finals map[uint64][]control) (answered bool, err error) {
	for {
		msgType, data, err := p.tryHear()
		switch {
		case errors.Is(err, io.EOF) || err != nil && !timedOut(err):
			return false, nil
		case err != nil:
			return false, err
		case msgType == fuzzedAnswer:
			return true, nil
		}
		c, ok := parseControl(data)
		switch {
		case msgType == 0 && string(data) == string(announcement):
		case msgType != 0 || !ok || c.kind != replyKind && c.kind != errorKind:
			return false, fmt.Errorf("our side sends a frame of type %d, %.40q", msgType, data)
		default:
			finals[c.id] = append(finals[c.id], c)
		}
	}
}

func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// A raw peer sends any control frames: whether our side closes the connection, what
// it reads, how its requests end and what it answers follows from the rules, and no
// other connection notices.
func FuzzRequests(f *testing.F) {
	for kind := range byte(16) {
		f.Add(kind, []byte{0, 1, 0, 5, 4, 0, 1, 0, 7, 9}, []byte{3})
		f.Add(kind, []byte{4 + 5*3, 6, 0, 1, 7, 0, 2, 7, 8, 2, 8, 0, 3, 8, 1, 4}, []byte{})
		f.Add(kind, []byte{0, 1, 0, 254, 2, 1, 255, 0, 3, 252, 4, 0, 1}, []byte{200, 1, 7})
		f.Add(kind, []byte{3, 10, 0, 0, 10, 12, 0, 3, 2, 0}, []byte{1})
		f.Add(kind, []byte{0, 11, 204, 0, 1, 0, 5, 4, 0, 9}, []byte{255})
		f.Add(kind, []byte{0, 11, 205, 0, 4, 0, 3}, []byte{255})
		f.Add(kind, []byte{0, 9, 20, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 'd', 'a', 't', 'a', 4, 0, 1}, []byte{9})
		f.Add(kind, []byte{}, []byte{})
	}
	type fuzzed struct {
		*wireAsker
		other, otherPeer side
		sessions         int
	}
	var sides []*fuzzed
	for _, k := range []askingKind{{client: true}, {multi: true}, {client: true, handler: true, sealed: true}, {multi: true, handler: true, sealed: true}} {
		s := &fuzzed{wireAsker: newWireAsker(f, k, unixTransport, patient)}
		if k.multi {
			s.other = s.route.startClient(f)
			if k.handler {
				s.otherPeer = <-s.joined
				wantEvents(f, s.otherPeer, ipc.Connected)
			} else {
				s.otherPeer = s.setup.join(f, s.server)
			}
			go func() {
				for m, err := s.otherPeer.Read(); err == nil && m.Status == ""; m, err = s.otherPeer.Read() {
					m.Reply(echoType(m.MsgType), m.Data)
				}
			}()
		}
		s.raw.Close()
		wantEvents(f, s, s.lost)
		sides = append(sides, s)
	}
	f.Fuzz(func(t *testing.T, kind byte, script, pieces []byte) {
		p := sides[kind&3]
		p.t = t
		p.connect()
		defer p.raw.Close()
		p.raw.SetDeadline(time.Now().Add(watchdog / 4))
		m := &fuzzedModel{client: p.client, requests: make(map[uint64]bool), ours: make(map[uint64]*ourRequest)}
		if kind&4 == 0 { // else it announces itself if the script says so
			p.announce()
			m.take(plainFrame{0, announcement})
			script = p.ask(t.Context(), m, script)
		}

		var stream []byte
		v := lives
		for _, frame := range append(fuzzedScript(script, m.issued), plainFrame{fuzzedLast, nil}) {
			stream = append(stream, p.frame(frame.msgType, frame.data)...)
			if v != breaks && frame.msgType != fuzzedLast {
				v = max(v, m.take(frame)) // the first that breaks a rule counts, unless it is unsure
			}
			if v == unsure {
				break
			}
		}
		reading := background(p.readFuzzed)
		said := background(func() error {
			for i, rest := 0, stream; len(rest) > 0; i++ {
				n := len(rest)
				if i < len(pieces) {
					n = min(n, 1+int(pieces[i])*40)
				}
				if _, err := p.raw.Write(rest[:n]); err != nil {
					return nil // closed by our side
				}
				rest = rest[n:]
			}
			if v == unsure {
				p.raw.Close()
			}
			return nil
		})
		finals := make(map[uint64][]control)
		answered, err := p.hearFuzzed(finals)
		said()
		p.raw.Close()
		read := reading()
		noError(t, "what our side sends", err)
		if answered != (v == lives) && v != unsure {
			t.Fatalf("the connection lives: %t, want %t", answered, v == lives)
		}
		m.checkReading(t, read, v)
		m.checkOurs(t, v)
		for id, cancelled := range m.requests {
			if v != lives {
				break
			}
			want := control{replyKind, 0, 1, id, "answer"}
			if cancelled {
				want = none(id)
			}
			if got := finals[id]; len(got) != 1 || got[0] != want {
				t.Errorf("request %d ends with %v, want %v", id, got, want)
			}
			delete(finals, id)
		}
		if v == lives && len(finals) > 0 {
			t.Errorf("finals of requests that were not made: %v", finals)
		}

		if p.sessions++; p.other != nil && p.sessions%4 == 0 {
			if err := ask(t.Context(), p.other, 1, []byte("still there?")); err != nil {
				t.Errorf("another client: %v", err)
			}
		}
	})
}
