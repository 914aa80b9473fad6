package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// streams is an answer in parts: as many as the type of the request says, part i
// being payload(i, i*len(Data)), and then, as the first byte of the data says, the
// last part, the end, an error, or nothing.
func streams(t testing.TB) answer {
	return func(_ side, m *ipc.Message) {
		if !m.IsRequest() {
			return
		}
		err := streamParts(m, m.MsgType-1, len(m.Data))
		switch m.Data[0] {
		case 'l':
			err = errors.Join(err, m.Reply(1, payload(m.MsgType-1, (m.MsgType-1)*len(m.Data))))
		case 'e':
			err = errors.Join(err, m.ReplyEnd())
		case 'x':
			err = errors.Join(err, m.ReplyError(5, "halfway"))
		}
		if err != nil {
			t.Errorf("stream %c of %d parts: %v", m.Data[0], m.MsgType-1, err)
		}
	}
}

func streamParts(m *ipc.Message, n, size int) error {
	for i := range n {
		if err := m.ReplyPart(i+1, payload(i, i*size)); err != nil {
			return err
		}
	}
	return nil
}

// takeStream goes through a stream of streams. It returns the number of parts and
// the error that ended it, and an error of its own if it is not what it should be.
func takeStream(parts iter.Seq2[*ipc.Message, error], size int) (n int, end, wrong error) {
	for m, err := range parts {
		switch {
		case end != nil:
			return n, end, fmt.Errorf("something is yielded after error %w", end)
		case (m == nil) == (err == nil):
			return n, end, fmt.Errorf("yielded %v, error %w", m, err)
		case err != nil:
			end = err
		case len(m.Data) != n*size || string(m.Data) != string(payload(n, n*size)):
			return n, end, fmt.Errorf("part %d is a %s", n, describe(m))
		default:
			n++
		}
	}
	return n, end, nil
}

// wantStream checks one stream of streams.
func wantStream(ctx context.Context, from side, end byte, n, size int) error {
	data := make([]byte, size)
	data[0] = end
	want := n
	if end == 'l' {
		want++
	}
	got, err, wrong := takeStream(from.RequestParts(ctx, n+1, data), size)
	var reply *ipc.ReplyError
	switch {
	case wrong != nil:
		return wrong
	case got != want:
		return fmt.Errorf("stream %c: %d parts, want %d (%w)", end, got, want, err)
	case end == 'x':
		if !errors.As(err, &reply) || reply.Code != 5 || reply.Text != "halfway" {
			return fmt.Errorf("the stream ends with %w, want a *ReplyError", err)
		}
	case end == '-':
		if !errors.Is(err, ipc.ErrNoReply) {
			return fmt.Errorf("the stream ends with %w, want ErrNoReply", err)
		}
	case err != nil:
		return fmt.Errorf("stream %c: %w", end, err)
	}
	return nil
}

// A reply may have any number of parts, and end in each of the ways that there
// are. A stream that ends without an error has all of them.
//
// Pins doc.go, "Requests": An iteration that ends without an error has had all of them
func TestParts(t *testing.T) {
	eachAnswering(t, answeringSetups, streams, func(t *testing.T, p *pair) {
		p.eachRequester(func(name string, from, _ side) {
			for _, end := range "lex" {
				for _, s := range []struct{ n, size int }{{0, 1}, {1, 1}, {2, 100}, {100, 30}, {3, 100_000}} {
					if err := wantStream(t.Context(), from, byte(end), s.n, s.size); err != nil {
						t.Errorf("%s: %d parts of up to %d bytes: %v", name, s.n, s.n*s.size, err)
					}
				}
			}
		})
	})
}

// A Handler that returns before the end of a stream has broken it off.
func TestHandlerLeavesAStream(t *testing.T) {
	eachSetup(t, everySetup, func(t *testing.T, s setup) {
		p := s.answering(t, true, streams(t))
		p.eachRequester(func(name string, from, _ side) {
			for _, n := range []int{0, 1, 50} {
				if err := wantStream(t.Context(), from, '-', n, 10); err != nil {
					t.Errorf("%s: %d parts: %v", name, n, err)
				}
			}
			noError(t, "the next stream", wantStream(t.Context(), from, 'l', 3, 10))
		})
	})
}

// Streams both ways do not get into each other's way, nor into that of messages
// and of requests.
func TestStreamsBesideEachOther(t *testing.T) {
	mixed := func(t testing.TB) answer {
		return func(self side, m *ipc.Message) {
			if m.MsgType == 1000 {
				echoes(t)(self, m)
				return
			}
			m = m.Clone()
			go streams(t)(self, m)
		}
	}
	eachAnswering(t, answeringSetups, mixed, func(t *testing.T, p *pair) {
		var asking sync.WaitGroup
		p.eachRequester(func(name string, from, _ side) {
			for i := range 20 {
				asking.Go(func() {
					err := wantStream(t.Context(), from, "lex"[i%3], 50+i, 1+i*3)
					err = errors.Join(err, from.Write(5, nil), ask(t.Context(), from, 1000, []byte{byte(i)}))
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
		})
		asking.Wait()
	})
}

// The request is sent when the iteration begins, once for each.
func TestPartsAreAskedForByIterating(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.answering(t, false, streams(t))
		p.eachRequester(func(_ string, from, _ side) {
			parts := from.RequestParts(t.Context(), 4, []byte{'l', 0})
			synctest.Wait()
			if n := from.Stats().RequestsOut; n != 0 {
				t.Errorf("%d requests sent before the iteration", n)
			}
			for round := range uint64(3) {
				n, err, wrong := takeStream(parts, 2)
				if n != 4 || err != nil || wrong != nil {
					t.Errorf("iteration %d: %d parts, error %v, %v", round, n, err, wrong)
				}
				if n := from.Stats().RequestsOut; n != round+1 {
					t.Errorf("%d requests sent by iteration %d", n, round+1)
				}
			}
		})
	})
}

// Parts are yielded as they come, and not when all have.
func TestPartsComeOneByOne(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		more := make(chan bool)
		answered := background(func() error {
			m := next(t, to)
			for range more {
				if err := m.ReplyPart(1, nil); err != nil {
					return err
				}
			}
			return m.ReplyEnd()
		})
		go func() { more <- true }()
		n := 0
		for _, err := range from.RequestParts(t.Context(), 1, nil) {
			noError(t, "RequestParts", err)
			if n++; n < 100 {
				more <- true
			} else {
				close(more)
			}
		}
		noError(t, "ReplyPart", answered())
		if n != 100 {
			t.Errorf("%d parts, want 100", n)
		}
	})
}

// Leaving the loop cancels: the context of the request ends at the peer, which
// cannot send more. Nothing of that stream comes later.
//
// Pins doc.go, "Requests": Leaving the loop cancels the request
func TestLeavingAStream(t *testing.T) {
	for how, setups := range map[string][]setup{"break": everySetup, "return": unixSetups, "panic": unixSetups, "Pull": pipeSetups} {
		t.Run(how, func(t *testing.T) {
			eachDirection(t, setups, func(t *testing.T, from, to side) {
				answered := background(func() error {
					m := next(t, to)
					var err error
					for err == nil {
						err = m.ReplyPart(1, []byte("part"))
					}
					<-m.Context().Done()
					return err
				})
				parts := from.RequestParts(t.Context(), 1, nil)
				func() {
					defer func() { recover() }()
					if how == "Pull" {
						next, stop := iter.Pull2(parts)
						next()
						stop()
						return
					}
					for _, err := range parts {
						noError(t, "RequestParts", err)
						switch how {
						case "return":
							return
						case "panic":
							panic("leaves the loop")
						}
						break
					}
				}()
				wantError(t, "ReplyPart to one who has left", answered(), context.Canceled)
				_, wait := requesting(t.Context(), from, 2, []byte("next"))
				echoes(t)(to, nextRequest(t, to, 2))
				noError(t, "the next Request", wait())
				wantRoundTrip(t, to, from)
				if n := from.Stats().RequestsCancelled; n != 1 {
					t.Errorf("%d requests cancelled, want 1", n)
				}
			})
		})
	}
}

// A loop that is left after the last part has nothing to cancel, nor has one whose
// stream has ended.
func TestLeavingAStreamThatHasEnded(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.answering(t, false, streams(t))
		p.eachRequester(func(_ string, from, to side) {
			n := 0
			for _, err := range from.RequestParts(t.Context(), 3, []byte("l")) {
				noError(t, "RequestParts", err)
				synctest.Wait()
				if n++; n == 3 {
					break
				}
			}
			for range from.RequestParts(t.Context(), 3, []byte("e")) {
				synctest.Wait() // all has come
				break
			}
			synctest.Wait()
			for _, e := range []side{from, to} {
				if n := e.Stats().RequestsCancelled; n != 0 {
					t.Errorf("%d requests cancelled, want none", n)
				}
			}
			noError(t, "the next stream", wantStream(t.Context(), from, 'l', 3, 10))
		})
	})
}

// The end of ctx ends a stream with its error, after the parts that had come.
func TestStreamAndContext(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		p.eachRequester(func(_ string, from, to side) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var n int
			stream := background(func() error {
				var err, wrong error
				n, err, wrong = takeStream(from.RequestParts(ctx, 1, []byte("x")), 1)
				noError(t, "stream", wrong)
				return err
			})
			m := nextRequest(t, to, 1)
			noError(t, "ReplyPart", streamParts(m, 3, 1))
			synctest.Wait()
			start := time.Now()
			cancel()
			wantSentNoReply(t, "stream whose ctx has ended", stream(), context.Canceled)
			wantElapsed(t, "the end", start, 0)
			if n != 3 {
				t.Errorf("%d parts, want 3", n)
			}
			<-m.Context().Done()
			wantError(t, "ReplyPart", m.ReplyPart(1, nil), context.Canceled)
			wantError(t, "ReplyEnd", m.ReplyEnd(), context.Canceled)
		})
	})
}

// A stream that breaks with its connection ends with an error.
func TestBrokenStream(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		answered := background(func() error {
			m := next(t, to)
			if err := streamParts(m, 100, 10); err != nil {
				return err
			}
			noError(t, "Flush", to.Flush(t.Context()))
			to.Close()
			return m.ReplyEnd()
		})
		n, err, wrong := takeStream(from.RequestParts(t.Context(), 1, []byte("x")), 10)
		noError(t, "stream", wrong)
		wantSentNoReply(t, "stream that breaks", err, ipc.ErrNotConnected)
		if n > 100 {
			t.Errorf("%d parts, want 100 at most", n)
		}
		wantError(t, "ReplyEnd after Close", answered(), ipc.ErrNotConnected)
	})
}

// Who does not take the parts holds up the one that sends them, and what else the
// connection brings, by the bound of the inbox; and takes all of them later.
//
// Pins doc.go, "Requests": so a slow loop holds up the sender
func TestStreamThatIsNotTaken(t *testing.T) {
	const size = 10_000
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		p.eachRequester(func(name string, from, to side) {
			var sent atomic.Int64
			const n = 1500
			answered := background(func() error {
				m := next(t, to)
				for i := range n {
					if err := m.ReplyPart(1, numbered(i, size)); err != nil {
						return err
					}
					sent.Add(1)
				}
				return m.ReplyEnd()
			})
			next, stop := iter.Pull2(from.RequestParts(t.Context(), 1, nil))
			defer stop()
			next()
			time.Sleep(time.Second)
			synctest.Wait()
			// The inbox, the outbox and what is under way.
			if got := sent.Load() * size; got > 6<<20 {
				t.Errorf("%s: %d KiB were sent to a loop that takes nothing", name, got>>10)
			}
			written := background(func() error { return to.WriteContext(t.Context(), 2, nil) })
			time.Sleep(time.Second)
			wantNothing(t, from)
			for i := 1; i < n; i++ {
				m, err, ok := next()
				if !ok || err != nil || numberOf(m.Data) != i {
					t.Fatalf("part %d: %s, error %v, %t", i, describe(m), err, ok)
				}
			}
			if _, err, ok := next(); ok {
				t.Errorf("something after the last part: %v", err)
			}
			noError(t, "ReplyPart", answered())
			noError(t, "Write", written())
			wantMessage(t, from, 2, nil)
		})
	})
}

// What is not taken when the loop is left counts no more: the connection goes on.
func TestLeavingAStreamThatIsNotTaken(t *testing.T) {
	eachBubble(t, func(t *testing.T, s setup) {
		p := s.pair(t)
		p.eachRequester(func(_ string, from, to side) {
			for range 3 {
				answered := background(func() error {
					m := next(t, to)
					for {
						if err := m.ReplyPart(1, make([]byte, 10_000)); err != nil {
							return err
						}
					}
				})
				for range from.RequestParts(t.Context(), 1, nil) {
					time.Sleep(time.Second) // until nothing goes on
					break
				}
				wantError(t, "ReplyPart", answered(), context.Canceled)
				wantRoundTrip(t, to, from)
				wantRoundTrip(t, from, to)
			}
		})
	})
}

// Parts are refused where they are not asked for, and once the stream has ended.
func TestPartsThatAreRefused(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		stream := background(func() error {
			n, err, wrong := takeStream(from.RequestParts(t.Context(), 1, nil), 1)
			if n != 2 {
				t.Errorf("%d parts, want 2", n)
			}
			return errors.Join(err, wrong)
		})
		m := nextRequest(t, to, 1)
		wantError(t, "ReplyPart of type 0", m.ReplyPart(0, nil), ipc.ErrReservedType)
		wantError(t, "ReplyPart that is too large", m.ReplyPart(1, make([]byte, defaultMaxMsgSize-15)), ipc.ErrMsgTooLarge)
		noError(t, "ReplyPart", streamParts(m, 2, 1))
		noError(t, "ReplyEnd", m.ReplyEnd())
		wantError(t, "ReplyPart after the end", m.ReplyPart(1, nil), ipc.ErrNotAsked)
		wantError(t, "ReplyEnd after the end", m.ReplyEnd(), ipc.ErrNotAsked)
		wantError(t, "Reply after the end", m.Reply(1, nil), ipc.ErrNotAsked)
		noError(t, "stream", stream())
	})
}
