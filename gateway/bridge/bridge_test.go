package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
)

// TestAnswers has a client on another machine get each kind of answer.
func TestAnswers(t *testing.T) {
	const text = "no such page:\r\n\t“größer”" // more than a header can carry
	got := make(chan *ipc.Message, 1)
	client, server, exposing, joining := pair(t, func(_ *ipc.Server, m *ipc.Message) {
		switch {
		case m.MsgType < 0:
		case !m.IsRequest():
			got <- m.Clone()
		case m.MsgType == 1:
			m.Reply(math.MaxInt32, m.Data)
		case m.MsgType == 2:
			m.ReplyError(404, text)
		case m.MsgType == 3: // there is no reply
		case m.MsgType == 4:
			m.ReplyPart(1, nil) // which is not asked for
			m.Reply(4, []byte("whole"))
		case m.MsgType == 5:
			m.ReplyError(math.MaxInt32>>1, "")
		}
	})
	ctx := bounded(t)
	m, err := client.Request(ctx, 1, []byte("ask"))
	if err != nil || m.MsgType != math.MaxInt32 || string(m.Data) != "ask" {
		t.Errorf("%+v, %v", m, err)
	}
	_, err = client.Request(ctx, 2, nil)
	wantCode(t, err, 404, text)
	_, err = client.Request(ctx, 3, nil)
	wantCode(t, err, bridge.CodeNoReply, "no reply")
	wantReply(t, client, 4, "", "whole")
	_, err = client.Request(ctx, 5, nil)
	wantCode(t, err, math.MaxInt32>>1, "")

	for _, data := range []string{"", "a message", strings.Repeat("x", 100_000)} {
		if err := client.Write(math.MaxInt32, []byte(data)); err != nil {
			t.Fatal(err)
		}
		if m := receive(t, got); m.MsgType != math.MaxInt32 || string(m.Data) != data {
			t.Errorf("type %d and %d bytes, want %d", m.MsgType, len(m.Data), len(data))
		}
	}

	if err := server.ServerManager.Broadcast(7, []byte("news")); err != nil {
		t.Fatal(err)
	}
	m, err = nextMessage(ctx, client)
	if err != nil || m.MsgType != 7 || string(m.Data) != "news" {
		t.Errorf("%+v, %v", m, err)
	}

	for _, side := range []side{joining, exposing} {
		if s := side.Stats(); !s.Connected || !s.Serving {
			t.Errorf("%+v", s)
		}
		if err := side.Close(); err != nil { // then all is counted
			t.Error(err)
		}
	}
	if s, want := joining.Stats(), (bridge.Stats{Requests: 5, Replies: 2, Errors: 2, GatewayErrors: 1, MessagesOut: 3, MessagesIn: 1}); s != want {
		t.Errorf("%+v of the joining side, want %+v", s, want)
	}
	if s, want := exposing.Stats(), (bridge.Stats{Requests: 5, Replies: 2, Errors: 2, GatewayErrors: 1, MessagesOut: 1, MessagesIn: 3}); s != want {
		t.Errorf("%+v of the exposing side, want %+v", s, want)
	}
}

// nextMessage returns the next message that is no event.
func nextMessage(ctx context.Context, c *ipc.Client) (*ipc.Message, error) {
	for {
		m, err := c.ReadContext(ctx)
		if err != nil || m.MsgType > 0 {
			return m, err
		}
	}
}

// TestOrder has what one client sends arrive in its order: messages, and requests
// after the messages that were written before them.
func TestOrder(t *testing.T) {
	const messages, every = 5000, 100
	next := 0
	wrong := make(chan string, 1)
	client, _, _, _ := pair(t, func(_ *ipc.Server, m *ipc.Message) {
		if m.MsgType < 0 {
			return
		}
		if string(m.Data) != strconv.Itoa(next) {
			select {
			case wrong <- fmt.Sprintf("%s, want %d", m.Data, next):
			default:
			}
		}
		if m.IsRequest() {
			m.Reply(1, m.Data)
			return
		}
		next++
	})
	for i := range messages {
		if err := client.Write(1, []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		if i%every == every-1 {
			wantReply(t, client, 1, strconv.Itoa(i+1), strconv.Itoa(i+1))
		}
	}
	select {
	case text := <-wrong:
		t.Error(text)
	default:
	}
}

// TestParts has replies in many parts, and in parts that are more than the window
// and than an inbox together.
func TestParts(t *testing.T) {
	client, _, _, joining := pair(t, func(_ *ipc.Server, m *ipc.Message) {
		if !m.IsRequest() {
			return
		}
		r := m.Clone()
		go func() {
			n, size := 10_000, 20
			if r.MsgType == 2 {
				n, size = 100, 200_000
			}
			for i := range n {
				part := make([]byte, size)
				copy(part, strconv.Itoa(i))
				if err := r.ReplyPart(i+1, part); err != nil {
					r.ReplyError(1, err.Error())
					return
				}
			}
			switch r.MsgType {
			case 3:
				r.ReplyError(500, "the last part is missing")
			case 4:
				r.Reply(n+1, []byte("last"))
			default:
				r.ReplyEnd()
			}
		}()
	})
	for _, c := range []struct{ msgType, want int }{{1, 10_000}, {2, 100}, {3, 10_000}, {4, 10_001}} {
		n := 0
		var err error
		for m, e := range client.RequestParts(bounded(t), c.msgType, nil) {
			if err = e; err != nil {
				break
			}
			if want := strconv.Itoa(n); m.MsgType != n+1 || n < 10_000 && string(bytes.TrimRight(m.Data, "\x00")) != want {
				t.Fatalf("type %d: part %d has type %d and begins with %.20q", c.msgType, n, m.MsgType, m.Data)
			}
			n++
		}
		if n != c.want {
			t.Errorf("type %d: %d parts, want %d", c.msgType, n, c.want)
		}
		if c.msgType == 3 {
			wantCode(t, err, 500, "the last part is missing")
		} else if err != nil {
			t.Error(err)
		}
	}
	if s := joining.Stats(); s.Parts != 30_101 || s.Dropped != 0 || s.SlowConsumer != 0 {
		t.Errorf("%+v", s)
	}
}

// TestPartsStop has a client leave the loop over parts that never end: the server
// notices. While it reads, another client gets its replies.
func TestPartsStop(t *testing.T) {
	ended := make(chan struct{})
	client, _, _, joining := pair(t, func(_ *ipc.Server, m *ipc.Message) {
		switch {
		case !m.IsRequest():
		case m.MsgType == 2:
			m.Reply(2, m.Data)
		default:
			r := m.Clone()
			go func() {
				defer close(ended)
				for r.ReplyPart(1, make([]byte, 100)) == nil {
				}
			}()
		}
	})
	other := startClient(t, joining.dir)
	beside := make(chan struct{})
	n := 0
	for _, err := range client.RequestParts(bounded(t), 1, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1000 {
			go func() {
				defer close(beside)
				wantReply(t, other, 2, "beside", "beside")
			}()
		}
		select {
		case <-beside:
		default:
			continue
		}
		break
	}
	receive(t, ended)
	wantReply(t, client, 2, "after", "after")
}

// TestCancel has the context of a request end on the server's machine for each
// reason that the requester's machine may have.
func TestCancel(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	url := startNATS(t).ClientURL()
	there, here := tempDir(t), tempDir(t)
	startServer(t, there, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			context.AfterFunc(m.Clone().Context(), func() { ended <- struct{}{} })
			began <- struct{}{}
		}
	})
	exposing := expose(t, bridge.Config{SocketDir: there, URL: url})
	joining := join(t, bridge.Config{SocketDir: here, URL: url})

	ask := func(c *ipc.Client, ctx context.Context) <-chan error {
		errs := make(chan error, 1)
		go func() {
			_, err := c.Request(ctx, 1, nil)
			errs <- err
		}()
		receive(t, began)
		return errs
	}

	client := startClient(t, here)
	ctx, cancel := context.WithCancel(bounded(t))
	errs := ask(client, ctx)
	cancel()
	receive(t, ended)
	if err := receive(t, errs); !errors.Is(err, context.Canceled) || !errors.Is(err, ipc.ErrNoReply) {
		t.Error(err)
	}

	errs = ask(client, bounded(t))
	client.Close() // as does a client that dies
	receive(t, ended)
	receive(t, errs)

	client = startClient(t, here)
	errs = ask(client, bounded(t))
	if err := joining.Close(); err != nil {
		t.Error(err)
	}
	receive(t, ended)
	if err := receive(t, errs); !errors.Is(err, ipc.ErrNoReply) {
		t.Error(err)
	}
	if s := joining.Stats(); s.Cancelled != 3 || s.InFlight != 0 {
		t.Errorf("%+v of the joining side", s)
	}
	exposing.Close()
	if s := exposing.Stats(); s.Cancelled != 3 || s.InFlight != 0 {
		t.Errorf("%+v of the exposing side", s)
	}
}

// TestClose has the exposing side closed: a short request is answered, and one that
// takes longer ends.
func TestClose(t *testing.T) {
	requests := make(chan *ipc.Message, 2)
	client, _, exposing, _ := pair(t, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			requests <- m.Clone()
		}
	})
	errs := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := client.Request(bounded(t), i+1, nil)
			errs <- err
		}()
	}
	first, second := receive(t, requests), receive(t, requests)
	closed := make(chan error, 1)
	go func() { closed <- exposing.Close() }()
	exposing.log.await("no longer exposed", 1)
	if err := first.Reply(1, nil); err != nil {
		t.Error(err)
	}
	if err := receive(t, errs); err != nil {
		t.Error(err)
	}
	wantCode(t, receive(t, errs), bridge.CodeNoReply, "closing")
	receive(t, second.Context().Done())
	if err := receive(t, closed); err != nil {
		t.Error(err)
	}
	_, err := client.Request(bounded(t), 1, nil)
	wantCode(t, err, bridge.CodeNoServer, "no machine exposes service")
}

// TestClients has 50 clients of two joining machines ask at once: each gets its own
// answers.
func TestClients(t *testing.T) {
	const clients, requests = 50, 40
	url := startNATS(t).ClientURL()
	there := tempDir(t)
	startServer(t, there, echo)
	expose(t, bridge.Config{SocketDir: there, URL: url})
	var dirs []string
	for range 2 {
		dirs = append(dirs, tempDir(t))
		join(t, bridge.Config{SocketDir: dirs[len(dirs)-1], URL: url})
	}
	var tasks sync.WaitGroup
	for i := range clients {
		client := startClient(t, dirs[i%2])
		tasks.Go(func() {
			for j := range requests {
				data := fmt.Sprintf("client %d, request %d", i, j)
				wantReply(t, client, i*requests+j+1, data, data)
			}
		})
	}
	tasks.Wait()
}
