package wire

import (
	"crypto/ecdh"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
)

// The handshake. Each step is one write of its own, and none is sent before
// the answer to the step before it: there are clients that read a step with one
// call and expect all of it.
const (
	version = 2

	plainConnection  = 0
	sealedConnection = 1

	answerOK        = 0
	answerVersion   = 1 // the client speaks another version
	answerEncrypted = 2 // the client insists on encryption

	limitSize = 4 // of the payload of the last step

	publicKeySize = 97 // an uncompressed point of P-384
)

// Negotiated is the result of a handshake. After an error it is zero.
type Negotiated struct {
	MaxMsgSize int     // how much data a frame may have, in bytes, in either direction
	Cipher     *Cipher // of this connection alone; nil if it is not encrypted
}

// A Server holds the parameters of the server's side of the handshake.
// Handshakes do not change it: many may use it at the same time, if Secrets
// allows it.
type Server struct {
	Encrypt    bool     // whether connections are encrypted
	MaxMsgSize int      // what is announced to clients, from 0 to MaxLimit
	Secrets    *Secrets // used if Encrypt is set
}

// Handshake performs the server's side of the handshake on conn. It reads no
// further than the handshake goes, and sets no deadlines.
//
// It calls admit once, when only the last step is left, and sends that step when
// admit has returned nil. To the client, the time that admit takes looks like a
// slow step. If the handshake fails earlier, admit is not called.
//
// An error matches errs.Version or errs.EncryptionRequired if the client refuses
// the connection for this reason, and errs.Protocol if it breaks the rules. An
// error of conn, Secrets or admit is returned as it is or wrapped. After any
// error the caller must close the connection.
func (s *Server) Handshake(conn io.ReadWriter, admit func() error) (Negotiated, error) {
	mode := byte(plainConnection)
	if s.Encrypt {
		mode = sealedConnection
	}
	if err := send(conn, version, mode); err != nil {
		return Negotiated{}, fmt.Errorf("sending the version: %w", err)
	}
	if err := receiveOK(conn); err != nil {
		return Negotiated{}, err
	}
	n := Negotiated{MaxMsgSize: s.MaxMsgSize}
	if s.Encrypt {
		var err error
		if n.Cipher, err = offerKey(conn, s.Secrets); err != nil {
			return Negotiated{}, err
		}
	}
	if err := admit(); err != nil {
		return Negotiated{}, err
	}
	if err := send(conn, limitStep(n)...); err != nil {
		return Negotiated{}, fmt.Errorf("sending the maximum message size: %w", err)
	}
	if err := receiveOK(conn); err != nil {
		return Negotiated{}, err
	}
	return n, nil
}

// limitStep returns the step that tells a client the maximum message size.
func limitStep(n Negotiated) []byte {
	limit := binary.BigEndian.AppendUint32(nil, uint32(n.MaxMsgSize))
	if n.Cipher != nil {
		limit = n.Cipher.seal(nil, limit)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(limit))), limit...)
}

// receiveOK receives a client's answer to a step.
func receiveOK(conn io.Reader) error {
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("receiving an answer: %w", err)
	}
	switch answer[0] {
	case answerOK:
		return nil
	case answerVersion:
		return errs.Detailf(errs.Version, "the client speaks another version of the protocol than %d: update the older of the two programs", version)
	case answerEncrypted:
		return errs.Detailf(errs.EncryptionRequired, "the client insists on encryption, and this server does not encrypt: "+
			"set Encryption in the server's config, or not in the client's")
	}
	return errs.Detailf(errs.Protocol, "the client answered %d in the handshake, want 0 to 2: does it speak another protocol?", answer[0])
}

// A Client holds the parameters of the client's side of the handshake.
// Handshakes do not change it.
type Client struct {
	RequireEncryption bool     // whether to refuse connections that are not encrypted
	Secrets           *Secrets // used if the server encrypts
	Waiting           func()   // if it is set, called once all is done that precedes the wait for a place
}

// Handshake performs the client's side of the handshake on conn. It reads no
// further than the handshake goes, and sets no deadlines. It does not return
// before the server has a place for the client, which may take any time. With its
// last step it sends the announcement that the client knows requests, if
// MaxMsgSize allows it.
//
// An error matches errs.Version if the server speaks another version,
// errs.EncryptionRequired if the server does not encrypt and c insists on it, and
// errs.Protocol if the server breaks the rules. An error of conn or Secrets is
// wrapped. After any error the caller must close the connection.
func (c *Client) Handshake(conn io.ReadWriter) (Negotiated, error) {
	sealed, err := c.receiveHello(conn)
	if err != nil {
		return Negotiated{}, err
	}
	if err := send(conn, answerOK); err != nil {
		return Negotiated{}, fmt.Errorf("answering the server's version: %w", err)
	}
	var n Negotiated
	if sealed {
		if n.Cipher, err = acceptKey(conn, c.Secrets); err != nil {
			return Negotiated{}, err
		}
	}
	if c.Waiting != nil {
		c.Waiting()
	}
	if n.MaxMsgSize, err = receiveLimit(conn, n.Cipher); err != nil {
		return Negotiated{}, err
	}
	if err := send(conn, n.lastStep()...); err != nil {
		return Negotiated{}, fmt.Errorf("answering the maximum message size: %w", err)
	}
	return n, nil
}

// lastStep returns the client's last answer and, in one write with it, the
// announcement, if frames may be so long. A server that knows no requests reads
// the one as the byte that it is, and ignores the other.
func (n *Negotiated) lastStep() []byte {
	step := []byte{answerOK}
	if n.MaxMsgSize < ControlSize {
		return step
	}
	if n.Cipher == nil {
		return append(step, Announcement()...)
	}
	return n.Cipher.AppendFrame(step, Announcement(), nil)
}

// receiveHello receives the first step, and reports whether the connection is
// to be encrypted.
func (c *Client) receiveHello(conn io.ReadWriter) (sealed bool, err error) {
	var hello [2]byte
	if _, err := io.ReadFull(conn, hello[:]); err == io.EOF {
		return false, fmt.Errorf("the server closed the connection without a word: "+
			"it may have refused this client (Authorize), be closing, or speak another protocol: %w", err)
	} else if err != nil {
		return false, fmt.Errorf("receiving the server's version: %w", err)
	}
	theirs, mode := hello[0], hello[1]
	switch {
	case theirs != version:
		send(conn, answerVersion) // a courtesy: this connection is over
		return false, errs.Detailf(errs.Version, "the server speaks version %d of the protocol, not %d: update the older of the two programs", theirs, version)
	case mode > sealedConnection:
		return false, errs.Detailf(errs.Protocol, "the server's encryption flag is %d, want 0 or 1: does it speak another protocol?", mode)
	case mode == plainConnection && c.RequireEncryption:
		send(conn, answerEncrypted)
		return false, errs.Detailf(errs.EncryptionRequired, "the server does not encrypt, and encryption is required: "+
			"set Encryption in the server's config, or not in the client's")
	}
	return mode == sealedConnection, nil
}

// receiveLimit receives the step that tells the maximum message size.
func receiveLimit(conn io.Reader, c *Cipher) (int, error) {
	size := limitSize
	if c != nil {
		size += SealOverhead
	}
	step := make([]byte, LengthSize+size)
	if _, err := io.ReadFull(conn, step[:LengthSize]); err != nil {
		return 0, fmt.Errorf("receiving the maximum message size: %w", err)
	}
	if n := binary.BigEndian.Uint32(step); n != uint32(size) {
		return 0, errs.Detailf(errs.Protocol, "%d bytes in the last step of the handshake, want %d", n, size)
	}
	limit := step[LengthSize:]
	if _, err := io.ReadFull(conn, limit); err != nil {
		return 0, fmt.Errorf("receiving the maximum message size: %w", err)
	}
	if c != nil {
		var err error
		if limit, err = c.Open(limit); err != nil {
			return 0, err
		}
	}
	return int(min(binary.BigEndian.Uint32(limit), MaxLimit)), nil
}

// offerKey is the server's side of the key exchange.
func offerKey(conn io.ReadWriter, s *Secrets) (*Cipher, error) {
	private, err := s.Key()
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
		return nil, errs.Detailf(errs.Protocol, "key exchange: %v", err)
	}
	return newCipher(x, s)
}

// acceptKey is the client's side of the key exchange.
func acceptKey(conn io.ReadWriter, s *Secrets) (*Cipher, error) {
	public, err := receiveKey(conn)
	if err != nil {
		return nil, err
	}
	for {
		private, err := s.Key()
		if err != nil {
			return nil, fmt.Errorf("making a key: %w", err)
		}
		x, err := private.ECDH(public)
		if err != nil {
			return nil, errs.Detailf(errs.Protocol, "key exchange: %v", err)
		}
		if x[0] == 0 {
			continue // some servers hash X without its leading zeros, and others with them
		}
		if err := send(conn, private.PublicKey().Bytes()...); err != nil {
			return nil, fmt.Errorf("sending the public key: %w", err)
		}
		return newCipher(x, s)
	}
}

func receiveKey(conn io.Reader) (*ecdh.PublicKey, error) {
	var b [publicKeySize]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return nil, fmt.Errorf("receiving a public key: %w", err)
	}
	key, err := ecdh.P384().NewPublicKey(b[:])
	if err != nil {
		return nil, errs.Detailf(errs.Protocol, "public key: %v", err)
	}
	return key, nil
}

// send sends one step.
func send(conn io.Writer, step ...byte) error {
	_, err := conn.Write(step)
	return err
}
