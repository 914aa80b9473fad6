package ipc_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The first bytes of a server, to the byte and to the write: over net.Pipe a
// read gives what one write wrote.
func TestServerHandshake(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route, maxMsgSize(0x01020304))
		raw := route.dial(t)
		raw.want("step 1", 2, 0)
		raw.wantSilence("before step 2")
		raw.send([]byte{0})
		raw.want("step 4", 0, 0, 0, 4, 1, 2, 3, 4)
		raw.wantSilence("before step 5")
		raw.send([]byte{0})
		peer := s.join(t, server)
		raw.wantSilence("after step 5")
		raw.send(encode(7, []byte("seven")))
		wantMessage(t, peer, 7, []byte("seven"))
		noError(t, "Write", peer.Write(8, []byte("eight")))
		raw.want("frame", encode(8, []byte("eight"))...)
	})
}

// The first bytes of a client.
func TestClientHandshake(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		route := pipeRoute(t)
		ln := route.listen(t)
		started := background(func() *ipc.Client { return route.startClient(t) })
		raw := accept(t, ln)
		raw.wantSilence("before step 1")
		raw.send([]byte{2, 0})
		raw.want("step 2", 0)
		raw.wantSilence("before step 4")
		raw.send([]byte{0, 0, 0, 4, 0, 0, 0, 3})
		raw.want("step 5", 0)
		client := started()
		raw.wantSilence("after step 5")

		// The limit is the server's.
		wantError(t, "Write of 4 bytes", client.Write(1, make([]byte, 4)), ipc.ErrMsgTooLarge)
		noError(t, "Write", client.Write(7, []byte("abc")))
		raw.want("frame", encode(7, []byte("abc"))...)
		raw.send(encode(8, []byte("def")))
		wantMessage(t, client, 8, []byte("def"))
	})
}

// A client believes a limit that no int of 32 bits can hold as far as it can.
func TestLimitOverInt32(t *testing.T) {
	for _, limit := range []uint32{math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32} {
		t.Run(fmt.Sprintf("%#x", limit), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				route := pipeRoute(t)
				ln := route.listen(t)
				started := background(func() *ipc.Client { return route.startClient(t) })
				raw := accept(t, ln)
				raw.openServer(limit)
				client := started()
				noError(t, "Write", client.Write(1, []byte("to")))
				raw.wantFrame(1, []byte("to"))
				raw.send(encode(2, []byte("fro")))
				wantMessage(t, client, 2, []byte("fro"))
			})
		})
	}
}

// What a peer may do to the stream without being understood otherwise.
func TestFramesInPieces(t *testing.T) {
	large := 40_000
	if testing.Short() {
		large = 4_000
	}
	messages := [][]byte{nil, []byte("a"), payload(1, 100), payload(2, large), nil, payload(3, 5)}
	var stream []byte
	for i, m := range messages {
		stream = append(stream, encode(i+1, m)...)
	}
	long := bytes.Repeat(encode(9, []byte("many in one write")), 3000)
	for _, tt := range []struct {
		name  string
		piece int
	}{
		{"one write", len(stream)},
		{"one byte", 1},
		{"two bytes", 2},
		{"seven bytes", 7},
		{"a page", 4096},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
				sent := background(func() error {
					for piece := range slices.Chunk(stream, tt.piece) {
						if _, err := p.raw.Write(piece); err != nil {
							return err
						}
					}
					_, err := p.raw.Write(long)
					return err
				})
				for i, m := range messages {
					wantMessage(t, p, i+1, m)
				}
				for range 3000 {
					wantMessage(t, p, 9, []byte("many in one write"))
				}
				noError(t, "raw write", sent())
			})
		})
	}
}

// Handshake and frames may arrive together, as far as the steps allow, and
// the handshake in pieces.
func TestFramesWithTheHandshake(t *testing.T) {
	eachSetup(t, unixSetups, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		raw := route.dial(t)
		raw.want("step 1", 2, 0)
		raw.send([]byte{0})
		raw.want("step 4", 0, 0, 0, 4, 0, 0x30, 0, 0)
		raw.send([]byte{0}, encode(1, []byte("one")), encode(2, []byte("two")))
		var all []string
		for len(all) < 3 {
			for _, d := range readManager(t, server.ServerManager) {
				all = append(all, d.String())
			}
		}
		want := []string{"Connected", "message of type 1, 3 bytes", "message of type 2, 3 bytes"}
		if !slices.Equal(all, want) {
			t.Errorf("read %q, want %q", all, want)
		}
	})
	t.Run("client", func(t *testing.T) {
		begin(t)
		route := unixRoute(t)
		ln := route.listen(t)
		started := background(func() *ipc.Client { return route.startClient(t) })
		raw := accept(t, ln)
		for _, b := range []byte{2, 0} {
			raw.send([]byte{b})
		}
		raw.want("step 2", 0)
		step4 := head(4, 100)
		for _, b := range step4[:7] {
			raw.send([]byte{b})
		}
		raw.send(step4[7:], encode(1, []byte("one")))
		raw.want("step 5 and the announcement", append([]byte{0}, encode(0, announcement)...)...)
		wantMessage(t, started(), 1, []byte("one"))
	})
}

// A client announces itself with its last step, in one write, if its server's limit
// allows it.
func TestAnnouncementWithTheHandshake(t *testing.T) {
	for _, limit := range []uint32{15, 16} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				route := pipeRoute(t)
				ln := route.listen(t)
				started := background(func() *ipc.Client { return route.startClient(t) })
				raw := accept(t, ln)
				raw.send([]byte{2, 0})
				raw.want("step 2", 0)
				raw.send(head(4, limit))
				want := []byte{0}
				if limit >= 16 {
					want = append(want, encode(0, announcement)...)
				}
				raw.want("step 5", want...)
				started()
				raw.wantSilence("after step 5")
			})
		})
	}
}

// A server announces itself to a client that has, at once and once.
func TestAnnouncementOfAServer(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		route := s.open(t)
		server := s.startServer(t, route)
		raw := route.dial(t)
		raw.want("step 1", 2, 0)
		raw.send([]byte{0})
		raw.want("step 4", 0, 0, 0, 4, 0, 0x30, 0, 0)
		raw.send([]byte{0}, encode(0, announcement))
		raw.want("announcement", encode(0, announcement)...)
		raw.send(encode(0, announcement))
		raw.wantSilence("after another announcement")
		peer := s.join(t, server)
		raw.send(encode(1, nil))
		wantMessage(t, peer, 1, nil)
	})
}

// A client that begins with anything but a whole announcement is one that knows no
// requests: all control frames of its are ignored, in the same read or another, and
// it gets none.
func TestLateAnnouncement(t *testing.T) {
	request := append([]byte{2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}, "data"...)
	late := [][]byte{
		encode(0, announcement), encode(0, announcement[:15]), encode(0, announcement[:1]),
		encode(0, request), encode(0, request[:15]), encode(0, nil),
	}
	for name, first := range map[string][]byte{
		"message":         encode(1, []byte("first")),
		"nothing":         encode(0, nil),
		"version 0":       encode(0, []byte("\x01ipc\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00")),
		"request":         encode(0, request),
		"half a request":  encode(0, request[:1]),
		"no announcement": encode(0, []byte("\x01ipx\x01\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00")),
	} {
		for _, together := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, in one write %t", name, together), func(t *testing.T) {
				eachBubble(t, func(t *testing.T, s setup) {
					p := wireClientPair(t, s)
					frames := append([][]byte{first}, late...)
					if together {
						frames = [][]byte{slices.Concat(frames...)}
					}
					for _, frame := range frames {
						p.raw.send(frame)
					}
					if name == "message" {
						wantMessage(t, p, 1, []byte("first"))
					}
					p.raw.wantSilence("after the frames")
					p.raw.send(encode(2, []byte("last")))
					wantMessage(t, p, 2, []byte("last"))
					_, err := p.Request(t.Context(), 1, nil)
					wantError(t, "Request", err, ipc.ErrNoRequests, errors.ErrUnsupported)
				})
			})
		}
	}
}

// Half an announcement is a protocol error: of a client as its first frame, of a
// server at any time.
func TestHalfAnAnnouncement(t *testing.T) {
	for _, n := range []int{1, 4, 15} {
		eachWireBubble(t, func(t *testing.T, p *wirePair) {
			p.raw.send(encode(0, announcement[:n]))
			wantErrorEvent(t, p, ipc.ErrProtocol)
			p.raw.wantDropped()
			p.again(t)
		}, quiet)
	}
}

// Type 0 that is no control frame of a known kind is read and ignored, whatever it
// holds.
func TestControlFramesAreIgnored(t *testing.T) {
	eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
		sent := background(func() error {
			_, err := p.raw.Write(slices.Concat(
				encode(0, nil), encode(1, []byte("a")), encode(0, payload(1, 100)), encode(0, payload(1, 100_000)),
				encode(2, []byte("b")), encode(0, nil)))
			return err
		})
		wantMessage(t, p, 1, []byte("a"))
		wantMessage(t, p, 2, []byte("b"))
		noError(t, "raw write", sent())
		if in := p.Stats().MessagesIn; in != 2 {
			t.Errorf("MessagesIn = %d, want 2", in)
		}
	})
}

// Frames that break the rules cost the peer its connection, after what came
// before them, and nothing else.
//
// Pins doc.go, "Events": A peer broke the protocol
func TestBadFrames(t *testing.T) {
	parallel(t)
	for _, tt := range []struct {
		name string
		bad  []byte
	}{
		{"length 0", head(0, 1)},
		{"length 1", head(1, 1)},
		{"length 3", head(3, 1)},
		{"length over the limit", head(defaultMaxMsgSize+5, 1)},
		{"length over the limit of a control message", head(defaultMaxMsgSize+5, 0)},
		{"length over int32", head(math.MaxInt32+1, 1)},
		{"length over everything", head(math.MaxUint32, 1)},
		{"type -1", encode(-1, []byte("Closed"))},
		{"type minimum", encode(math.MinInt32, nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
				bystander := func() {}
				if p.setup.multi {
					client := p.route.startClient(t)
					peer := p.setup.join(t, p.server)
					bystander = func() {
						wantRoundTrip(t, client, peer)
						wantRoundTrip(t, peer, client)
					}
				}
				p.raw.send(encode(1, []byte("good")), tt.bad)
				p.raw.wantDropped()
				bystander()
				wantMessage(t, p, 1, []byte("good"))
				wantErrorEvent(t, p, ipc.ErrProtocol)
				raw, e := p.again(t)
				raw.send(encode(2, []byte("better")))
				wantMessage(t, e, 2, []byte("better"))
			})
		})
	}
}

// The longest frame that is allowed passes.
func TestLongestFrame(t *testing.T) {
	eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
		data := payload(1, defaultMaxMsgSize)
		sent := background(func() error { _, err := p.raw.Write(encode(math.MaxInt32, data)); return err })
		wantMessage(t, p, math.MaxInt32, data)
		noError(t, "raw write", sent())
	})
}

// A frame that is cut off, at whichever byte, is never delivered.
func TestTornFrame(t *testing.T) {
	whole, torn := encode(1, []byte("whole")), encode(2, []byte("torn"))
	for n := range torn {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
				p.raw.send(whole, torn[:n])
				p.raw.Close()
				wantMessage(t, p, 1, []byte("whole"))
				m := next(t, p)
				if m.Status == ipc.Error.String() {
					m = next(t, p) // whether it was a fault or a crash is the library's to judge
				}
				if m.MsgType != -1 || m.Status != p.lost.String() {
					t.Errorf("read %s, want event %v", describe(m), p.lost)
				}
			})
		})
	}
}

// Openings that go wrong cost their maker the connection, count as failures,
// and make no event; a good client is served beside them.
func TestBadClientHandshake(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answers [][]byte // each to the next of the server's steps
		leaves  bool     // afterwards
	}{
		{name: "version differs", answers: [][]byte{{1}}},
		{name: "insists on encryption", answers: [][]byte{{2}}},
		{name: "unknown answer", answers: [][]byte{{3}}},
		{name: "another unknown answer", answers: [][]byte{{255}}},
		{name: "text", answers: [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}},
		{name: "wrong last answer", answers: [][]byte{{0}, {1}}},
		{name: "text instead of the last answer", answers: [][]byte{{0}, []byte("hello")}},
		{name: "gone at once", leaves: true},
		{name: "gone after step 1", answers: [][]byte{{0}}, leaves: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachSetup(t, unixSetups, func(t *testing.T, s setup) {
				route := s.open(t)
				server := s.startServer(t, route)
				raw := route.dial(t)
				raw.want("step 1", 2, 0)
				for i, answer := range tt.answers {
					if i == 1 {
						raw.want("step 4", 0, 0, 0, 4, 0, 0x30, 0, 0)
					}
					raw.send(answer)
				}
				if tt.leaves {
					raw.Close()
				} else if extra := raw.wantDropped(); len(extra) > 0 {
					t.Errorf("server sent %v after a bad answer", extra)
				}
				if !eventually(func() bool { return server.Stats().HandshakeFailures == 1 }) {
					t.Errorf("HandshakeFailures = %d, want 1", server.Stats().HandshakeFailures)
				}
				client := route.startClient(t)
				wantRoundTrip(t, client, s.join(t, server)) // whose Connected is the first event of all
			})
		})
	}
}

// A silent client is dropped after HandshakeTimeout, whichever step it stops
// at, and holds no other client up meanwhile.
//
// Pins doc.go, "Configuration": HandshakeTimeout, 5 s by default, bounds the opening of a connection
func TestSilentClient(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		route := s.open(t)
		start := time.Now()
		server := s.startServer(t, route)
		mute, deaf := route.dial(t), route.dial(t)
		mute.want("step 1", 2, 0)
		client := route.startClient(t)
		wantRoundTrip(t, client, s.join(t, server))
		wantElapsed(t, "a good client beside silent ones", start, 0)
		mute.wantDropped()
		wantElapsed(t, "dropping a silent client", start, 5*time.Second) // the default
		deaf.wantDropped()
		if n := server.Stats().HandshakeFailures; n != 2 {
			t.Errorf("HandshakeFailures = %d, want 2", n)
		}
	})
}

// A client that falls silent after step 4 has a place, and loses it again.
func TestSilentAtTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := pipeSingle
		route := s.open(t)
		start := time.Now()
		server := s.startServer(t, route, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			if s != nil {
				s.HandshakeTimeout = 3 * time.Second
			}
		})
		raw := route.dial(t)
		raw.want("step 1", 2, 0)
		raw.send([]byte{0})
		raw.want("step 4", 0, 0, 0, 4, 0, 0x30, 0, 0)
		client := route.startClient(t)
		wantElapsed(t, "the next client's start", start, 3*time.Second)
		raw.wantDropped()
		wantRoundTrip(t, client, s.join(t, server))
	})
}

// What ends a start of a client at once, and what is tried again.
func TestBadServerHandshake(t *testing.T) {
	refuse := func(answer byte, step1 ...byte) func(*wireConn) {
		return func(r *wireConn) {
			r.send(step1)
			r.want("step 2", answer)
			r.wantDropped()
		}
	}
	step4 := func(b ...byte) func(*wireConn) {
		return func(r *wireConn) {
			r.send([]byte{2, 0})
			r.want("step 2", 0)
			r.send(b)
		}
	}
	for _, tt := range []struct {
		name  string
		serve func(*wireConn)
		final error
	}{
		{"older version", refuse(1, 1, 0), ipc.ErrVersion},
		{"newer version", refuse(1, 3, 0), ipc.ErrVersion},
		{"gone at once", func(*wireConn) {}, nil},
		{"half of step 1", func(r *wireConn) { r.send([]byte{2}) }, nil},
		{"gone after step 1", func(r *wireConn) { r.send([]byte{2, 0}); r.want("step 2", 0) }, nil},
		{"step 4 torn", step4(0, 0, 0, 4, 0, 0), nil},
		{"step 4 too long", step4(0, 0, 0, 5, 0, 0, 0, 9, 9), nil},
		{"step 4 too short", step4(0, 0, 0, 3, 0, 0, 9), nil},
		{"step 4 empty", step4(0, 0, 0, 0), nil},
		{"step 4 of 4 GiB", step4(0xff, 0xff, 0xff, 0xff), nil},
		{"unknown kind of connection", func(r *wireConn) { r.send([]byte{2, 7}) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin(t)
			route := unixRoute(t)
			ln := route.listen(t)
			type result struct {
				client *ipc.Client
				err    error
			}
			started := background(func() result {
				client, err := ipc.StartClient(&route.client)
				return result{client, err}
			})
			raw := accept(t, ln)
			tt.serve(raw)
			raw.Close()
			if tt.final != nil {
				wantError(t, "StartClient", started().err, tt.final)
				return
			}
			accept(t, ln).openServer(100)
			r := started()
			noError(t, "StartClient", r.err)
			defer r.client.Close()
			wantEvents(t, r.client, ipc.Connecting, ipc.Connected)
		})
	}
}

// Frames arrive whole, and each once, where the system takes them in pieces.
func TestWritesWholeFrames(t *testing.T) {
	eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
		sizes := []int{0, 1, 1000, 32<<10 - 1, 32 << 10, 200_000, 0, 2 << 20, 5}
		sent := background(func() error {
			for i, n := range sizes {
				if err := p.Write(i+1, payload(i, n)); err != nil {
					return err
				}
			}
			return nil
		})
		for i, n := range sizes {
			p.raw.wantFrame(i+1, payload(i, n))
		}
		noError(t, "Write", sent())
	})
}

// Small messages that gather while the other end is slow leave in one write.
//
// Pins doc.go, "Writing": what gathers there while the kernel is busy goes out in one system call
// Pins doc.go, "Performance": Small messages need not be gathered by the program
func TestWritesCoalesce(t *testing.T) {
	eachWireBubble(t, func(t *testing.T, p *wirePair) {
		const n = 1000
		for range n {
			noError(t, "Write", p.Write(1, []byte("small")))
		}
		synctest.Wait()
		buf := make([]byte, 1<<20)
		reads, total := 0, 0
		for size := n * len(encode(1, []byte("small"))); total < size; reads++ {
			k, err := p.raw.Read(buf) // no more than one write
			noError(t, "raw read", err)
			total += k
		}
		if reads > 20 {
			t.Errorf("%d messages took %d writes", n, reads)
		}
	})
}
