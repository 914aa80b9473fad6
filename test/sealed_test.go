package ipc_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func TestKeysWithZeros(t *testing.T) {
	public := numberedKey(t, 0).PublicKey()
	for key, zeros := range map[int]int{oneZero: 1, twoZeros: 2, noZero: 0} {
		x, err := numberedKey(t, key).ECDH(public)
		noError(t, "ECDH", err)
		if n := len(x) - len(bytes.TrimLeft(x, "\x00")); n != zeros {
			t.Errorf("X of keys 0 and %d begins with %d zeros, want %d", key, n, zeros)
		}
	}
}

// A client draws keys until X does not begin with a zero byte, and so agrees
// with servers that drop leading zeros and with those that do not.
func TestClientDrawsUntilThereIsNoZero(t *testing.T) {
	for _, strips := range []bool{false, true} {
		t.Run(fmt.Sprintf("strips=%t", strips), func(t *testing.T) {
			begin(t)
			drawn := draw(t, 1, numberedKey(t, oneZero), numberedKey(t, twoZeros), numberedKey(t, oneZero),
				numberedKey(t, noZero), numberedKey(t, 2))
			route := unixRoute(t)
			ln := route.listen(t)
			started := background(func() *ipc.Client { return route.startClient(t) })
			ref := &refPeer{wireConn: accept(t, ln), key: numberedKey(t, 0), strips: strips, max: 100}
			ref.asServer()
			p := &refPair{wirePair: wirePair{side: started()}, ref: ref}
			p.check(t)
			if n := drawn(); n != 4 || !bytes.Equal(ref.theirs, numberedKey(t, noZero).PublicKey().Bytes()) {
				t.Errorf("client has drawn %d keys, want 4, and sent the last", n)
			}
		})
	}
}

// A server cannot choose the key of its client: it agrees with every client that
// keeps the zeros, and with those that drop them where there are none. A client
// that drops some finds that it cannot open step 4, and comes again.
func TestServerKeepsZeros(t *testing.T) {
	for _, multi := range []bool{false, true} {
		s := setup{unixTransport, multi}
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			zero := numberedKey(t, 0)
			draw(t, 1, zero, zero, zero, zero, zero, zero)
			route := s.open(t)
			server := s.startServer(t, route, quiet, encrypts)
			join := func(key int, strips bool) *refPeer {
				return &refPeer{wireConn: route.dial(t), key: numberedKey(t, key), strips: strips}
			}
			failures := uint64(0)
			for _, tt := range []struct {
				key    int
				strips bool
			}{{oneZero, false}, {noZero, true}, {oneZero, true}, {twoZeros, false}, {twoZeros, true}, {noZero, false}} {
				ref := join(tt.key, tt.strips)
				if tt.strips && tt.key != noZero {
					ref.exchangeAsClient()
					if _, err := ref.unseal(ref.step("step 4", 36)[4:]); err == nil {
						t.Error("step 4 opens with another key")
					}
					ref.Close()
					failures++
					continue
				}
				ref.asClient()
				p := &refPair{wirePair: wirePair{side: s.join(t, server)}, ref: ref}
				p.check(t)
				ref.Close()
				wantEvents(t, p, ipc.Disconnected)
			}
			if !eventually(func() bool { return server.Stats().HandshakeFailures == failures }) {
				t.Errorf("HandshakeFailures = %d, want %d", server.Stats().HandshakeFailures, failures)
			}
		})
	}
}

// Whichever bit of a frame is flipped: the connection ends with ErrProtocol,
// and nothing of the frame or of what follows is delivered.
func TestEveryFlippedBit(t *testing.T) {
	sameKeys(t)
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		p.key = numberedKey(t, 0)
		for bit := 0; bit < 8*(4+refMin+1); bit++ {
			if !p.client && !p.setup.multi && bit%8 != bit/8%8 {
				continue // as in MultiMode
			}
			before := p.ref.encode(1, []byte("before"))
			frame := p.ref.encode(2, []byte("a"))
			frame[bit/8] ^= 1 << (bit % 8)
			// Enough follows for whatever length the frame has now.
			p.ref.send(before, frame, p.ref.encode(3, make([]byte, 500)), p.ref.encode(3, make([]byte, 500)))
			wantMessage(t, p, 1, []byte("before"))
			p.wantRefused(t)
		}
		p.check(t)
	}, maxMsgSize(1000))
}

// A seal that was cut, to a length that its frame tells, is a protocol error
// whatever is left of it.
func TestEveryCutSeal(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		for n := range refMin + 3 {
			before := p.ref.encode(1, []byte("before"))
			frame := p.ref.encode(2, []byte("abc"))[:4+n]
			binary.BigEndian.PutUint32(frame, uint32(n))
			p.ref.send(before, frame)
			wantMessage(t, p, 1, []byte("before"))
			p.wantRefused(t)
		}
		p.check(t)
	})
}

// A frame that is torn by the end of the connection is lost with it, and no
// fault of the peer's.
func TestTornSealedFrame(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		for n := range 4 + refMin + 3 {
			before := p.ref.encode(1, []byte("before"))
			p.ref.send(before, p.ref.encode(2, []byte("abc"))[:n])
			p.ref.Close()
			wantMessage(t, p, 1, []byte("before"))
			wantEvents(t, p, p.lost)
			p.connect(t)
		}
		p.check(t)
	})
}

// A frame of an earlier connection does not open on the next one, which has
// another key. Both kinds of frames can be replayed: what the side has
// received, and what it has sent itself.
func TestReplayOfAnEarlierConnection(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		received := p.ref.encode(1, []byte("pay 100"))
		p.ref.send(received)
		wantMessage(t, p, 1, []byte("pay 100"))
		noError(t, "Write", p.Write(2, []byte("paid")))
		sent := p.ref.nextFrame()
		for _, frame := range [][]byte{received, sent} {
			p.ref.Close()
			wantEvents(t, p, p.lost)
			p.connect(t)
			p.check(t)
			p.ref.send(frame)
			p.wantRefused(t)
		}
		p.check(t)
	})
}

// Each connection has a key pair, a key and a nonce prefix of its own.
func TestConnectionsHaveTheirOwnKeys(t *testing.T) {
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		p.key = numberedKey(t, 0) // theirs is the same each time
		seen := make(map[string]bool)
		for range 30 {
			noError(t, "Write", p.Write(1, nil))
			for _, secret := range [][]byte{p.ref.theirs, p.ref.secret, p.ref.nextFrame()[4:12]} {
				if seen[string(secret)] {
					t.Fatalf("%x came twice", secret)
				}
				seen[string(secret)] = true
			}
			p.ref.send(p.ref.encode(1, nil)) // a client comes again at once after a valid frame
			wantMessage(t, p, 1, nil)
			p.ref.Close()
			wantEvents(t, p, p.lost)
			p.connect(t)
		}
	})
}

// tap makes the one connection of a client of route go through a relay that hands
// each whole frame to see, and that of step 4 as well: the server's and the
// client's in a goroutine each. What it returns waits for the end of both.
func tap(t *testing.T, route *route, see func(fromServer bool, frame []byte)) (wait func()) {
	t.Helper()
	path := socketPath(route.client.SocketDir, "tap")
	ln, err := listenAt(path)
	noError(t, "listen", err)
	t.Cleanup(func() { ln.Close() })
	server := route.path()
	var relays sync.WaitGroup
	relay := func(from, to net.Conn, handshake int64, fromServer bool) {
		defer to.Close()
		defer io.Copy(io.Discard, from)
		if _, err := io.CopyN(to, from, handshake); err != nil {
			return
		}
		in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(to, 64<<10)
		defer out.Flush()
		tee := io.TeeReader(in, out)
		for {
			if in.Buffered() == 0 {
				out.Flush()
			}
			frame, err := readSealed(tee)
			if err != nil {
				return
			}
			see(fromServer, frame)
		}
	}
	route.client.Dial = func(context.Context) (net.Conn, error) {
		client, err := dialAt(t.Context(), path)
		if err != nil {
			return nil, err
		}
		near, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		far, err := dialAt(t.Context(), server)
		if err != nil {
			return nil, err
		}
		relays.Go(func() { relay(far, near, 2+97, true) })
		relays.Go(func() { relay(near, far, 1+97+1, false) })
		return client, nil
	}
	return relays.Wait
}

// Over the wire no nonce comes twice, in a direction or in both. The frames
// take all ways to the kernel: streams, large messages and answers. On the way
// both ends run out of nonces.
func TestNoncesNeverRepeat(t *testing.T) {
	const streamed, large, answers = 49_500, 20, 500 // in each direction
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		var seen [2]map[[12]byte]bool // from the client, from the server
		for i := range seen {
			seen[i] = make(map[[12]byte]bool)
		}
		wait := tap(t, route, func(fromServer bool, frame []byte) {
			nonces := seen[0]
			if fromServer {
				nonces = seen[1]
			}
			nonce := [12]byte(frame[4:])
			if nonces[nonce] {
				t.Errorf("nonce %x came twice", nonce)
			}
			nonces[nonce] = true
		})
		drawn := drawCounts(t, 1<<32-20_000, 1<<32-30_000) // of the two ends, as they come
		server := s.startServer(t, route, encrypts)
		client := route.startClient(t)
		peer := s.join(t, server)

		stream := func(e side) func() error {
			return background(func() error {
				for i := range streamed + large {
					size := i % 40
					if i >= streamed {
						size = 40_000
					}
					if err := e.Write(i+1, make([]byte, size)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		toServer, toClient := stream(client), stream(peer)
		received := background(func() error { return receive(client, streamed+large) })
		noError(t, "Read of the server", receive(peer, streamed+large))
		noError(t, "Read of the client", received())
		noError(t, "Write of the client", toServer())
		noError(t, "Write of the server", toClient())
		for range answers {
			noError(t, "Write", client.Write(1, []byte("question")))
			wantMessage(t, peer, 1, []byte("question"))
			noError(t, "Write", peer.Write(2, []byte("answer")))
			wantMessage(t, client, 2, []byte("answer"))
		}
		noError(t, "Close", client.Close())
		noError(t, "Close", server.Close())
		wait()

		// Each end announces itself, and the server seals a step of the handshake.
		const each = streamed + large + answers + 1
		if len(seen[0]) != each || len(seen[1]) != each+1 {
			t.Errorf("%d nonces of the client, want %d; %d of the server, want %d", len(seen[0]), each, len(seen[1]), each+1)
		}
		if n := drawn(); n != 4 {
			t.Errorf("%d nonces drawn, want 2 of each end", n)
		}
		for nonce := range seen[0] {
			if seen[1][nonce] {
				t.Errorf("nonce %x was used by both ends", nonce)
			}
		}
	})
}

// receive reads messages that are numbered by type.
func receive(e side, n int) error {
	for i := range n {
		m, err := e.Read()
		if err != nil {
			return err
		}
		if m.MsgType != i+1 {
			return fmt.Errorf("read %s, want type %d", describe(m), i+1)
		}
	}
	return nil
}

// When the count of the nonces has run out a new prefix is drawn, which the
// other end does not notice.
func TestNonceCountRunsOut(t *testing.T) {
	for _, k := range refKinds {
		t.Run(k.name, func(t *testing.T) {
			begin(t)
			const before, after = 5, 7
			// One nonce is used before: by a server in the handshake, by a client for
			// its announcement.
			const first = 1<<32 - before - 1
			drawn := drawCounts(t, first)
			p := newRefPair(t, unixRoute(t), k.client, k.multi)
			var prefixes [][]byte
			for i := range before + after {
				noError(t, "Write", p.Write(i+1, []byte("data")))
				frame := p.ref.nextFrame()
				p.ref.wantSealed(frame, i+1, []byte("data"))
				prefixes = append(prefixes, frame[4:12])
				if count := binary.BigEndian.Uint32(frame[12:]); count != uint32(i-before) {
					t.Errorf("nonce %d has count %#x, want %#x", i, count, uint32(i-before))
				}
			}
			if prefixes = slices.CompactFunc(prefixes, bytes.Equal); len(prefixes) != 2 || drawn() != 2 {
				t.Errorf("prefixes %x of %d that were drawn, want two", prefixes, drawn())
			}
			p.check(t)
		})
	}
}

// Frames of all sizes, to and from a peer that seals them one by one: in the
// read buffer, as long as that, longer, and over what is pooled. Releasing some
// does the others no harm.
func TestSealedSizes(t *testing.T) {
	sizes := []int{0, 1, 4096, 4097, 32<<10 - 1, 32 << 10, 64 << 10, 68<<10 - 36, 68<<10 - 35, 100_000, 100_000, 100_000, 5000, 5000, 5000, 4<<20 - 33, 4<<20 - 32, 4<<20 - 31, 5 << 20, 3}
	eachRef(t, unixTransport, func(t *testing.T, p *refPair) {
		frames := make([][]byte, len(sizes))
		for i, n := range sizes {
			frames[i] = p.ref.encode(i+1, payload(i, n))
		}
		sent := background(func() error {
			_, err := p.ref.Write(bytes.Join(frames, nil))
			return err
		})
		kept := make(map[int]*ipc.Message)
		for i, n := range sizes {
			m := next(t, p)
			wantSame(t, m, i+1, payload(i, n))
			if i%2 == 0 {
				kept[i] = m
				continue
			}
			twin := *m
			m.Release()
			twin.Release() // a second time, through a copy
		}
		noError(t, "raw write", sent())
		for i, m := range kept { // their memory was not used again
			wantSame(t, m, i+1, payload(i, sizes[i]))
		}

		sent = background(func() error {
			for i, n := range sizes {
				if err := p.Write(i+1, payload(i, n)); err != nil {
					return err
				}
			}
			return nil
		})
		for i, n := range sizes {
			p.ref.wantFrame(i+1, payload(i, n))
		}
		noError(t, "Write", sent())
	}, maxMsgSize(5<<20))
}

// narrowRoute is the named socket where the kernel takes little at once.
func narrowRoute(t testing.TB) *route {
	address := socketAddresses(t)
	return hookRoute(t,
		func() (net.Listener, error) {
			l, err := net.Listen(socketNetwork, address())
			return narrowListener{l}, err
		},
		func(ctx context.Context, l net.Listener) (net.Conn, error) {
			var d net.Dialer
			return narrow(d.DialContext(ctx, socketNetwork, l.Addr().String()))
		})
}

type narrowListener struct{ net.Listener }

func (l narrowListener) Accept() (net.Conn, error) { return narrow(l.Listener.Accept()) }

func narrow(c net.Conn, err error) (net.Conn, error) {
	if err == nil {
		err = c.(*socketConn).SetWriteBuffer(1) // the system has a minimum
	}
	return c, err
}

// smallReads is a reader that takes little at once.
type smallReads struct{ io.Reader }

func (r smallReads) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(len(b), 700)]) }

// What the kernel takes in pieces arrives whole: sealing goes on where it
// stopped. That goes for streams, and for answers.
func TestSealedInPieces(t *testing.T) {
	eachRef(t, transport{open: narrowRoute}, func(t *testing.T, p *refPair) {
		n := fewer(80)
		size := func(i int) int { return i * i * 377 % 90_000 } // small and large ones
		sent := background(func() error {
			for i := range n {
				if err := p.Write(i+1, payload(i, size(i))); err != nil {
					return err
				}
			}
			return nil
		})
		for i := range n {
			frame, err := readSealed(smallReads{p.ref})
			noError(t, "raw read", err)
			p.ref.wantSealed(frame, i+1, payload(i, size(i)))
		}
		noError(t, "Write", sent())

		for i := range n {
			p.ref.send(p.ref.encode(i+1, nil))
			wantMessage(t, p, i+1, nil)
			noError(t, "Write", p.Write(i+1, payload(i, 20_000)))
			frame, err := readSealed(smallReads{p.ref})
			noError(t, "raw read", err)
			p.ref.wantSealed(frame, i+1, payload(i, 20_000))
		}
		noError(t, "Flush", p.Flush(t.Context()))
	})
}

// Each byte of a stream comes with a read of its own.
func TestSealedByteByByte(t *testing.T) {
	eachRefBubble(t, func(t *testing.T, p *refPair) {
		sizes := []int{0, 5, 0, 300, 4096, 4097}
		sent := background(func() error {
			for i, n := range sizes {
				for _, b := range p.ref.encode(i+1, payload(i, n)) {
					if _, err := p.ref.Write([]byte{b}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		for i, n := range sizes {
			wantMessage(t, p, i+1, payload(i, n))
		}
		noError(t, "raw write", sent())
		p.check(t)
	})
}

// A large message is withdrawn while none of its seal has left, and sent to
// its end once some has.
func TestSealedLargeMessageAndItsContext(t *testing.T) {
	for _, behind := range []bool{false, true} {
		for _, taken := range []int{0, 1, 4, 15, 16, 17, 20_000, 4 + refMin + largeSize - 1} {
			t.Run(fmt.Sprintf("%d bytes taken, behind another: %t", taken, behind), func(t *testing.T) {
				eachRefBubble(t, func(t *testing.T, p *refPair) {
					if behind {
						noError(t, "Write", p.Write(1, []byte("first")))
						synctest.Wait() // it is on its way, in a write of its own
					}
					data := bytes.Clone(payload(2, largeSize))
					ctx, cancel := context.WithCancel(t.Context())
					returned, wait := call(func() error { return p.WriteContext(ctx, 2, data) })
					wantBlocked(t, "WriteContext", returned)
					if behind && taken > 0 {
						p.ref.wantFrame(1, []byte("first"))
					}
					frame := make([]byte, 4+refMin+largeSize)
					_, err := io.ReadFull(p.ref, frame[:taken])
					noError(t, "raw read", err)
					wantBlocked(t, "WriteContext", returned)
					cancel()
					if taken == 0 {
						wantError(t, "WriteContext", wait(), context.Canceled)
						if behind {
							p.ref.wantFrame(1, []byte("first"))
						}
					} else {
						noError(t, "WriteContext", wait())
						clear(data)
						_, err = io.ReadFull(p.ref, frame[taken:])
						noError(t, "raw read", err)
						p.ref.wantSealed(frame, 2, payload(2, largeSize))
					}
					p.check(t)
				})
			})
		}
	}
}

// What a lost connection did not take whole goes over the next one, sealed
// with the next key, from the first such frame on: wherever it was cut.
func TestResentWithTheNewKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newRefPair(t, pipeRoute(t), true, false)
		const n = 5
		data := func(i int) []byte { return payload(i, 3*i) }
		total := 0
		for i := range n {
			total += 4 + refMin + len(data(i))
		}
		for cut := 0; cut <= total; cut++ {
			for i := range n {
				noError(t, "Write", p.Write(i+1, data(i)))
			}
			taken := make([]byte, cut)
			_, err := io.ReadFull(p.ref, taken)
			noError(t, "raw read", err)
			synctest.Wait()
			p.ref.Close()
			whole := 0
			for in := bytes.NewReader(taken); ; whole++ {
				frame, err := readSealed(in)
				if err != nil {
					break // cut
				}
				p.ref.wantSealed(frame, whole+1, data(whole))
			}
			wantEvents(t, p, ipc.ReConnecting)
			p.connect(t)
			for i := whole; i < n; i++ {
				p.ref.wantFrame(i+1, data(i))
			}
		}
		p.check(t)
	})
}

// A large message that the end of a connection has torn is sealed anew, too.
func TestTornLargeMessageIsResentWithTheNewKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newRefPair(t, pipeRoute(t), true, false)
		for _, taken := range []int{1, 4, 16, 20, 20_000, 4 + refMin + largeSize - 1} {
			returned, wait := call(func() error { return p.Write(2, payload(taken, largeSize)) })
			_, err := io.ReadFull(p.ref, make([]byte, taken))
			noError(t, "raw read", err)
			wantBlocked(t, "Write", returned)
			p.ref.Close()
			noError(t, "Write", wait())
			wantEvents(t, p, ipc.ReConnecting)
			p.connect(t)
			p.ref.wantFrame(2, payload(taken, largeSize))
			p.check(t)
		}
	})
}

// A client that does not insist follows each server: what it had queued for
// one that does not encrypt is sealed for the next, and the other way round.
//
// Pins doc.go, "Security": the server's choice
func TestClientFollowsTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := wireServerPair(t, pipeTransport)
		for i := range 6 {
			noError(t, "Write", p.Write(i+1, payload(i, 50)))
		}
		raw := p.raw
		raw.wantFrame(1, payload(0, 50))
		half := func(c io.Reader) {
			_, err := io.ReadFull(c, make([]byte, 30))
			noError(t, "raw read", err)
			synctest.Wait()
		}
		half(raw)
		raw.Close()
		wantEvents(t, p, ipc.ReConnecting)

		ref := &refPeer{wireConn: accept(t, p.ln), max: 100}
		ref.asServer()
		wantEvents(t, p, ipc.Connected)
		ref.wantFrame(2, payload(1, 50))
		ref.wantFrame(3, payload(2, 50))
		half(ref)
		ref.Close()
		wantEvents(t, p, ipc.ReConnecting)

		raw = accept(t, p.ln)
		raw.openServer(100)
		wantEvents(t, p, ipc.Connected)
		for i := 3; i < 6; i++ {
			raw.wantFrame(i+1, payload(i, 50))
		}
		raw.send(encode(1, nil))
		wantMessage(t, p, 1, nil)
	})
}

// insists is a tweak for the client only.
func insists(_ *ipc.ServerConfig, c *ipc.ClientConfig) {
	if c != nil {
		c.Encryption = true
	}
}

// A client that insists on encryption refuses a server that does not encrypt,
// at once and for good.
func TestEncryptionRequired(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		route := pipeRoute(t)
		ln := route.listen(t)
		dials := 0
		dial := route.client.Dial
		route.client.Dial = func(ctx context.Context) (net.Conn, error) {
			dials++
			return dial(ctx)
		}
		insists(nil, &route.client)
		start := time.Now()
		started := background(func() error { return startError(ipc.StartClient(&route.client)) })
		raw := accept(t, ln)
		raw.send([]byte{2, 0})
		raw.want("step 2", 2)
		if more := raw.wantDropped(); len(more) > 0 {
			t.Errorf("client sends %v after its refusal", more)
		}
		wantError(t, "StartClient", started(), ipc.ErrEncryptionRequired)
		if waited := time.Since(start); dials != 1 || waited != 0 {
			t.Errorf("%d attempts in %v, want one, at once", dials, waited)
		}
	})
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route, quiet)
		config := route.client
		config.Encryption = true
		_, err := ipc.StartClient(&config)
		wantError(t, "StartClient", err, ipc.ErrEncryptionRequired)
		if !eventually(func() bool { return server.Stats().HandshakeFailures == 1 }) {
			t.Errorf("HandshakeFailures = %d, want 1", server.Stats().HandshakeFailures)
		}
		wantRoundTrip(t, route.startClient(t), s.join(t, server))
	})
}

// startError drops the client of a start that is about its error.
func startError(c *ipc.Client, err error) error {
	if err == nil {
		c.Close()
	}
	return err
}

// A client that insists is not talked out of it by a server that comes back
// without encryption: it says so once, and goes on trying.
//
// Pins doc.go, "Events": a reconnecting client found a server that it must not use
func TestNoDowngradeAtReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newRefPair(t, pipeRoute(t), true, false, insists)
		p.check(t)
		noError(t, "Write", p.Write(1, []byte("secret")))
		for round := range 2 {
			p.ref.Close()
			for range 4 {
				raw := accept(t, p.ln)
				raw.send([]byte{2, 0})
				raw.want("step 2", 2)
				if more := raw.wantDropped(); len(more) > 0 {
					t.Errorf("client sends %v after its refusal", more)
				}
			}
			p.accept(t)
			wantEvents(t, p, ipc.ReConnecting)
			wantErrorEvent(t, p, ipc.ErrEncryptionRequired)
			wantEvents(t, p, ipc.Connected)
			if round == 0 {
				p.ref.wantFrame(1, []byte("secret"))
			}
			p.check(t)
		}
	})
}

// A client may say more in one write with its last step.
func TestSealedFramesWithTheHandshake(t *testing.T) {
	for _, multi := range []bool{false, true} {
		s := setup{unixTransport, multi}
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			route := s.open(t)
			server := s.startServer(t, route, encrypts)
			ref := &refPeer{wireConn: route.dial(t)}
			ref.exchangeAsClient()
			ref.takeLimit()
			ref.send([]byte{0}, ref.encode(1, []byte("one")), ref.encode(0, []byte("control")), ref.encode(0, make([]byte, 100_000)),
				ref.encode(2, payload(2, 100_000)))
			var got []delivery
			for len(got) < 3 {
				got = append(got, readManager(t, server.ServerManager)...)
			}
			if first := got[0].String(); first != "Connected" {
				t.Errorf("first comes %s, want Connected", first)
			}
			wantSame(t, got[1].message, 1, []byte("one"))
			wantSame(t, got[2].message, 2, payload(2, 100_000))
		})
	}
}

// A client whose key is none, or whose last step is wrong, loses its
// connection and is told nothing more; the server goes on.
func TestBadClientKeyExchange(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route, quiet, encrypts)
		failures := uint64(0)
		fail := func(name string, open func(*refPeer)) {
			ref := &refPeer{wireConn: route.dial(t)}
			open(ref)
			ref.closeWrite()
			if more := ref.wantDropped(); len(more) > 0 {
				t.Errorf("%s: server answers %v", name, more)
			}
			failures++
			if !eventually(func() bool { return server.Stats().HandshakeFailures == failures }) {
				t.Errorf("%s: HandshakeFailures = %d, want %d", name, server.Stats().HandshakeFailures, failures)
			}
		}
		for name, key := range badKeys(t) {
			fail(name, func(ref *refPeer) {
				ref.want("step 1", 2, 1)
				ref.send([]byte{0})
				ref.step("step 3", 97)
				ref.send(key)
			})
		}
		for _, answer := range []byte{1, 2, 3} {
			fail("an answer to step 1", func(ref *refPeer) {
				ref.want("step 1", 2, 1)
				ref.send([]byte{answer})
			})
			fail("an answer to step 4", func(ref *refPeer) {
				ref.exchangeAsClient()
				ref.takeLimit()
				ref.send([]byte{answer})
			})
		}
		ref := &refPeer{wireConn: route.dial(t)}
		ref.asClient()
		p := &refPair{wirePair: wirePair{side: s.join(t, server)}, ref: ref}
		p.check(t)
	})
}

// A server whose key is none, or whose step 4 does not open, is no server for
// a client: it goes without another step, and comes again.
func TestBadServerKeyExchange(t *testing.T) {
	parallel(t)
	needHalfClose(t)
	begin(t)
	route := unixRoute(t)
	ln := route.listen(t)
	started := background(func() *ipc.Client { return route.startClient(t, quiet) })
	fail := func(name string, open func(*refPeer)) {
		ref := &refPeer{wireConn: accept(t, ln)}
		open(ref)
		ref.closeWrite()
		if more := ref.wantDropped(); len(more) > 0 {
			t.Errorf("%s: client answers %v", name, more)
		}
	}
	for name, key := range badKeys(t) {
		fail(name, func(ref *refPeer) {
			ref.send([]byte{2, 1})
			ref.want("step 2", 0)
			ref.send(key)
		})
	}
	for name, step4 := range map[string]func(*refPeer) []byte{
		"not sealed": func(*refPeer) []byte { return head(4, 1000) },
		"not sealed, of the right length": func(*refPeer) []byte {
			return append(head(refOverhead+4, 1000), make([]byte, refOverhead)...)
		},
		"sealed, of 3 bytes": func(ref *refPeer) []byte {
			return append([]byte{0, 0, 0, refOverhead + 3}, ref.seal([]byte{1, 2, 3})...)
		},
		"sealed, of 5 bytes": func(ref *refPeer) []byte {
			return append([]byte{0, 0, 0, refOverhead + 5}, ref.seal([]byte{0, 0, 1, 2, 3})...)
		},
		"a frame": func(ref *refPeer) []byte { return ref.encode(1, []byte("data")) },
		"with a flipped bit": func(ref *refPeer) []byte {
			step := append([]byte{0, 0, 0, refOverhead + 4}, ref.seal([]byte{0, 0, 1, 0})...)
			step[len(step)-17] ^= 1
			return step
		},
		"torn": func(ref *refPeer) []byte {
			return append([]byte{0, 0, 0, refOverhead + 4}, ref.seal([]byte{0, 0, 1, 0})[:31]...)
		},
		"of 4 GiB": func(*refPeer) []byte { return []byte{0xff, 0xff, 0xff, 0xff} },
	} {
		fail("step 4 "+name, func(ref *refPeer) {
			ref.exchangeAsServer()
			ref.send(step4(ref))
		})
	}
	ref := &refPeer{wireConn: accept(t, ln), max: 100}
	ref.asServer()
	p := &refPair{wirePair: wirePair{side: started()}, ref: ref}
	p.check(t)
}

// A client that falls silent in the key exchange is dropped after
// HandshakeTimeout.
func TestSilentInTheKeyExchange(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		route := s.open(t)
		start := time.Now()
		s.startServer(t, route, quiet, encrypts)
		before := &refPeer{wireConn: route.dial(t)}
		before.want("step 1", 2, 1)
		before.send([]byte{0})
		before.step("step 3", 97)
		after := &refPeer{wireConn: route.dial(t)}
		after.exchangeAsClient()
		after.takeLimit()
		for _, ref := range []*refPeer{before, after} {
			ref.wantDropped()
			if waited := time.Since(start); waited != 5*time.Second {
				t.Errorf("silent client dropped after %v, want the default of 5s", waited)
			}
		}
	})
}

// No key is in the log, at any level, in any of the usual writings, whatever
// goes wrong.
//
// Pins doc.go, "Logging": Message data and keys are never logged
func TestKeysAreNotLogged(t *testing.T) {
	for _, k := range refKinds {
		t.Run(k.name, func(t *testing.T) {
			begin(t)
			secrets := make(map[string][]byte)
			var keys []*ecdh.PrivateKey
			for n := range 10 { // three, and some for each X with a zero
				keys = append(keys, numberedKey(t, n))
				secrets[fmt.Sprint("private key ", n)] = keys[n].Bytes()
			}
			draw(t, 1, keys...)
			var text lockedBuffer
			logger := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
			logEverywhere(t, logger)
			p := newRefPair(t, unixRoute(t), k.client, k.multi, func(s *ipc.ServerConfig, c *ipc.ClientConfig) {
				if s != nil {
					s.Logger = logger
				}
				if c != nil {
					c.Logger = logger
				}
			})
			remember := func() {
				public, err := ecdh.P384().NewPublicKey(p.ref.theirs)
				noError(t, "NewPublicKey", err)
				x, err := p.ref.key.ECDH(public)
				noError(t, "ECDH", err)
				secrets[fmt.Sprint("X ", len(secrets))] = x
				secrets[fmt.Sprint("key of the seals ", len(secrets))] = p.ref.secret
			}
			remember()
			p.check(t)
			bad := p.ref.encode(1, []byte("data"))
			bad[20] ^= 1
			p.ref.send(bad)
			p.wantRefused(t)
			remember()
			p.check(t)
			p.ref.Close()
			wantEvents(t, p, p.lost)
			if k.client { // a handshake that fails
				ref := &refPeer{wireConn: accept(t, p.ln)}
				ref.exchangeAsServer()
				ref.send(make([]byte, 36))
				ref.wantDropped()
			} else {
				ref := &refPeer{wireConn: p.route.dial(t)}
				ref.exchangeAsClient()
				ref.takeLimit()
				ref.send([]byte{9})
				ref.wantDropped()
			}
			p.Close()
			if p.server != nil {
				p.server.Close()
			}

			log := strings.ToLower(text.String())
			if !strings.Contains(log, "connected") || !strings.Contains(log, "does not open") {
				t.Errorf("the log does not tell what happened:\n%s", log)
			}
			for name, secret := range secrets {
				for _, part := range [][]byte{secret[:9], secret[len(secret)-9:]} {
					for _, written := range []string{
						hex.EncodeToString(part), base64.StdEncoding.EncodeToString(part), base64.URLEncoding.EncodeToString(part),
						strings.Trim(fmt.Sprint(part), "[]"), strings.Trim(fmt.Sprintf("%#v", part), "[]byte{}"), string(part),
						strings.Trim(fmt.Sprintf("%q", part), `"`),
					} {
						if strings.Contains(log, strings.ToLower(written)) {
							t.Errorf("%s is in the log:\n%s", name, log)
						}
					}
				}
			}
		})
	}
}

// logEverywhere makes logger the one that a package uses which was not told of
// any, until the test ends.
func logEverywhere(t *testing.T, logger *slog.Logger) {
	before, writer, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(logger)
	t.Cleanup(func() {
		slog.SetDefault(before)
		log.SetOutput(writer) // SetDefault has changed these two
		log.SetFlags(flags)
	})
}
