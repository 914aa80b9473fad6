package ipc_test

import (
	"errors"
	"fmt"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// A Message prints as what it is, and without its data.
func TestMessagePrints(t *testing.T) {
	for _, tt := range []struct {
		message *ipc.Message
		want    string
	}{
		{nil, "<nil>"},
		{&ipc.Message{}, "message of type 0, 0 bytes"},
		{&ipc.Message{MsgType: 7, Data: []byte(secret)}, "message of type 7, 5 bytes"},
		{&ipc.Message{MsgType: -1, Status: "Connected"}, "event Connected"},
		{&ipc.Message{MsgType: -1, Status: "Error", Err: errors.New("what went wrong")}, "event Error: what went wrong"},
		{ipc.TimeoutMessage, "message of type 2, 0 bytes: timed_out"},
	} {
		for _, format := range []string{"%v", "%s", "%+v"} {
			if got := fmt.Sprintf(format, tt.message); got != tt.want {
				t.Errorf("%s: %q, want %q", format, got, tt.want)
			}
		}
	}
	eachPair(t, unixSetups[:1], func(t *testing.T, p *pair) {
		asked := background(func() error { return second(p.client.Request(t.Context(), 3, []byte(secret))) })
		m := next(t, p.peer)
		for _, m := range []*ipc.Message{m, m.Clone()} {
			if got, want := m.String(), "request of type 3, 5 bytes"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		noError(t, "Reply", m.Reply(4, []byte(secret)))
		if got, want := m.String(), "request of type 3, 5 bytes"; got != want {
			t.Errorf("answered: %q, want %q", got, want)
		}
		noError(t, "Request", asked())
	})
}
