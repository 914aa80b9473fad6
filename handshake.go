package ipc

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// The opening of a connection. Every step is one write of its own, and none is
// sent before the answer to the one before it: there are clients that read a
// step with one call and take it for whole.
const (
	protocolVersion = 2

	plainConnection  = 0
	sealedConnection = 1

	answerOK        = 0
	answerVersion   = 1 // the client speaks another version
	answerEncrypted = 2 // the client insists on encryption

	maxMsgSizeSize = 4 // the only thing in the payload of the last step
)

// welcome is the server's side of a handshake. It returns the connection's
// link when the client is connected. wait is called when only the last step is
// left: it withholds it until there is a place for the client.
func welcome(conn net.Conn, c *ServerConfig, s *secrets, deadline time.Time, wait func() error) (*link, error) {
	conn.SetDeadline(deadline)
	mode := byte(plainConnection)
	if c.Encryption {
		mode = sealedConnection
	}
	if err := send(conn, protocolVersion, mode); err != nil {
		return nil, fmt.Errorf("sending the version: %w", err)
	}
	if err := receiveOK(conn); err != nil {
		return nil, err
	}
	var crypt *crypt
	if c.Encryption {
		var err error
		if crypt, err = offerKey(conn, s); err != nil {
			return nil, err
		}
	}

	left := time.Until(deadline) // the clock stands while the client waits
	if err := wait(); err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(left))

	if err := send(conn, limitStep(c.MaxMsgSize, crypt)...); err != nil {
		return nil, fmt.Errorf("sending the maximum message size: %w", err)
	}
	if err := receiveOK(conn); err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	l := newLink(conn, c.MaxMsgSize, crypt)
	if c.MultiMode {
		l.writeTimeout = c.WriteTimeout
	} else {
		l.share()
	}
	return l, nil
}

// limitStep returns the step that tells a client the maximum message size.
func limitStep(maxMsgSize int, c *crypt) []byte {
	limit := binary.BigEndian.AppendUint32(nil, uint32(maxMsgSize))
	if c != nil {
		limit = c.appendSealed(nil, limit)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(limit))), limit...)
}

// receiveOK receives a client's answer to a step.
func receiveOK(conn net.Conn) error {
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("receiving an answer: %w", err)
	}
	switch answer[0] {
	case answerOK:
		return nil
	case answerVersion:
		return detailf(ErrVersion, "the client speaks another version of the protocol than %d", protocolVersion)
	case answerEncrypted:
		return detailf(ErrEncryptionRequired, "the client insists on encryption")
	}
	return detailf(ErrProtocol, "answer %d in the handshake", answer[0])
}

// join is the client's side of a handshake. It returns the connection's link
// when the server has given the client a place.
func join(ctx context.Context, conn net.Conn, c *ClientConfig, s *secrets) (*link, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l, err := joinServer(conn, c, s)
	if !stop() {
		// It is about to be closed, or is.
		return nil, ctx.Err()
	}
	return l, err
}

func joinServer(conn net.Conn, c *ClientConfig, s *secrets) (*link, error) {
	sealed, err := receiveHello(conn, c)
	if err != nil {
		return nil, err
	}
	if err := send(conn, answerOK); err != nil {
		return nil, fmt.Errorf("answering the server's version: %w", err)
	}
	var crypt *crypt
	if sealed {
		if crypt, err = acceptKey(conn, s); err != nil {
			return nil, err
		}
	}
	limit, err := receiveLimit(conn, crypt)
	if err != nil {
		return nil, err
	}
	if err := send(conn, answerOK); err != nil {
		return nil, fmt.Errorf("answering the maximum message size: %w", err)
	}
	conn.SetDeadline(time.Time{}) // whoever dialled may have left one
	l := newLink(conn, limit, crypt)
	l.share()
	return l, nil
}

// receiveHello receives the first step, and reports whether the connection is
// to be encrypted.
func receiveHello(conn net.Conn, c *ClientConfig) (sealed bool, err error) {
	var hello [2]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return false, fmt.Errorf("receiving the server's version: %w", err)
	}
	version, mode := hello[0], hello[1]
	switch {
	case version != protocolVersion:
		send(conn, answerVersion) // a courtesy: this connection is over
		return false, detailf(ErrVersion, "the server speaks version %d of the protocol, not %d", version, protocolVersion)
	case mode > sealedConnection:
		return false, detailf(ErrProtocol, "connection mode %d in the handshake", mode)
	case mode == plainConnection && c.Encryption:
		send(conn, answerEncrypted)
		return false, detailf(ErrEncryptionRequired, "the server does not encrypt, and encryption is required")
	}
	return mode == sealedConnection, nil
}

// receiveLimit receives the step that tells the maximum message size.
func receiveLimit(conn net.Conn, c *crypt) (int, error) {
	size := maxMsgSizeSize
	if c != nil {
		size += sealOverhead
	}
	step := make([]byte, lengthSize+size)
	if _, err := io.ReadFull(conn, step[:lengthSize]); err != nil {
		return 0, fmt.Errorf("receiving the maximum message size: %w", err)
	}
	if n := binary.BigEndian.Uint32(step); n != uint32(size) {
		return 0, detailf(ErrProtocol, "%d bytes in the last step of the handshake, want %d", n, size)
	}
	limit := step[lengthSize:]
	if _, err := io.ReadFull(conn, limit); err != nil {
		return 0, fmt.Errorf("receiving the maximum message size: %w", err)
	}
	if c != nil {
		var err error
		if limit, err = c.open(limit); err != nil {
			return 0, err
		}
	}
	return int(min(binary.BigEndian.Uint32(limit), maxMaxMsgSize)), nil
}

// send sends one step of the handshake.
func send(conn net.Conn, step ...byte) error {
	_, err := conn.Write(step)
	return err
}

// beside runs f, which is the user's and may take as long as it likes, in a
// goroutine of its own. When ctx ends first it returns at once; late is then
// called with what f returns.
func beside[T any](ctx context.Context, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	results := make(chan result)
	go func() {
		v, err := f()
		select {
		case results <- result{v, err}:
		case <-ctx.Done():
			if err == nil {
				late(v)
			}
		}
	}()
	select {
	case r := <-results:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// authorize finds out who is at the other end of conn and, where allow is set,
// lets it decide. It fails closed: a peer that cannot be told is refused.
func authorize(ctx context.Context, conn net.Conn, allow func(Peer) error) (peerInfo, error) {
	var info peerInfo
	info.peer, info.err = peerOf(conn)
	if allow == nil {
		return info, nil
	}
	if info.err != nil {
		return info, fmt.Errorf("%w: %w", ErrUnauthorized, info.err)
	}
	_, err := beside(ctx, func() (struct{}, error) {
		err := allow(info.peer)
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrUnauthorized, err)
		}
		return struct{}{}, err
	}, func(struct{}) {})
	return info, err
}
