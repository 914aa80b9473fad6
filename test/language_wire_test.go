//go:build unix

package ipc_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// drivenByHand is a driver and a server that speaks the protocol by hand.
type drivenByHand struct {
	*driver
	t         *testing.T
	ln        net.Listener
	encrypted bool
	max       uint32

	raw *wireConn
	ref *refPeer // if the connection is encrypted

	calls, asked int // numbers of the driver's
}

// byHand starts a driver and gives it a connection.
func (v *visit) byHand() *drivenByHand {
	v.t.Helper()
	s := v.byHandWithout(defaultMaxMsgSize)
	s.connect()
	return s
}

func (v *visit) byHandWithout(max uint32, args ...string) *drivenByHand {
	v.t.Helper()
	s := &drivenByHand{t: v.t, ln: v.route.listen(v.t), encrypted: v.encrypted, max: max}
	s.driver = v.driver(args...)
	return s
}

// open accepts the driver's next connection, and goes through the handshake up to
// step 4.
func (s *drivenByHand) open() {
	s.t.Helper()
	s.raw = accept(s.t, s.ln)
	limit := binary.BigEndian.AppendUint32(nil, s.max)
	if s.encrypted {
		s.ref = &refPeer{wireConn: s.raw}
		s.ref.exchangeAsServer()
		s.raw.send(head(refOverhead+4, 0)[:4], s.ref.seal(limit))
		return
	}
	s.raw.send([]byte{2, 0})
	s.raw.want("step 2", 0)
	s.raw.send([]byte{0, 0, 0, 4}, limit)
}

// connect is open, with what follows of a client that knows requests: step 5 and
// its announcement, with one write. It then announces so many requests.
func (s *drivenByHand) connect() {
	s.t.Helper()
	s.accept()
	s.announce(places)
}

// accept is connect without our announcement.
func (s *drivenByHand) accept() {
	s.t.Helper()
	s.open()
	want := append(make([]byte, 4), announcement...)
	size := len(want)
	if s.encrypted {
		size += refOverhead
	}
	step5 := make([]byte, 1+4+size)
	n, err := s.raw.Read(step5) // once
	length := step5[1:5]
	if err != nil || n != len(step5) || step5[0] != 0 || int(binary.BigEndian.Uint32(length)) != size {
		s.t.Fatalf("step 5: read %x (%v), want it and a frame of %d bytes", step5[:n], err, size)
	}
	body := step5[5:]
	if s.encrypted {
		body, err = s.ref.unseal(body)
		noError(s.t, "opening the announcement", err)
	}
	if !bytes.Equal(body, want) {
		s.t.Fatalf("first frame %x, want the announcement %x", body, want)
	}
	s.driver.want(line{Event: "connect"})
}

// announcementOf is the data of the announcement of a peer that accepts so many
// requests.
func announcementOf(requests uint32) []byte {
	b := append([]byte{1}, "ipc\x01\x00\x00\x00"...)
	b = binary.BigEndian.AppendUint32(b, requests)
	return append(b, 0, 0, 0, 0)
}

func (s *drivenByHand) announce(requests uint32) { s.send(announcementOf(requests)) }

// lose ends the connection.
func (s *drivenByHand) lose() {
	s.t.Helper()
	s.raw.Close()
	s.driver.want(line{Event: "disconnect"})
}

// send sends control frames with this data.
func (s *drivenByHand) send(data ...[]byte) {
	s.t.Helper()
	var frames []byte
	for _, d := range data {
		frames = append(frames, s.encode(0, d)...)
	}
	s.raw.send(frames)
}

func (s *drivenByHand) encode(msgType int, data []byte) []byte {
	if s.encrypted {
		return s.ref.encode(msgType, data)
	}
	return encode(msgType, data)
}

// frame reads the next frame.
func (s *drivenByHand) frame() (msgType int, data []byte) {
	s.t.Helper()
	if !s.encrypted {
		return s.raw.frame()
	}
	plain, err := s.ref.unseal(s.ref.nextFrame()[4:])
	noError(s.t, "opening a frame", err)
	return int(binary.BigEndian.Uint32(plain)), plain[4:]
}

// want reads the next frame, which must be this.
func (s *drivenByHand) want(msgType int, data []byte) {
	s.t.Helper()
	if gotType, got := s.frame(); gotType != msgType || !bytes.Equal(got, data) {
		s.t.Fatalf("frame of type %d, %d bytes, %.40x, want type %d, %d bytes, %.40x",
			gotType, len(got), got, msgType, len(data), data)
	}
}

// control is the data of a control frame.
func controlOf(kind wire.Kind, flags uint8, n uint32, id uint64, payload string) []byte {
	b := []byte{byte(kind), flags, 0, 0}
	b = binary.BigEndian.AppendUint32(b, n)
	b = binary.BigEndian.AppendUint64(b, id)
	return append(b, payload...)
}

// flush has the driver send a message, and wants it to be the next frame: nothing
// else was to be sent.
func (s *drivenByHand) flush() {
	s.t.Helper()
	s.do(line{Do: "send", Type: 9})
	s.want(9, nil)
}

// wantRead returns when the driver has read all that was sent to it.
func (s *drivenByHand) wantRead() {
	s.t.Helper()
	s.raw.send(s.encode(7, nil))
	s.driver.want(line{Event: "message", Type: 7})
}

// check shows that requests go both ways, on a connection whose newest requests
// have these ids.
func (s *drivenByHand) check(ours, theirs uint64) {
	s.t.Helper()
	s.calls++
	s.do(line{Do: "request", Call: s.calls, Type: 1, Data: hexBytes("to you")})
	s.want(0, controlOf(wire.Request, 0, 1, theirs+1, "to you"))
	s.send(controlOf(wire.Reply, 0, 2, theirs+1, "from me"))
	s.driver.want(line{Event: "reply", Call: s.calls, Type: 2, Data: hexBytes("from me")})
	s.asked++
	s.send(controlOf(wire.Request, 0, 3, ours+1, "to me"))
	s.driver.want(line{Event: "request", Request: s.asked, Type: 3, Data: hexBytes("to me")})
	s.do(line{Do: "reply", Request: s.asked, Type: 4, Data: hexBytes("from you")})
	s.want(0, controlOf(wire.Reply, 0, 4, ours+1, "from you"))
	s.driver.want(line{Event: "answered", Request: s.asked})
	s.do(line{Do: "return", Request: s.asked})
}

// Clients announce themselves with step 5, on each connection, if an announcement
// is a frame that the server takes.
func TestLanguageWireAnnounces(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHandWithout(16)
		s.accept()
		s.lose()
		s.accept()
		s.lose()

		s.max = 15
		s.open()
		s.raw.want("step 5", 0)
		s.driver.want(line{Event: "connect"})
		s.do(line{Do: "request", Call: 1, Type: 1})
		s.driver.want(line{Event: "failed", Call: 1, Kind: "no requests"})
		s.flush()
		s.close()
	})
}

// A server that does not announce itself gets the announcement, and messages.
func TestLanguageWireOldServer(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHandWithout(defaultMaxMsgSize)
		s.accept()
		s.do(line{Do: "request", Call: 1, Type: 1})
		s.do(line{Do: "parts", Call: 2, Type: 1})
		s.do(line{Do: "request", Call: 3, Type: 1})
		s.do(line{Do: "cancel", Call: 3})
		s.driver.want(line{Event: "failed", Call: 3, Kind: "cancelled"})
		s.send( // which is nothing of an old server's, and before an announcement nothing at all
			controlOf(wire.Request, 0, 1, 1, ""), controlOf(wire.Reply, 0, 1, 1, ""),
			controlOf(wire.Reply, 0, 1, 1<<60, ""), []byte{byte(wire.Error), 0}, []byte{1, 'x'}, nil)
		s.raw.send(s.encode(7, []byte("a message")))
		s.driver.want(line{Event: "message", Type: 7, Data: hexBytes("a message")})
		s.flush()
		s.driver.want(line{Event: "failed", Call: 1, Kind: "no requests"})
		s.driver.want(line{Event: "failed", Call: 2, Kind: "no requests"})
		s.do(line{Do: "request", Call: 4, Type: 1})
		s.driver.want(line{Event: "failed", Call: 4, Kind: "no requests"})
		s.flush()

		s.announce(places) // as late as it likes
		s.wantRead()
		s.calls = 4
		s.check(0, 0)

		s.lose()
		s.accept()
		s.announce(0)
		s.do(line{Do: "request", Call: 6, Type: 1})
		s.driver.want(line{Event: "failed", Call: 6, Kind: "no requests"})
		s.close()
	})
}

// The server says how many requests may be unanswered. One that was given up counts
// until the server has ended it, and what was sent is never sent again.
func TestLanguageWirePlaces(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHandWithout(defaultMaxMsgSize)
		s.accept()
		s.announce(2)
		for call := range 6 {
			s.do(line{Do: "request", Call: call + 1, Type: call + 1})
		}
		s.want(0, controlOf(wire.Request, 0, 1, 1, ""))
		s.want(0, controlOf(wire.Request, 0, 2, 2, ""))
		s.flush()
		s.do(line{Do: "cancel", Call: 1})
		s.want(0, controlOf(wire.Cancel, 0, 0, 1, ""))
		s.driver.want(line{Event: "failed", Call: 1, Kind: "cancelled", Maybe: true})
		s.do(line{Do: "cancel", Call: 4}) // which was not sent
		s.driver.want(line{Event: "failed", Call: 4, Kind: "cancelled"})
		s.flush()
		s.send(controlOf(wire.Reply, 0, 1, 1, "that was close")) // a final of any kind
		s.want(0, controlOf(wire.Request, 0, 3, 3, ""))
		s.flush()
		s.send(controlOf(wire.Error, 0, 0, 3, ""))
		s.driver.want(line{Event: "failed", Call: 3, Kind: "no reply", Maybe: true})
		s.want(0, controlOf(wire.Request, 0, 5, 4, ""))
		s.lose()
		s.driver.want(line{Event: "failed", Call: 2, Kind: "lost", Maybe: true})
		s.driver.want(line{Event: "failed", Call: 5, Kind: "lost", Maybe: true})

		s.accept()
		s.announce(1)
		s.want(0, controlOf(wire.Request, 0, 6, 1, ""))
		s.send(controlOf(wire.Reply, 0, 1, 1, ""))
		s.driver.want(line{Event: "reply", Call: 6, Type: 1})
		s.calls = 6
		s.check(0, 1)
		s.close()
	})
}

// A request that is not answered in time is cancelled.
func TestLanguageWireTimeout(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHand()
		s.check(0, 0) // the announcement has come, so the request goes out at once
		s.do(line{Do: "request", Call: 2, Type: 1, Timeout: 50})
		s.want(0, controlOf(wire.Request, 0, 1, 2, ""))
		s.want(0, controlOf(wire.Cancel, 0, 0, 2, ""))
		s.driver.want(line{Event: "failed", Call: 2, Kind: "timeout", Maybe: true})
		s.send(controlOf(wire.Error, 0, 0, 2, ""))
		s.calls = 2
		s.check(1, 2)

		s.lose() // and what could not be sent in time is not handled
		s.do(line{Do: "request", Call: 4, Type: 1, Timeout: 1})
		s.driver.want(line{Event: "failed", Call: 4, Kind: "timeout"})
		s.connect()
		s.calls = 4
		s.check(0, 0)
		s.close()
	})
}

// A request of which the connection took a part only was not sent. It goes out on
// the next, before those behind it: those that had a place, and those that had not.
func TestLanguageWireTornRequest(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHandWithout(defaultMaxMsgSize)
		s.accept()
		s.announce(2)
		large := payload(0, 2<<20)
		s.do(line{Do: "request", Call: 1, Type: 1, Data: large})
		s.do(line{Do: "request", Call: 3, Type: 3})
		s.do(line{Do: "cancel", Call: 3})
		s.driver.want(line{Event: "failed", Call: 3, Kind: "cancelled"})
		s.do(line{Do: "request", Call: 2, Type: 2})
		s.do(line{Do: "send", Type: 9})
		s.do(line{Do: "send", Type: 10})
		s.do(line{Do: "request", Call: 4, Type: 4})
		s.do(line{Do: "request", Call: 5, Type: 5})
		s.do(line{Do: "cancel", Call: 5})
		s.driver.want(line{Event: "failed", Call: 5, Kind: "cancelled"}) // so those before have begun
		s.raw.receive(100)
		s.lose()
		s.do(line{Do: "send", Type: 11})
		s.do(line{Do: "send", Type: 12})
		s.do(line{Do: "request", Call: 6, Type: 6})
		s.do(line{Do: "cancel", Call: 6})
		s.driver.want(line{Event: "failed", Call: 6, Kind: "cancelled"}) // likewise
		s.connect()
		for n := 9; n <= 12; n++ {
			s.want(n, nil) // messages do not wait for an announcement
		}
		s.want(0, controlOf(wire.Request, 0, 1, 1, string(large)))
		s.want(0, controlOf(wire.Request, 0, 2, 2, ""))
		s.want(0, controlOf(wire.Request, 0, 4, 3, ""))
		s.send(controlOf(wire.Reply, 0, 1, 2, ""), controlOf(wire.Reply, 0, 1, 1, ""))
		s.driver.want(line{Event: "reply", Call: 2, Type: 1})
		s.driver.want(line{Event: "reply", Call: 1, Type: 1})
		s.close()
	})
}

// A request that is given up behind another, which the connection has not taken
// whole yet, is not sent, and its place is free.
func TestLanguageWireTakenBack(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHandWithout(defaultMaxMsgSize)
		s.accept()
		s.announce(2)
		large := payload(0, 2<<20)
		s.do(line{Do: "request", Call: 1, Type: 1, Data: large})
		s.do(line{Do: "parts", Call: 2, Type: 2})
		s.do(line{Do: "request", Call: 4, Type: 4})
		s.do(line{Do: "cancel", Call: 4})
		s.driver.want(line{Event: "failed", Call: 4, Kind: "cancelled"}) // so 2 has begun
		s.do(line{Do: "cancel", Call: 2})
		s.driver.want(line{Event: "failed", Call: 2, Kind: "cancelled"})
		s.do(line{Do: "request", Call: 3, Type: 3})
		s.want(0, controlOf(wire.Request, 0, 1, 1, string(large)))
		// The id of the one that was taken back may be skipped, or not.
		msgType, data := s.frame()
		if id := binary.BigEndian.Uint64(data[8:]); id < 2 || msgType != 0 || !bytes.Equal(data, controlOf(wire.Request, 0, 3, id, "")) {
			t.Fatalf("frame of type %d, %x, want request 3", msgType, data)
		}
		s.flush()
		s.close()
	})
}

// Ids have 64 bits, all of which count.
func TestLanguageWireLargeIDs(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHand()
		ids := []uint64{1<<53 - 1, 1 << 53, 1<<53 + 1, 1<<53 + 2, 1<<63 - 1, 1 << 63, 1<<64 - 2, 1<<64 - 1}
		for i, id := range ids {
			s.send(controlOf(wire.Request, 0, 1, id, ""))
			s.driver.want(line{Event: "request", Request: i + 1, Type: 1})
		}
		for i, id := range slices.Backward(ids) {
			if id == 1<<53+1 {
				s.send(controlOf(wire.Cancel, 0, 0, id, ""))
				s.driver.want(line{Event: "cancelled", Request: i + 1})
				s.do(line{Do: "return", Request: i + 1})
				s.want(0, controlOf(wire.Error, 0, 0, id, ""))
				continue
			}
			s.do(line{Do: "reply", Request: i + 1, Type: 2})
			s.want(0, controlOf(wire.Reply, 0, 2, id, ""))
			s.driver.want(line{Event: "answered", Request: i + 1})
			s.do(line{Do: "return", Request: i + 1})
		}
		s.close()
	})
}

// What an answer means.
func TestLanguageWireAnswers(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHand()
		none := line{Event: "failed", Kind: "no reply", Maybe: true}
		end := line{Event: "end"}
		tests := []struct {
			what  string
			do    string
			frame []byte // with id 0
			want  line
		}{
			{"no reply", "request", controlOf(wire.Error, 0, 0, 0, ""), none},
			{"no reply with a text", "parts", controlOf(wire.Error, 0, 0, 0, "gone fishing"), none},
			{"end of no parts", "request", controlOf(wire.Reply, 0, 0, 0, ""), none},
			{"end of parts with data", "parts", controlOf(wire.Reply, 0, 0, 0, "ignored"), end},
			{"error that is no UTF-8", "request", controlOf(wire.Error, 0, 3, 0, "a\xffb"),
				line{Event: "failed", Kind: "error", Code: 3, Text: "a\ufffdb"}},
			{"unknown flags", "request", append([]byte{3, 0xff, 0xff, 0xff}, controlOf(wire.Reply, 0, 2, 0, "x")[4:]...),
				line{Event: "reply", Type: 2, Data: hexBytes("x")}},
		}
		for i, test := range tests {
			call, id := i+1, uint64(i+1)
			flags := uint8(0)
			if test.do == "parts" {
				flags = wire.PartsWelcome
			}
			s.do(line{Do: test.do, Call: call, Type: 1})
			s.want(0, controlOf(wire.Request, flags, 1, id, ""))
			binary.BigEndian.PutUint64(test.frame[8:], id)
			s.send(test.frame)
			test.want.Call = call
			s.driver.want(test.want)
		}
		s.calls = len(tests)
		s.check(0, uint64(len(tests)))
		s.close()
	})
}

// prepare gives the driver four requests over a new connection: 1 takes one reply,
// 2 takes parts, 3 takes one and was given up, and 4 has ended.
func (s *drivenByHand) prepare() {
	s.t.Helper()
	first := s.calls + 1
	s.calls += 4
	s.do(line{Do: "request", Call: first, Type: 1})
	s.want(0, controlOf(wire.Request, 0, 1, 1, ""))
	s.do(line{Do: "parts", Call: first + 1, Type: 1})
	s.want(0, controlOf(wire.Request, wire.PartsWelcome, 1, 2, ""))
	s.do(line{Do: "request", Call: first + 2, Type: 1})
	s.want(0, controlOf(wire.Request, 0, 1, 3, ""))
	s.do(line{Do: "cancel", Call: first + 2})
	s.want(0, controlOf(wire.Cancel, 0, 0, 3, ""))
	s.do(line{Do: "request", Call: first + 3, Type: 1})
	s.want(0, controlOf(wire.Request, 0, 1, 4, ""))
	s.send(controlOf(wire.Reply, 0, 1, 4, ""))
	s.driver.want(line{Event: "reply", Call: first + 3, Type: 1})
}

// requestsOf is requests to the driver with these ids.
func requestsOf(ids ...uint64) (frames [][]byte) {
	for _, id := range ids {
		frames = append(frames, controlOf(wire.Request, 0, 1, id, ""))
	}
	return frames
}

// What breaks the rules ends the connection, which comes back.
func TestLanguageWireCloses(t *testing.T) {
	parallel(t)
	tests := map[string][][]byte{
		"a reply to no request":             {controlOf(wire.Reply, 0, 1, 5, "")},
		"a part for no request":             {controlOf(wire.Part, 0, 1, 5, "")},
		"an error for no request":           {controlOf(wire.Error, 0, 1, 1<<63, "")},
		"a cancel of no request":            {controlOf(wire.Cancel, 0, 0, 1, "")},
		"a reply to request 0":              {controlOf(wire.Reply, 0, 1, 0, "")},
		"a cancel of request 0":             {controlOf(wire.Cancel, 0, 0, 0, "")},
		"a cancel of none after one":        append(requestsOf(5), controlOf(wire.Cancel, 0, 0, 6, "")),
		"a request with id 0":               requestsOf(0),
		"a request with the same id":        requestsOf(3, 3),
		"a request with a smaller id":       requestsOf(1<<53+1, 1<<53),
		"a request of type 0":               {controlOf(wire.Request, 0, 0, 1, "")},
		"a request of a negative type":      {controlOf(wire.Request, 0, 1<<31, 1, "")},
		"a part of type 0":                  {controlOf(wire.Part, 0, 0, 2, "")},
		"a part of a negative type":         {controlOf(wire.Part, 0, 1<<31, 2, "")},
		"a reply of a negative type":        {controlOf(wire.Reply, 0, 1<<31, 1, "")},
		"an error with a negative code":     {controlOf(wire.Error, 0, 1<<31, 1, "")},
		"a part that is not welcome":        {controlOf(wire.Part, 0, 1, 1, "")},
		"a part of what was given up":       {controlOf(wire.Part, 0, 1, 3, "")},
		"more requests than were announced": requestsOf(counting(places + 1)...),
		"an announcement of 1 byte":         {{1}},
		"an announcement of 2 bytes":        {{1, 'i'}},
		"an announcement of 15 bytes":       {announcementOf(1)[:15]},
	}
	for kind := wire.Request; kind <= wire.Cancel; kind++ {
		tests[fmt.Sprintf("15 bytes of kind %d", kind)] = [][]byte{controlOf(kind, 0, 1, 1, "")[:15]}
		tests[fmt.Sprintf("1 byte of kind %d", kind)] = [][]byte{{byte(kind)}}
	}
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHand()
		for what, frames := range tests {
			s.prepare()
			s.send(frames...)
			closed := background(func() error {
				s.raw.wantDropped()
				return nil
			})
			if e := s.next("disconnect"); e.Event != "disconnect" {
				t.Fatalf("%s: %+v", what, e)
			}
			closed()
			s.driver.want(line{Event: "failed", Call: s.calls - 3, Kind: "lost", Maybe: true})
			s.driver.want(line{Event: "failed", Call: s.calls - 2, Kind: "lost", Maybe: true})
			s.connect()
		}
		s.asked = s.drop("request")
		s.check(0, 0)
		s.close()
	})
}

// counting returns 1 to n.
func counting(n int) (all []uint64) {
	for i := range n {
		all = append(all, uint64(i+1))
	}
	return all
}

// What says nothing, or comes too late, is ignored.
func TestLanguageWireIgnores(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHandWithout(defaultMaxMsgSize)
		s.accept()
		s.send([]byte("\x01ipc\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")) // of version 0, which takes no requests
		s.send(append(announcementOf(places), "and more"...))
		s.prepare()
		s.send(requestsOf(1)...)
		s.driver.want(line{Event: "request", Request: 1, Type: 1})
		s.do(line{Do: "return", Request: 1})
		s.want(0, controlOf(wire.Error, 0, 0, 1, ""))
		ignored := [][]byte{
			nil, {0}, {7}, {255}, controlOf(0, 0, 0, 0, ""), controlOf(7, 1, 1, 9, "data"), controlOf(255, 0, 0, 0, ""),
			{1, 'x'}, {1, 'i', 'p', 'x'}, []byte("\x01IPC and more than 16 bytes"),
			announcementOf(1 << 31), announcementOf(1), announcementOf(0), // the first counts
			controlOf(wire.Part, 0, 1, 4, ""), controlOf(wire.Reply, 0, 1, 4, ""), controlOf(wire.Error, 0, 1, 4, ""),
			controlOf(wire.Cancel, 0, 0, 1, ""), controlOf(wire.Cancel, 0, 1<<31, 1, "with data"),
		}
		for range 2 {
			s.send(ignored...)
		}
		s.wantRead()
		s.asked = 1
		s.check(1, 4)
		s.send(controlOf(wire.Reply, 0, 1, 1, ""), controlOf(wire.Reply, 0, 1, 2, ""), controlOf(wire.Reply, 0, 1, 3, ""))
		s.driver.want(line{Event: "reply", Call: 1, Type: 1})
		s.driver.want(line{Event: "part", Call: 2, Type: 1})
		s.driver.want(line{Event: "end", Call: 2})
		s.driver.want(line{Event: "failed", Call: 3, Kind: "cancelled", Maybe: true})
		s.close()
	})
}

// Messages and requests leave in the order in which the program sends them.
func TestLanguageWireOrder(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHand()
		s.check(0, 0) // the announcement has come
		const n = 100
		for i := range n {
			s.do(line{Do: "request", Call: i + 2, Type: i + 1})
			s.do(line{Do: "send", Type: i + 1})
		}
		for i := range n {
			s.want(0, controlOf(wire.Request, 0, uint32(i+1), uint64(i+2), ""))
			s.want(i+1, nil)
		}
		s.close()
	})
}

// sizeOfPart is that of the parts that fillParts sends.
const sizeOfPart = 64 << 10

// fillParts sends numbered parts of a request, of whose loop nobody takes them, until
// the connection takes no more. It returns how many, and what is left of the last.
func (s *drivenByHand) fillParts(id uint64) (sent int, rest []byte) {
	s.t.Helper()
	const most = 64 << 20
	for waits := 0; waits < 3; {
		if len(rest) == 0 {
			if sent++; sent*sizeOfPart > most {
				s.t.Fatalf("the server is not held up within %d bytes", most)
			}
			rest = s.encode(0, controlOf(wire.Part, 0, uint32(sent), id, string(payload(sent, sizeOfPart))))
		}
		s.raw.SetWriteDeadline(time.Now().Add(40 * time.Millisecond))
		n, err := s.raw.Write(rest)
		rest = rest[n:]
		if errors.Is(err, os.ErrDeadlineExceeded) { // one may only have been slow itself
			waits++
		} else {
			noError(s.t, "raw write", err)
			waits = 0
		}
	}
	s.raw.SetWriteDeadline(time.Time{})
	return sent, rest
}

// A loop that does not take the parts holds up the server, and loses none. Leaving
// it lets go of the server.
func TestLanguageWireUnreadParts(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		s := v.byHand()
		for call := 1; call <= 2; call++ {
			s.do(line{Do: "parts", Call: call, Type: 1, Take: 1})
			s.want(0, controlOf(wire.Request, wire.PartsWelcome, 1, uint64(call), ""))
		}
		sent, rest := s.fillParts(1)
		s.do(line{Do: "take", Call: 1, Count: sent})
		s.raw.send(rest, s.encode(0, controlOf(wire.Reply, 0, 0, 1, "")))
		for n := range sent {
			s.driver.want(line{Event: "part", Call: 1, Type: n + 1, Data: payload(n+1, sizeOfPart)})
		}
		s.driver.want(line{Event: "end", Call: 1})

		_, rest = s.fillParts(2)
		s.driver.want(line{Event: "part", Call: 2, Type: 1, Data: payload(1, sizeOfPart)})
		s.do(line{Do: "leave", Call: 2})
		s.driver.want(line{Event: "left", Call: 2})
		s.raw.send(rest)
		s.want(0, controlOf(wire.Cancel, 0, 0, 2, ""))
		s.calls = 2
		s.check(0, 2)
		s.close()
	})
}

// A client that does not announce itself is never sent a control frame: older ones
// hand them to their program.
func TestOldClientGetsNoControlFrames(t *testing.T) {
	request := controlOf(wire.Request, 0, 1, 1, "")
	tests := map[string][]byte{
		"silent":                nil,
		"sends a message":       encode(5, nil),
		"sends control frames":  slices.Concat(encode(0, nil), encode(0, request), encode(0, []byte("control"))),
		"announces too late":    slices.Concat(encode(5, nil), encode(0, announcementOf(places)), encode(0, request)),
		"announces a version 0": slices.Concat(encode(0, append([]byte("\x01ipc"), make([]byte, 12)...)), encode(0, request)),
	}
	for what, sends := range tests {
		t.Run(what, func(t *testing.T) {
			eachBubble(t, func(t *testing.T, s setup) {
				p := wireClientPair(t, s)
				if sends != nil {
					p.raw.send(sends)
				}
				peer := p.side.(*ipc.Server)
				_, err := peer.Request(t.Context(), 1, nil)
				wantError(t, "Request", err, ipc.ErrNoRequests)
				for _, err := range peer.RequestParts(t.Context(), 1, nil) {
					wantError(t, "RequestParts", err, ipc.ErrNoRequests)
				}
				p.raw.wantSilence(what)
				noError(t, "Write", p.Write(7, nil))
				p.raw.wantFrame(7, nil)
				noError(t, "Close", p.Close())
				if more := p.raw.wantDropped(); len(more) > 0 {
					t.Errorf("%v sent before the end", more)
				}
			})
		})
	}
}
