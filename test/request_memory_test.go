package ipc_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A client that asks and cancels as fast as it can costs a program that reads
// nothing a bounded amount of memory, whether it reads the ends of its requests,
// as it has to, or does not.
func TestRequestsThatNobodyReads(t *testing.T) {
	pairs := 30_000 // the inbox has room for a third of them, if they stay
	switch {
	case *full:
		pairs = 1_000_000
	case testing.Short():
		pairs = 15_000
	}
	const batch = 256
	pairsFrom := func(p *wireAsker, id uint64) (all []byte) {
		for i := range uint64(batch) {
			all = append(all, p.frame(0, control{requestKind, 0, 1, id + i, ""}.encode())...)
			all = append(all, p.frame(0, control{cancelKind, 0, 0, id + i, ""}.encode())...)
		}
		return all
	}
	t.Run("ends read", func(t *testing.T) {
		eachAsker(t, []askingKind{{multi: true}, {client: true}, {}}, unixTransport, func(t *testing.T, p *wireAsker) {
			p.announce()
			before := newFlat()
			var ended atomic.Int64
			sent := background(func() error {
				for id := 1; id < pairs; id += batch {
					if _, err := p.raw.Write(pairsFrom(p, uint64(id))); err != nil {
						return err
					}
					for range batch {
						msgType, data, err := p.tryHear()
						if err != nil {
							return err
						}
						if c, ok := parseControl(data); msgType != 0 || !ok || c != none(c.id) {
							return fmt.Errorf("control frame of %v, want the end of a request", c)
						}
					}
					ended.Add(batch)
				}
				_, err := p.raw.Write(encode(7, []byte("done")))
				return err
			})
			halted(ended.Load)
			before.check(t)
			// All of it is over before it is read.
			wantMessage(t, p, 7, []byte("done"))
			noError(t, "raw client", sent())
			before.check(t)
			t.Logf("%d requests asked and cancelled", ended.Load())
			p.checkRequests(uint64(pairs) + batch)
		})
	})
	t.Run("ends not read", func(t *testing.T) {
		eachAsker(t, []askingKind{{multi: true}, {client: true}, {}}, unixTransport, func(t *testing.T, p *wireAsker) {
			p.announce()
			before := live()
			var asked atomic.Int64
			sent := background(func() error {
				for id := 1; id < pairs; id += batch {
					if _, err := p.raw.Write(pairsFrom(p, uint64(id))); err != nil {
						return err
					}
					asked.Add(batch)
				}
				return nil
			})
			halted(asked.Load)
			const most = 10 << 20 // an outbox full of the ends, an inbox, and what waits for room
			if now := live(); now > before+most {
				t.Errorf("heap was %d KiB, and is %d KiB", before>>10, now>>10)
			}
			t.Logf("%d requests asked and cancelled", asked.Load())
			p.raw.Close() // if it has not been closed
			sent()
			m := next(t, p)
			if m.Status == ipc.Error.String() {
				if !errors.Is(m.Err, ipc.ErrProtocol) && !errors.Is(m.Err, ipc.ErrTimeout) {
					t.Errorf("the connection was closed for %v", m.Err)
				}
				m = next(t, p)
			}
			if m.Status != p.lost.String() {
				t.Fatalf("read %s, want event %v", describe(m), p.lost)
			}
			p.connect()
			p.announce()
			p.checkRequests(1)
			if now := live(); now > before+most {
				t.Errorf("heap was %d KiB, and is %d KiB after the end", before>>10, now>>10)
			}
		})
	})
}
