package ipc_test

import (
	"context"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A message that is given up in the middle ends its connection at once, and not
// with the next message, which would be lost.
func TestInterruptedWriteEndsTheConnection(t *testing.T) {
	for _, s := range unixSetups {
		t.Run(s.String(), func(t *testing.T) {
			begin(t)
			p := s.pair(t, encrypts)
			for err := error(nil); err == nil; {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				err = p.peer.WriteContext(ctx, 1, make([]byte, 40_000))
				cancel()
			}
			read := background(func() error {
				for {
					m, err := p.client.Read()
					if err != nil || m.MsgType == 2 {
						return err
					}
				}
			})
			wantEvents(t, p.peer, ipc.Disconnected)
			p.peer = s.join(t, p.server)
			noError(t, "Write", p.peer.Write(2, []byte("hello")))
			noError(t, "Read", read())
		})
	}
}
