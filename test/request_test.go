package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Both sides ask, a thousand at once, the answers come in any order, and each
// Request gets its own.
//
// Pins doc.go, "Requests": Both sides may ask, any number of goroutines at once, and replies may come in any order
func TestConcurrentRequests(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 100
	}
	eachAnswering(t, answeringSetups, echoesLater, func(t *testing.T, p *pair) {
		var asking sync.WaitGroup
		p.eachRequester(func(name string, from, _ side) {
			for i := range n {
				size := i % 300
				if i%100 == 99 {
					size = 100_000
				}
				data := payload(i+len(name)*n, size)
				asking.Go(func() {
					if err := ask(t.Context(), from, i+1, data); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
		})
		asking.Wait()
		p.eachRequester(func(name string, from, _ side) {
			if stats := from.Stats(); stats.RequestsOut != uint64(n) || stats.RequestsIn != uint64(n) ||
				stats.RequestsCancelled+stats.RequestsUnanswered != 0 {
				t.Errorf("%s: %v, want %d requests in and out", name, stats, n)
			}
		})
	})
}

// A request and its reply may be of any size and type that a message may be of,
// but for 16 bytes, and carry what they were given, which the caller may use again.
//
// Pins doc.go, "Requests": may have 16 bytes less than ServerConfig.MaxMsgSize
// Pins doc.go, "Requests": with the reply
func TestRequestSizes(t *testing.T) {
	const largest = defaultMaxMsgSize - 16
	eachAnswering(t, answeringSetups, echoes, func(t *testing.T, p *pair) {
		p.eachRequester(func(_ string, from, _ side) {
			sizes := []int{0, 1, 15, 16, 17, 4080, 4097, 32<<10 - 17, 32 << 10, 100_000}
			if p.name == "unix" || p.name == "sealed" {
				sizes = append(sizes, largest)
			}
			for i, size := range sizes {
				want := payload(i, size)
				data := bytes.Clone(want)
				m, err := from.Request(t.Context(), math.MaxInt32-i, data)
				clear(data)
				noError(t, "Request", wantEcho(m, err, math.MaxInt32-i, want))
				m.Release()
			}
			noError(t, "Request without data", ask(t.Context(), from, 1, nil))
			wantUnsent(t, "Request that is too large", ask(t.Context(), from, 1, payload(1, largest+1)), ipc.ErrMsgTooLarge)
			noError(t, "Request", ask(t.Context(), from, 1, nil))
		})
	})
}

// Whatever else the program does to read, each Request gets its answer, and each
// message is read once.
func TestRequestsBesideReaders(t *testing.T) {
	n := fewer(300)
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		go answerMessages(t, to, func(_ side, m *ipc.Message) {
			if err := to.Write(m.MsgType, m.Data); err != nil {
				t.Error("Write:", err)
			}
			echoes(t)(to, m)
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var mu sync.Mutex
		read := make(map[string]int)
		var reading, asking sync.WaitGroup
		for _, readOne := range []func() (*ipc.Message, error){
			func() (*ipc.Message, error) { return from.ReadContext(ctx) },
			func() (*ipc.Message, error) { return from.ReadTimed(time.Millisecond, nil) },
			func() (*ipc.Message, error) {
				ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				m, err := from.ReadContext(ctx)
				if errors.Is(err, context.DeadlineExceeded) {
					return ipc.TimeoutMessage, nil
				}
				return m, err
			},
		} {
			reading.Go(func() {
				for ctx.Err() == nil {
					m, err := readOne()
					switch {
					case err != nil:
						if ctx.Err() == nil {
							t.Error("read:", err)
						}
						return
					case m != ipc.TimeoutMessage:
						mu.Lock()
						read[string(m.Data)]++
						all := len(read) == 3*n
						mu.Unlock()
						if all {
							stop()
						}
					}
				}
			})
		}
		for g := range 3 {
			asking.Go(func() {
				for i := range n {
					if err := ask(t.Context(), from, 1+g, fmt.Appendf(nil, "%d of %d", i, g)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		asking.Wait()
		reading.Wait()
		for what, times := range read {
			if times != 1 {
				t.Errorf("message %s was read %d times", what, times)
			}
		}
	})
}

// asksBack is an answer: to a request of type 1, what the other side, which waits
// for it, says to one of type 2 with its data; else the same data.
func asksBack(t testing.TB) answer {
	return func(self side, m *ipc.Message) {
		if m.MsgType != 1 {
			echoes(t)(self, m)
			return
		}
		reply, err := self.Request(t.Context(), 2, m.Data)
		if err = wantEcho(reply, err, 2, m.Data); err != nil {
			t.Error("Request of one that is asked:", err)
		}
		if err := m.Reply(echoType(1), m.Data); err != nil {
			t.Error("Reply:", err)
		}
	}
}

// One that is asked may ask the one that waits for it.
//
// Pins doc.go, "Requests": the peer's Handler is called meanwhile
func TestAskingBack(t *testing.T) {
	eachAnswering(t, answeringSetups, asksBack, func(t *testing.T, p *pair) {
		p.eachRequester(func(name string, from, _ side) {
			for i, size := range []int{0, 100, 1 << 20} {
				if err := ask(t.Context(), from, 1, payload(i, size)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	})
}

// Requests of 1 MiB cross, and their replies too.
func TestLargeRequestsBothWays(t *testing.T) {
	eachAnswering(t, answeringSetups, echoes, func(t *testing.T, p *pair) {
		var asking sync.WaitGroup
		p.eachRequester(func(name string, from, _ side) {
			asking.Go(func() {
				for i := range 2 {
					if err := ask(t.Context(), from, 1, payload(i, 1<<20)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		})
		asking.Wait()
	})
}

// Two that wait for each other's Handler, which is not called a second time before
// it returns, wait until ctx ends, and not longer. Then all is as it was.
//
// Pins doc.go, "Requests": two Handlers that each wait for the other side's Handler wait until ctx ends
func TestHandlersThatWaitForEachOther(t *testing.T) {
	const patience = 3 * time.Second
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.answering(t, true, func(self side, m *ipc.Message) {
			// 10 is answered by what 20 says, which the other end answers by what
			// this one says to 30: if its Handler were called.
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			switch m.MsgType {
			case 10:
				_, err := self.Request(t.Context(), 20, nil)
				wantSentNoReply(t, "Request in the first handler", err)
			case 20:
				_, err := self.Request(ctx, 30, nil)
				wantSentNoReply(t, "Request in the second handler", err, context.DeadlineExceeded)
			case 30:
				t.Error("a handler was called that had not returned, or with what was cancelled")
			default:
				echoes(t)(self, m)
			}
		})
		p.eachRequester(func(name string, from, _ side) {
			start := time.Now()
			_, err := from.Request(t.Context(), 10, nil)
			wantElapsed(t, "two handlers that wait for each other", start, patience)
			wantSentNoReply(t, name, err)
			noError(t, "Request", ask(t.Context(), from, 1, nil))
		})
	})
}

// The way out of that: clone, return, and go on in a goroutine.
//
// Pins doc.go, "Requests": Clone, return, and ask from a goroutine
func TestRequestsInDepth(t *testing.T) {
	const depth = 8
	descend := func(t testing.TB) answer {
		return func(self side, m *ipc.Message) {
			m = m.Clone()
			go func() {
				trail := append(m.Data, byte(m.MsgType))
				if m.MsgType < depth {
					reply, err := self.Request(t.Context(), m.MsgType+1, trail)
					if err != nil {
						t.Errorf("Request at depth %d: %v", m.MsgType, err)
						return
					}
					trail = reply.Data
				}
				if err := m.Reply(1, trail); err != nil {
					t.Errorf("Reply at depth %d: %v", m.MsgType, err)
				}
			}()
		}
	}
	eachAnswering(t, answeringSetups, descend, func(t *testing.T, p *pair) {
		p.eachRequester(func(name string, from, _ side) {
			m, err := from.Request(t.Context(), 1, nil)
			noError(t, name, err)
			if want := []byte{1, 2, 3, 4, 5, 6, 7, 8}; !bytes.Equal(m.Data, want) {
				t.Errorf("%s: went through depths %v, want %v", name, m.Data, want)
			}
		})
	})
}

// What the peer sent before the reply is there when Request returns, though nobody
// has read it meanwhile.
//
// Pins doc.go, "Requests": What else comes meanwhile is put into the inbox for Read or the Handler
func TestMessagesBeforeTheReply(t *testing.T) {
	const n = 60
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		go answerMessages(t, to, func(_ side, m *ipc.Message) {
			if err := errors.Join(writeRising(to, n), m.Reply(1, nil), to.Write(n+1, nil)); err != nil {
				t.Error(err)
			}
		})
		for round := range 10 {
			_, err := from.Request(t.Context(), 1, nil)
			noError(t, "Request", err)
			if in := from.Stats().MessagesIn; in < uint64(round*(n+2)+n+1) {
				t.Errorf("round %d: %d messages have come before the reply, want %d", round, in-uint64(round*(n+2))-1, n)
			}
			wantRising(t, from, n)
			wantMessage(t, from, n+1, nil)
		}
	})
}

// What one goroutine writes and asks is read in that order.
//
// Pins doc.go, "Requests": in its place among the others
func TestRequestsBetweenMessages(t *testing.T) {
	const n = 40
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		sent := background(func() error {
			for i := range n {
				err := errors.Join(
					from.Write(1, numbered(i, 8+i*100)),
					ask(t.Context(), from, 2, numbered(i, 8+i*1000)))
				if err != nil {
					return err
				}
			}
			return nil
		})
		for i := range n {
			wantMessage(t, to, 1, numbered(i, 8+i*100))
			m := nextRequest(t, to, 2)
			wantSame(t, m, 2, numbered(i, 8+i*1000))
			echoes(t)(to, m)
		}
		noError(t, "Write, Request", sent())
	})
}

// A Request that cannot be made says so, and nothing is sent.
//
// Pins doc.go, "Requests": the peer has not handled the request, and will not
func TestRefusedRequests(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		over, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("the cause, which is not asked for"))
		p.eachRequester(func(name string, from, to side) {
			for _, tt := range []struct {
				what string
				ctx  context.Context
				typ  int
				size int
				want error
			}{
				{"type 0", t.Context(), 0, 0, ipc.ErrReservedType},
				{"type -1", t.Context(), -1, 0, ipc.ErrReservedType},
				{"type -2^31", t.Context(), math.MinInt32, 0, ipc.ErrReservedType},
				{"too large", t.Context(), 1, 100 - 16 + 1, ipc.ErrMsgTooLarge},
				{"far too large", t.Context(), 1, 1 << 20, ipc.ErrMsgTooLarge},
				{"ctx has ended", over, 1, 0, context.Canceled},
			} {
				_, err := from.Request(tt.ctx, tt.typ, make([]byte, tt.size))
				wantUnsent(t, name+": Request, "+tt.what, err, tt.want)
				n := 0
				for m, err := range from.RequestParts(tt.ctx, tt.typ, make([]byte, tt.size)) {
					n++
					wantUnsent(t, name+": RequestParts, "+tt.what, err, tt.want)
					if m != nil {
						t.Errorf("%s: RequestParts, %s: there is a message with the error", name, tt.what)
					}
				}
				if n != 1 {
					t.Errorf("%s: RequestParts, %s, yielded %d times, want 1", name, tt.what, n)
				}
				if tt.ctx == over && err != context.Canceled {
					t.Errorf("%s: Request after ctx: %v, want its error", name, err)
				}
			}
			if over := int64(math.MaxInt32) + 1; int64(int(over)) == over {
				wantUnsent(t, "Request of type 2^31", second(from.Request(t.Context(), int(over), nil)), ipc.ErrReservedType)
			}
			if stats := from.Stats(); stats.RequestsOut != 0 || stats.MessagesOut != 0 {
				t.Errorf("%s: stats %v, want nothing sent", name, stats)
			}
			// What has come next is the first thing that came.
			wantRoundTrip(t, from, to)
		})
	}, maxMsgSize(100))
}

// A peer that refuses says why, in numbers and words.
//
// Pins doc.go, "Requests": with a *ReplyError, which is an answer as well
func TestReplyError(t *testing.T) {
	replies := []struct {
		code       int
		text, want string
	}{
		{1, "", ""},
		{42, "no such thing", "no such thing"},
		{math.MaxInt32, "ünïcödé \x00 and a zero", "ünïcödé \x00 and a zero"},
		{7, "a\xffb\xc3", "a\uFFFDb\uFFFD"},
		{8, strings.Repeat("long", 30_000), strings.Repeat("long", 30_000)},
	}
	refuses := func(t testing.TB) answer {
		return func(_ side, m *ipc.Message) {
			reply := replies[m.MsgType-1]
			for _, code := range []int{0, -1, math.MinInt32} {
				wantError(t, fmt.Sprintf("ReplyError with code %d", code), m.ReplyError(code, reply.text), ipc.ErrReservedType)
			}
			if err := m.ReplyError(reply.code, reply.text); err != nil {
				t.Error("ReplyError:", err)
			}
			wantError(t, "second ReplyError", m.ReplyError(reply.code, reply.text), ipc.ErrNotAsked)
		}
	}
	eachAnswering(t, answeringSetups, refuses, func(t *testing.T, p *pair) {
		p.eachRequester(func(name string, from, _ side) {
			for i, want := range replies {
				m, err := from.Request(t.Context(), i+1, nil)
				var got *ipc.ReplyError
				if !errors.As(err, &got) || m != nil {
					t.Fatalf("%s: reply %v, error %v, want a *ReplyError", name, m, err)
				}
				if got.Code != want.code || got.Text != want.want {
					t.Errorf("%s: code %d, %d bytes of text %.20q, want code %d, %d bytes %.20q",
						name, got.Code, len(got.Text), got.Text, want.code, len(want.want), want.want)
				}
				wantText(t, "Error of a ReplyError", err, want.want)
				wantText(t, "Error of a ReplyError", err, fmt.Sprint(want.code))
				wantNot(t, name, err, ipc.ErrNoReply, ipc.ErrNoRequests, ipc.ErrNotConnected, ipc.ErrClosed)
			}
		})
	})
}

// What is no request, or has been answered, cannot be answered; what was refused
// for what it is, can be.
//
// Pins doc.go, "Requests": A second reply is ErrNotAsked
func TestReplyTwice(t *testing.T) {
	const limit = 40_000
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		replies := func(m *ipc.Message) map[string]error {
			return map[string]error{
				"Reply":      m.Reply(1, nil),
				"ReplyError": m.ReplyError(1, ""),
				"ReplyPart":  m.ReplyPart(1, nil),
				"ReplyEnd":   m.ReplyEnd(),
			}
		}
		wantNotAsked := func(what string, m *ipc.Message) {
			t.Helper()
			for call, err := range replies(m) {
				wantError(t, call+" to "+what, err, ipc.ErrNotAsked)
			}
		}
		noError(t, "Write", from.Write(1, nil))
		m := next(t, to)
		if m.IsRequest() || m.Clone().IsRequest() || m.Context() != context.Background() {
			t.Errorf("a message is a request: %t, its clone: %t, its context: %v", m.IsRequest(), m.Clone().IsRequest(), m.Context())
		}
		wantNotAsked("a message", m)
		wantNotAsked("a message of the program's own", &ipc.Message{MsgType: 1})
		wantNotAsked("the TimeoutMessage", ipc.TimeoutMessage)

		asked := background(func() error { _, err := from.Request(t.Context(), 1, []byte("?")); return err })
		m = nextRequest(t, to, 1)
		wantError(t, "ReplyPart to one that wants no parts", m.ReplyPart(1, nil), ipc.ErrNotAsked)
		wantError(t, "ReplyEnd to one that wants no parts", m.ReplyEnd(), ipc.ErrNotAsked)
		for _, msgType := range []int{0, -1, math.MinInt32} {
			wantError(t, fmt.Sprintf("Reply of type %d", msgType), m.Reply(msgType, nil), ipc.ErrReservedType)
		}
		for _, size := range []int{limit - 15, limit, 10 * limit} {
			wantError(t, fmt.Sprintf("Reply of %d bytes", size), m.Reply(1, make([]byte, size)), ipc.ErrMsgTooLarge)
		}
		wantError(t, "ReplyError that is too long", m.ReplyError(1, strings.Repeat("x", limit)), ipc.ErrMsgTooLarge)
		if err := m.Context().Err(); err != nil {
			t.Error("the context of a request that is not answered has ended:", err)
		}
		clone, copied := m.Clone(), *m
		noError(t, "Reply to a clone", clone.Reply(2, make([]byte, limit-16)))
		noError(t, "Request", asked())
		for what, m := range map[string]*ipc.Message{"one that was answered": m, "its clone": clone, "its copy": &copied, "a clone of that": copied.Clone()} {
			if !m.IsRequest() {
				t.Errorf("%s is no request any more", what)
			}
			wantNotAsked(what, m)
			wantError(t, "context of "+what, m.Context().Err(), context.Canceled)
		}
		noError(t, "Request", func() error {
			done := background(func() error { return ask(t.Context(), from, 3, nil) })
			echoes(t)(to, nextRequest(t, to, 3))
			return done()
		}())
	}, maxMsgSize(limit))
}

// Release gives memory back, and has nothing to do with the answer.
func TestReleasedRequests(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		for i, size := range []int{0, 100, 5000, 100_000, 1 << 20} {
			_, wait := requesting(t.Context(), from, 1, payload(i, size))
			m := nextRequest(t, to, 1)
			data := bytes.Clone(m.Data)
			m.Release()
			m.Release()
			if !m.IsRequest() || m.Context().Err() != nil {
				t.Errorf("released: a request: %t, context: %v", m.IsRequest(), m.Context().Err())
			}
			noError(t, "Reply", m.Reply(echoType(1), data))
			m.Release()
			noError(t, "Request", wait())
		}
	})
}

// The context of a request ends with its answer, with its cancel, and with its
// connection.
//
// Pins doc.go, "Requests": When ctx ends, Request returns at once, and the peer is told
func TestRequestContext(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		p.eachRequester(func(name string, from, to side) {
			for what, end := range map[string]func(m *ipc.Message) error{
				"Reply":      func(m *ipc.Message) error { return m.Reply(1, nil) },
				"ReplyError": func(m *ipc.Message) error { return m.ReplyError(1, "") },
			} {
				asked := background(func() error { _, err := from.Request(t.Context(), 1, nil); return err })
				m := nextRequest(t, to, 1)
				ctx := m.Context()
				synctest.Wait()
				if ctx.Err() != nil || m.Clone().Context() != ctx {
					t.Errorf("%s: context before the answer: %v; that of a clone is the same: %t", name, ctx.Err(), m.Clone().Context() == ctx)
				}
				noError(t, what, end(m))
				<-ctx.Done()
				asked()
			}

			ctx, cancel := context.WithCancel(t.Context())
			asked := background(func() error { _, err := from.Request(ctx, 1, nil); return err })
			m := nextRequest(t, to, 1)
			cancel()
			<-m.Context().Done()
			wantSentNoReply(t, "Request", asked(), context.Canceled)
			wantError(t, "Reply to a request that was cancelled", m.Reply(1, nil), context.Canceled)

			// One that asks for the context only then.
			ctx, cancel = context.WithCancel(t.Context())
			asked = background(func() error { _, err := from.Request(ctx, 1, nil); return err })
			m = nextRequest(t, to, 1)
			cancel()
			asked()
			synctest.Wait()
			wantError(t, "context of a request that was cancelled", m.Context().Err(), context.Canceled)
		})
	})
	t.Run("loss", func(t *testing.T) {
		eachDirection(t, everySetup, func(t *testing.T, from, to side) {
			asked := background(func() error { _, err := from.Request(t.Context(), 1, nil); return err })
			m := nextRequest(t, to, 1)
			ctx := m.Context()
			from.Close()
			<-ctx.Done()
			wantSentNoReply(t, "Request", asked(), ipc.ErrClosed)
			wantError(t, "Reply", m.Reply(1, nil), ipc.ErrNotConnected)
		})
	})
}

// 1,024 requests may be unanswered. The next waits until one is answered, or its
// ctx ends, and then it has not been sent.
//
// Pins doc.go, "Requests": up to 1,024 requests may be without a reply, and further ones wait
func TestPlaces(t *testing.T) {
	const places = 1024
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		p.eachRequester(func(name string, from, to side) {
			var waits []func() error
			var held []*ipc.Message
			for i := range places {
				_, wait := requesting(t.Context(), from, i+1, nil)
				waits = append(waits, wait)
				held = append(held, next(t, to))
			}
			ctx, cancel := context.WithCancel(t.Context())
			returned, wait := call(func() error { return second(from.Request(ctx, 2000, nil)) })
			wantBlocked(t, "Request over the 1,024th", returned)
			cancel()
			if err := wait(); err != context.Canceled {
				t.Errorf("%s: Request whose ctx ended while it waited for a place: %v, want the error of ctx", name, err)
			}
			returned, wait = requesting(t.Context(), from, 2001, nil)
			wantBlocked(t, "Request over the 1,024th", returned)
			wantNothing(t, to)
			wantRoundTrip(t, from, to) // messages need no place
			wantRoundTrip(t, to, from)

			echoes(t)(to, held[500])
			m := nextRequest(t, to, 2001)
			wantBlocked(t, "Request that is not answered", returned)
			echoes(t)(to, m)
			held = slices.Delete(held, 500, 501)
			for _, m := range held {
				echoes(t)(to, m)
			}
			for _, wait := range append(waits, wait) {
				noError(t, name, wait())
			}
		})
	})
}

// The counts of both ends are of what has happened.
func TestRequestStats(t *testing.T) {
	mixed := func(t testing.TB) answer {
		return func(_ side, m *ipc.Message) {
			var err error
			switch m.MsgType {
			case 1:
				err = m.Reply(1, make([]byte, 10))
			case 2:
				err = m.ReplyError(5, "12345")
			case 3:
				err = errors.Join(m.ReplyPart(1, make([]byte, 100)), m.ReplyPart(1, make([]byte, 100)), m.ReplyEnd())
			case 4:
				<-m.Context().Done()
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.answering(t, true, mixed(t))
		p.eachRequester(func(name string, from, to side) {
			in, out := from.Stats(), to.Stats()
			for msgType, n := range map[int]int{1: 5, 2: 4, 3: 3, 4: 2, 5: 1} {
				for range n {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					for _, err := range from.RequestParts(ctx, msgType, make([]byte, msgType)) {
						if (err == nil) != (msgType == 1 || msgType == 3) {
							t.Errorf("request of type %d: %v", msgType, err)
						}
					}
					cancel()
					synctest.Wait()
				}
			}
			const asked, asking = 15, 5*1 + 4*2 + 3*3 + 2*4 + 1*5
			now, there := from.Stats(), to.Stats()
			for _, c := range []struct {
				what      string
				got, want uint64
			}{
				{"requests out", now.RequestsOut - in.RequestsOut, asked},
				{"requests in, there", there.RequestsIn - out.RequestsIn, asked},
				{"cancelled", now.RequestsCancelled - in.RequestsCancelled, 2},
				{"cancelled, there", there.RequestsCancelled - out.RequestsCancelled, 2},
				{"unanswered", now.RequestsUnanswered - in.RequestsUnanswered, 1},
				{"unanswered, there", there.RequestsUnanswered - out.RequestsUnanswered, 1},
				{"messages out", now.MessagesOut - in.MessagesOut, asked},
				{"messages in, there", there.MessagesIn - out.MessagesIn, asked},
				{"bytes out", now.BytesOut - in.BytesOut, asking},
				{"bytes in, there", there.BytesIn - out.BytesIn, asking},
				{"replies there and here", there.MessagesOut - out.MessagesOut, now.MessagesIn - in.MessagesIn},
				{"bytes there and here", there.BytesOut - out.BytesOut, now.BytesIn - in.BytesIn},
			} {
				if c.got != c.want {
					t.Errorf("%s: %s: %d, want %d", name, c.what, c.got, c.want)
				}
			}
			if got := now.BytesIn - in.BytesIn; got < 5*10+3*200 {
				t.Errorf("%s: replies have %d bytes, want %d at least", name, got, 5*10+3*200)
			}
		})
		if sum := p.server.Stats(); sum.RequestsIn != 15 || sum.RequestsOut != 15 || sum.RequestsCancelled != 4 || sum.RequestsUnanswered != 2 {
			t.Errorf("stats of the server: %v", sum)
		}
	})
}

// recorder keeps what is logged.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *recorder) WithGroup(string) slog.Handler            { return r }

func (r *recorder) Handle(_ context.Context, line slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := line.Level.String() + " " + line.Message
	line.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	r.lines = append(r.lines, text)
	return nil
}

// since returns the lines after the first n.
func (r *recorder) since(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines[n:])
}

// The log says at level debug, and no other, what was refused and what stayed
// without an answer, and why, and nothing of what was said.
func TestRequestLog(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		var log recorder
		p := s.answering(t, true, func(_ side, m *ipc.Message) {
			switch m.MsgType {
			case 1:
				m.Reply(1, nil)
				m.Reply(1, []byte(secret))
			case 2:
			case 3:
				m.ReplyPart(1, []byte(secret))
				m.Reply(1, nil)
			}
		}, func(s *ipc.ServerConfig, c *ipc.ClientConfig) {
			if s != nil {
				s.Logger = slog.New(&log)
			}
			if c != nil {
				c.Logger = slog.New(&log)
			}
		})
		p.eachRequester(func(name string, from, _ side) {
			for _, tt := range []struct {
				msgType int
				want    string
			}{
				{1, ipc.ErrNotAsked.Error()},
				{2, "without a reply"},
				{3, ipc.ErrNotAsked.Error()},
				{0, ipc.ErrReservedType.Error()},
			} {
				synctest.Wait()
				n := len(log.since(0))
				from.Request(t.Context(), tt.msgType, []byte(secret))
				synctest.Wait()
				lines := log.since(n)
				if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, tt.want) }) {
					t.Errorf("%s: request of type %d is logged with %q, want %q in it", name, tt.msgType, lines, tt.want)
				}
				if tt.msgType == 2 && len(lines) < 2 {
					t.Errorf("%s: a request without an answer is logged with %q, want a line of each end", name, lines)
				}
				for _, l := range lines {
					if !strings.HasPrefix(l, "DEBUG") || strings.Contains(l, secret) {
						t.Errorf("%s: logged: %s", name, l)
					}
				}
			}
			n := len(log.since(0))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			noError(t, "Request", second(from.Request(ctx, 1, []byte(secret))))
			synctest.Wait()
			if lines := log.since(n); len(lines) > 1 { // the refused second Reply
				t.Errorf("%s: a request that is answered is logged with %q", name, lines)
			}
		})
	})
}
