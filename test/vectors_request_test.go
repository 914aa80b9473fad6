package ipc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// eachRequestVectors is eachVectors for the sessions with requests.
func eachRequestVectors(t *testing.T, test func(t *testing.T, v *vectors, role string, multi bool)) {
	t.Helper()
	eachVectorsOf(t, []string{"requests-plain.json", "requests-encrypted.json"}, test)
}

// requestReplay is one of our sides in a session with requests. It has a Handler,
// as only a Handler ends a request without a reply, and passes on what that gets.
type requestReplay struct {
	*replay
	t    testing.TB
	v    *vectors
	got  chan *ipc.Message
	self chan side // with the event Connected

	alone []bool            // which requests of the other side the Handler leaves alone, in order
	asked int               // how many it has got
	ids   map[uint64]uint64 // what our side calls its requests; the server's of the vectors are others
	last  uint64            // the newest of the vectors
	calls map[uint64]*asking
	held  map[uint64]*ipc.Message
}

// asking is a request of our side.
type asking struct {
	cancel  context.CancelFunc
	parts   bool
	results chan result // closed after the last
}

type result struct {
	m   *ipc.Message
	err error
}

// playRequests goes through the steps of v, one end of which is ours.
func (v *vectors) playRequests(t testing.TB, role string, multi bool) *requestReplay {
	t.Helper()
	v.draw(t, role)
	s := setup{pipeTransport, multi}
	route := s.open(t)
	r := &requestReplay{
		replay: &replay{role: role},
		t:      t, v: v,
		got:   make(chan *ipc.Message, 100),
		self:  make(chan side, 1),
		ids:   make(map[uint64]uint64),
		calls: make(map[uint64]*asking),
		held:  make(map[uint64]*ipc.Message),
	}
	r.findAlone()
	if role == "server" {
		r.lost = ipc.Disconnected
		s.startServer(t, route, quiet, maxMsgSize(v.MaxMsgSize), func(c *ipc.ServerConfig, _ *ipc.ClientConfig) {
			c.Encryption = v.Encryption
			c.Handler = func(s *ipc.Server, m *ipc.Message) { r.handle(s, m) }
		})
		r.raw = route.dial(t)
	} else {
		r.lost = ipc.ReConnecting
		ln := route.listen(t)
		config := route.client
		quiet(nil, &config)
		config.Handler = func(c *ipc.Client, m *ipc.Message) { r.handle(c, m) }
		started := background(func() error {
			client, err := ipc.StartClient(&config)
			if err == nil {
				t.Cleanup(func() { client.Close() })
			}
			return err
		})
		t.Cleanup(func() { noError(t, "StartClient", started()) })
		r.raw = accept(t, ln)
	}
	for i := 0; i < len(v.Steps); i++ {
		step := v.Steps[i]
		if i+1 < len(v.Steps) && v.Steps[i+1].SameWrite {
			i++
			step.What += ", and " + v.Steps[i].What
			step.Hex = append(bytes.Clone(step.Hex), v.Steps[i].Hex...)
		}
		r.play(step)
		if i+1 < len(v.Steps) && v.Steps[i].SameWrite {
			r.side = <-r.self
			if role == "client" {
				for _, frame := range v.Early {
					r.raw.send(frame.Hex)
				}
				r.wantNothing("before the server's announcement")
			}
		}
	}
	return r
}

// handle is our side's Handler.
func (r *requestReplay) handle(self side, m *ipc.Message) {
	switch {
	case m.Status == ipc.Connecting.String():
	case m.Status == ipc.Connected.String():
		r.self <- self
	case m.IsRequest():
		alone := r.alone[r.asked]
		r.asked++
		if alone {
			r.got <- &ipc.Message{MsgType: m.MsgType, Data: bytes.Clone(m.Data)}
			return
		}
		fallthrough
	default:
		r.got <- m.Clone()
	}
}

// findAlone finds the requests of the other side whose final frame is "no reply",
// though they are not cancelled.
func (r *requestReplay) findAlone() {
	index := make(map[uint64]int)
	cancelled := make(map[uint64]bool)
	for _, step := range r.v.Steps {
		switch kind := wire.Kind(step.Kind); {
		case kind == wire.Request && step.From != r.role:
			index[step.ID] = len(r.alone)
			r.alone = append(r.alone, false)
		case kind == wire.Cancel && step.From != r.role:
			cancelled[step.ID] = true
		case kind == wire.Error && step.From == r.role && step.N == 0:
			r.alone[index[step.ID]] = !cancelled[step.ID]
		}
	}
}

// bytes is a frame of the vectors, with the id by which our side knows the
// request. Our client's ids are those of the vectors; our server begins with 1.
func (r *requestReplay) bytes(frame vector) []byte {
	var ours bool
	switch wire.Kind(frame.Kind) {
	case wire.Request, wire.Cancel:
		ours = frame.From == r.role
	case wire.Reply, wire.Part, wire.Error:
		ours = frame.From != r.role
	}
	if !ours || r.role == "client" || frame.ID == 0 {
		return frame.Hex
	}
	id, known := r.ids[frame.ID]
	if !known { // it is not sent by our side
		id = uint64(len(r.ids)) + frame.ID - r.last
	}
	var nonce []byte
	if r.v.Encryption {
		nonce = frame.Hex[4:16]
	}
	data := append([]byte{byte(frame.Kind), frame.Flags, 0, 0}, binary.BigEndian.AppendUint32(nil, frame.N)...)
	data = append(binary.BigEndian.AppendUint64(data, id), frame.Data...)
	return r.v.seal(r.t, nonce, encode(0, data))
}

// play is sent by the one end and received by the other.
func (r *requestReplay) play(step vector) {
	r.t.Helper()
	if step.From != r.role {
		r.raw.send(r.bytes(step))
		r.received(step)
		return
	}
	r.act(step)
	r.raw.want(step.What, r.bytes(step)...)
	if step.Data == nil {
		r.raw.wantSilence("after " + step.What)
	}
	if call := r.calls[step.ID]; wire.Kind(step.Kind) == wire.Cancel {
		r.wantError(step, call, context.Canceled)
	}
}

// act has our side do what makes it send a frame.
func (r *requestReplay) act(step vector) {
	r.t.Helper()
	m := r.held[step.ID]
	var err error
	switch wire.Kind(step.Kind) {
	case 0:
		if step.Data != nil {
			err = r.Write(step.Type, step.Data)
		}
	case wire.Request:
		r.ask(step)
	case wire.Reply:
		if step.N == 0 {
			err = m.ReplyEnd()
		} else {
			err = m.Reply(int(step.N), step.Data)
		}
	case wire.Part:
		err = m.ReplyPart(int(step.N), step.Data)
	case wire.Error:
		if step.N > 0 {
			err = m.ReplyError(int(step.N), string(step.Data))
		} // "no reply" is sent when the Handler returns, or for a cancel
	case wire.Cancel:
		r.calls[step.ID].cancel()
	}
	noError(r.t, step.What, err)
}

// ask has our side make a request.
func (r *requestReplay) ask(step vector) {
	if r.role == "client" && step.ID != uint64(len(r.ids)+1) {
		r.t.Fatalf("%s: not the next id", step.What)
	}
	r.ids[step.ID] = uint64(len(r.ids) + 1)
	r.last = step.ID
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	call := &asking{cancel, step.Flags == wire.PartsWelcome, make(chan result, 10)}
	r.calls[step.ID] = call
	go func() {
		defer close(call.results)
		if !call.parts {
			m, err := r.Request(ctx, int(step.N), step.Data)
			call.results <- result{m, err}
			return
		}
		for m, err := range r.RequestParts(ctx, int(step.N), step.Data) {
			call.results <- result{m, err}
		}
	}()
}

// received checks what our side makes of a frame.
func (r *requestReplay) received(step vector) {
	r.t.Helper()
	call := r.calls[step.ID]
	switch kind := wire.Kind(step.Kind); kind {
	case 0:
		if step.Data != nil {
			m := <-r.got
			wantSame(r.t, m, step.Type, step.Data)
			if m.IsRequest() {
				r.t.Errorf("%s: it is a request", step.What)
			}
		}
	case wire.Request:
		m := <-r.got
		wantSame(r.t, m, int(step.N), step.Data)
		r.held[step.ID] = m
	case wire.Cancel:
		m := r.held[step.ID]
		<-m.Context().Done()
		wantError(r.t, "Reply after "+step.What, m.Reply(1, nil), context.Canceled)
	case wire.Reply, wire.Part:
		if step.N > 0 {
			got := <-call.results
			noError(r.t, step.What, got.err)
			wantSame(r.t, got.m, int(step.N), step.Data)
		}
		if kind == wire.Reply {
			r.wantOver(step, call)
		}
	case wire.Error:
		var reply *ipc.ReplyError
		switch got, ok := <-call.results; {
		case !ok: // it was cancelled
		case step.N == 0:
			wantError(r.t, step.What, got.err, ipc.ErrNoReply)
		case !errors.As(got.err, &reply) || reply.Code != int(step.N) || reply.Text != string(step.Data):
			r.t.Errorf("%s: error %v", step.What, got.err)
		}
		r.wantOver(step, call)
	}
}

// wantError checks that a request of our side ends with an error.
func (r *requestReplay) wantError(step vector, call *asking, want ...error) {
	r.t.Helper()
	wantError(r.t, step.What, (<-call.results).err, want...)
	r.wantOver(step, call)
}

// wantOver checks that a request of our side has no more results.
func (r *requestReplay) wantOver(step vector, call *asking) {
	r.t.Helper()
	if got, ok := <-call.results; ok {
		r.t.Errorf("%s: then %s (%v)", step.What, describe(got.m), got.err)
	}
}

// wantNothing checks that our side has delivered nothing.
func (r *requestReplay) wantNothing(what string) {
	r.t.Helper()
	synctest.Wait()
	select {
	case m := <-r.got:
		r.t.Errorf("%s: the Handler got %s", what, describe(m))
	default:
	}
}

// open is the request of our side that has no final frame.
func (r *requestReplay) open() *asking { return r.calls[r.last] }

// Our server talks to the client of a session with requests, and our client to
// its server: each frame is what the transcript says, to the byte and to the write.
// What is to be ignored changes nothing.
func TestRequestVectors(t *testing.T) {
	eachRequestVectors(t, func(t *testing.T, v *vectors, role string, multi bool) {
		r := v.playRequests(t, role, multi)
		for _, frame := range v.Ignored {
			if frame.From != role {
				r.raw.send(r.bytes(frame))
			}
		}
		r.wantNothing("frames to ignore")
		select {
		case got := <-r.open().results:
			t.Errorf("frames to ignore: the request returned %s (%v)", describe(got.m), got.err)
		default:
		}
		for _, step := range v.Steps { // and a message still comes
			if step.From != role && step.Type > 0 {
				r.play(step)
			}
		}
		noError(t, "Close", r.Close())
		if more := r.raw.wantDropped(); len(more) > 0 {
			t.Errorf("%v sent before the end", more)
		}
		r.wantError(vector{What: "the open request"}, r.open(), ipc.ErrNoReply, ipc.ErrClosed)
		if m := <-r.got; m.Status != ipc.Closed.String() && role == "client" {
			t.Errorf("the Handler got %s at the end", describe(m))
		}
	})
}

// Each of the frames that have to be rejected ends a session with requests, and
// nothing of it is delivered.
func TestRejectedRequestVectors(t *testing.T) {
	eachRequestVectors(t, func(t *testing.T, v *vectors, role string, multi bool) {
		n := 0
		for _, frame := range v.Rejected {
			if frame.From == role {
				continue
			}
			n++
			r := v.playRequests(t, role, multi)
			r.raw.send(r.bytes(frame))
			if m := <-r.got; m.Status != ipc.Error.String() || !errors.Is(m.Err, ipc.ErrProtocol) {
				t.Errorf("%s: the Handler got %s, want ErrProtocol", frame.What, describe(m))
			}
			if m := <-r.got; m.Status != r.lost.String() {
				t.Errorf("%s: then the Handler got %s, want %v", frame.What, describe(m), r.lost)
			}
			r.raw.wantDropped()
			r.wantError(frame, r.open(), ipc.ErrNoReply, ipc.ErrNotConnected)
			r.Close()
		}
		if n == 0 {
			t.Error("no frames to reject")
		}
	})
}
