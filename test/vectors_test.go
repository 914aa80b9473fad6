package ipc_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// vectors is a session byte for byte, as PROTOCOL.md publishes it.
type vectors struct {
	Encryption       bool     `json:"encryption"`
	MaxMsgSize       int      `json:"max_msg_size"`
	ServerPrivateKey hexBytes `json:"server_private_key"`
	ServerPublicKey  hexBytes `json:"server_public_key"`
	ClientPrivateKey hexBytes `json:"client_private_key"`
	ClientPublicKey  hexBytes `json:"client_public_key"`
	SharedX          hexBytes `json:"shared_x"`
	AESKey           hexBytes `json:"aes_key"`
	ServerPrefix     hexBytes `json:"server_nonce_prefix"`
	ClientPrefix     hexBytes `json:"client_nonce_prefix"`
	Steps            []vector `json:"steps"`
	Early            []vector `json:"ignored_before_announcement"`
	Ignored          []vector `json:"ignored"`
	Rejected         []vector `json:"rejected"`
	LeadingZero      *struct {
		What             string   `json:"what"`
		ClientPrivateKey hexBytes `json:"client_private_key"`
		ClientPublicKey  hexBytes `json:"client_public_key"`
		SharedX          hexBytes `json:"shared_x"`
		AESKey           hexBytes `json:"aes_key"`
		AESKeyStripped   hexBytes `json:"aes_key_of_peers_that_strip"`
	} `json:"leading_zero"`
}

// vector is what one end sends with one write, unless SameWrite is set: a step of
// the handshake, a message, or a control frame.
type vector struct {
	From      string   `json:"from"` // server, client; none: either
	What      string   `json:"what"`
	SameWrite bool     `json:"same_write"` // as the one before
	Type      int      `json:"type"`       // of a message
	Kind      int      `json:"kind"`       // of a control frame
	Flags     uint8    `json:"flags"`
	N         uint32   `json:"n"`
	ID        uint64   `json:"id,string"`
	Data      hexBytes `json:"data"` // of a message or a control frame
	Hex       hexBytes `json:"hex"`
}

type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

func (b hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b), nil }

// readVectors reads one of the files, of which every field must be known here.
func readVectors(t testing.TB, name string) *vectors {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", name))
	noError(t, "ReadFile", err)
	v := new(struct {
		Description string `json:"description"`
		vectors
	})
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	noError(t, name, in.Decode(v))
	return &v.vectors
}

// eachVectors runs test with each file, for our server in both modes and for
// our client, in synthetic time.
func eachVectors(t *testing.T, test func(t *testing.T, v *vectors, role string, multi bool)) {
	t.Helper()
	eachVectorsOf(t, []string{"plain.json", "encrypted.json"}, test)
}

func eachVectorsOf(t *testing.T, names []string, test func(t *testing.T, v *vectors, role string, multi bool)) {
	t.Helper()
	for _, name := range names {
		for _, k := range refKinds {
			t.Run(name+" "+k.name, func(t *testing.T) {
				v := readVectors(t, name)
				role := "server"
				if k.client {
					role = "client"
				}
				inBubble(t, func(t *testing.T) { test(t, v, role, k.multi) })
			})
		}
	}
}

// replay is one of our sides in a session of the vectors, over net.Pipe:
// what it sends with one write, and nothing else, comes with one read.
type replay struct {
	side
	role string    // ours
	raw  *wireConn // theirs
	lost ipc.Status
}

// privateKey is a key of the vectors.
func privateKey(t testing.TB, scalar []byte) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.P384().NewPrivateKey(scalar)
	noError(t, "NewPrivateKey", err)
	return key
}

// draw makes our end draw what the vectors say: for a client, first the keys
// of which it must not take any.
func (v *vectors) draw(t testing.TB, role string, not ...[]byte) {
	if !v.Encryption {
		return
	}
	key, prefix := v.ClientPrivateKey, v.ClientPrefix
	if role == "server" {
		key, prefix = v.ServerPrivateKey, v.ServerPrefix
	}
	if !bytes.Equal(prefix, bytes.Repeat(prefix[:1], 8)) {
		t.Fatalf("prefix %x: want 8 times the same", prefix)
	}
	var keys []*ecdh.PrivateKey
	for _, scalar := range append(not, key) {
		keys = append(keys, privateKey(t, scalar))
	}
	draw(t, prefix[0], keys...)
	if role == "client" && !v.announces() {
		// Its announcement uses a nonce, after which the next one is again the
		// first of the vectors.
		drawn := *wire.System
		first := true
		wire.System.Nonce = func() (p [8]byte, count uint32) {
			p, count = drawn.Nonce()
			if first {
				first, count = false, lastCount
			}
			return p, count
		}
	}
}

// lastCount is the count of the last nonce with a prefix.
const lastCount = 1<<32 - 1

// announces reports whether the client of v does, as ours always does.
func (v *vectors) announces() bool { return len(v.Early) > 0 }

// seal is a plain frame as v has it on the wire, with a nonce if v is encrypted.
func (v *vectors) seal(t testing.TB, nonce, plain []byte) []byte {
	t.Helper()
	if !v.Encryption {
		return plain
	}
	block, err := aes.NewCipher(v.AESKey)
	noError(t, "NewCipher", err)
	aead, err := cipher.NewGCM(block)
	noError(t, "NewGCM", err)
	sealed := aead.Seal(bytes.Clone(nonce), nonce, plain[4:], nil)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...)
}

// step5 is what our client sends where the client of v sends step 5: it announces
// itself in the same write.
func (v *vectors) step5(t testing.TB, step vector) []byte {
	nonce := binary.BigEndian.AppendUint32(bytes.Clone(v.ClientPrefix), lastCount)
	return slices.Concat(step.Hex, v.seal(t, nonce, encode(0, announcement)))
}

// play goes through the steps of v, one end of which is ours.
func (v *vectors) play(t testing.TB, role string, multi bool) *replay {
	t.Helper()
	s := setup{pipeTransport, multi}
	route := s.open(t)
	r := &replay{role: role}
	var started func() side
	if role == "server" {
		r.lost = ipc.Disconnected
		server := s.startServer(t, route, quiet, maxMsgSize(v.MaxMsgSize), func(c *ipc.ServerConfig, _ *ipc.ClientConfig) {
			c.Encryption = v.Encryption
		})
		r.raw = route.dial(t)
		started = func() side { return s.join(t, server) }
	} else {
		r.lost = ipc.ReConnecting
		ln := route.listen(t)
		client := background(func() *ipc.Client { return route.startClient(t, quiet) })
		r.raw = accept(t, ln)
		started = func() side { return client() }
	}
	for i, step := range v.Steps {
		if step.Data != nil && r.side == nil {
			r.side = started()
		}
		if last := i+1 < len(v.Steps) && v.Steps[i+1].Data != nil && step.Data == nil; last && role == "client" {
			step.Hex = v.step5(t, step)
		}
		r.step(t, step)
	}
	return r
}

// step is sent by the one end and received by the other.
func (r *replay) step(t testing.TB, step vector) {
	t.Helper()
	isMessage := step.Data != nil
	switch {
	case step.From != r.role:
		r.raw.send(step.Hex)
		if isMessage {
			wantMessage(t, r, step.Type, step.Data)
		}
		return
	case isMessage:
		noError(t, "Write", r.Write(step.Type, step.Data))
	}
	r.raw.want(step.What, step.Hex...)
	if !isMessage {
		r.raw.wantSilence("after " + step.What)
	}
}

// Our server talks to the client of the transcript, and our client to its
// server: each step is what the transcript says, to the byte and to the write,
// and none comes before its turn.
//
// Pins doc.go, "Elsewhere": the wire format
func TestVectors(t *testing.T) {
	eachVectors(t, func(t *testing.T, v *vectors, role string, multi bool) {
		v.draw(t, role)
		r := v.play(t, role, multi)
		for _, frame := range v.Ignored {
			if frame.From != role {
				r.raw.send(frame.Hex)
			}
		}
		synctest.Wait()
		if m, err := r.ReadTimed(0, nil); m != ipc.TimeoutMessage || err != nil {
			t.Errorf("control messages: read %s (%v), want nothing", describe(m), err)
		}
		noError(t, "Close", r.Close())
		if more := r.raw.wantDropped(); len(more) > 0 {
			t.Errorf("%v sent before the end", more)
		}
	})
}

// Each of the frames that have to be rejected ends the session, and nothing of
// it is delivered.
func TestRejectedVectors(t *testing.T) {
	eachVectors(t, func(t *testing.T, v *vectors, role string, multi bool) {
		if len(v.Rejected) == 0 {
			t.Fatal("no frames to reject")
		}
		for _, frame := range v.Rejected {
			if frame.From == role {
				continue
			}
			v.draw(t, role)
			r := v.play(t, role, multi)
			r.raw.send(frame.Hex)
			m := next(t, r)
			if m.Status != ipc.Error.String() || !errors.Is(m.Err, ipc.ErrProtocol) {
				t.Errorf("%s: read %s, want ErrProtocol", frame.What, describe(m))
			}
			wantEvents(t, r, r.lost)
			r.raw.wantDropped()
			r.Close()
		}
	})
}

// The key of a client whose X begins with a zero is drawn, and not used.
func TestLeadingZeroVector(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := readVectors(t, "encrypted.json")
		v.draw(t, "client", v.LeadingZero.ClientPrivateKey)
		v.play(t, "client", false)
	})
}

// What the vectors say about keys is what crypto/ecdh and the reference compute.
func TestVectorsOfKeys(t *testing.T) {
	v := readVectors(t, "encrypted.json")
	server := privateKey(t, v.ServerPrivateKey)
	check := func(what string, got, want []byte) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s is %x, the vectors say %x", what, got, want)
		}
	}
	check("public key of the server", server.PublicKey().Bytes(), v.ServerPublicKey)
	pair := func(private, public, sharedX, aesKey []byte, strips bool) {
		t.Helper()
		client := privateKey(t, private)
		check("public key of the client", client.PublicKey().Bytes(), public)
		x, err := server.ECDH(client.PublicKey())
		noError(t, "ECDH", err)
		check("X", x, sharedX)
		ref := &refPeer{wireConn: &wireConn{t: t}, key: client, strips: strips}
		ref.agree(v.ServerPublicKey)
		check("key of the seals", ref.secret, aesKey)
	}
	pair(v.ClientPrivateKey, v.ClientPublicKey, v.SharedX, v.AESKey, false)
	pair(v.ClientPrivateKey, v.ClientPublicKey, v.SharedX, v.AESKey, true)
	zero := v.LeadingZero
	if zero.SharedX[0] != 0 || v.SharedX[0] == 0 {
		t.Error("the wrong X begins with a zero")
	}
	pair(zero.ClientPrivateKey, zero.ClientPublicKey, zero.SharedX, zero.AESKey, false)
	pair(zero.ClientPrivateKey, zero.ClientPublicKey, zero.SharedX, zero.AESKeyStripped, true)
}
