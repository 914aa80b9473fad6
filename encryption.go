package ipc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// The seal of a frame: a nonce before what is encrypted, a tag after it.
const (
	nonceSize    = 12
	prefixSize   = 8 // of the nonce; the rest counts
	tagSize      = 16
	sealOverhead = nonceSize + tagSize

	publicKeySize = 97 // an uncompressed point of P-384
)

// secrets is where a side draws what nobody may guess from.
type secrets struct {
	key    func() (*ecdh.PrivateKey, error)
	prefix func() [prefixSize]byte
}

// randomSecrets draws from the system.
var randomSecrets = &secrets{
	key: func() (*ecdh.PrivateKey, error) { return ecdh.P384().GenerateKey(rand.Reader) },
	prefix: func() (p [prefixSize]byte) {
		rand.Read(p[:]) // never fails
		return p
	},
}

// crypt seals what one side of a connection sends and opens what it receives.
// The parts for the two directions are independent: one goroutine may seal
// while another opens.
//
// Both directions have the same key, so no nonce may come twice in either. A
// side draws 8 random bytes and counts in the other 4; it draws anew before
// the count would come round.
type crypt struct {
	aead    cipher.AEAD
	secrets *secrets
	prefix  [prefixSize]byte
	count   uint64 // of the nonces made with prefix
}

func newCrypt(x []byte, s *secrets) (*crypt, error) {
	key := sha256.Sum256(x)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &crypt{aead: aead, secrets: s, prefix: s.prefix()}, nil
}

// appendSealed appends the seal of plain to b. They may overlap only if plain
// lies where its seal would, behind the nonce.
func (c *crypt) appendSealed(b, plain []byte) []byte {
	if c.count > 1<<32-1 {
		c.prefix = c.secrets.prefix()
		c.count = 0
	}
	at := len(b)
	b = append(b, c.prefix[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(c.count))
	c.count++
	return c.aead.Seal(b, b[at:at+nonceSize], plain, nil)
}

// open opens a seal in place and returns what was sealed.
func (c *crypt) open(sealed []byte) ([]byte, error) {
	if len(sealed) < sealOverhead {
		return nil, detailf(ErrProtocol, "a seal of %d bytes", len(sealed))
	}
	nonce, box := sealed[:nonceSize], sealed[nonceSize:]
	plain, err := c.aead.Open(box[:0], nonce, box, nil)
	if err != nil {
		return nil, detailf(ErrProtocol, "a seal that does not open: %v", err)
	}
	return plain, nil
}

// sealChunk is how much of small frames is sealed at once.
const sealChunk = 2 * largeSize

// sealer seals frames where they are sent, and keeps what the kernel has not
// taken: it cannot be sealed twice. It belongs to whoever flushes.
type sealer struct {
	crypt *crypt  // nil: nothing is sealed
	rest  []byte  // sealed and not sent
	buf   *pooled // the memory of rest, if that is not too large
}

// next returns the bytes to send next. If none are left it seals some of segs,
// which start with the first frame that is not sealed.
func (s *sealer) next(segs []segment) []byte {
	if len(s.rest) == 0 {
		s.rest = s.seal(segs)
	}
	return s.rest
}

func (s *sealer) seal(segs []segment) []byte {
	if first := &segs[0]; first.head != nil {
		return s.sealParts(first)
	}
	var b []byte
	for _, seg := range segs {
		for frames := seg.body; len(frames) > 0; {
			n := frameSize(frames)
			if b == nil {
				b = s.buffer(max(sealChunk, n+sealOverhead))
			}
			if cap(b)-len(b) < n+sealOverhead {
				return b
			}
			b = appendLength(b, n-lengthSize)
			b = s.crypt.appendSealed(b, frames[lengthSize:n])
			frames = frames[n:]
		}
	}
	return b
}

// sealParts seals a frame that is not in one piece, and so has to be put
// together first.
func (s *sealer) sealParts(seg *segment) []byte {
	b := s.buffer(seg.size() + sealOverhead)
	plain := append(b[:lengthSize+nonceSize], seg.head[lengthSize:]...)
	plain = append(plain, seg.body...)[lengthSize+nonceSize:]
	return s.crypt.appendSealed(appendLength(b, len(plain)), plain)
}

func (s *sealer) buffer(size int) []byte {
	if size > maxPooled {
		return make([]byte, 0, size)
	}
	s.buf = getPooled(size)
	return s.buf.b[:0]
}

// appendLength appends the length of a sealed frame.
func appendLength(b []byte, plain int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(plain+sealOverhead))
}

// sent takes into account that the kernel has taken n bytes.
func (s *sealer) sent(n int) {
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		s.drop()
	}
}

// drop forgets what was sealed and not sent.
func (s *sealer) drop() {
	s.rest = nil
	if s.buf != nil {
		s.buf.put()
		s.buf = nil
	}
}

// offerKey is the server's side of the key exchange.
func offerKey(conn net.Conn, s *secrets) (*crypt, error) {
	private, err := s.key()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if err := send(conn, private.PublicKey().Bytes()...); err != nil {
		return nil, fmt.Errorf("sending the public key: %w", err)
	}
	public, err := receiveKey(conn)
	if err != nil {
		return nil, err
	}
	x, err := private.ECDH(public)
	if err != nil {
		return nil, detailf(ErrProtocol, "key exchange: %v", err)
	}
	return newCrypt(x, s)
}

// acceptKey is the client's side of the key exchange.
func acceptKey(conn net.Conn, s *secrets) (*crypt, error) {
	public, err := receiveKey(conn)
	if err != nil {
		return nil, err
	}
	for {
		private, err := s.key()
		if err != nil {
			return nil, fmt.Errorf("making a key: %w", err)
		}
		x, err := private.ECDH(public)
		if err != nil {
			return nil, detailf(ErrProtocol, "key exchange: %v", err)
		}
		if x[0] == 0 {
			continue // some servers hash X without its leading zeros, and others with them
		}
		if err := send(conn, private.PublicKey().Bytes()...); err != nil {
			return nil, fmt.Errorf("sending the public key: %w", err)
		}
		return newCrypt(x, s)
	}
}

func receiveKey(conn net.Conn) (*ecdh.PublicKey, error) {
	var b [publicKeySize]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return nil, fmt.Errorf("receiving a public key: %w", err)
	}
	key, err := ecdh.P384().NewPublicKey(b[:])
	if err != nil {
		return nil, detailf(ErrProtocol, "public key: %v", err)
	}
	return key, nil
}
