package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// plainFrame returns a frame as a peer sends it, whatever PutHeader does.
func plainFrame(msgType uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(data)))
	b = binary.BigEndian.AppendUint32(b, msgType)
	return append(b, data...)
}

func wantProtocol(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, errs.Protocol) {
		t.Errorf("%s: error %v, want errs.Protocol", what, err)
	}
}

// sameMemory reports whether part lies in whole, at offset at.
func sameMemory(whole, part []byte, at int) bool {
	return len(part) == 0 || &part[0] == &whole[at]
}

func TestPutHeader(t *testing.T) {
	for _, tt := range []struct {
		msgType, size int
		want          string
	}{
		{1, 0, "\x00\x00\x00\x04\x00\x00\x00\x01"},
		{ControlType, 5, "\x00\x00\x00\x09\x00\x00\x00\x00"},
		{0x01020304, 0x010203, "\x00\x01\x02\x07\x01\x02\x03\x04"},
		{MaxType, MaxLimit, "\x7f\xff\xff\xc4\x7f\xff\xff\xff"},
	} {
		b := []byte("12345678rest")
		PutHeader(b, tt.msgType, tt.size)
		if want := tt.want + "rest"; string(b) != want {
			t.Errorf("type %d, %d bytes: header %q, want %q", tt.msgType, tt.size, b, want)
		}
	}
}

func TestFrameSize(t *testing.T) {
	for header, want := range map[string]int{
		"\x00\x00\x00\x04":          8,
		"\x00\x00\x00\x05type and":  9,
		"\x00\x01\x02\x03":          0x010207,
		"\x7f\xff\xff\xe0, the end": MaxLimit + HeaderSize + SealOverhead,
	} {
		if got := FrameSize([]byte(header)); got != want {
			t.Errorf("frame that starts with %q has %d bytes, want %d", header, got, want)
		}
	}
}

// The size of the largest frame fits into an int of 32 bits.
const _ = int32(MaxLimit + HeaderSize + SealOverhead)

// decoders are those that the limits are checked with, and how much longer
// than its data each makes a frame.
func decoders(max int) map[string]struct {
	d    *Decoder
	over uint32
} {
	return map[string]struct {
		d    *Decoder
		over uint32
	}{
		"plain":  {&Decoder{MaxMsgSize: max}, 4},
		"sealed": {&Decoder{MaxMsgSize: max, Cipher: testCipher(upwards())}, 32},
	}
}

// The limits of a length hold as soon as it is there, to the byte.
func TestLengthLimits(t *testing.T) {
	for _, max := range []int{0, 1, 10, 3 << 20, MaxLimit - 1, MaxLimit} {
		for name, tt := range decoders(max) {
			longest := tt.over + uint32(max)
			for _, n := range []uint32{
				0, 1, 3, 4, 5, 31, 32, 33, longest - 1, longest, longest + 1, longest + 2,
				1<<31 - 1, 1 << 31, 1<<31 + 4, math.MaxUint32 - 3, math.MaxUint32,
			} {
				b := binary.BigEndian.AppendUint32(nil, n)
				what := fmt.Sprintf("%s, at most %d bytes, length %d", name, max, n)
				length, lengthErr := tt.d.Length(b)
				msgType, data, size, err := tt.d.Next(b)
				if msgType != 0 || data != nil || size != 0 {
					t.Errorf("%s: Next returned type %d, %d bytes, size %d before the frame was whole", what, msgType, len(data), size)
				}
				if n < tt.over || n > longest {
					wantProtocol(t, what+": Length", lengthErr)
					wantProtocol(t, what+": Next", err)
					if length != 0 {
						t.Errorf("%s: Length returned %d with an error", what, length)
					}
					continue
				}
				if err != nil || lengthErr != nil {
					t.Errorf("%s: error %v from Next, %v from Length", what, err, lengthErr)
				}
				if length < 0 || uint32(length) != n {
					t.Errorf("%s: Length returned %d", what, length)
				}
			}
		}
	}
}

// An error says what came and what is allowed.
func TestErrorsNameTheLimits(t *testing.T) {
	d := Decoder{MaxMsgSize: 10}
	_, err := d.Length(binary.BigEndian.AppendUint32(nil, 15))
	if got, want := err.Error(), "frame of 15 bytes, want 4 to 14"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	_, err = ParseType(binary.BigEndian.AppendUint32(nil, 1<<31))
	if got, want := err.Error(), "message type 2147483648, want 0 to 2147483647"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func TestParseType(t *testing.T) {
	for _, tt := range []struct {
		body string
		want int // -1: an error
	}{
		{"\x00\x00\x00\x00", ControlType},
		{"\x00\x00\x00\x01data", 1},
		{"\x01\x02\x03\x04\xff", 0x01020304},
		{"\x7f\xff\xff\xff", MaxType},
		{"\x80\x00\x00\x00", -1},
		{"\xff\xff\xff\xffdata", -1},
	} {
		got, err := ParseType([]byte(tt.body))
		if tt.want >= 0 {
			if got != tt.want || err != nil {
				t.Errorf("%q: type %d (%v), want %d", tt.body, got, err, tt.want)
			}
			continue
		}
		wantProtocol(t, fmt.Sprintf("%q", tt.body), err)
		if got != 0 {
			t.Errorf("%q: type %d with an error", tt.body, got)
		}
	}
}

// frames makes frames for a plain or a sealed connection, and says where their
// data lie.
type frames struct {
	name   string
	cipher *Cipher // of the receiver
	make   func(msgType uint32, data []byte) []byte
	dataAt int
}

func bothKinds() []frames {
	sender := testCipher(upwards())
	return []frames{
		{"plain", nil, plainFrame, 8},
		{"sealed", testCipher(upwards()), func(msgType uint32, data []byte) []byte {
			return sealedFrame(sender, msgType, data)
		}, 20},
	}
}

// Next returns a frame as soon as its last byte is there, where it lies, and
// touches nothing else.
func TestNext(t *testing.T) {
	for _, kind := range bothKinds() {
		for _, tt := range []struct {
			msgType uint32
			size    int
			max     int
			bad     bool
		}{
			{1, 0, 0, false},
			{1, 0, 10, false},
			{1, 1, 10, false},
			{1, 10, 10, false},
			{1, 11, 10, true},
			{1, 1, 0, true},
			{ControlType, 0, 10, false},
			{ControlType, 10, 10, false},
			{MaxType, 9, 10, false},
			{MaxType + 1, 9, 10, true},
			{math.MaxUint32, 0, 10, true},
			{7, 100_000, 3 << 20, false},
		} {
			for _, behind := range []string{"", "b", "\xff\xff\xff\xff", "behind the frame"} {
				what := fmt.Sprintf("%s frame of type %d with %d bytes, %d allowed, before %q", kind.name, tt.msgType, tt.size, tt.max, behind)
				d := Decoder{MaxMsgSize: tt.max, Cipher: kind.cipher}
				want := bytes.Repeat([]byte("d"), tt.size)
				frame := kind.make(tt.msgType, want)
				b := slices.Concat(frame, []byte(behind))
				msgType, data, size, err := d.Next(b)
				if string(b[len(frame):]) != behind || !bytes.Equal(b[:LengthSize], frame[:LengthSize]) || kind.cipher == nil && !bytes.Equal(b[:len(frame)], frame) {
					t.Errorf("%s: Next wrote outside of a seal", what)
				}
				if tt.bad {
					wantProtocol(t, what, err)
					if msgType != 0 || data != nil || size != 0 {
						t.Errorf("%s: type %d, %d bytes, size %d with an error", what, msgType, len(data), size)
					}
					continue
				}
				if err != nil || msgType != int(tt.msgType) || !bytes.Equal(data, want) || size != len(frame) {
					t.Errorf("%s: type %d, %d bytes, size %d (%v), want size %d", what, msgType, len(data), size, err, len(frame))
				}
				if !sameMemory(b, data, kind.dataAt) {
					t.Errorf("%s: the data does not lie in the input", what)
				}
				if kind.dataAt+cap(data) > len(frame) {
					t.Errorf("%s: an append to the data would overwrite the next frame", what)
				}
			}
		}
	}
}

// drain returns what Next makes of b, and what is left of b.
func drain(t *testing.T, d *Decoder, b []byte) (got []string, rest []byte) {
	t.Helper()
	for {
		msgType, data, size, err := d.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			return got, b
		}
		got = append(got, fmt.Sprintf("%d %s", msgType, data))
		b = b[size:]
	}
}

// A stream may be torn at each byte. Next leaves the torn frame as it is, so
// that it may be tried again when there is more of it.
func TestTornFrames(t *testing.T) {
	for _, kind := range bothKinds() {
		stream := slices.Concat(kind.make(1, []byte("one")), kind.make(0, []byte("control")), kind.make(2, nil), kind.make(MaxType, []byte("last")))
		want := []string{"1 one", "0 control", "2 ", "2147483647 last"}
		for at := range stream {
			d := Decoder{MaxMsgSize: 7, Cipher: kind.cipher}
			b := bytes.Clone(stream)
			before, rest := drain(t, &d, b[:at:at])
			start := at - len(rest)
			if !bytes.Equal(rest, stream[start:at]) {
				t.Fatalf("%s, torn at %d: Next changed a part of a frame", kind.name, at)
			}
			behind, rest := drain(t, &d, b[start:])
			if got := append(before, behind...); !slices.Equal(got, want) || len(rest) > 0 {
				t.Fatalf("%s, torn at %d: %q, %d bytes left, want %q", kind.name, at, got, len(rest), want)
			}
			if len(before) > 0 && start == 0 {
				t.Fatalf("%s, torn at %d: frames before their end", kind.name, at)
			}
		}
	}
}

// Body is what Next does behind the length.
func TestBody(t *testing.T) {
	for _, kind := range bothKinds() {
		d := Decoder{MaxMsgSize: 10, Cipher: kind.cipher}
		for _, msgType := range []uint32{0, 1, MaxType, MaxType + 1, math.MaxUint32} {
			for _, want := range []string{"", "d", "ten bytes."} {
				what := fmt.Sprintf("%s body of type %d with %q", kind.name, msgType, want)
				body := kind.make(msgType, []byte(want))[LengthSize:]
				got, data, err := d.Body(body)
				if msgType > MaxType {
					wantProtocol(t, what, err)
					if got != 0 || data != nil {
						t.Errorf("%s: type %d and %d bytes with an error", what, got, len(data))
					}
					continue
				}
				if err != nil || got != int(msgType) || string(data) != want {
					t.Errorf("%s: type %d, %q (%v)", what, got, data, err)
				}
				if !sameMemory(body, data, kind.dataAt-LengthSize) {
					t.Errorf("%s: the data does not lie in the body", what)
				}
			}
		}
	}
	kind := bothKinds()[1]
	d := Decoder{MaxMsgSize: 10, Cipher: kind.cipher}
	body := kind.make(1, []byte("forged"))[LengthSize:]
	body[len(body)-1] ^= 1
	got, data, err := d.Body(body)
	wantProtocol(t, "a forged body", err)
	if got != 0 || data != nil {
		t.Errorf("a forged body: type %d and %d bytes with an error", got, len(data))
	}
}

// refFrames is what the plain frames of a stream are: it takes as many off as
// there are, and reports whether what follows breaks the rules.
func refFrames(stream []byte, most uint64) (types []uint32, data [][]byte, bad bool) {
	r := bytes.NewReader(stream)
	for {
		var head struct{ Length, Type uint32 }
		if binary.Read(r, binary.BigEndian, &head.Length) != nil {
			return types, data, false
		}
		if head.Length < 4 || uint64(head.Length)-4 > most {
			return types, data, true
		}
		if uint64(r.Len()) < uint64(head.Length) {
			return types, data, false
		}
		binary.Read(r, binary.BigEndian, &head.Type)
		if int32(head.Type) < 0 {
			return types, data, true
		}
		d := make([]byte, head.Length-4)
		r.Read(d)
		types = append(types, head.Type)
		data = append(data, d)
	}
}

func FuzzFrames(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream []byte, most uint32) {
		most = min(most, MaxLimit)
		types, wantData, bad := refFrames(stream, uint64(most))
		d := Decoder{MaxMsgSize: int(most)}
		rest := bytes.Clone(stream)
		for i := 0; ; i++ {
			msgType, data, size, err := d.Next(rest)
			if i == len(types) {
				if size != 0 || data != nil || msgType != 0 {
					t.Fatalf("frame %d of %d: type %d, %d bytes", i, i, msgType, len(data))
				}
				if bad != (err != nil) || bad && !errors.Is(err, errs.Protocol) {
					t.Fatalf("error %v after %d frames, and the rules are broken: %t", err, i, bad)
				}
				break
			}
			if err != nil || uint32(msgType) != types[i] || !bytes.Equal(data, wantData[i]) || size != HeaderSize+len(data) {
				t.Fatalf("frame %d: type %d, %d bytes, size %d (%v), want type %d, %d bytes",
					i, msgType, len(data), size, err, types[i], len(wantData[i]))
			}
			// The other ways to take a frame apart agree.
			n, err := d.Length(rest)
			if err != nil || n != size-LengthSize || FrameSize(rest) != size {
				t.Fatalf("frame %d of %d bytes: Length returned %d (%v), FrameSize %d", i, size, n, err, FrameSize(rest))
			}
			bodyType, bodyData, err := d.Body(rest[LengthSize:size])
			if err != nil || bodyType != msgType || !bytes.Equal(bodyData, data) {
				t.Fatalf("frame %d: Body returned type %d, %d bytes (%v)", i, bodyType, len(bodyData), err)
			}
			// And so does the way to make it.
			made := make([]byte, HeaderSize, size)
			PutHeader(made, msgType, len(data))
			if made = append(made, data...); !bytes.Equal(made, rest[:size]) {
				t.Fatalf("frame %d: made %x of %x", i, made, rest[:size])
			}
			rest = rest[size:]
		}
		if !bytes.HasSuffix(stream, rest) {
			t.Fatal("Next changed the stream")
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, size := range []int{16, 1024} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			frame := plainFrame(1, []byte(strings.Repeat("d", size)))
			stream := bytes.Repeat(frame, 64<<10/len(frame))
			d := Decoder{MaxMsgSize: 3 << 20}
			b.ReportAllocs()
			rest := stream
			for b.Loop() {
				_, _, n, err := d.Next(rest)
				if err != nil {
					b.Fatal(err)
				}
				if rest = rest[n:]; len(rest) == 0 {
					rest = stream
				}
			}
		})
	}
}
