package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A client announces itself in one write with step 5, before all else, on each
// connection.
func TestAnnouncementOfTheClient(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealed %t", sealed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				route := pipeRoute(t)
				ln := route.listen(t)
				started := background(func() *ipc.Client { return route.startClient(t, quiet) })
				var client *ipc.Client
				for connection := range 3 {
					raw := accept(t, ln)
					ref := &refPeer{wireConn: raw, max: 1000}
					if sealed {
						ref.exchangeAsServer()
						raw.send([]byte{0, 0, 0, refOverhead + 4}, ref.seal([]byte{0, 0, 3, 0xe8}))
						got := ref.step("step 5 and the announcement", 1+4+refOverhead+4+16)
						if got[0] != 0 {
							t.Fatalf("step 5 is %d", got[0])
						}
						ref.wantSealed(got[1:], 0, announcement)
					} else {
						raw.send([]byte{2, 0})
						raw.want("step 2", 0)
						raw.send(head(4, 1000))
						raw.want("step 5 and the announcement", append([]byte{0}, encode(0, announcement)...)...)
					}
					if connection == 0 {
						client = started()
						raw.wantSilence("after the announcement")
					} else {
						// What was accepted while there was no connection follows.
						if sealed {
							ref.wantFrame(connection, []byte("accepted"))
						} else {
							raw.wantFrame(connection, []byte("accepted"))
						}
						wantEvents(t, client, ipc.ReConnecting, ipc.Connected)
					}
					raw.Close()
					synctest.Wait()
					written := background(func() error { return client.WriteContext(t.Context(), connection+1, []byte("accepted")) })
					if connection == 2 {
						client.Close()
						wantError(t, "WriteContext", written(), ipc.ErrClosed)
					} else {
						defer written()
					}
				}
			})
		})
	}
}

// A server answers a client's announcement with its own, at once and once,
// whenever it comes as the first frame.
func TestAnnouncementOfTheServer(t *testing.T) {
	eachAskerBubble(t, askingServers, func(t *testing.T, p *wireAsker) {
		p.raw.wantSilence("before the client's announcement")
		time.Sleep(time.Minute)
		p.announce()
		p.raw.wantSilence("after the server's announcement")
		p.send(0, announcement)
		p.send(0, announces(3))
		p.raw.wantSilence("after a second announcement of the client")
		p.checkRequests(1)
	})
}

// askingServers are those of askingKinds that are servers, askingClients the
// others, and askingReaders those that have no Handler.
var (
	askingServers = slices.DeleteFunc(slices.Clone(askingKinds), func(k askingKind) bool { return k.client })
	askingClients = slices.DeleteFunc(slices.Clone(askingKinds), func(k askingKind) bool { return !k.client })
	askingReaders = slices.DeleteFunc(slices.Clone(askingKinds), func(k askingKind) bool { return k.handler })
)

// wantNoRequests checks the error for a peer that knows no requests.
func wantNoRequests(t testing.TB, what string, err error) {
	t.Helper()
	wantUnsent(t, what, err, ipc.ErrNoRequests, errors.ErrUnsupported)
}

// The announcement takes effect whatever else there may be in it one day.
func TestAnnouncementsOfOtherVersions(t *testing.T) {
	for name, data := range map[string][]byte{
		"version 2":     []byte("\x01ipc\x02\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
		"version 255":   []byte("\x01ipc\xff\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
		"flags":         []byte("\x01ipc\x01\xff\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
		"unused bytes":  []byte("\x01ipc\x01\x00\x12\x34\x00\x00\x04\x00\xff\xff\xff\xff"),
		"more bytes":    append([]byte("\x01ipc\x01\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"), payload(1, 1000)...),
		"more requests": announces(math.MaxUint32),
		"one request":   announces(1),
	} {
		t.Run(name, func(t *testing.T) {
			eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
				p.announceAs(data)
				p.checkRequests(1)
				p.checkRequests(2)
			})
		})
	}
}

// A server that never announces itself knows no requests: the client says so after
// 5 s at most, and before that waits. Messages do not.
//
// Pins doc.go, "Requests": which is known within about five seconds
func TestServerWithoutRequests(t *testing.T) {
	eachAskerBubble(t, askingClients, func(t *testing.T, p *wireAsker) {
		start := time.Now()
		var waits []func() error
		for i := range 20 {
			_, wait := requesting(t.Context(), p, 1+i, nil)
			waits = append(waits, wait)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := second(p.Request(ctx, 1, nil)); err != context.DeadlineExceeded {
			t.Errorf("Request until ctx ends: %v, want its error", err)
		}
		// What else comes proves nothing, and changes nothing.
		p.send(7, nil)
		wantMessage(t, p, 7, nil)
		p.send(0, nil)
		p.say(control{requestKind, 0, 1, 1, ""}, control{replyKind, 0, 1, 1, ""}, none(1), control{cancelKind, 0, 0, 1, ""})
		noError(t, "Write", p.Write(8, nil))
		p.wantFrame(8, nil)
		for _, wait := range waits {
			wantNoRequests(t, "Request", wait())
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("Request of a server without requests took %v", took)
		}
		start = time.Now()
		wantNoRequests(t, "Request after that", second(p.Request(t.Context(), 1, nil)))
		for _, err := range p.RequestParts(t.Context(), 1, nil) {
			wantNoRequests(t, "RequestParts after that", err)
		}
		wantElapsed(t, "Request of a server that is known for it", start, 0)
		noError(t, "Write", p.Write(9, nil))
		p.wantFrame(9, nil)
		wantNothing(t, p)

		// Its announcement counts whenever it comes.
		p.announce()
		p.checkRequests(1)

		// The next server is another one.
		p.raw.Close()
		wantEvents(t, p, ipc.ReConnecting)
		p.connect()
		returned, wait := requesting(t.Context(), p, 5, nil)
		wantBlocked(t, "Request of a new server", returned)
		p.announce()
		id := p.wantRequest(5, 0, "")
		p.say(control{replyKind, 0, uint32(echoType(5)), id, ""})
		noError(t, "Request", wait())
	})
}

// While a client's inbox is full, the server's announcement may lie behind what is
// not read: only after that a server that has not announced itself knows no requests.
func TestAnnouncementBehindAFullInbox(t *testing.T) {
	const n, size = 150, 10_000
	for _, announces := range []bool{false, true} {
		t.Run(fmt.Sprint("announces=", announces), func(t *testing.T) {
			eachAskerBubble(t, askingClients, func(t *testing.T, p *wireAsker) {
				goOn := make(chan struct{})
				p.setOn(func(side, *ipc.Message) { <-goOn })
				returned, wait := requesting(t.Context(), p, 5, nil)
				sent := background(func() error {
					for i := range n {
						p.send(7, numbered(i, size))
					}
					if announces {
						p.announce()
					}
					return nil
				})
				time.Sleep(20 * time.Second)
				wantBlocked(t, "Request while the inbox is full", returned)
				close(goOn)
				for i := range n {
					if !p.handler {
						wantMessage(t, p, 7, numbered(i, size))
					}
				}
				noError(t, "what comes before the announcement", sent())
				if !announces {
					wantNoRequests(t, "Request", wait())
					return
				}
				id := p.wantRequest(5, 0, "")
				p.say(control{replyKind, 0, uint32(echoType(5)), id, ""})
				noError(t, "Request", wait())
			})
		})
	}
}

// Before the server's announcement, a client ignores what only follows it.
func TestControlsBeforeTheAnnouncement(t *testing.T) {
	eachAskerBubble(t, askingClients, func(t *testing.T, p *wireAsker) {
		for _, data := range earlyControls {
			p.send(0, data)
		}
		p.announce()
		p.checkRequests(1) // an id that was used before the announcement
	})
}

// earlyControls are ignored before the announcements, whatever they are after them.
var earlyControls = [][]byte{
	{}, {0}, {2}, {3}, {4}, {5}, {6}, {7}, {255},
	make([]byte, 100),
	control{requestKind, 0, 1, 1, "data"}.encode(),
	control{requestKind, 0, 1, 1, "data"}.encode(),
	control{requestKind, 0, 0, 0, ""}.encode(),
	control{replyKind, 0, 1, 1, ""}.encode(),
	control{partKind, 0, 1, 1, ""}.encode(),
	control{errorKind, 0, 1, 1, ""}.encode(),
	control{cancelKind, 0, 0, 1, ""}.encode(),
	[]byte("\x01ipc\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"), // version 0
	[]byte("\x01ipx\x01\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
	[]byte("\x01x"),
}

// A client whose first frame is none that announces it knows no requests, and is
// never sent a frame of type 0. What it announces later does not count.
func TestClientWithoutRequests(t *testing.T) {
	first := map[string]func(p *wireAsker){
		"a message": func(p *wireAsker) {
			p.send(1, []byte("first"))
			wantMessage(p.t, p, 1, []byte("first"))
		},
	}
	for _, data := range earlyControls {
		first[fmt.Sprintf("a control frame of %.20q", data)] = func(p *wireAsker) { p.send(0, data) }
	}
	for name, begins := range first {
		t.Run(name, func(t *testing.T) {
			eachAskerBubble(t, askingServers, func(t *testing.T, p *wireAsker) {
				start := time.Now()
				_, wait := requesting(t.Context(), p, 1, nil)
				synctest.Wait()
				begins(p)
				wantNoRequests(t, "Request", wait())
				for _, data := range earlyControls {
					p.send(0, data)
				}
				p.send(0, announcement)
				p.say(control{requestKind, 0, 1, 1, "data"}, control{cancelKind, 0, 0, 1, ""}, control{cancelKind, 0, 0, 5, ""})
				wantNoRequests(t, "Request", second(p.Request(t.Context(), 1, nil)))
				for _, err := range p.RequestParts(t.Context(), 1, nil) {
					wantNoRequests(t, "RequestParts", err)
				}
				wantElapsed(t, "Request of a client that is known for it", start, 0)
				p.raw.wantSilence("to a client without requests")
				wantNothing(t, p)
				p.send(2, nil)
				wantMessage(t, p, 2, nil)
				noError(t, "Write", p.Write(3, nil))
				p.wantFrame(3, nil)
				if stats := p.Stats(); stats.RequestsIn != 0 || stats.RequestsOut != 0 || stats.MessagesOut != 1 {
					t.Errorf("stats of a server with a client without requests: %v", stats)
				}

				p.renew()
				p.checkRequests(1)
			})
		})
	}
}

// A client that is silent is taken for one without requests after 5 s.
func TestClientThatStaysSilent(t *testing.T) {
	eachAskerBubble(t, askingServers, func(t *testing.T, p *wireAsker) {
		start := time.Now()
		returned, wait := requesting(t.Context(), p, 1, nil)
		time.Sleep(4 * time.Second)
		wantBlocked(t, "Request of a silent client", returned)
		wantNoRequests(t, "Request", wait())
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("Request of a silent client took %v", took)
		}
		start = time.Now()
		wantNoRequests(t, "Request", second(p.Request(t.Context(), 1, nil)))
		wantElapsed(t, "Request after that", start, 0)
		noError(t, "Write", p.Write(3, nil))
		p.wantFrame(3, nil)
		p.raw.wantSilence("to a silent client")
		p.announce()
		p.checkRequests(1)
	})
}

// A peer that accepts no unanswered request is one that takes none; it may make
// some itself.
func TestPeerThatAcceptsNoRequests(t *testing.T) {
	eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
		start := time.Now()
		p.announceAs(announces(0))
		wantNoRequests(t, "Request", second(p.Request(t.Context(), 1, nil)))
		wantElapsed(t, "Request", start, 0)
		p.say(control{requestKind, 0, 43, 1, "what?"})
		m := nextRequest(t, p, 43)
		noError(t, "Reply", m.Reply(44, []byte("that")))
		p.wantControl(control{replyKind, 0, 44, 1, "that"})
	})
}

// No more requests are unanswered than the peer has said that it accepts, nor more
// than 1,024. One that is cancelled keeps its place until the peer has ended it.
func TestPlacesOfThePeer(t *testing.T) {
	for _, tt := range []struct {
		announced uint32
		places    int
	}{{1, 1}, {2, 2}, {7, 7}, {1024, 1024}, {5000, 1024}, {math.MaxUint32, 1024}} {
		t.Run(fmt.Sprint(tt.announced), func(t *testing.T) {
			eachAskerBubble(t, askingKinds[:3], func(t *testing.T, p *wireAsker) {
				p.announceAs(announces(tt.announced))
				ctx, cancel := context.WithCancel(t.Context())
				var stay, cancelled []func() error
				var ids []uint64
				for i := range tt.places {
					if i%2 == 0 {
						_, wait := requesting(t.Context(), p, 1, nil)
						stay = append(stay, wait)
					} else {
						_, wait := requesting(ctx, p, 1, nil)
						cancelled = append(cancelled, wait)
					}
					ids = append(ids, p.wantRequest(1, 0, ""))
				}
				_, unsent := requesting(ctx, p, 2, nil)
				returned, last := requesting(t.Context(), p, 3, nil)
				p.raw.wantSilence("with all places taken")

				cancel()
				wantUnsent(t, "Request without a place", unsent(), context.Canceled)
				for i, wait := range cancelled {
					wantSentNoReply(t, "Request that is cancelled", wait(), context.Canceled)
					if c := p.hearControl(); c.kind != cancelKind || !slices.Contains(ids, c.id) {
						t.Fatalf("control frame %d of %v, want a cancel", i, c)
					}
				}
				p.raw.wantSilence("with places taken by what was cancelled")
				wantBlocked(t, "Request without a place", returned)
				end := len(ids) - 1 // cancelled, if any is
				p.say(control{replyKind, 0, uint32(echoType(1)), ids[end], ""})
				ids[end] = p.wantRequest(3, 0, "")
				p.raw.wantSilence("with all places taken again")
				for i, id := range ids {
					msgType := 1
					if i == end {
						msgType = 3
					}
					p.say(control{replyKind, 0, uint32(echoType(msgType)), id, ""})
				}
				for _, wait := range append(stay, last) {
					noError(t, "Request", wait())
				}
				p.checkRequests(1)
			})
		})
	}
}

// MaxMsgSize is for control frames too: where their first 16 bytes are too many,
// nobody announces, and nobody waits for it.
func TestSmallestMessages(t *testing.T) {
	for _, limit := range []int{1, 15} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
				p.raw.wantSilence("before the first message")
				start := time.Now()
				wantNoRequests(t, "Request", second(p.Request(t.Context(), 1, nil)))
				wantNoRequests(t, "Request", second(p.Request(t.Context(), 1, make([]byte, 5000))))
				wantElapsed(t, "Request", start, 0)
				p.raw.wantSilence("after a Request")
				p.send(7, []byte("7"))
				wantMessage(t, p, 7, []byte("7"))
				noError(t, "Write", p.Write(8, []byte("8")))
				p.wantFrame(8, []byte("8"))
			}, maxMsgSize(limit))
		})
	}
	t.Run("16", func(t *testing.T) {
		eachAskerBubble(t, askingKinds, func(t *testing.T, p *wireAsker) {
			p.announce()
			for i := range uint64(3) {
				_, wait := requesting(t.Context(), p, 1, nil)
				id := p.wantRequest(1, 0, "")
				wantUnsent(t, "Request of a byte", second(p.Request(t.Context(), 1, []byte("1"))), ipc.ErrMsgTooLarge)
				p.say(control{replyKind, 0, uint32(echoType(1)), id, ""})
				noError(t, "Request", wait())

				p.say(control{requestKind, partsWelcome, 1, i + 1, ""})
				m := nextRequest(t, p, 1)
				wantError(t, "ReplyPart of a byte", m.ReplyPart(1, []byte("1")), ipc.ErrMsgTooLarge)
				wantError(t, "ReplyError with a text", m.ReplyError(1, "1"), ipc.ErrMsgTooLarge)
				noError(t, "ReplyPart", m.ReplyPart(1, nil))
				noError(t, "ReplyError", m.ReplyError(2, ""))
				p.wantControl(control{partKind, 0, 1, i + 1, ""})
				p.wantControl(control{errorKind, 0, 2, i + 1, ""})
			}
		}, maxMsgSize(16))
	})
}

// What goes over the wire for each call, to the byte.
func TestRequestFrames(t *testing.T) {
	eachAskerBubble(t, askingReaders, func(t *testing.T, p *wireAsker) {
		p.announce()
		// Our requests, and each way in which the peer may end them.
		last := uint64(0)
		for _, tt := range []struct {
			parts  bool
			finals []control
			want   int // replies
			check  func(error)
		}{
			{false, []control{{replyKind, 0, 7, 0, "reply"}}, 1, nil},
			{false, []control{{replyKind, 0xff, math.MaxInt32, 0, ""}}, 1, nil},
			{false, []control{{replyKind, 0, 0, 0, ""}}, 0, func(err error) { wantSentNoReply(t, "an end without parts", err) }},
			{false, []control{{replyKind, 0, 0, 0, "ignored"}}, 0, func(err error) { wantSentNoReply(t, "an end without parts", err) }},
			{false, []control{{errorKind, 0, 0, 0, "whatever"}}, 0, func(err error) { wantSentNoReply(t, "no reply", err) }},
			{false, []control{{errorKind, 0xff, 5, 0, "a\xff"}}, 0, func(err error) {
				var reply *ipc.ReplyError
				if !errors.As(err, &reply) || *reply != (ipc.ReplyError{Code: 5, Text: "a\uFFFD"}) {
					t.Errorf("error %v, want a *ReplyError", err)
				}
			}},
			{true, []control{{replyKind, 0, 7, 0, "reply"}}, 1, nil},
			{true, []control{{replyKind, 0, 0, 0, "ignored"}}, 0, nil},
			{true, []control{{partKind, 0, 7, 0, "part"}, {partKind, 0xff, 1, 0, ""}, {replyKind, 0, 0, 0, ""}}, 2, nil},
			{true, []control{{partKind, 0, 7, 0, "part"}, {replyKind, 0, 8, 0, "last"}}, 2, nil},
			{true, []control{{partKind, 0, 7, 0, "part"}, {errorKind, 0, 0, 0, ""}}, 1, func(err error) { wantSentNoReply(t, "parts without an end", err) }},
		} {
			got := 0
			done := background(func() (end error) {
				if !tt.parts {
					m, err := p.Request(t.Context(), math.MaxInt32, []byte("data"))
					if err == nil {
						if c := tt.finals[0]; m.MsgType != int(c.n) || string(m.Data) != c.data {
							t.Errorf("reply is a %s, want %v", describe(m), c)
						}
						got++
					}
					return err
				}
				for m, err := range p.RequestParts(t.Context(), math.MaxInt32, []byte("data")) {
					if err != nil {
						return err
					}
					if c := tt.finals[got]; m.MsgType != int(c.n) || string(m.Data) != c.data {
						t.Errorf("part %d is a %s, want %v", got, describe(m), c)
					}
					got++
				}
				return nil
			})
			flags := byte(0)
			if tt.parts {
				flags = partsWelcome
			}
			id := p.wantRequest(math.MaxInt32, flags, "data")
			if id <= last {
				t.Errorf("request %d after %d", id, last)
			}
			last = id
			for _, c := range tt.finals {
				c.id = id
				p.say(c)
			}
			err := done()
			if tt.check != nil {
				tt.check(err)
			} else {
				noError(t, "Request", err)
			}
			if got != tt.want {
				t.Errorf("%v: %d replies, want %d", tt.finals, got, tt.want)
			}
		}

		// The peer's requests, and each way in which we may end them: with one final
		// frame, whatever else is called.
		for i, tt := range []struct {
			id    uint64
			flags byte
			end   func(m *ipc.Message) error
			want  []control
		}{
			{1, 0, func(m *ipc.Message) error { return m.Reply(5, []byte("reply")) }, []control{{replyKind, 0, 5, 0, "reply"}}},
			{2, 0xfe, func(m *ipc.Message) error { return m.ReplyError(6, "a\xff") }, []control{{errorKind, 0, 6, 0, "a\xff"}}},
			{100, 1, func(m *ipc.Message) error { return m.ReplyEnd() }, []control{{replyKind, 0, 0, 0, ""}}},
			{1<<53 + 1, 0xff, func(m *ipc.Message) error {
				return errors.Join(m.ReplyPart(7, []byte("part")), m.ReplyPart(math.MaxInt32, nil), m.Reply(9, nil))
			}, []control{{partKind, 0, 7, 0, "part"}, {partKind, 0, math.MaxInt32, 0, ""}, {replyKind, 0, 9, 0, ""}}},
			{math.MaxUint64 - 1, 1, func(m *ipc.Message) error {
				return errors.Join(m.ReplyPart(7, []byte("part")), m.ReplyError(1, ""))
			}, []control{{partKind, 0, 7, 0, "part"}, {errorKind, 0, 1, 0, ""}}},
			{math.MaxUint64, 0, func(m *ipc.Message) error { return m.Reply(1, nil) }, []control{{replyKind, 0, 1, 0, ""}}},
		} {
			p.say(control{requestKind, tt.flags, uint32(i + 1), tt.id, "question"})
			m := nextRequest(t, p, i+1)
			wantSame(t, m, i+1, []byte("question"))
			if tt.flags&1 == 0 {
				wantError(t, "ReplyPart where parts are not welcome", m.ReplyPart(1, nil), ipc.ErrNotAsked)
			}
			answered := background(func() error { return tt.end(m) })
			for _, want := range tt.want {
				want.id = tt.id
				p.wantControl(want)
			}
			noError(t, "the answer", answered())
			for _, again := range []error{m.Reply(1, nil), m.ReplyError(1, ""), m.ReplyPart(1, nil), m.ReplyEnd()} {
				wantError(t, "second answer", again, ipc.ErrNotAsked)
			}
			p.raw.wantSilence("after the answer")
		}
	})
}

// Write, Reply and its like leave in the order in which they were accepted.
func TestOrderOfReplies(t *testing.T) {
	eachAsker(t, askingReaders, unixTransport, func(t *testing.T, p *wireAsker) {
		p.announce()
		const n = 200
		for i := range uint64(n) {
			p.say(control{requestKind, partsWelcome, 1, i + 1, ""})
		}
		done := background(func() error {
			for i := range n {
				m := next(t, p)
				err := errors.Join(p.Write(i+1, numbered(i, 8+i)), m.ReplyPart(2, numbered(i, 8+i*10)),
					p.Write(i+1, numbered(i, 8+i*200)), m.Reply(3, numbered(i, 8+i*200)))
				if err != nil {
					return err
				}
			}
			return nil
		})
		for i := range n {
			id := uint64(i) + 1
			p.wantFrame(i+1, numbered(i, 8+i))
			p.wantControl(control{partKind, 0, 2, id, string(numbered(i, 8+i*10))})
			p.wantFrame(i+1, numbered(i, 8+i*200))
			p.wantControl(control{replyKind, 0, 3, id, string(numbered(i, 8+i*200))})
		}
		noError(t, "Write, Reply", done())
	})
}

// badControl breaks a rule, for which a side closes the connection.
type badControl struct {
	name  string
	asked string // what the side has asked for: nothing, a reply, parts, or a reply that it has cancelled
	after []control
	bad   []byte
}

// badControls are all of them. 7777 stands for the id of what the side has asked.
func badControls() []badControl {
	const asked = 7777
	all := []badControl{
		{name: "announcement of 1 byte", bad: announcement[:1]},
		{name: "announcement of 3 bytes", bad: announcement[:3]},
		{name: "announcement of 15 bytes", bad: announcement[:15]},
		{name: "request of type 0", bad: control{requestKind, 0, 0, 1, ""}.encode()},
		{name: "request of type 2^31", bad: control{requestKind, 0, 1 << 31, 1, ""}.encode()},
		{name: "request of type 2^32-1", bad: control{requestKind, 0, math.MaxUint32, 1, ""}.encode()},
		{name: "request 0", bad: control{requestKind, 0, 1, 0, ""}.encode()},
		{name: "request 1 twice", after: []control{{requestKind, 0, 1, 1, ""}}, bad: control{requestKind, 0, 1, 1, ""}.encode()},
		{name: "request 1 after 2", after: []control{{requestKind, 0, 1, 2, ""}}, bad: control{requestKind, 0, 1, 1, ""}.encode()},
		{name: "request 1 after 1 that was cancelled", after: []control{{requestKind, 0, 1, 1, ""}, {cancelKind, 0, 0, 1, ""}},
			bad: control{requestKind, 0, 1, 1, ""}.encode()},
		{name: "request 1 after the last id", after: []control{{requestKind, 0, 1, math.MaxUint64, ""}}, bad: control{requestKind, 0, 1, 1, ""}.encode()},
		{name: "cancel of 0", bad: control{cancelKind, 0, 0, 0, ""}.encode()},
		{name: "cancel of what was not asked", bad: control{cancelKind, 0, 0, 1, ""}.encode()},
		{name: "cancel of what was not asked yet", after: []control{{requestKind, 0, 1, 5, ""}}, bad: control{cancelKind, 0, 0, 6, ""}.encode()},
		{name: "part of type 0", asked: "parts", bad: control{partKind, 0, 0, asked, ""}.encode()},
		{name: "part of type 2^31", asked: "parts", bad: control{partKind, 0, 1 << 31, asked, ""}.encode()},
		{name: "reply of type 2^31", asked: "reply", bad: control{replyKind, 0, 1 << 31, asked, ""}.encode()},
		{name: "error of code 2^31", asked: "reply", bad: control{errorKind, 0, 1 << 31, asked, ""}.encode()},
		{name: "part that is not welcome", asked: "reply", bad: control{partKind, 0, 1, asked, "part"}.encode()},
		{name: "part for what was cancelled and welcomes none", asked: "cancelled", bad: control{partKind, 0, 1, asked, "part"}.encode()},
	}
	for kind, name := range []string{requestKind: "request", replyKind: "reply", partKind: "part", errorKind: "error", cancelKind: "cancel"} {
		if name == "" {
			continue
		}
		for _, n := range []int{1, 15} {
			all = append(all, badControl{name: fmt.Sprintf("%s of %d bytes", name, n), bad: control{byte(kind), 0, 1, 1, ""}.encode()[:n]})
		}
		if kind == replyKind || kind == partKind || kind == errorKind {
			all = append(all,
				badControl{name: name + " to 0", bad: control{byte(kind), 0, 1, 0, ""}.encode()},
				badControl{name: name + " to what was not asked", bad: control{byte(kind), 0, 1, 1, ""}.encode()},
				badControl{name: name + " to what was not asked yet", asked: "parts", bad: control{byte(kind), 0, 1, asked + 1, ""}.encode()})
		}
	}
	return all
}

// sendFor is p.send, with id in the place of 7777, and so for the next.
func (p *wireAsker) sendFor(id uint64, data []byte) {
	p.t.Helper()
	if c, ok := parseControl(data); ok && c.id-7777 < 2 {
		c.id += id - 7777
		data = c.encode()
	}
	p.send(0, data)
}

// A control frame that breaks the rules costs the peer its connection, after what
// came before it, and nobody else anything.
func TestBadControls(t *testing.T) {
	parallel(t)
	for i, bad := range badControls() {
		kinds := [][]askingKind{askingKinds[:3], askingKinds[3:]}[i%2]
		if *full {
			kinds = askingKinds
		}
		t.Run(bad.name, func(t *testing.T) {
			eachAsker(t, kinds, unixTransport, func(t *testing.T, p *wireAsker) {
				p.announce()
				var others []side
				if p.multi {
					client := p.route.startClient(t)
					if p.handler {
						others = []side{client, <-p.joined}
						wantEvents(t, others[1], ipc.Connected)
					} else {
						others = []side{client, p.setup.join(t, p.server)}
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				wait := func() error { return nil }
				var id uint64
				switch bad.asked {
				case "":
				case "parts":
					wait = background(func() (end error) {
						for _, err := range p.RequestParts(ctx, 1, nil) {
							end = err
						}
						return end
					})
					id = p.wantRequest(1, partsWelcome, "")
				default:
					wait = background(func() error { return second(p.Request(ctx, 1, nil)) })
					id = p.wantRequest(1, 0, "")
				}
				if bad.asked == "cancelled" {
					cancel()
					wantSentNoReply(t, "Request", wait(), context.Canceled)
					p.wantControl(control{cancelKind, 0, 0, id, ""})
				}
				p.send(1, []byte("good"))
				for _, c := range bad.after {
					p.say(c)
				}
				p.sendFor(id, bad.bad)
				wantMessage(t, p, 1, []byte("good"))
				for m := next(t, p); m.Status != ipc.Error.String(); m = next(t, p) {
					if !m.IsRequest() || len(bad.after) == 0 {
						t.Fatalf("read %s, want the event Error", describe(m))
					}
				}
				p.raw.wantDropped()
				if bad.asked == "reply" || bad.asked == "parts" {
					wantSentNoReply(t, "Request", wait(), ipc.ErrNotConnected)
				}
				p.renew()
				p.checkRequests(1)
				if others != nil {
					_, wait := requesting(t.Context(), others[0], 1, []byte("still there?"))
					echoes(t)(others[1], nextRequest(t, others[1], 1))
					noError(t, "Request of another client", wait())
				}
			})
		})
	}
}

// What is to be ignored is ignored, and nothing is answered.
func TestIgnoredControls(t *testing.T) {
	eachAsker(t, askingKinds, unixTransport, func(t *testing.T, p *wireAsker) {
		p.announce()
		number := 0
		check := func(what string) {
			t.Helper()
			number++
			p.send(number, []byte(what))
			wantMessage(t, p, number, []byte(what))
			noError(t, "Write after "+what, p.Write(number, []byte(what)))
			p.wantFrame(number, []byte(what))
		}
		for _, data := range [][]byte{
			{}, {0}, make([]byte, 16), make([]byte, 100_000),
			{7}, {255}, append([]byte{7}, payload(1, 15)...), append([]byte{8, 1}, payload(1, 14)...), append([]byte{128}, payload(1, 40)...),
			[]byte("\x01ipx"), []byte("\x01IPC\x01"), []byte("\x01\x00"), append([]byte{1, 0}, payload(1, 14)...),
			announcement, announces(0), announces(1), append(announces(5), payload(1, 100)...),
			[]byte("\x01ipc\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
		} {
			p.send(0, data)
			check(fmt.Sprintf("control frame of %.20q", data))
		}
		p.checkRequests(10)

		// Frames for what has ended: that was answered, and ids that were left out.
		for _, id := range []uint64{1, 9, 10} {
			p.say(control{cancelKind, 0, 0, id, ""}, control{cancelKind, 0xff, 77, id, "what follows"})
			check(fmt.Sprintf("cancel of %d", id))
		}
		p.say(control{requestKind, 0, 1, 20, ""})
		m := nextRequest(t, p, 1)
		p.say(control{cancelKind, 0, 0, 20, ""})
		p.wantControl(none(20))
		<-m.Context().Done()
		p.say(control{cancelKind, 0, 0, 20, ""}, control{cancelKind, 0, 0, 20, ""})
		check("second cancel")
		wantError(t, "Reply", m.Reply(1, nil), context.Canceled)
		check("Reply to what was cancelled")

		// And of ours: answered, given up, in parts or not.
		for _, parts := range []bool{false, true} {
			for _, cancels := range []bool{false, true} {
				ctx, cancel := context.WithCancel(t.Context())
				wait := background(func() (end error) {
					if !parts {
						return second(p.Request(ctx, 3, nil))
					}
					for _, err := range p.RequestParts(ctx, 3, nil) {
						end = err
					}
					return end
				})
				flags := byte(0)
				if parts {
					flags = partsWelcome
				}
				id := p.wantRequest(3, flags, "")
				if cancels {
					cancel()
					wantSentNoReply(t, "Request", wait(), context.Canceled)
					p.wantControl(control{cancelKind, 0, 0, id, ""})
					if parts {
						p.say(control{partKind, 0, 1, id, "late"}, control{partKind, 0, 1, id, "late"})
						check("parts for what was cancelled")
					}
				}
				p.say(control{replyKind, 0, 9, id, ""})
				if !cancels {
					noError(t, "Request", wait())
				}
				p.say(control{replyKind, 0, 1, id, "again"}, control{errorKind, 0, 1, id, "again"}, none(id),
					control{partKind, 0, 1, id, "again"}, control{replyKind, 0, 0, id, "again"})
				check(fmt.Sprintf("finals for what has ended, parts %t, cancelled %t", parts, cancels))
				cancel()
			}
		}
		p.checkRequests(30)
		if stats := p.Stats(); stats.HandshakeFailures != 0 || stats.Reconnects != 0 {
			t.Errorf("stats: %v", stats)
		}
	})
}

// 1,024 requests may be unanswered, and not one more; those that are answered do
// not count.
func TestTooManyRequests(t *testing.T) {
	const most = 1024
	eachAsker(t, askingKinds, unixTransport, func(t *testing.T, p *wireAsker) {
		p.announce()
		ask := func(from, to uint64) {
			var all [][]byte
			for id := from; id < to; id++ {
				all = append(all, p.frame(0, control{requestKind, 0, 1, id, ""}.encode()))
			}
			p.raw.send(all...)
		}
		ask(1, most+1)
		var held []*ipc.Message
		for range most {
			held = append(held, nextRequest(t, p, 1))
		}
		for i, m := range held[:500] {
			noError(t, "Reply", m.Reply(1, nil))
			p.wantControl(control{replyKind, 0, 1, uint64(i) + 1, ""})
		}
		ask(most+1, most+501)
		for range 500 {
			nextRequest(t, p, 1)
		}
		p.send(2, nil)
		wantMessage(t, p, 2, nil)
		ask(most+501, most+502)
		p.raw.wantDropped()
		wantErrorEvent(t, p, ipc.ErrProtocol)
		wantError(t, "Reply", held[600].Reply(1, nil), ipc.ErrNotConnected)
		p.renew()
		p.checkRequests(1)
	})
}

// Of what was queued when the connection was lost, no control frame is sent over
// the next but the requests, which are asked anew: after the announcement, and
// after the messages, which do not wait for the peer's.
func TestControlsAreNotSentAgain(t *testing.T) {
	eachAskerBubble(t, askingClients, func(t *testing.T, p *wireAsker) {
		p.announce()
		for i := range uint64(5) {
			p.say(control{requestKind, partsWelcome, 1, i + 1, ""})
		}
		_, lost := requesting(t.Context(), p, 2, []byte("sent"))
		p.wantRequest(2, 0, "sent")
		ctx, cancel := context.WithCancel(t.Context())
		_, cancelled := requesting(ctx, p, 3, []byte("cancelled"))
		p.wantRequest(3, 0, "cancelled")

		// The raw peer reads no more. The first write is under way, the others are queued.
		noError(t, "Write", p.Write(10, []byte("first")))
		synctest.Wait()
		noError(t, "Write", p.Write(11, []byte("second")))
		for i := range 5 {
			m := nextRequest(t, p, 1)
			switch i {
			case 0:
				noError(t, "Reply", m.Reply(1, nil))
			case 1:
				noError(t, "ReplyError", m.ReplyError(1, "no"))
			case 2:
				noError(t, "ReplyPart", m.ReplyPart(1, nil))
				noError(t, "ReplyEnd", m.ReplyEnd())
			case 3:
				noError(t, "Reply", m.Reply(1, payload(1, 100_000)))
			case 4:
				p.say(control{cancelKind, 0, 0, 5, ""})
			}
		}
		noError(t, "Write", p.Write(12, []byte("third")))
		_, unsent := requesting(t.Context(), p, 4, []byte("unsent"))
		_, large := requesting(t.Context(), p, 5, payload(5, 100_000))
		synctest.Wait()
		cancel()
		wantSentNoReply(t, "Request that is cancelled", cancelled(), context.Canceled)
		noError(t, "Write", p.Write(13, []byte("fourth")))
		synctest.Wait()

		p.raw.Close()
		wantSentNoReply(t, "Request that was sent", lost(), ipc.ErrNotConnected)
		wantEvents(t, p, ipc.ReConnecting)
		p.connect()
		for i, want := range []string{"first", "second", "third", "fourth"} {
			p.wantFrame(10+i, []byte(want))
		}
		p.raw.wantSilence("before the announcement of the second server")
		p.announce()
		for range 2 {
			c := p.hearControl()
			if c.n == 5 {
				p.wantSaidOnce(c, requestKind, 5, string(payload(5, 100_000)))
				p.say(control{replyKind, 0, uint32(echoType(5)), c.id, c.data})
				noError(t, "Request", large())
			} else {
				p.wantSaidOnce(c, requestKind, 4, "unsent")
				p.say(control{replyKind, 0, uint32(echoType(4)), c.id, c.data})
				noError(t, "Request", unsent())
			}
		}
		p.raw.wantSilence("after that")
		p.checkRequests(1)
	})
}

// wantSaidOnce checks a frame that has been read.
func (p *wireAsker) wantSaidOnce(got control, kind byte, n uint32, data string) {
	p.t.Helper()
	if want := (control{kind, 0, n, got.id, data}); got != want {
		p.t.Fatalf("control frame of %v, want %v", got, want)
	}
}

// A server that announces itself and hangs up makes no hot loop: what is no
// control frame starts the back-off anew, and nothing else.
func TestBackOffAndControls(t *testing.T) {
	const attempts = 30
	eachAskerBubble(t, askingClients, func(t *testing.T, p *wireAsker) {
		pauses := func(says func()) (all []time.Duration) {
			for range attempts {
				start := time.Now()
				p.raw.Close()
				p.shake()
				all = append(all, time.Since(start))
				says()
				synctest.Wait()
			}
			return all
		}
		controls := pauses(func() {
			p.send(0, announcement)
			p.send(0, nil)
			p.say(control{requestKind, 0, 1, 1, ""}, control{cancelKind, 0, 0, 1, ""})
			if c := p.hearControl(); c != none(1) {
				t.Errorf("heard %v, want that a request has no reply", c)
			}
		})
		// It may be anything up to the longest by then, but for the jitter.
		if longest := slices.Max(controls[attempts/2:]); longest < retryTimer/4 {
			t.Errorf("pauses %v with control frames, want them to grow", controls)
		}
		messages := pauses(func() { p.send(1, nil) })
		if longest := slices.Max(messages[1:]); longest > 0 {
			t.Errorf("pauses %v with messages, want none", messages)
		}
	})
}
