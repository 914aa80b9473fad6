package ipc_test

import (
	"fmt"
	"testing"
)

func TestBothDirections(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		const n = 500
		sent := background(func() error { return writeRising(from, n) })
		wantRising(t, to, n)
		noError(t, "Write", sent())
		wantRoundTrip(t, to, from)
		noError(t, "Close", from.Close())
		noError(t, "Close", to.Close())
	})
}

// One answers the other, with messages of all sizes.
func TestPingPong(t *testing.T) {
	eachDirection(t, everySetup, func(t *testing.T, from, to side) {
		for i := range fewer(200) {
			ping, pong := payload(i, i*i*31%40_000), payload(-i, i*i*31%50_000)
			sent := background(func() error { return from.Write(1, ping) })
			wantMessage(t, to, 1, ping)
			noError(t, "Write", sent())
			sent = background(func() error { return to.Write(2, pong) })
			wantMessage(t, from, 2, pong)
			noError(t, "Write", sent())
		}
	})
}

// Both ends write without a pause and read beside it: neither may wait for
// the other to stop.
func TestFullDuplex(t *testing.T) {
	eachPair(t, everySetup, func(t *testing.T, p *pair) {
		const n = 100
		size := func(i int) int { return i * i * 7 } // small and large ones
		write := func(e side) func() error {
			return background(func() error {
				for i := range n {
					if err := e.Write(i+1, payload(i, size(i))); err != nil {
						return err
					}
				}
				return nil
			})
		}
		client, server := write(p.client), write(p.peer)
		for i := range n {
			wantMessage(t, p.client, i+1, payload(i, size(i)))
			wantMessage(t, p.peer, i+1, payload(i, size(i)))
		}
		noError(t, "Write of the client", client())
		noError(t, "Write of the server", server())
	})
}

// 100,000 messages each way at the same time arrive whole, once and in order.
func TestManyBothWays(t *testing.T) {
	eachPair(t, unixSetups, func(t *testing.T, p *pair) {
		const n = 100_000
		write := func(from side) func() error {
			return background(func() error {
				for i := range n {
					if err := from.Write(1, fmt.Appendf(nil, "%08d", i)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		read := func(to side) func() error {
			return background(func() error {
				for i := 0; i < n; {
					m, err := to.Read()
					switch {
					case err != nil:
						return err
					case m.MsgType != 1:
					case numberOf(m.Data) != i:
						return fmt.Errorf("read %q, want %d", m.Data, i)
					default:
						i++
					}
				}
				return nil
			})
		}
		for _, done := range []func() error{write(p.client), write(p.peer), read(p.client), read(p.peer)} {
			defer func() { noError(t, "both ways", done()) }()
		}
	})
}
