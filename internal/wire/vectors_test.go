package wire

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// vectors is a session byte for byte, as PROTOCOL.md publishes it.
type vectors struct {
	Encryption       bool     `json:"encryption"`
	MaxMsgSize       int      `json:"max_msg_size"`
	ServerPrivateKey hexBytes `json:"server_private_key"`
	ClientPrivateKey hexBytes `json:"client_private_key"`
	AESKey           hexBytes `json:"aes_key"`
	ServerPrefix     hexBytes `json:"server_nonce_prefix"`
	ClientPrefix     hexBytes `json:"client_nonce_prefix"`
	Steps            []vector `json:"steps"`
	Early            []vector `json:"ignored_before_announcement"`
	Ignored          []vector `json:"ignored"`
	Rejected         []vector `json:"rejected"`
	LeadingZero      *struct {
		ClientPrivateKey hexBytes `json:"client_private_key"`
		SharedX          hexBytes `json:"shared_x"`
		AESKey           hexBytes `json:"aes_key"`
	} `json:"leading_zero"`
}

// vector is what one end sends with one write, unless SameWrite is set: a step of
// the handshake, a message, or a control frame.
type vector struct {
	From      string   `json:"from"` // server, client; none: either
	What      string   `json:"what"`
	SameWrite bool     `json:"same_write"` // as the one before
	Type      int      `json:"type"`       // of a message
	Kind      Kind     `json:"kind"`       // of a control frame
	Flags     uint8    `json:"flags"`
	N         uint32   `json:"n"`
	ID        uint64   `json:"id,string"`
	Data      hexBytes `json:"data"` // of a message or a control frame
	Hex       hexBytes `json:"hex"`
}

// handshakeStep reports whether v is a step of the handshake.
func (v *vector) handshakeStep() bool { return v.Type == 0 && v.Kind == 0 }

// plain is the frame before it is sealed, as a peer makes it.
func (v *vector) plain() []byte {
	data := []byte(v.Data)
	switch v.Kind {
	case 0:
	case Announce:
		data = fmt.Appendf(nil, "\x01ipc\x01\x00\x00\x00%s\x00\x00\x00\x00", binary.BigEndian.AppendUint32(nil, v.N))
	default:
		data = append([]byte{byte(v.Kind), v.Flags, 0, 0}, binary.BigEndian.AppendUint32(nil, v.N)...)
		data = append(binary.BigEndian.AppendUint64(data, v.ID), v.Data...)
	}
	return plainFrame(uint32(v.Type), data)
}

type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

// eachVectors runs test with each file, for both sides.
func eachVectors(t *testing.T, test func(t *testing.T, v *vectors, side string)) {
	eachVectorsOf(t, []string{"plain.json", "encrypted.json", "requests-plain.json", "requests-encrypted.json"}, test)
}

func eachVectorsOf(t *testing.T, names []string, test func(t *testing.T, v *vectors, side string)) {
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", name))
		if err != nil {
			t.Fatal(err)
		}
		v := new(vectors)
		if err := json.Unmarshal(text, v); err != nil {
			t.Fatal(err)
		}
		for _, side := range []string{"server", "client"} {
			t.Run(name+" "+side, func(t *testing.T) { test(t, v, side) })
		}
	}
}

// secrets draws what the vectors say: first the keys of which the side must
// not take any.
func (v *vectors) secrets(t *testing.T, side string, not ...[]byte) *Secrets {
	t.Helper()
	key, prefix := v.ClientPrivateKey, v.ClientPrefix
	if side == "server" {
		key, prefix = v.ServerPrivateKey, v.ServerPrefix
	}
	var drawn []*ecdh.PrivateKey
	if v.Encryption {
		for _, scalar := range append(not, key) {
			private, err := ecdh.P384().NewPrivateKey(scalar)
			if err != nil {
				t.Fatal(err)
			}
			drawn = append(drawn, private)
		}
	}
	s := keys(drawn...)
	// In a session of a client that announces nothing, ours does it nevertheless:
	// with a nonce of which the next one is again the first of the vectors.
	last := side == "client" && len(v.Early) == 0
	s.Nonce = func() (p [prefixSize]byte, count uint32) {
		copy(p[:], prefix)
		if last {
			last = false
			return p, 1<<32 - 1
		}
		return p, 0
	}
	return s
}

// handshake replays the handshake of one side, and returns what is negotiated.
func (v *vectors) handshake(t *testing.T, side string, s *Secrets) Negotiated {
	t.Helper()
	conn := new(scriptedConn)
	var steps []step
	var want [][]byte
	for _, v := range v.Steps {
		switch {
		case v.SameWrite && v.From == side:
			last := len(want) - 1
			want[last] = slices.Concat(want[last], v.Hex)
			steps[last].size += len(v.Hex)
		case !v.handshakeStep():
		case v.From == side:
			steps = append(steps, step{len(conn.in), len(v.Hex)})
			want = append(want, v.Hex)
		default:
			conn.in = append(conn.in, v.Hex...)
		}
	}
	var n Negotiated
	var err error
	if side == "server" {
		server := Server{Encrypt: v.Encryption, MaxMsgSize: v.MaxMsgSize, Secrets: s}
		n, err = server.Handshake(conn, admitAtOnce)
	} else {
		client := Client{RequireEncryption: v.Encryption, Secrets: s}
		n, err = client.Handshake(conn)
	}
	if err != nil {
		t.Fatal(err)
	}
	if side == "client" && len(v.Early) == 0 {
		last := len(conn.writes) - 1
		wantLastStep(t, n, conn.writes[last][1:])
		conn.writes[last] = conn.writes[last][:1]
	}
	conn.wantSteps(t, steps)
	if !slices.EqualFunc(conn.writes, want, bytes.Equal) {
		t.Errorf("steps %x, want %x", conn.writes, want)
	}
	if n.MaxMsgSize != v.MaxMsgSize || (n.Cipher != nil) != v.Encryption {
		t.Errorf("negotiated %+v", n)
	}
	return n
}

// made is the plain frame of v as this package makes it.
func (v *vector) made() []byte {
	switch v.Kind {
	case 0:
		frame := make([]byte, HeaderSize)
		PutHeader(frame, v.Type, len(v.Data))
		return append(frame, v.Data...)
	case Announce:
		return Announcement()
	}
	frame := make([]byte, ControlHeaderSize)
	PutControlHeader(frame, &Control{Kind: v.Kind, Flags: v.Flags, N: v.N, ID: v.ID}, len(v.Data))
	return append(frame, v.Data...)
}

// wantParsed checks what this package makes of the frame that a peer has sent.
func (v *vector) wantParsed(t *testing.T, d *Decoder) {
	t.Helper()
	msgType, data, size, err := d.Next(bytes.Clone(v.Hex))
	if err != nil || msgType != v.Type || size != len(v.Hex) {
		t.Errorf("%s: type %d, size %d (%v)", v.What, msgType, size, err)
		return
	}
	if v.Kind == 0 {
		if !bytes.Equal(data, v.Data) {
			t.Errorf("%s: data %x", v.What, data)
		}
		return
	}
	c, err := ParseControl(data)
	if err != nil || c.Kind != v.Kind || c.Flags != v.Flags || c.N != v.N || c.ID != v.ID || !bytes.Equal(c.Payload, v.Data) {
		t.Errorf("%s: %+v (%v)", v.What, c, err)
	}
}

// Each side makes the steps and frames of the vectors, to the byte, and
// understands those of the other.
func TestVectors(t *testing.T) {
	type frameMaker func(c *Cipher, plain []byte) []byte
	for name, seal := range map[string]frameMaker{
		"AppendFrame": func(c *Cipher, plain []byte) []byte {
			return c.AppendFrame(nil, plain[:HeaderSize], plain[HeaderSize:])
		},
		"AppendFrames": func(c *Cipher, plain []byte) []byte {
			sealed, _ := c.AppendFrames(make([]byte, 0, len(plain)+SealOverhead), plain)
			return sealed
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachVectors(t, func(t *testing.T, v *vectors, side string) {
				n := v.handshake(t, side, v.secrets(t, side))
				d := Decoder(n)
				frames := 0
				for _, step := range v.Steps {
					switch {
					case step.handshakeStep():
						continue
					case step.SameWrite && step.From == side: // a part of the handshake
					case step.From == side:
						frame := step.made()
						if n.Cipher != nil {
							frame = seal(n.Cipher, frame)
						}
						if !bytes.Equal(frame, step.Hex) {
							t.Errorf("%s: %x, want %x", step.What, frame, step.Hex)
						}
					default:
						step.wantParsed(t, &d)
					}
					frames++
				}
				if frames == 0 {
					t.Error("no frames in the vectors")
				}
			})
		})
	}
}

// What the vectors say about a frame is what its bytes are.
func TestVectorsOfControlFrames(t *testing.T) {
	eachVectors(t, func(t *testing.T, v *vectors, side string) {
		var aead cipher.AEAD
		if v.Encryption {
			aead = refAEAD(t, v.AESKey)
		}
		nonces := make(map[string]bool)
		for _, step := range slices.Concat(v.Steps, v.Early, v.Ignored, v.Rejected) {
			if step.handshakeStep() || step.From != side {
				continue
			}
			body := step.Hex[LengthSize:]
			if binary.BigEndian.Uint32(step.Hex) != uint32(len(body)) {
				t.Fatalf("%s: length %d, and %d bytes follow", step.What, binary.BigEndian.Uint32(step.Hex), len(body))
			}
			if aead != nil {
				nonce := body[:nonceSize]
				if nonces[string(nonce)] {
					t.Errorf("%s: a nonce for the second time", step.What)
				}
				nonces[string(nonce)] = true
				var err error
				if body, err = aead.Open(nil, nonce, body[nonceSize:], nil); err != nil {
					t.Fatalf("%s: %v", step.What, err)
				}
			}
			if want := step.plain()[LengthSize:]; !bytes.Equal(body, want) {
				t.Errorf("%s: %x, want %x", step.What, body, want)
			}
		}
	})
}

// The frames that a receiver ignores are control frames, and those that it
// rejects break the rules.
func TestIgnoredAndRejectedVectors(t *testing.T) {
	eachVectorsOf(t, []string{"plain.json", "encrypted.json"}, func(t *testing.T, v *vectors, side string) {
		n := v.handshake(t, side, v.secrets(t, side))
		d := Decoder(n)
		ignored, rejected := 0, 0
		for _, frame := range v.Ignored {
			if frame.From == side {
				continue
			}
			ignored++
			msgType, data, size, err := d.Next(bytes.Clone(frame.Hex))
			if msgType != ControlType || size != len(frame.Hex) || err != nil {
				t.Errorf("%s: type %d, size %d (%v)", frame.What, msgType, size, err)
			}
			if c, err := ParseControl(data); c.Kind != 0 || err != nil {
				t.Errorf("%s: kind %d (%v)", frame.What, c.Kind, err)
			}
		}
		for _, frame := range v.Rejected {
			if frame.From == side {
				continue
			}
			rejected++
			_, data, size, err := d.Next(bytes.Clone(frame.Hex))
			wantProtocol(t, frame.What, err)
			if data != nil || size != 0 {
				t.Errorf("%s: %d bytes, size %d", frame.What, len(data), size)
			}
		}
		if ignored == 0 || rejected == 0 {
			t.Errorf("%d frames to ignore, %d to reject", ignored, rejected)
		}
	})
}

// refRequests is what PROTOCOL.md says about the control frames that one side
// receives, as short as it can be said.
type refRequests struct {
	announced bool            // the peer
	newest    [2]uint64       // id of a request, by the side that asks
	open      map[uint64]bool // requests of the receiver without a final: whether parts are welcome
	ended     map[uint64]bool // requests of the sender with a final
}

func newRefRequests() *refRequests {
	return &refRequests{open: make(map[uint64]bool), ended: make(map[uint64]bool)}
}

const (
	receiver = 0
	sender   = 1
)

type verdict string

const (
	counts   verdict = "counts"
	ignored  verdict = "ignored"
	rejected verdict = "rejected"
)

// sent notes what the receiver has sent.
func (r *refRequests) sent(c Control) {
	if c.Kind == Request {
		r.newest[receiver] = c.ID
		r.open[c.ID] = c.Flags&PartsWelcome != 0
	}
	if c.Final() {
		r.ended[c.ID] = true
	}
}

// receive notes and judges what the receiver gets.
func (r *refRequests) receive(data []byte) verdict {
	c, err := ParseControl(data)
	welcome, open := r.open[c.ID]
	switch {
	case !r.announced && c.Kind != Announce:
		return ignored
	case err != nil:
		return rejected
	}
	switch c.Kind {
	case Announce:
		if r.announced {
			return ignored
		}
		r.announced = true
	case Request:
		if c.ID <= r.newest[sender] {
			return rejected
		}
		r.newest[sender] = c.ID
	case Cancel:
		switch {
		case c.ID == 0 || c.ID > r.newest[sender]:
			return rejected
		case r.ended[c.ID]:
			return ignored
		}
	case Part, Reply, Error:
		switch {
		case c.ID == 0 || c.ID > r.newest[receiver]:
			return rejected
		case !open:
			return ignored
		case c.Kind == Part && !welcome:
			return rejected
		case c.Final():
			delete(r.open, c.ID)
		}
	default:
		return ignored
	}
	return counts
}

// After the steps of a session with requests, of which each counts, the frames to
// ignore and to reject are such by the rules of PROTOCOL.md.
func TestVectorsOfRequests(t *testing.T) {
	eachVectorsOf(t, []string{"requests-plain.json", "requests-encrypted.json"}, func(t *testing.T, v *vectors, side string) {
		d := Decoder(v.handshake(t, side, v.secrets(t, side)))
		receive := func(r *refRequests, frame vector, want verdict) {
			t.Helper()
			msgType, data, size, err := d.Next(bytes.Clone(frame.Hex))
			if msgType != ControlType || size != len(frame.Hex) || err != nil {
				t.Fatalf("%s: type %d, size %d (%v)", frame.What, msgType, size, err)
			}
			if got := r.receive(data); got != want {
				t.Errorf("%s: %s, want %s", frame.What, got, want)
			}
		}
		steps := newRefRequests()
		for _, step := range v.Steps {
			switch {
			case step.Kind == 0:
			case step.From == side:
				c := Control{Kind: step.Kind, Flags: step.Flags, N: step.N, ID: step.ID}
				if c.Final() && steps.ended[c.ID] {
					t.Errorf("%s: a second final", step.What)
				}
				steps.sent(c)
			default:
				receive(steps, step, counts)
			}
		}
		if _, open := steps.open[steps.newest[receiver]]; len(steps.open) != 1 || !open {
			t.Errorf("open at the end: %v, want the newest, %d", steps.open, steps.newest[receiver])
		}
		if newest := steps.newest[sender]; steps.ended[newest] {
			t.Errorf("the newest request, %d, is answered", newest)
		}
		for _, frame := range v.Early {
			if side == "client" {
				receive(newRefRequests(), frame, ignored)
			}
		}
		seen := make(map[verdict]int)
		each := func(frames []vector, want verdict) {
			for _, frame := range frames {
				if frame.From == side {
					continue
				}
				after := *steps
				after.open = maps.Clone(steps.open)
				receive(&after, frame, want)
				seen[want]++
			}
		}
		each(v.Ignored, ignored)
		each(v.Rejected, rejected)
		if seen[ignored] == 0 || seen[rejected] == 0 || len(v.Early) == 0 {
			t.Errorf("%v, %d before the announcement", seen, len(v.Early))
		}
	})
}

// A client does not use a key with which X begins with a zero, and draws the
// next.
func TestLeadingZeroVector(t *testing.T) {
	eachVectors(t, func(t *testing.T, v *vectors, side string) {
		if v.LeadingZero == nil || side != "client" {
			return
		}
		zero := v.LeadingZero.ClientPrivateKey
		if v.LeadingZero.SharedX[0] != 0 {
			t.Fatal("the vector does not begin with a zero")
		}
		s := v.secrets(t, side, zero, zero)
		v.handshake(t, side, s)
		if _, err := s.Key(); err != errNoKey {
			t.Error("the client has not drawn all three keys")
		}
	})
}

// A server does use such a key of a client: it hashes all of X.
func TestServerHashesLeadingZeros(t *testing.T) {
	eachVectors(t, func(t *testing.T, v *vectors, side string) {
		if v.LeadingZero == nil || side != "server" {
			return
		}
		zero, err := ecdh.P384().NewPrivateKey(v.LeadingZero.ClientPrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		conn := &scriptedConn{in: slices.Concat([]byte{0}, zero.PublicKey().Bytes(), []byte{0})}
		server := Server{Encrypt: true, MaxMsgSize: v.MaxMsgSize, Secrets: v.secrets(t, side)}
		n, err := server.Handshake(conn, admitAtOnce)
		if err != nil {
			t.Fatal(err)
		}
		if n.Cipher == nil || len(conn.writes) != 3 {
			t.Fatalf("negotiated %+v in %d steps", n, len(conn.writes))
		}
		seal := conn.writes[2][LengthSize:]
		limit, err := refAEAD(t, v.LeadingZero.AESKey).Open(nil, seal[:nonceSize], seal[nonceSize:], nil)
		if err != nil || binary.BigEndian.Uint32(limit) != uint32(v.MaxMsgSize) {
			t.Errorf("the last step holds %x (%v)", limit, err)
		}
	})
}
