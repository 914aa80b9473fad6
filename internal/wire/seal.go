package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// A seal is a nonce, the encrypted bytes, and a tag.
const (
	nonceSize  = 12
	prefixSize = 8 // of the nonce; the other bytes count
	tagSize    = 16

	// SealOverhead is how much longer a seal is than what is sealed, in
	// bytes.
	SealOverhead = nonceSize + tagSize
)

// Secrets is the source of the keys and nonces of connections. Programs use
// System; tests replace it to make a connection repeatable.
type Secrets struct {
	// Key returns a new private key on the curve P-384. An error ends the
	// handshake that needs the key.
	Key func() (*ecdh.PrivateKey, error)

	// Nonce returns the 8 bytes that nonces start with from now on, and the
	// first count of the 4 bytes behind them. A Cipher calls it when it is
	// made, and whenever the count has reached its end. The prefix must be
	// random: both sides seal with the same key, and a nonce that is used
	// twice breaks it.
	Nonce func() (prefix [prefixSize]byte, count uint32)
}

// System draws keys and prefixes from the random number generator of the
// system, and counts from 0.
var System = &Secrets{
	Key: func() (*ecdh.PrivateKey, error) { return ecdh.P384().GenerateKey(rand.Reader) },
	Nonce: func() (prefix [prefixSize]byte, count uint32) {
		rand.Read(prefix[:]) // never fails
		return prefix, 0
	},
}

// A Cipher seals what one side of a connection sends and opens what it
// receives. One goroutine may seal while another opens, but only one may seal at
// a time.
//
// Both directions have the same key, so a nonce must not come twice in either.
// A side draws 8 random bytes and counts in the other 4; it draws anew before
// the count would repeat.
type Cipher struct {
	aead    cipher.AEAD
	secrets *Secrets
	prefix  [prefixSize]byte
	count   uint64 // of the next nonce
}

// newCipher returns a Cipher whose key is derived from the secret x that both
// sides share. Its nonces come from s.
func newCipher(x []byte, s *Secrets) (*Cipher, error) {
	key := sha256.Sum256(x)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	c := &Cipher{aead: aead, secrets: s}
	c.draw()
	return c, nil
}

// draw starts a new run of nonces.
func (c *Cipher) draw() {
	prefix, count := c.secrets.Nonce()
	c.prefix, c.count = prefix, uint64(count)
}

// seal appends the seal of plain to b. They may overlap only if plain lies
// where its seal would, behind the nonce.
func (c *Cipher) seal(b, plain []byte) []byte {
	if c.count > 1<<32-1 {
		c.draw()
	}
	at := len(b)
	b = append(b, c.prefix[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(c.count))
	c.count++
	return c.aead.Seal(b, b[at:at+nonceSize], plain, nil)
}

// AppendFrames seals as many of the plain frames as fit into the capacity of b,
// and appends them to b. It returns the extended slice, which shares b's memory,
// and how many bytes of frames it has sealed: 0 if there is no room for the
// first. frames must be whole frames and must not overlap b's capacity; they are
// left as they are.
func (c *Cipher) AppendFrames(b, frames []byte) (sealed []byte, n int) {
	for n < len(frames) {
		end := n + FrameSize(frames[n:])
		if cap(b)-len(b) < end-n+SealOverhead {
			break
		}
		b = appendLength(b, end-n-LengthSize)
		b = c.seal(b, frames[n+LengthSize:end])
		n = end
	}
	return b, n
}

// AppendFrame seals the plain frame that consists of head, at least its length,
// and body, and appends it to b. Like append, it returns the extended slice, and
// allocates only if b lacks the capacity. head and body must not overlap b's
// capacity; they are left as they are.
func (c *Cipher) AppendFrame(b, head, body []byte) []byte {
	b = appendLength(b, len(head)-LengthSize+len(body))
	at := len(b)
	plain := append(b, zeroNonce[:]...) // the plain body, where its seal will be
	plain = append(plain, head[LengthSize:]...)
	plain = append(plain, body...)
	return c.seal(plain[:at], plain[at+nonceSize:])
}

var zeroNonce [nonceSize]byte

// appendLength appends the length of a sealed frame.
func appendLength(b []byte, plain int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(plain+SealOverhead))
}

// Open opens a seal in place. It returns what was sealed, which is a part of
// sealed. An error matches errs.Protocol: the seal was not made with the key of
// this connection, or was changed. The content of sealed is then undefined.
func (c *Cipher) Open(sealed []byte) ([]byte, error) {
	if len(sealed) < SealOverhead {
		return nil, errs.Detailf(errs.Protocol, "%d bytes are too few for what is encrypted, want %d at least", len(sealed), SealOverhead)
	}
	nonce, box := sealed[:nonceSize], sealed[nonceSize:]
	plain, err := c.aead.Open(box[:0], nonce, box, nil)
	if err != nil {
		return nil, errs.Detailf(errs.Protocol, "what is encrypted does not open with the key of this connection: %v", err)
	}
	return plain, nil
}
