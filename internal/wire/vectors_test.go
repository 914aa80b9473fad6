package wire

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
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
	ServerPrefix     hexBytes `json:"server_nonce_prefix"`
	ClientPrefix     hexBytes `json:"client_nonce_prefix"`
	Steps            []vector `json:"steps"`
	Ignored          []vector `json:"ignored"`
	Rejected         []vector `json:"rejected"`
	LeadingZero      *struct {
		ClientPrivateKey hexBytes `json:"client_private_key"`
		SharedX          hexBytes `json:"shared_x"`
		AESKey           hexBytes `json:"aes_key"`
	} `json:"leading_zero"`
}

// vector is what one end sends with one write.
type vector struct {
	From string   `json:"from"` // server, client; none: either
	What string   `json:"what"`
	Type int      `json:"type"`
	Data hexBytes `json:"data"` // of a message; nil: a step of the handshake
	Hex  hexBytes `json:"hex"`
}

type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

// eachVectors runs test with each file, for both sides.
func eachVectors(t *testing.T, test func(t *testing.T, v *vectors, side string)) {
	for _, name := range []string{"plain.json", "encrypted.json"} {
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
	s.Nonce = func() (p [prefixSize]byte, count uint32) {
		copy(p[:], prefix)
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
		case v.Data != nil:
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
	conn.wantSteps(t, steps)
	if !slices.EqualFunc(conn.writes, want, bytes.Equal) {
		t.Errorf("steps %x, want %x", conn.writes, want)
	}
	if n.MaxMsgSize != v.MaxMsgSize || (n.Cipher != nil) != v.Encryption {
		t.Errorf("negotiated %+v", n)
	}
	return n
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
				messages := 0
				for _, step := range v.Steps {
					switch {
					case step.Data == nil:
						continue
					case step.From == side:
						frame := make([]byte, HeaderSize)
						PutHeader(frame, step.Type, len(step.Data))
						frame = append(frame, step.Data...)
						if n.Cipher != nil {
							frame = seal(n.Cipher, frame)
						}
						if !bytes.Equal(frame, step.Hex) {
							t.Errorf("%s: %x, want %x", step.What, frame, step.Hex)
						}
					default:
						msgType, data, size, err := d.Next(bytes.Clone(step.Hex))
						if err != nil || msgType != step.Type || !bytes.Equal(data, step.Data) || size != len(step.Hex) {
							t.Errorf("%s: type %d, data %x, size %d (%v)", step.What, msgType, data, size, err)
						}
					}
					messages++
				}
				if messages == 0 {
					t.Error("no messages in the vectors")
				}
			})
		})
	}
}

// The frames that a receiver ignores are control frames, and those that it
// rejects break the rules.
func TestIgnoredAndRejectedVectors(t *testing.T) {
	eachVectors(t, func(t *testing.T, v *vectors, side string) {
		n := v.handshake(t, side, v.secrets(t, side))
		d := Decoder(n)
		ignored, rejected := 0, 0
		for _, frame := range v.Ignored {
			if frame.From == side {
				continue
			}
			ignored++
			msgType, _, size, err := d.Next(bytes.Clone(frame.Hex))
			if msgType != ControlType || size != len(frame.Hex) || err != nil {
				t.Errorf("%s: type %d, size %d (%v)", frame.What, msgType, size, err)
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

// A client does not use a key with which X begins with a zero, and draws the
// next.
func TestLeadingZeroVector(t *testing.T) {
	eachVectors(t, func(t *testing.T, v *vectors, side string) {
		if !v.Encryption || side != "client" {
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
		if !v.Encryption || side != "server" {
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
