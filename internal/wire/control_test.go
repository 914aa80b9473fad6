package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"testing"
)

// announceData is the data of an announcement of this version.
const announceData = "\x01ipc\x01\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// controlData is the data of a control frame, as a peer makes it, whatever
// PutControlHeader does.
func controlData(kind, flags uint8, n uint32, id uint64, payload string) string {
	b := []byte{kind, flags, 0, 0}
	b = binary.BigEndian.AppendUint32(b, n)
	b = binary.BigEndian.AppendUint64(b, id)
	return string(b) + payload
}

// sameControl reports whether the two are the same, payload included.
func sameControl(a, b Control) bool {
	same := bytes.Equal(a.Payload, b.Payload)
	a.Payload, b.Payload = nil, nil
	return same && reflect.DeepEqual(a, b)
}

func TestParseControl(t *testing.T) {
	payload := func(s string) []byte { return []byte(s) }
	const big = 1<<64 - 1
	for _, tt := range []struct {
		name, data string
		want       Control
	}{
		{"announcement", announceData, Control{Kind: Announce, N: 1024}},
		{"announcement of none", "\x01ipc\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", Control{Kind: Announce}},
		{"announcement of many", "\x01ipc\x01\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00", Control{Kind: Announce, N: 1<<32 - 1}},
		{"announcement of a later version, with what it may add", "\x01ipc\xff\xff\xff\xff\x00\x00\x00\x07\xff\xff\xff\xffand more", Control{Kind: Announce, N: 7}},

		{"request", "\x02\x00\x00\x00\x00\x00\x00\x07\x01\x02\x03\x04\x05\x06\x07\x08data",
			Control{Kind: Request, N: 7, ID: 0x0102030405060708, Payload: payload("data")}},
		{"request that welcomes parts", controlData(2, 1, 1, 1, ""), Control{Kind: Request, Flags: PartsWelcome, N: 1, ID: 1}},
		{"request with unknown flags", controlData(2, 254, 1, 1, ""), Control{Kind: Request, Flags: 254, N: 1, ID: 1}},
		{"request of the highest type and id", controlData(2, 0, MaxType, big, "d"), Control{Kind: Request, N: MaxType, ID: big, Payload: payload("d")}},
		{"request with unused bytes set", "\x02\x00\xff\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01", Control{Kind: Request, N: 1, ID: 1}},

		{"reply", controlData(3, 0, 7, 1<<53+1, "data"), Control{Kind: Reply, N: 7, ID: 1<<53 + 1, Payload: payload("data")}},
		{"reply without data", controlData(3, 0, MaxType, 2, ""), Control{Kind: Reply, N: MaxType, ID: 2}},
		{"end of parts", controlData(3, 0, 0, 3, ""), Control{Kind: Reply, ID: 3}},
		{"end of parts with data", controlData(3, 0, 0, 3, "data"), Control{Kind: Reply, ID: 3, Payload: payload("data")}},

		{"part", controlData(4, 0, 1, 4, "data"), Control{Kind: Part, N: 1, ID: 4, Payload: payload("data")}},
		{"part of the highest type", controlData(4, 255, MaxType, 4, ""), Control{Kind: Part, Flags: 255, N: MaxType, ID: 4}},

		{"error", controlData(5, 0, 404, 5, "not found"), Control{Kind: Error, N: 404, ID: 5, Payload: payload("not found")}},
		{"error of the highest code", controlData(5, 0, MaxType, 5, ""), Control{Kind: Error, N: MaxType, ID: 5}},
		{"no reply", controlData(5, 0, 0, 5, ""), Control{Kind: Error, ID: 5}},

		{"cancel", controlData(6, 0, 0, 6, ""), Control{Kind: Cancel, ID: 6}},
		{"cancel with any number", controlData(6, 255, math.MaxUint32, 6, "data"),
			Control{Kind: Cancel, Flags: 255, N: math.MaxUint32, ID: 6, Payload: payload("data")}},

		// Frames to ignore.
		{"nothing", "", Control{}},
		{"kind 0", "\x00", Control{}},
		{"kind 0 with all that a request has", controlData(0, 0, 1, 1, "data"), Control{}},
		{"kind 7", "\x07", Control{}},
		{"kind 7 with all that a request has", controlData(7, 0, 1, 1, "data"), Control{}},
		{"kind 255", controlData(255, 0, 1, 1, ""), Control{}},
		{"kind 1 that does not go on", "\x01\x00", Control{}},
		{"kind 1 that goes on otherwise", "\x01ipC", Control{}},
		{"kind 1 that goes on otherwise, of 16 bytes", controlData(1, 0, 1, 1, ""), Control{}},
		{"announcement of version 0", "\x01ipc\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00", Control{}},
		{"text", "control", Control{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := []byte(tt.data)
			got, err := ParseControl(data)
			if err != nil || !sameControl(got, tt.want) {
				t.Errorf("parsed %+v (%v), want %+v", got, err, tt.want)
			}
			if string(data) != tt.data {
				t.Error("the data was changed")
			}
			if !sameMemory(data, got.Payload, ControlSize) {
				t.Error("the payload does not lie in the data")
			}
			if IsRequest(data) != (tt.want.Kind == Request) {
				t.Errorf("IsRequest is %t", IsRequest(data))
			}
		})
	}
}

// What is half a frame of a known kind, or has a number out of its range, breaks
// the rules; the error says how.
func TestParseControlErrors(t *testing.T) {
	for n := 1; n < ControlSize; n++ {
		for kind := Announce; kind <= Cancel; kind++ {
			data := controlData(uint8(kind), 0, 1, 1, "")
			if kind == Announce {
				data = announceData
			}
			c, err := ParseControl([]byte(data[:n]))
			what := fmt.Sprintf("kind %d, %d bytes", kind, n)
			wantProtocol(t, what, err)
			if want := fmt.Sprintf("control frame of kind %d with %d bytes, want 16 at least", kind, n); err == nil || err.Error() != want {
				t.Errorf("%s: error %q, want %q", what, err, want)
			}
			if c.Kind != kind {
				t.Errorf("%s: kind %d", what, c.Kind)
			}
		}
	}
	for _, tt := range []struct {
		kind  Kind
		n     uint32
		least int
	}{
		{Request, 0, 1},
		{Request, MaxType + 1, 1},
		{Request, math.MaxUint32, 1},
		{Reply, MaxType + 1, 0},
		{Reply, math.MaxUint32, 0},
		{Part, 0, 1},
		{Part, MaxType + 1, 1},
		{Part, math.MaxUint32, 1},
		{Error, MaxType + 1, 0},
		{Error, math.MaxUint32, 0},
	} {
		c, err := ParseControl([]byte(controlData(uint8(tt.kind), 0, tt.n, 1, "data")))
		what := fmt.Sprintf("kind %d, number %d", tt.kind, tt.n)
		wantProtocol(t, what, err)
		want := fmt.Sprintf("control frame of kind %d with number %d, want %d to 2147483647", tt.kind, tt.n, tt.least)
		if err == nil || err.Error() != want {
			t.Errorf("%s: error %q, want %q", what, err, want)
		}
		if c.Kind != tt.kind {
			t.Errorf("%s: kind %d", what, c.Kind)
		}
	}
}

func TestPutControlHeader(t *testing.T) {
	for _, tt := range []struct {
		c    Control
		size int
		want string
	}{
		{Control{Kind: Request, Flags: PartsWelcome, N: 7, ID: 0x0102030405060708}, 5,
			"\x00\x00\x00\x19\x00\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x07\x01\x02\x03\x04\x05\x06\x07\x08"},
		{Control{Kind: Request, N: MaxType, ID: 1}, 0,
			"\x00\x00\x00\x14\x00\x00\x00\x00\x02\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01"},
		{Control{Kind: Reply, N: 0x01020304, ID: 1<<53 + 1}, 0x010203,
			"\x00\x01\x02\x17\x00\x00\x00\x00\x03\x00\x00\x00\x01\x02\x03\x04\x00\x20\x00\x00\x00\x00\x00\x01"},
		{Control{Kind: Part, N: 1, ID: 1<<64 - 1}, MaxLimit - ControlSize,
			"\x7f\xff\xff\xc4\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff"},
		{Control{Kind: Error, N: 404, ID: 2}, 9,
			"\x00\x00\x00\x1d\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x01\x94\x00\x00\x00\x00\x00\x00\x00\x02"},
		{Control{Kind: Cancel, ID: 3}, 0,
			"\x00\x00\x00\x14\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03"},
	} {
		b := bytes.Repeat([]byte("x"), ControlHeaderSize+4)
		PutControlHeader(b, &tt.c, tt.size)
		if want := tt.want + "xxxx"; string(b) != want {
			t.Errorf("%+v, %d bytes: header %q, want %q", tt.c, tt.size, b, want)
		}
	}
}

func TestAnnouncement(t *testing.T) {
	want := "\x00\x00\x00\x14\x00\x00\x00\x00" + announceData
	b := Announcement()
	if string(b) != want {
		t.Errorf("announcement %q, want %q", b, want)
	}
	clear(b)
	if string(Announcement()) != want {
		t.Error("announcements share their memory")
	}
}

// Frames that this side has made are parsed without a check, and only they.
func TestParseFrame(t *testing.T) {
	if c, isControl := ParseFrame(Announcement()); !isControl || c.Kind != Announce {
		t.Errorf("an announcement: kind %d, a control frame: %t", c.Kind, isControl)
	}
	if c, isControl := ParseFrame(plainFrame(2, []byte("a message of 16 ..."))); isControl || c.Kind != 0 {
		t.Errorf("a message: kind %d, a control frame: %t", c.Kind, isControl)
	}
	if c, isControl := ParseFrame(plainFrame(1, nil)); isControl || c.Kind != 0 {
		t.Errorf("a message without data: kind %d, a control frame: %t", c.Kind, isControl)
	}
	frame := plainFrame(0, []byte(controlData(3, 0, 7, 1<<63, "data")))
	c, isControl := ParseFrame(frame)
	if want := (Control{Kind: Reply, N: 7, ID: 1 << 63, Payload: []byte("data")}); !isControl || !sameControl(c, want) {
		t.Errorf("a reply: %+v, a control frame: %t, want %+v", c, isControl, want)
	}
	if !sameMemory(frame, c.Payload, ControlHeaderSize) {
		t.Error("the payload does not lie in the frame")
	}
}

func TestFinal(t *testing.T) {
	for kind, want := range map[Kind]bool{0: false, Announce: false, Request: false, Reply: true, Part: false, Error: true, Cancel: false, 7: false} {
		if c := (Control{Kind: kind}); c.Final() != want {
			t.Errorf("kind %d is final: %t", kind, c.Final())
		}
	}
}

// What Ignore has changed is ignored, whatever it was, and no request any more.
func TestIgnore(t *testing.T) {
	for kind := Announce; kind <= Cancel; kind++ {
		data := []byte(controlData(uint8(kind), 0, 1, 1, "data"))
		Ignore(data)
		if c, err := ParseControl(data); c.Kind != 0 || err != nil || IsRequest(data) {
			t.Errorf("kind %d: then %d (%v), a request: %t", kind, c.Kind, err, IsRequest(data))
		}
	}
	if IsRequest(nil) {
		t.Error("nothing is a request")
	}
}

// Whatever is made is understood.
func TestControlRoundTrip(t *testing.T) {
	for _, kind := range bothKinds() {
		d := Decoder{MaxMsgSize: 1 << 20, Cipher: kind.cipher}
		sender := testCipher(upwards())
		for _, size := range []int{0, 1, 1000, 1<<20 - ControlSize} {
			for k := Request; k <= Cancel; k++ {
				want := Control{Kind: k, Flags: uint8(size), N: uint32(k) + uint32(size), ID: 1<<63 + uint64(size), Payload: bytes.Repeat([]byte("p"), size)}
				frame := make([]byte, ControlHeaderSize)
				PutControlHeader(frame, &want, size)
				frame = append(frame, want.Payload...)
				if kind.cipher != nil {
					frame = sender.AppendFrame(nil, frame[:ControlHeaderSize], frame[ControlHeaderSize:])
				}
				b := append(bytes.Clone(frame), "behind"...)
				msgType, data, n, err := d.Next(b)
				if err != nil || msgType != ControlType || n != len(frame) {
					t.Fatalf("%s, kind %d, %d bytes: type %d, size %d (%v)", kind.name, k, size, msgType, n, err)
				}
				got, err := ParseControl(data)
				if err != nil || !sameControl(got, want) {
					t.Fatalf("%s, kind %d, %d bytes: another frame (%v)", kind.name, k, size, err)
				}
				if !sameMemory(b, got.Payload, kind.dataAt+ControlSize) || kind.dataAt+ControlSize+cap(got.Payload) > len(frame) {
					t.Fatalf("%s, kind %d, %d bytes: the payload is not the frame's end", kind.name, k, size)
				}
			}
		}
	}
}

// Neither making nor parsing a control frame allocates.
func TestControlAllocatesNothing(t *testing.T) {
	frame := make([]byte, ControlHeaderSize+4)
	c := Control{Kind: Request, N: 1, ID: 1}
	if n := testing.AllocsPerRun(100, func() {
		PutControlHeader(frame, &c, 4)
		if got, err := ParseControl(frame[HeaderSize:]); err != nil || got.ID != c.ID {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// refControl is what PROTOCOL.md says about the data of a control frame on its
// own: whether it is ignored, breaks the rules, or counts.
func refControl(data []byte) verdict {
	if len(data) == 0 {
		return ignored
	}
	short := len(data) < 16
	n := uint32(0)
	if !short {
		n = binary.BigEndian.Uint32(data[4:])
	}
	switch kind := data[0]; {
	case kind == 1 && bytes.HasPrefix([]byte("\x01ipc"), data[:min(4, len(data))]):
		switch {
		case short:
			return rejected
		case data[4] == 0:
			return ignored
		}
		return counts
	case kind < 2 || kind > 6:
		return ignored
	case short, kind < 6 && n > math.MaxInt32, kind == 2 && n == 0, kind == 4 && n == 0:
		return rejected
	}
	return counts
}

func FuzzControl(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := plainFrame(ControlType, data)
		d := Decoder{MaxMsgSize: len(data)}
		_, data, size, err := d.Next(append(bytes.Clone(frame), "behind"...))
		if err != nil || size != len(frame) {
			t.Fatalf("size %d (%v), want %d", size, err, len(frame))
		}
		c, err := ParseControl(data)
		if !bytes.Equal(data, frame[HeaderSize:]) {
			t.Fatal("the data was changed")
		}
		switch want := refControl(data); {
		case want == rejected:
			wantProtocol(t, "a frame to reject", err)
			return
		case err != nil:
			t.Fatalf("error %v, and the frame %s", err, want)
		case want == ignored:
			if !sameControl(c, Control{}) {
				t.Fatalf("%+v, and the frame is to be ignored", c)
			}
			return
		}
		if IsRequest(data) != (c.Kind == Request) {
			t.Fatalf("IsRequest is %t, and the kind %d", IsRequest(data), c.Kind)
		}
		if c.Kind == Announce {
			if c.N != binary.BigEndian.Uint32(data[8:]) || c.Payload != nil {
				t.Fatalf("parsed %+v", c)
			}
			return
		}
		// But for two bytes that say nothing, it is made the same.
		again := make([]byte, ControlHeaderSize)
		PutControlHeader(again, &c, len(c.Payload))
		again = append(again, c.Payload...)
		copy(again[HeaderSize+2:], frame[HeaderSize+2:HeaderSize+4])
		if !bytes.Equal(again, frame) {
			t.Fatalf("made %x of %x", again, frame)
		}
		if !sameMemory(data, c.Payload, ControlSize) || cap(c.Payload) != len(c.Payload) {
			t.Fatal("the payload is not the end of the frame")
		}
		parsed, isControl := ParseFrame(again)
		if !isControl || !sameControl(parsed, c) {
			t.Fatalf("ParseFrame says %+v, ParseControl %+v", parsed, c)
		}
	})
}
