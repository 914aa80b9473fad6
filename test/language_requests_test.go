//go:build unix

package ipc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The tests of this file command a driver: a program around the example client
// of a language, that does what it is told, step by step, and tells what happens.
//
//	INTERPRETER DRIVER --path SOCKET [--encrypted] [--no-handler] [--key HEX] [--prefix HEX]
//
// It connects to SOCKET, and again after each loss. With --encrypted it refuses a
// server that does not encrypt. With --no-handler its client gets nothing that
// answers requests. With --key its client's private key is this one (a scalar of
// 48 bytes), and with --prefix its nonces begin with these 8 bytes.
//
// Commands come on standard input, events go to standard output, each a JSON object
// in a line of its own, written out at once. Data is in hexadecimal. Members that
// are not mentioned must be ignored, and those that are missing are zero, empty or
// false. The end of standard input ends the driver at once. What goes wrong with
// the driver itself goes to standard error.
//
// The test chooses the number "call" of each request that the driver is to make:
//
//	{"do":"request", "call":1, "type":2, "data":"68656c6c6f"}
//	    Makes a request. With "timeout", in milliseconds, it gives up after so long.
//	    The driver then reports one of
//	{"event":"reply", "call":1, "type":3, "data":"..."}
//	{"event":"failed", "call":1, "kind":"error", "code":7, "text":"...", "maybe":true}
//	    "kind" is one of
//	      "error"         the other side's ReplyError, which only has "code" and "text"
//	      "no reply"      no reply will come, and no kind below is the reason
//	      "no requests"   the server knows no requests
//	      "cancelled"     by "cancel"
//	      "timeout"
//	      "lost"          the connection was lost
//	      "closed"        the client was closed
//	      "too large"
//	      "other"
//	    and "maybe" says that the other side may have handled the request. It may be
//	    left out where the kind is "error".
//
//	{"do":"parts", "call":2, "type":2, "data":"", "take":1}
//	    Makes a request for an answer in parts, and iterates over it. With "take", it
//	    stops after so many parts, before it asks for the next, and waits for "take"
//	    or "leave". The driver reports each of the parts, and then one of "end" (there
//	    are no more), "left" and "failed":
//	{"event":"part", "call":2, "type":3, "data":"..."}
//	{"event":"end", "call":2}
//	{"event":"left", "call":2}
//	{"do":"take", "call":2, "count":5}
//	    Goes on for so many parts more.
//	{"do":"leave", "call":2}
//	    Leaves the loop, which waits for this.
//
//	{"do":"cancel", "call":1}
//	    Gives up a request of either kind, which is then reported as "failed". If it
//	    has ended, nothing happens.
//
// The driver numbers the requests of the other side, from 1 on. Each has a handler,
// or whatever the language has, that runs beside the others and waits for commands:
//
//	{"event":"request", "request":1, "type":2, "data":"...", "parts":true}
//	    "parts": an answer in parts is welcome.
//	{"event":"cancelled", "request":1}
//	    It was cancelled, or its connection lost, before it had its last answer. The
//	    handler goes on waiting for commands.
//	{"do":"reply", "request":1, "type":3, "data":"..."}
//	{"do":"part", "request":1, "type":3, "data":"..."}
//	{"do":"end", "request":1}
//	{"do":"error", "request":1, "code":7, "text":"..."}
//	    Answers, and reports one of
//	{"event":"answered", "request":1}
//	{"event":"refused", "request":1, "kind":"not asked", "text":"..."}
//	    "kind" is "not asked", "cancelled", "lost", "too large" or "other".
//	{"do":"return", "request":1}
//	{"do":"raise", "request":1}
//	    Has the handler return, or fail with an exception, and reports nothing. Each
//	    handler ends by one of these, also after its last answer.
//
// And besides:
//
//	{"event":"connect"}
//	{"event":"disconnect"}
//	{"do":"send", "type":2, "data":"..."}
//	    Sends a message that is no request.
//	{"event":"message", "type":2, "data":"..."}
//	{"do":"close"}
//	    Closes the client, and ends with 0 after everything else was reported.
//
// The example programs make requests too, by themselves: see TestLanguagesRequest.

// line is a command or an event.
type line struct {
	Do      string   `json:"do,omitempty"`
	Event   string   `json:"event,omitempty"`
	Call    int      `json:"call,omitempty"`
	Request int      `json:"request,omitempty"`
	Type    int      `json:"type,omitempty"`
	Data    hexBytes `json:"data,omitempty"`
	Parts   bool     `json:"parts,omitempty"`
	Take    int      `json:"take,omitempty"`
	Count   int      `json:"count,omitempty"`
	Timeout int      `json:"timeout,omitempty"` // milliseconds
	Kind    string   `json:"kind,omitempty"`
	Code    int      `json:"code,omitempty"`
	Text    string   `json:"text,omitempty"`
	Maybe   bool     `json:"maybe,omitempty"`
}

// about is what events and commands of one kind, of a call or of a request have
// in common.
func (l line) about() string {
	switch {
	case l.Call > 0:
		return fmt.Sprint("call ", l.Call)
	case l.Request > 0 && l.Event != "request":
		return fmt.Sprint("request ", l.Request)
	}
	return l.Event
}

func (l line) String() string {
	text, _ := json.Marshal(l)
	return string(text)
}

// driver is a client in another language that runs and does what it is told.
type driver struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	wait func() error
	out  lockedBuffer // what it complains of

	sending sync.Mutex
	in      io.Writer

	mu     sync.Mutex
	change sync.Cond
	events map[string][]line // that have come, by what they are about
	ended  bool
}

// driver starts the driver of a language.
func (v *visit) driver(args ...string) *driver {
	v.t.Helper()
	d := &driver{t: v.t, name: v.name, events: make(map[string][]line)}
	d.change.L = &d.mu
	d.cmd = v.command(filepath.Join("testdata", v.language.driver), args...)
	d.cmd.Stderr = &d.out
	in, err := d.cmd.StdinPipe()
	noError(v.t, "StdinPipe", err)
	d.in = in
	out, err := d.cmd.StdoutPipe()
	noError(v.t, "StdoutPipe", err)
	noError(v.t, "starting "+d.name, d.cmd.Start())
	d.wait = background(func() error {
		err := d.read(out)
		return errors.Join(err, d.cmd.Wait())
	})
	v.t.Cleanup(func() {
		d.kill()
		if out := d.out.String(); out != "" {
			v.t.Errorf("%s complains: %s", d.name, out)
		}
	})
	return d
}

// kill returns when the driver is dead.
func (d *driver) kill() {
	d.cmd.Process.Kill()
	d.wait()
}

// read takes the events until there are no more.
func (d *driver) read(out io.Reader) error {
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.ended = true
		d.change.Broadcast()
	}()
	lines := bufio.NewReader(out) // a line may be long
	for {
		text, err := lines.ReadBytes('\n')
		if err == io.EOF && len(text) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		var e line
		if err := json.Unmarshal(text, &e); err != nil {
			return fmt.Errorf("%w in %q", err, text)
		}
		d.mu.Lock()
		d.events[e.about()] = append(d.events[e.about()], e)
		d.change.Broadcast()
		d.mu.Unlock()
	}
}

// do sends a command.
func (d *driver) do(l line) {
	d.sending.Lock()
	defer d.sending.Unlock()
	text, err := json.Marshal(l)
	if err == nil {
		_, err = d.in.Write(append(text, '\n'))
	}
	if err != nil {
		d.t.Errorf("command to %s: %v", d.name, err)
	}
}

// next waits for the next event about something.
func (d *driver) next(about string) line {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.events[about]) == 0 {
		if d.ended {
			d.t.Fatalf("%s has ended without an event about %s:\n%s", d.name, about, &d.out)
		}
		d.change.Wait()
	}
	e := d.events[about][0]
	d.events[about] = d.events[about][1:]
	return e
}

// want waits for the next event about what want is about, which must be want. Of
// the text only that of a ReplyError counts.
func (d *driver) want(want line) {
	d.t.Helper()
	got := d.next(want.about())
	if got.Kind != "error" {
		got.Text = ""
	} else {
		got.Maybe = false
	}
	if len(got.Data) == 0 {
		got.Data = nil
	}
	if len(want.Data) == 0 {
		want.Data = nil
	}
	if !reflect.DeepEqual(got, want) {
		d.t.Fatalf("%s says %.300v, want %.300v", d.name, got, want)
	}
}

// drop forgets the events about something that have come, and returns how many.
func (d *driver) drop(about string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer delete(d.events, about)
	return len(d.events[about])
}

// close has the client closed, and waits for the end of the driver.
func (d *driver) close() {
	d.t.Helper()
	d.do(line{Do: "close"})
	noError(d.t, "end of "+d.name, d.wait())
}

// eachDriver runs test for each language that has a driver, without encryption
// and with it.
func eachDriver(t *testing.T, test func(t *testing.T, v *visit)) {
	t.Helper()
	for _, g := range languages {
		if g.driver == "" {
			continue
		}
		for _, encrypted := range []bool{false, true} {
			g.visit(t, encrypted, test)
		}
	}
}

// driven is a driver and the end of its connection that is ours.
type driven struct {
	*driver
	peer   *ipc.Server // single plain, multi encrypted
	server *ipc.Server // as StartServer returned it
}

// connect starts a server and a driver that connects to it.
func (v *visit) connect(args ...string) *driven {
	v.t.Helper()
	d := &driven{server: v.startServer()}
	d.driver = v.driver(args...)
	d.peer = v.setup().join(v.t, d.server)
	d.want(line{Event: "connect"})
	return d
}

func (v *visit) setup() setup { return setup{multi: v.encrypted} }

func (v *visit) startServer(tweaks ...tweak) *ipc.Server {
	v.t.Helper()
	return v.setup().startServer(v.t, v.route, append(tweaks, withEncryption(v.encrypted))...)
}

// ask makes a request in the background. The driver's is for us to answer, ours for
// the driver.
func (d *driven) ask(ctx context.Context, msgType int, data []byte) (wait func() (*ipc.Message, error)) {
	var m *ipc.Message
	done := background(func() (err error) {
		m, err = d.peer.Request(ctx, msgType, data)
		return err
	})
	return func() (*ipc.Message, error) {
		err := done()
		return m, err
	}
}

// asked reads the next message, which must be this request.
func (d *driven) asked(msgType int, data []byte) *ipc.Message {
	d.t.Helper()
	m := next(d.t, d.peer)
	wantSame(d.t, m, msgType, data)
	if !m.IsRequest() {
		d.t.Fatalf("%s is no request", describe(m))
	}
	return m
}

// wantReply checks what an ask has returned.
func wantReply(t *testing.T, wait func() (*ipc.Message, error), msgType int, data []byte) {
	t.Helper()
	m, err := wait()
	noError(t, "Request", err)
	wantSame(t, m, msgType, data)
}

// check shows that requests work, both ways.
func (d *driven) check(call, request int) {
	d.t.Helper()
	d.do(line{Do: "request", Call: call, Type: 5, Data: hexBytes("question")})
	noError(d.t, "Reply", d.asked(5, []byte("question")).Reply(6, []byte("answer")))
	d.want(line{Event: "reply", Call: call, Type: 6, Data: hexBytes("answer")})
	wait := d.ask(context.Background(), 7, nil)
	d.want(line{Event: "request", Request: request, Type: 7})
	d.do(line{Do: "reply", Request: request, Type: 8})
	d.want(line{Event: "answered", Request: request})
	d.do(line{Do: "return", Request: request})
	m, err := wait()
	noError(d.t, "Request", err)
	wantSame(d.t, m, 8, nil)
}

// Hundreds of requests at once in each direction, answered in another order, have
// their own replies.
func TestLanguageRequests(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		const n = 300
		d := v.connect()
		replyTo := func(data []byte) []byte { return append([]byte("re: "), data...) }

		var waits []func() (*ipc.Message, error)
		for i := range n {
			waits = append(waits, d.ask(t.Context(), i+1, payload(i, i)))
			d.do(line{Do: "request", Call: i + 1, Type: i + 1, Data: payload(-i, i)})
		}
		var ours []*ipc.Message
		var theirs []line
		for range n {
			ours = append(ours, next(t, d.peer))
			theirs = append(theirs, d.next("request"))
		}
		rand.Shuffle(n, func(i, j int) { ours[i], ours[j] = ours[j], ours[i] })
		rand.Shuffle(n, func(i, j int) { theirs[i], theirs[j] = theirs[j], theirs[i] })
		for i := range n {
			noError(t, "Reply", ours[i].Reply(ours[i].MsgType+1, replyTo(ours[i].Data)))
			r := theirs[i]
			d.do(line{Do: "reply", Request: r.Request, Type: r.Type + 1, Data: replyTo(r.Data)})
			d.do(line{Do: "return", Request: r.Request})
		}
		for i := range n {
			d.want(line{Event: "reply", Call: i + 1, Type: i + 2, Data: replyTo(payload(-i, i))})
			wantReply(t, waits[i], i+2, replyTo(payload(i, i)))
			d.want(line{Event: "answered", Request: i + 1})
		}
		d.close()
	})
}

// Requests and replies may be as large as messages, but for 16 bytes.
func TestLanguageRequestsOfAnySize(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		const most = defaultMaxMsgSize - 16
		for i, size := range []int{0, 1, 100 << 10, most} {
			data := payload(i, size)
			d.do(line{Do: "request", Call: i + 1, Type: 1, Data: data})
			m := d.asked(1, data)
			noError(t, "Reply", m.Reply(2, data))
			d.want(line{Event: "reply", Call: i + 1, Type: 2, Data: data})

			wait := d.ask(t.Context(), 3, data)
			d.want(line{Event: "request", Request: i + 1, Type: 3, Data: data})
			d.do(line{Do: "reply", Request: i + 1, Type: 4, Data: data})
			d.want(line{Event: "answered", Request: i + 1})
			d.do(line{Do: "return", Request: i + 1})
			wantReply(t, wait, 4, data)
		}
		d.do(line{Do: "request", Call: 10, Type: 1, Data: payload(0, most+1)})
		d.want(line{Event: "failed", Call: 10, Kind: "too large"})
		wait := d.ask(t.Context(), 3, nil)
		d.want(line{Event: "request", Request: 5, Type: 3})
		d.do(line{Do: "reply", Request: 5, Type: 4, Data: payload(0, most+1)})
		d.want(line{Event: "refused", Request: 5, Kind: "too large"})
		d.do(line{Do: "reply", Request: 5, Type: 4}) // it can be answered yet
		d.want(line{Event: "answered", Request: 5})
		d.do(line{Do: "return", Request: 5})
		wantReply(t, wait, 4, nil)
		d.close()
	})
}

// partsOf collects what RequestParts yields.
func partsOf(ctx context.Context, peer *ipc.Server, msgType int) func() ([]*ipc.Message, error) {
	var all []*ipc.Message
	wait := background(func() error {
		for m, err := range peer.RequestParts(ctx, msgType, nil) {
			if err != nil {
				return err
			}
			all = append(all, m)
		}
		return nil
	})
	return func() ([]*ipc.Message, error) {
		err := wait()
		return all, err
	}
}

// An answer in parts comes whole and in order, with a last part, with an end after
// the last or with an error, and may have a single part or none.
func TestLanguageRequestsParts(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		ends := []struct {
			parts int
			with  string
		}{{100, "reply"}, {100, "end"}, {3, "error"}, {0, "reply"}, {0, "end"}, {0, "error"}}
		for i, end := range ends {
			call := i + 1
			d.do(line{Do: "parts", Call: call, Type: 1})
			m := d.asked(1, nil)
			for n := range end.parts {
				noError(t, "ReplyPart", m.ReplyPart(n+1, payload(n, n)))
			}
			switch end.with {
			case "reply":
				noError(t, "Reply", m.Reply(1000, payload(7, 7)))
			case "end":
				noError(t, "ReplyEnd", m.ReplyEnd())
			case "error":
				noError(t, "ReplyError", m.ReplyError(5, "enough"))
			}
			for n := range end.parts {
				d.want(line{Event: "part", Call: call, Type: n + 1, Data: payload(n, n)})
			}
			switch end.with {
			case "reply":
				d.want(line{Event: "part", Call: call, Type: 1000, Data: payload(7, 7)})
				fallthrough
			case "end":
				d.want(line{Event: "end", Call: call})
			case "error":
				d.want(line{Event: "failed", Call: call, Kind: "error", Code: 5, Text: "enough"})
			}

			wait := partsOf(t.Context(), d.peer, 1)
			d.want(line{Event: "request", Request: call, Type: 1, Parts: true})
			for n := range end.parts {
				d.do(line{Do: "part", Request: call, Type: n + 1, Data: payload(n, n)})
				d.want(line{Event: "answered", Request: call})
			}
			d.do(line{Do: end.with, Request: call, Type: 1000, Code: 5, Data: payload(7, 7), Text: "enough"})
			d.want(line{Event: "answered", Request: call})
			d.do(line{Do: "end", Request: call})
			d.want(line{Event: "refused", Request: call, Kind: "not asked"})
			d.do(line{Do: "return", Request: call})
			got, err := wait()
			want := end.parts
			if end.with == "reply" {
				want++
			}
			if len(got) != want {
				t.Fatalf("%d parts, want %d", len(got), want)
			}
			for n := range end.parts {
				wantSame(t, got[n], n+1, payload(n, n))
			}
			if end.with == "reply" {
				wantSame(t, got[end.parts], 1000, payload(7, 7))
			}
			if end.with == "error" {
				wantReplyError(t, err, 5, "enough")
			} else {
				noError(t, "RequestParts", err)
			}
		}
		d.check(100, len(ends)+1)
		d.close()
	})
}

func wantReplyError(t *testing.T, err error, code int, text string) {
	t.Helper()
	var e *ipc.ReplyError
	if !errors.As(err, &e) || e.Code != code || e.Text != text {
		t.Fatalf("error %v, want %q with code %d", err, text, code)
	}
}

// Errors go both ways as they are, and parts do not go where they are not welcome.
func TestLanguageRequestsErrors(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		for i, e := range []ipc.ReplyError{{Code: 1}, {Code: 1<<31 - 1, Text: "größer geht es nicht: 😀"}} {
			n := i + 1
			d.do(line{Do: "request", Call: n, Type: 1})
			noError(t, "ReplyError", d.asked(1, nil).ReplyError(e.Code, e.Text))
			d.want(line{Event: "failed", Call: n, Kind: "error", Code: e.Code, Text: e.Text})

			wait := d.ask(t.Context(), 1, nil)
			d.want(line{Event: "request", Request: n, Type: 1})
			for _, do := range []string{"part", "end"} {
				d.do(line{Do: do, Request: n, Type: 1})
				d.want(line{Event: "refused", Request: n, Kind: "not asked"})
			}
			d.do(line{Do: "error", Request: n, Code: e.Code, Text: e.Text})
			d.want(line{Event: "answered", Request: n})
			d.do(line{Do: "reply", Request: n, Type: 1})
			d.want(line{Event: "refused", Request: n, Kind: "not asked"})
			d.do(line{Do: "return", Request: n})
			_, err := wait()
			wantReplyError(t, err, e.Code, e.Text)
		}
		d.check(100, 3)
		d.close()
	})
}

// A handler that returns or fails has not replied, and the requester knows at once.
func TestLanguageRequestsNoReply(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		for i, do := range []string{"return", "raise"} {
			wait := d.ask(t.Context(), 1, nil)
			d.want(line{Event: "request", Request: 2*i + 1, Type: 1})
			d.do(line{Do: do, Request: 2*i + 1})
			_, err := wait()
			wantError(t, "Request", err, ipc.ErrNoReply)
			if errors.Is(err, ipc.ErrNotConnected) {
				t.Errorf("Request: %v, but the connection is not lost", err)
			}
			parts := partsOf(t.Context(), d.peer, 1)
			d.want(line{Event: "request", Request: 2*i + 2, Type: 1, Parts: true})
			d.do(line{Do: "part", Request: 2*i + 2, Type: 2})
			d.want(line{Event: "answered", Request: 2*i + 2})
			d.do(line{Do: do, Request: 2*i + 2})
			got, err := parts()
			wantError(t, "RequestParts", err, ipc.ErrNoReply)
			if len(got) != 1 {
				t.Errorf("%d parts, want 1", len(got))
			}
		}
		d.check(100, 5)
		d.close()
	})
}

// A client that has nothing which answers says so at once.
func TestLanguageRequestsNoHandler(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect("--no-handler")
		for range 10 {
			_, err := d.peer.Request(t.Context(), 1, []byte("anybody there?"))
			wantError(t, "Request", err, ipc.ErrNoReply)
		}
		noError(t, "Write", d.peer.Write(2, nil))
		d.want(line{Event: "message", Type: 2})
		d.close()
	})
}

// A Handler of ours that returns without a reply ends the request.
func TestLanguageRequestsOfHandler(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		v.startServer(func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			s.Handler = func(_ *ipc.Server, m *ipc.Message) {
				if m.MsgType == 1 {
					m.Reply(2, m.Data)
				}
			}
		})
		d := v.driver()
		for i := range 100 {
			d.do(line{Do: "request", Call: 2*i + 1, Type: 1, Data: payload(i, i)})
			d.do(line{Do: "parts", Call: 2*i + 2, Type: 3})
		}
		for i := range 100 {
			d.want(line{Event: "reply", Call: 2*i + 1, Type: 2, Data: payload(i, i)})
			d.want(line{Event: "failed", Call: 2*i + 2, Kind: "no reply", Maybe: true})
		}
		d.close()
	})
}

// A request that is given up ends for both sides, and its place comes back.
func TestLanguageRequestsCancelled(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		// By the driver, while it is being handled.
		for call, do := range []string{"request", "parts"} {
			d.do(line{Do: do, Call: call + 1, Type: 1})
			m := d.asked(1, nil)
			d.do(line{Do: "cancel", Call: call + 1})
			d.want(line{Event: "failed", Call: call + 1, Kind: "cancelled", Maybe: true})
			<-m.Context().Done()
			wantError(t, "Reply", m.Reply(1, nil), context.Canceled)
			d.do(line{Do: "cancel", Call: call + 1}) // once more is nothing
		}
		// By leaving the loop.
		d.do(line{Do: "parts", Call: 4, Type: 1, Take: 2})
		m := d.asked(1, nil)
		for n := range 5 {
			noError(t, "ReplyPart", m.ReplyPart(n+1, nil))
		}
		d.want(line{Event: "part", Call: 4, Type: 1})
		d.want(line{Event: "part", Call: 4, Type: 2})
		d.do(line{Do: "take", Call: 4, Count: 1})
		d.want(line{Event: "part", Call: 4, Type: 3})
		d.do(line{Do: "leave", Call: 4})
		d.want(line{Event: "left", Call: 4})
		<-m.Context().Done()
		wantError(t, "ReplyPart", m.ReplyPart(1, nil), context.Canceled)

		// By us.
		ctx, cancel := context.WithCancel(t.Context())
		wait := d.ask(ctx, 1, nil)
		d.want(line{Event: "request", Request: 1, Type: 1})
		cancel()
		_, err := wait()
		wantError(t, "Request", err, context.Canceled, ipc.ErrNoReply)
		d.want(line{Event: "cancelled", Request: 1})
		d.do(line{Do: "reply", Request: 1, Type: 2})
		d.want(line{Event: "refused", Request: 1, Kind: "cancelled"})
		d.do(line{Do: "return", Request: 1})
		left := background(func() error {
			for _, err := range d.peer.RequestParts(t.Context(), 1, nil) {
				return err
			}
			return nil
		})
		d.want(line{Event: "request", Request: 2, Type: 1, Parts: true})
		d.do(line{Do: "part", Request: 2, Type: 2})
		d.want(line{Event: "answered", Request: 2})
		noError(t, "RequestParts", left())
		d.want(line{Event: "cancelled", Request: 2})
		d.do(line{Do: "part", Request: 2, Type: 2})
		d.want(line{Event: "refused", Request: 2, Kind: "cancelled"})
		d.do(line{Do: "return", Request: 2})
		d.check(100, 3)
		if got := d.peer.Stats().RequestsCancelled; got != 5 {
			t.Errorf("RequestsCancelled = %d, want 5", got)
		}
		d.do(line{Do: "request", Call: 5, Type: 1, Timeout: 1})
		if e := d.next("call 5"); e.Event != "failed" || e.Kind != "timeout" { // whether it was sent or not
			t.Errorf("%s says %v, want a timeout", d.name, e)
		}
		d.close()
	})
}

// All the places come back that cancelled requests have had.
func TestLanguageRequestsPlacesComeBack(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		const rounds = 2
		for round := range rounds {
			first := 1 + round*places
			var held []*ipc.Message
			for i := range places {
				d.do(line{Do: "request", Call: first + i, Type: 1})
			}
			for range places {
				held = append(held, d.asked(1, nil))
			}
			for i := range places {
				d.do(line{Do: "cancel", Call: first + i})
			}
			for _, m := range held {
				<-m.Context().Done()
			}
		}
		for round := range rounds {
			ctx, cancel := context.WithCancel(t.Context())
			var waits []func() (*ipc.Message, error)
			for range places {
				waits = append(waits, d.ask(ctx, 1, nil))
			}
			for i := range places {
				d.want(line{Event: "request", Request: 1 + round*places + i, Type: 1})
			}
			cancel()
			for i, wait := range waits {
				wait()
				request := 1 + round*places + i
				d.want(line{Event: "cancelled", Request: request})
				d.do(line{Do: "return", Request: request})
			}
		}
		d.check(rounds*places+1, rounds*places+1)
		d.close()
	})
}

// places is how many requests may be unanswered in a direction of a connection.
const places = 1024

// More requests than there are places wait for their turn.
func TestLanguageRequestsWaitForAPlace(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		const n = places + 100
		var waits []func() (*ipc.Message, error)
		for i := range n {
			d.do(line{Do: "request", Call: i + 1, Type: i + 1})
			waits = append(waits, d.ask(t.Context(), i+1, nil))
		}
		// One that is given up while it waits was not sent.
		d.do(line{Do: "cancel", Call: n})
		d.want(line{Event: "failed", Call: n, Kind: "cancelled"})
		d.do(line{Do: "request", Call: n + 1, Type: n})
		var held []*ipc.Message
		for range places {
			held = append(held, next(t, d.peer))
		}
		// A message overtakes those that wait, and shows that no more were sent.
		d.do(line{Do: "send", Type: 5000})
		wantMessage(t, d.peer, 5000, nil)
		for range places {
			d.next("request")
		}
		for i := range n {
			if i >= places {
				held = append(held, next(t, d.peer))
				d.next("request")
			}
			if want := i + 1; held[i].MsgType != want {
				t.Fatalf("request of type %d, want %d", held[i].MsgType, want)
			}
			noError(t, "Reply", held[i].Reply(1, nil))
			d.do(line{Do: "reply", Request: i + 1, Type: 1})
			d.do(line{Do: "return", Request: i + 1})
		}
		for i := range n - 1 {
			d.want(line{Event: "reply", Call: i + 1, Type: 1})
		}
		d.want(line{Event: "reply", Call: n + 1, Type: 1})
		for _, wait := range waits {
			wantReply(t, wait, 1, nil)
		}
		d.close()
	})
}

// When the server goes, what was sent has no reply and is not sent again, and what
// was not is sent to the next one.
func TestLanguageRequestsServerLost(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		d.do(line{Do: "request", Call: 1, Type: 1})
		d.asked(1, nil)
		d.do(line{Do: "parts", Call: 2, Type: 2})
		noError(t, "ReplyPart", d.asked(2, nil).ReplyPart(3, nil))
		d.want(line{Event: "part", Call: 2, Type: 3})
		wait := d.ask(t.Context(), 1, nil)
		d.want(line{Event: "request", Request: 1, Type: 1})
		noError(t, "Close", d.server.Close())
		_, err := wait()
		wantError(t, "Request", err, ipc.ErrNoReply, ipc.ErrClosed)
		d.want(line{Event: "failed", Call: 1, Kind: "lost", Maybe: true})
		d.want(line{Event: "failed", Call: 2, Kind: "lost", Maybe: true})
		d.want(line{Event: "cancelled", Request: 1})
		d.do(line{Do: "reply", Request: 1, Type: 1})
		d.want(line{Event: "refused", Request: 1, Kind: "lost"})
		d.do(line{Do: "return", Request: 1})
		d.want(line{Event: "disconnect"})

		d.do(line{Do: "request", Call: 3, Type: 3})
		d.do(line{Do: "request", Call: 4, Type: 4})
		d.do(line{Do: "request", Call: 5, Type: 5})
		d.do(line{Do: "cancel", Call: 4})
		d.want(line{Event: "failed", Call: 4, Kind: "cancelled"})
		d.server = v.startServer()
		d.peer = v.setup().join(t, d.server)
		d.want(line{Event: "connect"})
		for _, n := range []int{3, 5} { // and neither 1, 2 nor 4
			noError(t, "Reply", d.asked(n, nil).Reply(n, nil))
			d.want(line{Event: "reply", Call: n, Type: n})
		}
		d.check(100, 2)
		d.close()
	})
}

// When the client is killed, what was sent to it may have been handled.
func TestLanguageRequestsClientKilled(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		d.do(line{Do: "request", Call: 1, Type: 1})
		m := d.asked(1, nil)
		wait := d.ask(t.Context(), 2, nil)
		parts := partsOf(t.Context(), d.peer, 3)
		d.next("request")
		d.next("request")
		d.kill()
		_, err := wait()
		wantError(t, "Request", err, ipc.ErrNoReply, ipc.ErrNotConnected)
		_, err = parts()
		wantError(t, "RequestParts", err, ipc.ErrNoReply, ipc.ErrNotConnected)
		<-m.Context().Done()
		wantError(t, "Reply", m.Reply(1, nil), ipc.ErrNotConnected)
	})
}

// A client that closes tells what has become of its requests.
func TestLanguageRequestsClosed(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		d := v.connect()
		d.do(line{Do: "request", Call: 1, Type: 1})
		d.do(line{Do: "parts", Call: 2, Type: 2})
		d.asked(1, nil)
		d.asked(2, nil)
		d.close()
		d.want(line{Event: "failed", Call: 1, Kind: "closed", Maybe: true})
		d.want(line{Event: "failed", Call: 2, Kind: "closed", Maybe: true})
	})
}
