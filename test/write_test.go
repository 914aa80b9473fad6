package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Calls that are wrong send nothing, and leave no trace.
//
// Pins doc.go, "Writing": Types are 1 to 2147483647
// Pins doc.go, "Errors": With an error from Write nothing was sent
// Pins doc.go, "Errors": ErrReservedType, ErrMsgTooLarge: a message that cannot be sent
func TestBadWrites(t *testing.T) {
	overInt32 := int64(math.MaxInt32) + 1 // negative where int has 32 bits
	eachDirection(t, unixSetups, func(t *testing.T, from, to side) {
		for _, tt := range []struct {
			name    string
			msgType int
			size    int
			want    error
		}{
			{"type 0", 0, 1, ipc.ErrReservedType},
			{"type -1", -1, 1, ipc.ErrReservedType},
			{"type -2", -2, 1, ipc.ErrReservedType},
			{"least type", math.MinInt, 1, ipc.ErrReservedType},
			{"type over int32", int(overInt32), 1, ipc.ErrReservedType},
			{"a byte too much", 1, 101, ipc.ErrMsgTooLarge},
			{"far too much", 1, 1 << 20, ipc.ErrMsgTooLarge},
		} {
			data := make([]byte, tt.size)
			wantError(t, tt.name, from.Write(tt.msgType, data), tt.want)
			wantError(t, tt.name, from.WriteContext(t.Context(), tt.msgType, data), tt.want)
		}
		for _, msgType := range []int{1, 2, math.MaxInt32} {
			noError(t, "Write", from.Write(msgType, make([]byte, 100)))
			wantMessage(t, to, msgType, make([]byte, 100))
		}
		if out := from.Stats().MessagesOut; out != 3 {
			t.Errorf("MessagesOut = %d, want 3", out)
		}
	}, maxMsgSize(100))
}

// Every size from nothing to the limit, around those where something changes:
// with the frame's head, and without.
//
// Pins doc.go, "Writing": Data may be empty, and has at most ServerConfig.MaxMsgSize bytes, in either direction
func TestSizes(t *testing.T) {
	sizes := []int{0, 1, 2, 3, 4, 100, 4095, 4096, 4097}
	for _, edge := range []int{32 << 10, 64 << 10} {
		sizes = append(sizes, edge-8, edge-4, edge-1, edge, edge+1)
	}
	t.Run("small", func(t *testing.T) { testSizes(t, everySetup, append(sizes, 100_000)) })
	t.Run("large", func(t *testing.T) { testSizes(t, unixSetups, []int{1<<20 - 1, 1 << 20, 4<<20 - 4, 4<<20 - 3, 5 << 20}) })
}

// testSizes sends messages of sizes, of which the last is the limit.
func testSizes(t *testing.T, setups []setup, sizes []int) {
	limit := sizes[len(sizes)-1]
	eachDirection(t, setups, func(t *testing.T, from, to side) {
		sent := background(func() error {
			buffer := make([]byte, limit)
			for i, n := range sizes {
				copy(buffer, payload(i, n))
				if err := from.Write(i+1, buffer[:n]); err != nil {
					return err
				}
				clear(buffer[:n]) // ours again, at once
			}
			return nil
		})
		for i, n := range sizes {
			m := next(t, to)
			wantSame(t, m, i+1, payload(i, n))
			m.Release()
		}
		noError(t, "Write", sent())
		wantError(t, "Write of a byte too much", from.Write(1, make([]byte, limit+1)), ipc.ErrMsgTooLarge)
	}, maxMsgSize(limit))
}

// Writers may share a side: small and large messages mix, and those of
// each writer keep their order.
func TestConcurrentWriters(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		const writers, n = 4, 50
		size := func(w, i int) int { return []int{0, 10, 3000, 33_000, 90_000}[(w+i)%5] + i }
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range n {
					if err := from.Write(w+1, payload(w*n+i, size(w, i))); err != nil {
						t.Error("Write:", err)
						return
					}
				}
			})
		}
		var got [writers]int
		for range writers * n {
			m := next(t, to)
			w := m.MsgType - 1
			wantSame(t, m, w+1, payload(w*n+got[w], size(w, got[w])))
			got[w]++
		}
		wg.Wait()
	})
}

// writes are the two ways to write, for what they have in common.
var writes = []struct {
	name  string
	write func(e side, msgType int, data []byte) error
}{
	{"Write", func(e side, msgType int, data []byte) error { return e.Write(msgType, data) }},
	{"WriteContext", func(e side, msgType int, data []byte) error {
		return e.WriteContext(context.Background(), msgType, data)
	}},
}

// A server that has not had a client yet waits for it, however long it takes.
//
// Pins doc.go, "Writing": and before the first connection
func TestWriteWaitsForTheFirstClient(t *testing.T) {
	for _, w := range writes {
		t.Run(w.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				route := pipeRoute(t)
				server := pipeSingle.startServer(t, route)
				returned, wait := call(func() error { return w.write(server, 1, []byte("welcome")) })
				largeReturned, largeWait := call(func() error { return w.write(server, 2, make([]byte, largeSize)) })
				time.Sleep(time.Hour)
				wantBlocked(t, w.name, returned)
				wantBlocked(t, w.name+" of a large message", largeReturned)
				client := route.startClient(t)
				a, b := next(t, client), next(t, client)
				if a.MsgType > b.MsgType {
					a, b = b, a // they were written side by side
				}
				wantSame(t, a, 1, []byte("welcome"))
				wantSame(t, b, 2, make([]byte, largeSize))
				noError(t, w.name, wait())
				noError(t, w.name, largeWait())
			})
		})
	}
}

// Write returns at once with an error that no client could change.
func TestBadWritesBeforeTheFirstClient(t *testing.T) {
	for _, w := range writes {
		t.Run(w.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				server := pipeSingle.startServer(t, pipeRoute(t), maxMsgSize(100))
				for _, tt := range []struct {
					msgType, size int
					want          error
				}{
					{0, 1, ipc.ErrReservedType},
					{-1, 1, ipc.ErrReservedType},
					{1, 101, ipc.ErrMsgTooLarge},
					{1, largeSize, ipc.ErrMsgTooLarge},
				} {
					returned, wait := call(func() error { return w.write(server, tt.msgType, make([]byte, tt.size)) })
					if synctest.Wait(); !returned() {
						t.Errorf("%s of type %d, %d bytes waits for a client", w.name, tt.msgType, tt.size)
						server.Close()
					}
					wantError(t, w.name, wait(), tt.want)
				}
			})
		})
	}
}

// What ends the wait for the first client, and that nothing is sent then.
func TestWriteBeforeTheFirstClientEnds(t *testing.T) {
	t.Run("by its context", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			route := pipeRoute(t)
			server := pipeSingle.startServer(t, route)
			wantWriteTimeout(t, server)
			client := route.startClient(t)
			noError(t, "Write", server.Write(2, nil))
			wantMessage(t, client, 2, nil)
		})
	})
	for _, w := range writes {
		t.Run("by Close, "+w.name, func(t *testing.T) {
			begin(t)
			server := unixSingle.startServer(t, unixRoute(t))
			_, wait := call(func() error { return w.write(server, 1, nil) })
			server.Close()
			wantError(t, w.name, wait(), ipc.ErrClosed)
		})
	}
}

// wantWriteTimeout checks that WriteContext waits until its context ends.
func wantWriteTimeout(t *testing.T, e side) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	if err := e.WriteContext(ctx, 1, nil); err != context.DeadlineExceeded {
		t.Errorf("WriteContext: %v, want %v", err, context.DeadlineExceeded)
	}
	wantElapsed(t, "WriteContext", start, time.Minute)
}

// Without a connection Write fails at once, and says what the status is;
// WriteContext waits for the next.
//
// Pins doc.go, "Writing": While the connection is lost it returns ErrNotConnected; Client.WriteContext waits for the next one instead
func TestWriteWithoutConnection(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := pipeSingle.pair(t)
			p.server.Close()
			wantEvents(t, p.client, ipc.ReConnecting)
			wantNotConnected(t, p.client, "Reconnecting")
			wantWriteTimeout(t, p.client)
			returned, wait := call(func() error { return p.client.WriteContext(t.Context(), 1, []byte("later")) })
			time.Sleep(time.Minute)
			wantBlocked(t, "WriteContext", returned)
			p.server = p.startServer(t, p.route)
			p.peer = p.join(t, p.server)
			wantMessage(t, p.peer, 1, []byte("later"))
			noError(t, "WriteContext", wait())
		})
	})
	t.Run("server", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := pipeSingle.pair(t)
			p.client.Close()
			wantEvents(t, p.server, ipc.Disconnected)
			wantNotConnected(t, p.server, "Disconnected")
			wantWriteTimeout(t, p.server)
			returned, wait := call(func() error { return p.server.WriteContext(t.Context(), 1, []byte("later")) })
			time.Sleep(time.Hour)
			wantBlocked(t, "WriteContext", returned)
			client := p.route.startClient(t)
			wantMessage(t, client, 1, []byte("later"))
			noError(t, "WriteContext", wait())
		})
	})
}

func wantNotConnected(t *testing.T, e side, status string) {
	t.Helper()
	start := time.Now()
	err := e.Write(1, nil)
	wantError(t, "Write", err, ipc.ErrNotConnected)
	wantText(t, "Write", err, "cannot write under current status: "+status)
	wantElapsed(t, "Write", start, 0)
}

// A message that waits for room when the connection goes was not sent, and is
// not sent later. Its writer knows.
func TestConnectionGoesWhileWriteWaits(t *testing.T) {
	for _, size := range []int{1000, largeSize} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			eachWireBubble(t, func(t *testing.T, p *wirePair) {
				accepted := 0
				if size < largeSize {
					accepted = fill(t, p, size)
				}
				returned, wait := call(func() error { return p.Write(2, make([]byte, size)) })
				wantBlocked(t, "Write", returned)
				p.raw.Close()
				err := wait()
				wantError(t, "Write", err, ipc.ErrNotConnected)
				if errors.Is(err, ipc.ErrClosed) != p.setup.multi { // to that Server no client comes any more
					t.Errorf("Write: error %v, want ErrClosed in it: %t", err, p.setup.multi)
				}

				raw, e := p.again(t)
				_, wait = call(func() error { return e.Write(3, nil) })
				if p.client { // a server's next client may be another one
					for n := range accepted {
						raw.wantFrame(1, numbered(n, size))
					}
				}
				raw.wantFrame(3, nil)
				noError(t, "Write", wait())
			})
		})
	}
}

// A writer against a reader that stopped is held back within 64 MiB, and
// freed by Close.
//
// Pins doc.go, "Reading": its sender blocks, and memory stays bounded
func TestStoppedReader(t *testing.T) {
	parallel(t)
	eachDirection(t, unixSetups[:1], func(t *testing.T, from, to side) {
		fill(t, from, 10_000)
		_, wait := call(func() error { return from.Write(2, make([]byte, 10_000)) })
		if err := from.Close(); err == nil {
			t.Error("Close returns nil with messages that the peer does not read")
		}
		wantError(t, "Write", wait(), ipc.ErrClosed)
	})
}

// Freed by a reader that goes on: everything arrives.
func TestReaderGoesOn(t *testing.T) {
	parallel(t)
	for _, size := range []int{500, 10_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			eachDirection(t, unixSetups[:1], func(t *testing.T, from, to side) {
				accepted := fill(t, from, size)
				_, wait := call(func() error { return from.Write(1, numbered(accepted, size)) })
				for n := range accepted + 1 {
					wantMessage(t, to, 1, numbered(n, size))
				}
				noError(t, "Write", wait())
			})
		})
	}
}

// The outbox is bounded for small messages and empty ones as well.
//
// Pins doc.go, "Writing": Write waits only for room in the queue, which holds 4 MiB
func TestOutboxIsBounded(t *testing.T) {
	for _, size := range []int{0, 64, 10_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			eachWireBubble(t, func(t *testing.T, p *wirePair) {
				n := 0
				_, wait := call(func() error {
					for ; ; n++ {
						if err := p.Write(1, make([]byte, size)); err != nil {
							return err
						}
					}
				})
				synctest.Wait()
				if cost := n * (size + 100); cost < 1<<20/2 || cost > 10<<20 {
					t.Errorf("%d messages of %d bytes accepted, want some MiB, each message counted with 100 bytes more", n, size)
				}
				p.raw.Close()
				wantError(t, "Write", wait(), ipc.ErrNotConnected)
			})
		})
	}
}

// As long as no byte of a large message has left, whatever ends the Write
// withdraws the message.
//
// Pins doc.go, "Writing": its Write returns when the kernel has all of it
func TestLargeMessageIsWithdrawn(t *testing.T) {
	for _, behind := range []bool{false, true} {
		t.Run(map[bool]string{false: "alone", true: "in a queue"}[behind], func(t *testing.T) {
			prepare := func(t *testing.T, p *wirePair) (check func(*wireConn)) {
				if !behind {
					return func(*wireConn) {}
				}
				noError(t, "Write", p.Write(1, []byte("first")))
				return func(raw *wireConn) { raw.wantFrame(1, []byte("first")) }
			}
			t.Run("by its context", func(t *testing.T) {
				eachWireBubble(t, func(t *testing.T, p *wirePair) {
					check := prepare(t, p)
					ctx, cancel := context.WithCancel(t.Context())
					returned, wait := call(func() error { return p.WriteContext(ctx, 2, make([]byte, largeSize)) })
					wantBlocked(t, "WriteContext", returned)
					cancel()
					wantError(t, "WriteContext", wait(), context.Canceled)
					noError(t, "Write", p.Write(3, []byte("next")))
					check(p.raw)
					p.raw.wantFrame(3, []byte("next"))
				})
			})
			t.Run("by Close", func(t *testing.T) {
				eachWireBubble(t, func(t *testing.T, p *wirePair) {
					prepare(t, p)
					returned, wait := call(func() error { return p.Write(2, make([]byte, largeSize)) })
					wantBlocked(t, "Write", returned)
					if err := p.Close(); (err != nil) != behind {
						t.Errorf("Close: %v with a message accepted: %t", err, behind)
					}
					wantError(t, "Write", wait(), ipc.ErrClosed)
				})
			})
			t.Run("by the connection", func(t *testing.T) {
				eachWireBubble(t, func(t *testing.T, p *wirePair) {
					check := prepare(t, p)
					returned, wait := call(func() error { return p.Write(2, make([]byte, largeSize)) })
					wantBlocked(t, "Write", returned)
					p.raw.Close()
					wantError(t, "Write", wait(), ipc.ErrNotConnected)
					raw, e := p.again(t)
					noError(t, "Write", e.Write(3, []byte("next")))
					if p.client {
						check(raw)
					}
					raw.wantFrame(3, []byte("next"))
				})
			})
		})
	}
}

// Once a byte has left, the message is sent: the context ends the call but
// not the message, and the caller may reuse the data.
func TestLargeMessageThatHasBegun(t *testing.T) {
	for _, taken := range []int{1, 8, 9, 1000, largeSize + 7} {
		t.Run(fmt.Sprint(taken), func(t *testing.T) {
			eachWireBubble(t, func(t *testing.T, p *wirePair) {
				data := slices.Clone(payload(1, largeSize))
				want := encode(2, data)
				ctx, cancel := context.WithCancel(t.Context())
				returned, wait := call(func() error { return p.WriteContext(ctx, 2, data) })
				got := make([]byte, len(want))
				_, err := io.ReadFull(p.raw, got[:taken])
				noError(t, "raw read", err)
				wantBlocked(t, "WriteContext", returned)
				cancel()
				noError(t, "WriteContext", wait())
				clear(data)
				noError(t, "Write", p.Write(3, []byte("next")))
				_, err = io.ReadFull(p.raw, got[taken:])
				noError(t, "raw read", err)
				if !bytes.Equal(got, want) {
					t.Error("the message arrives damaged")
				}
				p.raw.wantFrame(3, []byte("next"))
			})
		})
	}
}

// Close lets a large message that has begun out, if there is time.
func TestCloseFinishesALargeMessage(t *testing.T) {
	eachWireBubble(t, func(t *testing.T, p *wirePair) {
		data := payload(1, largeSize)
		want := encode(2, data)
		_, wait := call(func() error { return p.Write(2, data) })
		got := make([]byte, len(want))
		_, err := io.ReadFull(p.raw, got[:1000])
		noError(t, "raw read", err)
		returned, closed := call(p.Close)
		wantBlocked(t, "Close", returned)
		_, err = io.ReadFull(p.raw, got[1000:])
		noError(t, "raw read", err)
		noError(t, "Write", wait())
		noError(t, "Close", closed())
		if !bytes.Equal(got, want) {
			t.Error("the message arrives damaged")
		}
		if extra := p.raw.wantDropped(); len(extra) > 0 {
			t.Errorf("%d bytes after the last message", len(extra))
		}
	})
}

// A large message that is torn by the end of the connection: its Write tells
// the truth about whether it is sent on the next.
func TestLargeMessageTorn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := wireServerPair(t, pipeTransport)
		data := payload(1, largeSize)
		_, wait := call(func() error { return p.Write(2, data) })
		_, err := io.ReadFull(p.raw, make([]byte, 1000))
		noError(t, "raw read", err)
		p.raw.Close()
		raw, e := p.again(t)
		_, markerWait := call(func() error { return e.Write(3, nil) })
		msgType, got := raw.frame()
		if msgType == 2 {
			if !bytes.Equal(got, payload(1, largeSize)) {
				t.Error("the message arrives damaged")
			}
			noError(t, "Write of the message that was sent again", wait())
			raw.wantFrame(3, nil)
		} else if err := wait(); err == nil || msgType != 3 {
			t.Errorf("Write: %v, then a frame of type %d", err, msgType)
		}
		noError(t, "Write", markerWait())
	})
}

// Flush returns when what was accepted has left, and not before.
func TestFlush(t *testing.T) {
	eachWireBubble(t, func(t *testing.T, p *wirePair) {
		noError(t, "Flush of nothing", p.Flush(t.Context()))
		for i := range 3 {
			noError(t, "Write", p.Write(i+1, []byte("abc")))
		}
		ctx, cancel := context.WithCancel(t.Context())
		returned, wait := call(func() error { return p.Flush(ctx) })
		wantBlocked(t, "Flush", returned)
		cancel()
		wantError(t, "Flush", wait(), context.Canceled)

		returned, wait = call(func() error { return p.Flush(t.Context()) })
		p.raw.wantFrame(1, []byte("abc"))
		p.raw.wantFrame(2, []byte("abc"))
		wantBlocked(t, "Flush", returned)
		p.raw.wantFrame(3, []byte("abc"))
		noError(t, "Flush", wait())

		// In MultiMode the listening Server's flushes all.
		if p.server != nil {
			noError(t, "Write", p.Write(4, nil))
			returned, wait := call(func() error { return p.server.Flush(t.Context()) })
			wantBlocked(t, "Flush of the server", returned)
			p.raw.wantFrame(4, nil)
			noError(t, "Flush of the server", wait())
		}
	})
}

// After Flush the kernel has it: it can be read though the sender does nothing
// any more.
//
// Pins doc.go, "Writing": wait with Client.Flush until everything accepted has been given to the kernel
func TestFlushReachesTheKernel(t *testing.T) {
	eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
		var want []byte
		for i := range 100 {
			noError(t, "Write", p.Write(i+1, []byte("abc")))
			want = append(want, encode(i+1, []byte("abc"))...)
		}
		noError(t, "Flush", p.Flush(t.Context()))
		got := make([]byte, len(want)+1)
		if n, err := p.raw.Read(got); err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("one read got %d bytes (%v), want all %d", n, err, len(want))
		}
	})
}

// A Write that answers may find a socket that takes nothing more.
func TestAnswerToAFullSocket(t *testing.T) {
	const size = 1000
	eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
		n := capacity(t, size+8)
		for i := range n {
			noError(t, "Write", p.Write(1, numbered(i, size)))
			noError(t, "Flush", p.Flush(t.Context()))
		}
		p.raw.send(encode(2, []byte("question")))
		wantMessage(t, p, 2, []byte("question"))
		noError(t, "Write", p.Write(3, payload(3, 30_000)))
		noError(t, "Write", p.Write(4, []byte("and more")))
		for i := range n {
			p.raw.wantFrame(1, numbered(i, size))
		}
		p.raw.wantFrame(3, payload(3, 30_000))
		p.raw.wantFrame(4, []byte("and more"))
	})
}

// capacity is how many writes of a size a Unix socket takes.
func capacity(t testing.TB, size int) (n int) {
	t.Helper()
	route := unixRoute(t)
	ln := route.listen(t)
	conn := route.dial(t)
	defer accept(t, ln).Close()
	for b := make([]byte, size); ; n++ {
		conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := conn.Write(b); err != nil {
			return n
		}
	}
}

// Flush waits through a reconnect, as the messages do.
func TestFlushAcrossReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := wireServerPair(t, pipeTransport)
		noError(t, "Write", p.Write(1, []byte("abc")))
		returned, wait := call(func() error { return p.Flush(t.Context()) })
		wantBlocked(t, "Flush", returned)
		p.raw.Close()
		raw, _ := p.again(t)
		wantBlocked(t, "Flush", returned)
		raw.wantFrame(1, []byte("abc"))
		noError(t, "Flush", wait())
	})
}

// Close flushes what was accepted.
func TestCloseFlushes(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		const n = 1000
		closed := background(func() error {
			if err := writeRising(from, n); err != nil {
				return err
			}
			return from.Close()
		})
		wantRising(t, to, n)
		noError(t, "Close after 1000 messages", closed())
	})
}

// What the kernel has from an endpoint that is closed arrives, though something
// that it has not read is there: a TCP connection that is simply closed then would
// be reset, and lose what its end had not sent yet. The announcement of a server
// is such a thing to a client that writes and closes at once.
func TestCloseWithSomethingUnread(t *testing.T) {
	var overTCP []setup
	for _, s := range everySetup {
		if s.name == "tcp" || s.name == "tls" {
			overTCP = append(overTCP, s)
		}
	}
	eachDirection(t, overTCP, func(t *testing.T, from, to side) {
		const size, unread, sent = 1024, 1200, 1500 // an inbox has room for 1 MiB
		for i := range unread {
			noError(t, "Write to who does not read", to.Write(1, numbered(i, size)))
		}
		noError(t, "Flush", to.Flush(t.Context()))
		for i := range sent {
			noError(t, "Write", from.Write(1, numbered(i, size)))
		}
		noError(t, "Flush", from.Flush(t.Context()))
		noError(t, "Close", from.Close())
		for i := range sent {
			wantMessage(t, to, 1, numbered(i, size))
		}
	})
}

// A Close whose messages the peer does not read gives up after a second, and says how
// many did not get out.
//
// Pins doc.go, "Starting": send what has been accepted, for one second at most
func TestCloseCountsWhatIsLost(t *testing.T) {
	for _, taken := range []int{0, 2} {
		t.Run(fmt.Sprint(taken, " taken"), func(t *testing.T) {
			eachWireBubble(t, func(t *testing.T, p *wirePair) {
				for range 7 {
					noError(t, "Write", p.Write(1, []byte("abc")))
				}
				for range taken {
					p.raw.wantFrame(1, []byte("abc"))
				}
				_, err := io.ReadFull(p.raw, make([]byte, 3)) // of one that is lost, too
				noError(t, "raw read", err)
				start := time.Now()
				err = p.Close()
				wantElapsed(t, "Close", start, time.Second)
				wantNumber(t, err, 7-taken)
				p.raw.wantDropped()
			})
		})
	}

	// One second for all clients together, and a number for each.
	t.Run("many clients", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireClientPair(t, pipeMulti)
			for i := range 3 {
				_, peer := p.join(t)
				for range i + 11 {
					noError(t, "Write", peer.Write(1, nil))
				}
			}
			start := time.Now()
			err := p.server.Close()
			wantElapsed(t, "Close", start, time.Second)
			for _, n := range []int{11, 12, 13} {
				wantNumber(t, err, n)
			}
		})
	})
}

// The client of a server that had something for another client does not get
// it.
//
// Pins doc.go, "Writing": A server drops the messages for a client that has left
func TestServerDropsWhatWasForAnother(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := wireClientPair(t, pipeSingle)
		for range 10 {
			noError(t, "Write", p.Write(1, []byte("for the first")))
		}
		p.raw.Close()
		raw, e := p.again(t)
		noError(t, "Write", e.Write(2, []byte("for the second")))
		raw.wantFrame(2, []byte("for the second"))
		noError(t, "Close", e.Close())
	})
}

// What a peer sent before it stopped listening is read, though writing to it
// fails.
// It is not run beside others, which may take the processor for those 100 ms.
func TestReadAfterAFailedWrite(t *testing.T) {
	eachWire(t, unixTransport, func(t *testing.T, p *wirePair) {
		const n, size = 100, 1500 // more than one read
		var all []byte
		for i := range n {
			all = append(all, encode(1, numbered(i, size))...)
		}
		p.raw.send(all)
		p.raw.closeRead()
		for range 10 { // the first is accepted, one of the next may not be
			if err := p.Write(1, []byte("into the void")); err != nil {
				wantError(t, "Write", err, ipc.ErrNotConnected)
			}
		}
		for i := range n {
			wantMessage(t, p, 1, numbered(i, size))
		}
		wantEvents(t, p, p.lost) // though we never closed our end
	})
}

// That lasts for 100 ms, and then the connection ends.
func TestFailedWriteEndsTheConnection(t *testing.T) {
	for _, k := range wireKinds {
		t.Run(k.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				broken := new(atomic.Bool)
				p := k.pair(t, pipeTransport, func(s *ipc.ServerConfig, c *ipc.ClientConfig) {
					if s != nil {
						s.Listener = &halfListener{s.Listener, broken}
						return
					}
					dial := c.Dial
					c.Dial = func(ctx context.Context) (net.Conn, error) {
						conn, err := dial(ctx)
						return &halfConn{conn, broken}, err
					}
				})
				broken.Store(true)
				start := time.Now()
				noError(t, "Write", p.Write(1, []byte("into the void")))
				time.Sleep(99 * time.Millisecond)
				p.raw.send(encode(2, []byte("just in time")))
				wantMessage(t, p, 2, []byte("just in time"))
				wantEvents(t, p, p.lost)
				wantElapsed(t, "the end of the connection", start, 100*time.Millisecond)
				p.raw.wantDropped()
			})
		})
	}
}

// Meanwhile a Server says the same to all that would write as it does afterwards,
// and is still Connected. In MultiMode it is at its end.
func TestWriteAfterAFailedWrite(t *testing.T) {
	for _, s := range pipeSetups {
		t.Run(s.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				broken := new(atomic.Bool)
				p := wireClientPair(t, s, func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
					s.Listener = &halfListener{s.Listener, broken}
				})
				check := func(when string) {
					t.Helper()
					for name, err := range map[string]error{
						"Write":          p.Write(1, nil),
						"Write of a lot": p.Write(1, make([]byte, largeSize)),
						"Request":        second(p.Request(t.Context(), 1, nil)),
					} {
						what := name + " " + when
						wantError(t, what, err, ipc.ErrNotConnected)
						wantOnePrefix(t, err, "")
						if errors.Is(err, ipc.ErrClosed) != s.multi || errors.Is(err, ipc.ErrNoReply) {
							t.Errorf("%s: error %v, want ErrClosed in it: %t", what, err, s.multi)
						}
					}
				}
				broken.Store(true)
				noError(t, "Write", p.Write(1, []byte("into the void")))
				synctest.Wait()
				check("after a failed write")
				wantText(t, "Write", p.Write(1, nil), "cannot write under current status: Connected")
				wantStatus(t, "server's end", p, ipc.Connected)
				err := p.server.ServerManager.Broadcast(1, nil)
				wantError(t, "Broadcast", err, ipc.ErrNotConnected)
				if errors.Is(err, ipc.ErrClosed) {
					t.Errorf("Broadcast: error %v, and the server is not closed", err)
				}
				wantEvents(t, p, ipc.Disconnected)
				check("after the client has left")
				wantStatus(t, "server's end", p, ipc.Disconnected)
			})
		})
	}
}

// halfListener accepts halfConns.
type halfListener struct {
	net.Listener
	broken *atomic.Bool
}

func (l *halfListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &halfConn{conn, l.broken}, nil
}

// halfConn can be made to fail on every Write, and still reads.
type halfConn struct {
	net.Conn
	broken *atomic.Bool
}

func (c *halfConn) Write(b []byte) (int, error) {
	if c.broken.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(b)
}

// A client in MultiMode that takes nothing is dropped after WriteTimeout, and
// holds no other client up meanwhile; one that is slow is not.
//
// Pins doc.go, "Events": made no progress for too long, and has lost its connection
// Pins doc.go, "Many clients": A slow client delays only the goroutines that write to it
// Pins doc.go, "Many clients": A client that makes no progress for ServerConfig.WriteTimeout, 10 s by default, is dropped
func TestWriteTimeout(t *testing.T) {
	writeTimeout := func(d time.Duration) tweak {
		return func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			if s != nil {
				s.WriteTimeout = d
			}
		}
	}
	multi := pipeMulti
	for _, tt := range []struct {
		name      string
		set, want time.Duration
		size      int
	}{
		{"default", 0, 10 * time.Second, 10},
		{"set", time.Minute, time.Minute, 10},
		{"large message", time.Minute, time.Minute, largeSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := wireClientPair(t, multi, writeTimeout(tt.set))
				client := p.route.startClient(t)
				peer := p.setup.join(t, p.server)

				start := time.Now()
				_, wait := call(func() error { return p.Write(1, make([]byte, tt.size)) })
				for time.Since(start) < tt.want-time.Second {
					wantRoundTrip(t, client, peer)
					wantRoundTrip(t, peer, client)
					time.Sleep(time.Second)
				}
				wantErrorEvent(t, p, ipc.ErrTimeout)
				wantEvents(t, p, ipc.Disconnected)
				if late := time.Since(start) - tt.want; late < 0 || late > 100*time.Millisecond {
					t.Errorf("dropped after %v, want %v", tt.want+late, tt.want)
				}
				if err := wait(); tt.size >= largeSize {
					wantError(t, "Write", err, ipc.ErrNotConnected)
				}
				p.raw.wantDropped()
				wantRoundTrip(t, client, peer)
			})
		})
	}
	t.Run("slow reader", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireClientPair(t, multi)
			noError(t, "Write", p.Write(1, make([]byte, 100)))
			noError(t, "Write", p.Write(2, []byte("next")))
			for _, b := range encode(1, make([]byte, 100)) {
				time.Sleep(9 * time.Second)
				p.raw.SetReadDeadline(time.Now().Add(time.Second))
				var got [1]byte
				if _, err := io.ReadFull(p.raw, got[:]); err != nil || got[0] != b {
					t.Fatalf("raw read %v (%v), want %d", got, err, b)
				}
			}
			p.raw.SetReadDeadline(time.Time{})
			p.raw.wantFrame(2, []byte("next"))
		})
	})
	t.Run("never", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireClientPair(t, multi, writeTimeout(-1))
			noError(t, "Write", p.Write(1, []byte("patience")))
			time.Sleep(24 * time.Hour)
			p.raw.wantFrame(1, []byte("patience"))
		})
	})
	t.Run("idle", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := wireClientPair(t, multi)
			time.Sleep(24 * time.Hour)
			noError(t, "Write", p.Write(1, []byte("good morning")))
			p.raw.wantFrame(1, []byte("good morning"))
		})
	})
}

// A large message that was withdrawn leaves nothing behind that the peer would
// have to take.
func TestWithdrawnLeavesNothing(t *testing.T) {
	eachWireBubble(t, func(t *testing.T, p *wirePair) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, "WriteContext", p.WriteContext(ctx, 1, make([]byte, largeSize)), context.DeadlineExceeded)
		time.Sleep(time.Minute) // of synthetic time: longer than WriteTimeout
		noError(t, "Write", p.Write(2, []byte("next")))
		p.raw.want("frame", encode(2, []byte("next"))...)
	})
}

// Flush says what was dropped to every caller, however many there are, and
// though the next clients come and go before most of them can look.
func TestFlushOfWhatWasDropped(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const callers = 3000
		p := wireClientPair(t, pipeSingle)
		noError(t, "Write", p.Write(1, []byte("that is not read")))
		var waits []func() error
		for range callers {
			_, wait := call(func() error { return p.Flush(t.Context()) })
			waits = append(waits, wait)
		}
		var visits, writing sync.WaitGroup
		for range 3 { // they get a message, too, and leave
			next := p.route.dial(t)
			visits.Go(func() {
				next.openClient() // ends when the one before has left
				next.Read(make([]byte, 1))
				next.Close()
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 10 {
			writing.Go(func() {
				// Up to the bound of the outbox, and then once there is another client.
				for p.WriteContext(ctx, 1, make([]byte, 30_000)) == nil {
				}
			})
		}
		synctest.Wait()
		p.raw.Close()
		told := 0
		for _, wait := range waits {
			if err := wait(); err != nil {
				wantError(t, "Flush", err, ipc.ErrNotConnected)
				told++
			}
		}
		if told != callers {
			t.Errorf("%d of %d calls of Flush say that the message was dropped", told, callers)
		}
		visits.Wait()
		cancel()
		writing.Wait()
	})
}
