//go:build race

package ipc_test

import (
	"bytes"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

const raceEnabled = true

// With the race detector on, what was lent is overwritten after the call, so that
// a Handler that keeps it without Clone is caught.
//
// Pins doc.go, "Handlers": what was lent is overwritten after the call
func TestHandlerThatKeeps(t *testing.T) {
	eachHandled(t, everySetup, func(t *testing.T, p *handledPair) {
		for _, size := range []int{1, 64, 5000, 40_000, 100_000, 1 << 20} {
			var kept, clone *ipc.Message
			var data []byte
			want := payload(size, size)
			p.setOn(func(_ side, m *ipc.Message) {
				switch m.MsgType {
				case 1:
					kept, data, clone = m, m.Data, m.Clone()
					wantSame(t, m, 1, want)
				case 2: // the call for 1 has returned
					if bytes.Equal(kept.Data, want) || bytes.Equal(data, want) {
						t.Errorf("a message of %d bytes that was kept is as it was", size)
					}
					wantSame(t, clone, 1, want)
				}
			})
			noError(t, "Write", p.other.Write(1, want))
			p.wantMessages(t, 1, size)
			noError(t, "Write", p.other.Write(2, nil))
			p.wantMessages(t, 2, 0)
		}
	})
}
