package ipc_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// defaultMaxMsgSize is what a server with a zero config says.
const defaultMaxMsgSize = 3145728

// wireConn speaks the protocol by hand. It is strict, as some clients in other
// languages are: a step of the handshake must come with one read.
type wireConn struct {
	net.Conn
	t testing.TB
}

// accept waits for the next connection of a raw server.
func accept(t testing.TB, ln net.Listener) *wireConn {
	t.Helper()
	c, err := ln.Accept()
	noError(t, "Accept", err)
	t.Cleanup(func() { c.Close() })
	return &wireConn{c, t}
}

// send writes bytes that are concatenated.
func (r *wireConn) send(parts ...[]byte) {
	r.t.Helper()
	if _, err := r.Write(bytes.Join(parts, nil)); err != nil {
		r.t.Fatal("raw write:", err)
	}
}

// want makes one read, which must give exactly these bytes.
func (r *wireConn) want(what string, bytes ...byte) {
	r.t.Helper()
	got := make([]byte, 1<<10)
	n, err := r.Read(got)
	if err != nil || !slices.Equal(got[:n], bytes) {
		r.t.Fatalf("%s: read %v (%v), want %v", what, got[:n], err, bytes)
	}
}

// wantSilence checks that nothing comes, for a second of synthetic time.
func (r *wireConn) wantSilence(what string) {
	r.t.Helper()
	r.SetReadDeadline(time.Now().Add(time.Second))
	defer r.SetReadDeadline(time.Time{})
	var b [1]byte
	var timeout net.Error
	if n, err := r.Read(b[:]); !errors.As(err, &timeout) || !timeout.Timeout() {
		r.t.Fatalf("%s: read %v (%v), want nothing", what, b[:n], err)
	}
}

// wantDropped checks that the other end closes the connection, and returns
// what it had sent before.
func (r *wireConn) wantDropped() []byte {
	r.t.Helper()
	sent, err := io.ReadAll(r) // the error is a reset where it had not read everything
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		r.t.Fatal("connection stays open")
	}
	return sent
}

// wantFrame reads exactly this frame.
func (r *wireConn) wantFrame(msgType int, data []byte) {
	r.t.Helper()
	gotType, got := r.frame()
	if gotType != msgType || !bytes.Equal(got, data) {
		r.t.Fatalf("frame of type %d, %d bytes, want type %d, %d bytes, the same", gotType, len(got), msgType, len(data))
	}
}

// frame reads one frame, of any kind that is allowed.
func (r *wireConn) frame() (msgType int, data []byte) {
	r.t.Helper()
	msgType, data, err := readFrame(r)
	noError(r.t, "raw read of a frame", err)
	return msgType, data
}

func readFrame(r io.Reader) (msgType int, data []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	data = make([]byte, binary.BigEndian.Uint32(head[:])-4)
	_, err = io.ReadFull(r, data)
	return int(int32(binary.BigEndian.Uint32(head[4:]))), data, err
}

// encode is the frame of a message. It takes types that are not allowed, too.
func encode(msgType int, data []byte) []byte {
	return append(head(uint32(len(data)+4), uint32(msgType)), data...)
}

// head is the beginning of a frame.
func head(length, msgType uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), msgType)
}

// openClient goes through the client's part of a plain handshake.
func (r *wireConn) openClient() {
	r.t.Helper()
	r.want("step 1", 2, 0)
	r.send([]byte{0})
	r.want("step 4", 0, 0, 0, 4, 0, 0x30, 0, 0)
	r.send([]byte{0})
}

// openServer goes through the server's part of a plain handshake.
func (r *wireConn) openServer(maxMsgSize uint32) {
	r.t.Helper()
	r.send([]byte{2, 0})
	r.want("step 2", 0)
	r.send(head(4, maxMsgSize))
	r.takeStep5()
	if maxMsgSize >= 16 {
		r.wantFrame(0, announcement)
	}
}

// takeStep5 takes step 5 of a client, which frames may follow at once.
func (r *wireConn) takeStep5() {
	r.t.Helper()
	if step5 := r.receive(1); step5[0] != 0 {
		r.t.Fatalf("step 5: read %v, want 0", step5)
	}
}

// announcement is the data of the control frame by which a peer says that it
// knows requests. A client of ours sends it with step 5, if it is not longer than
// the server allows.
var announcement = []byte("\x01ipc\x01\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00")

// wirePair is a side of ours that is connected with a raw one.
type wirePair struct {
	side
	raw    *wireConn
	route  *route
	client bool         // what the side is
	setup  setup        // else how it is served,
	server *ipc.Server  // and what StartServer returned
	ln     net.Listener // where a raw server listens
	lost   ipc.Status   // the event after the raw end has gone
}

// wireKind makes wirePairs of one kind.
type wireKind struct {
	name string
	pair func(t testing.TB, tr transport, tweaks ...tweak) *wirePair
}

var wireKinds = []wireKind{
	{"client", wireServerPair},
	{"server single", func(t testing.TB, tr transport, tweaks ...tweak) *wirePair {
		return wireClientPair(t, setup{tr, false}, tweaks...)
	}},
	{"server multi", func(t testing.TB, tr transport, tweaks ...tweak) *wirePair {
		return wireClientPair(t, setup{tr, true}, tweaks...)
	}},
}

// wireClientPair is a server of ours with a raw client.
func wireClientPair(t testing.TB, s setup, tweaks ...tweak) *wirePair {
	t.Helper()
	p := &wirePair{route: s.open(t), setup: s, lost: ipc.Disconnected}
	p.server = s.startServer(t, p.route, tweaks...)
	p.raw, p.side = p.join(t)
	return p
}

// join connects another raw client.
func (p *wirePair) join(t testing.TB) (*wireConn, *ipc.Server) {
	t.Helper()
	raw := p.route.dial(t)
	raw.openClient()
	return raw, p.setup.join(t, p.server)
}

// wireServerPair is a client of ours with a raw server.
func wireServerPair(t testing.TB, tr transport, tweaks ...tweak) *wirePair {
	t.Helper()
	p := &wirePair{route: tr.open(t), client: true, lost: ipc.ReConnecting}
	p.ln = p.route.listen(t)
	started := background(func() *ipc.Client { return p.route.startClient(t, tweaks...) })
	p.raw = accept(t, p.ln)
	p.raw.openServer(defaultMaxMsgSize)
	p.side = started()
	return p
}

// again gives the side another connection after the raw end has gone.
// It returns the raw end and the side of that connection, with the events
// of the change read.
func (p *wirePair) again(t testing.TB) (*wireConn, side) {
	t.Helper()
	wantEvents(t, p, p.lost)
	if !p.client {
		return p.join(t)
	}
	raw := accept(t, p.ln)
	raw.openServer(defaultMaxMsgSize)
	wantEvents(t, p, ipc.Connected)
	return raw, p.side
}

// eachWire runs test over tr for each kind of side.
func eachWire(t *testing.T, tr transport, test func(t *testing.T, p *wirePair), tweaks ...tweak) {
	t.Helper()
	for _, k := range wireKinds {
		t.Run(k.name, func(t *testing.T) {
			begin(t)
			test(t, k.pair(t, tr, tweaks...))
		})
	}
}

// eachWireBubble is eachWire in synthetic time.
func eachWireBubble(t *testing.T, test func(t *testing.T, p *wirePair), tweaks ...tweak) {
	t.Helper()
	for _, k := range wireKinds {
		t.Run(k.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) { test(t, k.pair(t, pipeTransport, tweaks...)) })
		})
	}
}

// receive reads exactly n bytes.
func (r *wireConn) receive(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	noError(r.t, "raw read", err)
	return b
}
