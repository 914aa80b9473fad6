package ipc

import (
	"errors"
	"slices"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// controlFrame returns the data of a control frame.
func controlFrame(kind wire.Kind, flags byte, n uint32, id uint64, payload ...byte) []byte {
	b := make([]byte, wire.ControlHeaderSize, wire.ControlHeaderSize+len(payload))
	wire.PutControlHeader(b, &wire.Control{Kind: kind, Flags: flags, N: n, ID: id}, len(payload))
	return append(b, payload...)[wire.HeaderSize:]
}

func announcement() []byte { return wire.Announcement()[wire.HeaderSize:] }

// What a reader makes of control frames, before and after the announcement.
func TestCheck(t *testing.T) {
	const ignored, closes = wire.Kind(0), wire.Kind(255)
	short := controlFrame(wire.Request, 0, 1, 1)[:15]
	type step struct {
		data []byte
		want wire.Kind
	}
	announced := step{announcement(), wire.Announce}
	for name, tt := range map[string]struct {
		server bool
		steps  []step
	}{
		"a server, before": {true, []step{{short, ignored}, {announcement(), ignored}, {announcement()[:15], ignored}, {controlFrame(wire.Request, 0, 1, 1), ignored}}},
		"a client, before": {false, []step{
			{short, ignored}, {controlFrame(wire.Reply, 0, 1, 1), ignored}, {nil, ignored},
			announced, {announcement(), ignored}, {short, closes},
		}},
		"requests": {true, []step{
			announced, {announcement(), ignored}, {controlFrame(7, 0, 1, 1), ignored},
			{controlFrame(wire.Request, 255, 1, 5), wire.Request}, {controlFrame(wire.Request, 0, 1, 5), closes},
		}},
		"an id that is smaller": {true, []step{
			announced, {controlFrame(wire.Request, 0, 1, 1<<60), wire.Request}, {controlFrame(wire.Request, 0, 1, 1<<60-1), closes},
		}},
		"the id 0":          {true, []step{announced, {controlFrame(wire.Request, 0, 1, 0), closes}}},
		"the type 0":        {true, []step{announced, {controlFrame(wire.Request, 0, 0, 1), closes}}},
		"a cancel":          {true, []step{announced, {controlFrame(wire.Request, 0, 1, 5), wire.Request}, {controlFrame(wire.Cancel, 0, 0, 3), wire.Cancel}, {controlFrame(wire.Cancel, 0, 0, 6), closes}}},
		"a cancel of 0":     {true, []step{announced, {controlFrame(wire.Cancel, 0, 0, 0), closes}}},
		"a reply":           {false, []step{announced, {controlFrame(wire.Reply, 0, 0, 2), wire.Reply}, {controlFrame(wire.Reply, 0, 1, 3), closes}}},
		"a part":            {false, []step{announced, {controlFrame(wire.Part, 0, 1, 2), wire.Part}, {controlFrame(wire.Part, 0, 1, 3), closes}}},
		"an error":          {false, []step{announced, {controlFrame(wire.Error, 0, 0, 2), wire.Error}, {controlFrame(wire.Error, 0, 1, 3), closes}}},
		"a reply to 0":      {false, []step{announced, {controlFrame(wire.Reply, 0, 1, 0), closes}}},
		"a short announce":  {true, []step{{announcement()[:15], closes}}},
		"another kind of 1": {true, []step{{[]byte{1, 'i', 'p', 'x'}, ignored}}},
	} {
		x := exchange{server: tt.server}
		x.issued.Store(2)
		for i, step := range tt.steps {
			first := i == 0 && name != "a server, before"
			c, err := x.check(step.data, first)
			switch {
			case step.want == closes && !errors.Is(err, ErrProtocol):
				t.Errorf("%s, step %d: %v, want ErrProtocol", name, i, err)
			case step.want != closes && (err != nil || c.Kind != step.want):
				t.Errorf("%s, step %d: kind %d, %v, want kind %d", name, i, c.Kind, err, step.want)
			}
		}
	}
}

// A peer may have as many unanswered requests as were announced, and one more when
// one is answered.
func TestCheckPlaces(t *testing.T) {
	x := exchange{announced: true}
	for id := uint64(1); id <= wire.MaxRequests; id++ {
		if _, err := x.check(controlFrame(wire.Request, 0, 1, id), false); err != nil {
			t.Fatalf("request %d: %v", id, err)
		}
	}
	x.open.Add(-1)
	if _, err := x.check(controlFrame(wire.Request, 0, 1, 5000), false); err != nil {
		t.Error("after an answer:", err)
	}
	if _, err := x.check(controlFrame(wire.Request, 0, 1, 5001), false); !errors.Is(err, ErrProtocol) {
		t.Errorf("one too many: %v, want ErrProtocol", err)
	}
}

// The announcement of a client counts as its first frame only.
func TestDeafAfterAnotherFrame(t *testing.T) {
	for _, frames := range []int{0, 1, 2} {
		for _, server := range []bool{false, true} {
			x := exchange{server: server}
			x.endRead(frames)
			if want := server && frames > 0; x.deaf != want || x.began != (frames > 0) {
				t.Errorf("server %t, %d frames: deaf %t, want %t", server, frames, x.deaf, want)
			}
		}
	}
}

// What comes with a frame that breaks the rules, and after it, is not delivered.
func TestTruncate(t *testing.T) {
	for n := range 8 {
		var b batch
		for i := range 7 {
			b.copy(i+1, content(i, []int{10, 5000}[i/2%2]), 1)
		}
		b.closeSlab()
		b.truncate(n)
		var types []int
		bytes := 0
		for _, slab := range b.slabs {
			if len(slab) == 0 {
				t.Error("an empty slab")
			}
			for i := range slab {
				types = append(types, slab[i].MsgType)
				bytes += len(slab[i].Data)
			}
		}
		if want := []int{1, 2, 3, 4, 5, 6, 7}[:n]; !slices.Equal(types, want) || b.messages != n || b.bytes != bytes {
			t.Errorf("types %v, %d messages, %d bytes, want %v with %d", types, b.messages, b.bytes, want, bytes)
		}
	}
}

// Control frames go with their connection, and the messages between them stay.
func TestDropControl(t *testing.T) {
	var q sendQueue
	q.append(1, content(1, 10))
	for i, f := range []wire.Control{
		{Kind: wire.Request, N: 1, ID: 7}, {Kind: wire.Reply, N: 1, ID: 1}, {Kind: wire.Part, N: 1, ID: 2},
		{Kind: wire.Error, N: 0, ID: 3}, {Kind: wire.Error, N: 5, ID: 4}, {Kind: wire.Cancel, ID: 5},
		{Kind: wire.Request, N: 1, ID: 9},
	} {
		q.appendControl(&f, content(0, 100*i))
		if f.Kind == wire.Request {
			q.count(100 * i)
		}
		if i%3 == 2 {
			q.append(i, content(i, 20_000))
		}
	}
	q.appendAnnouncement()
	checkQueue(t, &q)
	requests, replies := q.dropControl()
	if len(requests) != 2 || !requests[7] || !requests[9] || replies != 3 {
		t.Errorf("requests %v, %d replies, want 7 and 9, and 3", requests, replies)
	}
	wantCounts(t, &q, 11, 0, 3*messageCost+10+40_000)
	if q.messages != 3 || q.bytes != 40_010 {
		t.Errorf("%d messages with %d bytes count, want the 3 that are left", q.messages, q.bytes)
	}
	if n := q.drop(); n != 3 {
		t.Errorf("%d messages are left, want 3", n)
	}
}

// A request is taken back unless it may have left.
func TestWithdrawRequest(t *testing.T) {
	request := func(q *sendQueue, id uint64) {
		q.appendControl(&wire.Control{Kind: wire.Request, N: 1, ID: id}, content(int(id), 10))
	}
	var q sendQueue
	q.append(1, content(1, 10))
	request(&q, 1)
	q.append(2, content(2, 40_000))
	request(&q, 2)
	request(&q, 3)
	checkQueue(t, &q)
	for _, tt := range []struct {
		id    uint64
		fixed int
		want  bool
	}{
		{4, 0, false}, {1, 1, false}, {3, 2, false}, {3, 1, true}, {3, 0, false}, {1, 0, true}, {2, 1, true},
	} {
		if got := q.withdrawRequest(tt.id, tt.fixed); got != tt.want {
			t.Errorf("request %d beside %d fixed segments: %t, want %t", tt.id, tt.fixed, got, tt.want)
		}
		checkQueue(t, &q)
	}
	request(&q, 5)
	q.advance(wire.HeaderSize + 10 + wire.HeaderSize + 40_000 + 1) // up to the first byte of it
	if q.withdrawRequest(5, 0) {
		t.Error("a request is taken back of which a byte has left")
	}
	q.advance(wire.ControlHeaderSize + 10 - 1)
	wantCounts(t, &q, 6, 6, 0)
}
