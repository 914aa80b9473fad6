package bridge_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats.go"
)

// TestPlainRequester has a program with nothing but a NATS client ask a server.
func TestPlainRequester(t *testing.T) {
	ns := startNATS(t)
	dir := tempDir(t)
	got := make(chan *ipc.Message, 1)
	s := startServer(t, dir, func(_ *ipc.Server, m *ipc.Message) {
		switch {
		case m.MsgType < 0:
		case !m.IsRequest():
			got <- m.Clone()
		case m.MsgType == 1:
			m.Reply(1, m.Data)
		case m.MsgType == 2:
			m.Reply(5, m.Data)
		case m.MsgType == 3:
			m.ReplyError(404, "größer")
		case m.MsgType == 4:
			m.ReplyPart(4, []byte("one"))
			m.ReplyPart(5, []byte("two"))
			m.ReplyEnd()
		}
	})
	exposing := expose(t, bridge.Config{SocketDir: dir, URL: ns.ClientURL()})
	nc := plainNATS(t, ns.ClientURL())
	ctx := bounded(t)

	for _, c := range []struct {
		subject, data, header string
	}{
		{"ipc.service.1", "same", ""},
		{"ipc.service.2", "other", "Ipc-Type: 5"},
		{"ipc.service.3", "größer", "Nats-Service-Error-Code: 404"},
		{"ipc.service.99", "gateway: no reply", fmt.Sprint("Nats-Service-Error-Code: ", bridge.CodeNoReply)},
	} {
		m, err := nc.RequestWithContext(ctx, c.subject, []byte(c.data))
		if err != nil {
			t.Fatal(err)
		}
		key, value, _ := strings.Cut(c.header, ": ")
		if string(m.Data) != c.data || m.Header.Get(key) != value {
			t.Errorf("%s: %q with %v, want %q with %s", c.subject, m.Data, m.Header, c.data, c.header)
		}
	}
	for _, token := range []string{"0", "-1", "x", "01", "+1", "2147483648", "99999999999999999999"} {
		m, err := nc.RequestWithContext(ctx, "ipc.service."+token, nil)
		if err != nil {
			t.Fatal(err)
		}
		if code := m.Header.Get("Nats-Service-Error-Code"); code != fmt.Sprint(bridge.CodeRefused) {
			t.Errorf("type %q: code %q", token, code)
		}
	}
	if err := nc.Publish("ipc.service.x", nil); err != nil {
		t.Error(err)
	}
	exposing.log.await("message dropped: the last token of its subject is no message type", 1)

	if err := nc.Publish("ipc.service.2147483647", []byte("message")); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, got); m.MsgType != 2147483647 || string(m.Data) != "message" {
		t.Errorf("%+v", m)
	}

	unasked, err := nc.SubscribeSync("ipc.service.out.>")
	if err != nil {
		t.Fatal(err)
	}
	inbox := nc.NewInbox()
	parts, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishMsg(&nats.Msg{Subject: "ipc.service.4", Reply: inbox, Header: nats.Header{"Ipc-Parts": {"1"}}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one map[Ipc-Part:[1]]", "two map[Ipc-Part:[2] Ipc-Type:[5]]", " map[Ipc-End:[2]]"} {
		m, err := parts.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %v", m.Data, map[string][]string(m.Header)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := s.ServerManager.Broadcast(7, []byte("news")); err != nil {
		t.Fatal(err)
	}
	if m, err := unasked.NextMsgWithContext(ctx); err != nil || m.Subject != "ipc.service.out.7" || string(m.Data) != "news" {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestPlainCancel has such a program give requests up, before they are sent and
// after that.
func TestPlainCancel(t *testing.T) {
	ns := startNATS(t)
	dir := tempDir(t)
	requests := make(chan *ipc.Message, 1)
	startServer(t, dir, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			requests <- m.Clone()
		}
	})
	exposing := expose(t, bridge.Config{SocketDir: dir, URL: ns.ClientURL()})
	nc := plainNATS(t, ns.ClientURL())
	if err := nc.PublishRequest("ipc.service.1", "answer.to.1", nil); err != nil {
		t.Fatal(err)
	}
	m := receive(t, requests)
	if err := nc.Publish("ipc.service.cancel.answer.to.1", nil); err != nil {
		t.Fatal(err)
	}
	receive(t, m.Context().Done())

	if err := nc.Publish("ipc.service.cancel.answer.to.2", nil); err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"answer.to.2", "answer.to.3"} {
		if err := nc.PublishRequest("ipc.service.1", reply, []byte(reply)); err != nil {
			t.Fatal(err)
		}
	}
	m = receive(t, requests)
	if string(m.Data) == "answer.to.2" { // its cancel has come later, on its own subscription
		receive(t, m.Context().Done())
		m = receive(t, requests)
	}
	if string(m.Data) != "answer.to.3" {
		t.Errorf("a request of %s", m.Data)
	}
	if err := m.Reply(1, nil); err != nil {
		t.Error(err)
	}
	exposing.Close()
	if s := exposing.Stats(); s.Cancelled != 2 || s.Replies != 1 {
		t.Errorf("%+v", s)
	}
}

// TestPlainResponder has a program with nothing but a NATS client be the server.
func TestPlainResponder(t *testing.T) {
	ns := startNATS(t)
	here := tempDir(t)
	join(t, bridge.Config{SocketDir: here, URL: ns.ClientURL()})
	nc := plainNATS(t, ns.ClientURL())
	messages := make(chan string, 1)
	answer := func(m *nats.Msg, data string, header nats.Header) {
		nc.PublishMsg(&nats.Msg{Subject: m.Reply, Data: []byte(data), Header: header})
	}
	_, err := nc.QueueSubscribe("ipc.service.*", "ipc", func(m *nats.Msg) {
		switch m.Subject[len("ipc.service."):] {
		case "1":
			m.Respond(m.Data)
		case "2":
			answer(m, "other", nats.Header{"Ipc-Type": {"5"}})
		case "3":
			answer(m, "", nats.Header{"Nats-Service-Error": {"no such page"}, "Nats-Service-Error-Code": {"404"}})
		case "4":
			answer(m, "", nats.Header{"Nats-Service-Error": {"no code"}})
		case "5":
			answer(m, "", nats.Header{"Ipc-Type": {"0"}})
		case "6":
			answer(m, "one", nats.Header{"Ipc-Part": {"1"}})
			answer(m, "", nats.Header{"Ipc-Alive": {"1"}})
			answer(m, "two", nats.Header{"Ipc-Part": {"2"}})
			answer(m, "", nats.Header{"Ipc-End": {"2"}})
		case "7":
			answer(m, "one", nats.Header{"Ipc-Part": {"1"}})
			answer(m, "three", nats.Header{"Ipc-Part": {"3"}})
		case "8":
			answer(m, "one", nats.Header{"Ipc-Part": {"1"}})
			answer(m, "", nats.Header{"Ipc-End": {"2"}})
		case "9":
			messages <- string(m.Data)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	client := startClient(t, here)
	if got := untilReply(t, client, 1, "same"); got != "same" {
		t.Errorf("reply %q", got)
	}
	ctx := bounded(t)
	if m, err := client.Request(ctx, 2, nil); err != nil || m.MsgType != 5 || string(m.Data) != "other" {
		t.Errorf("%+v, %v", m, err)
	}
	_, err = client.Request(ctx, 3, nil)
	wantCode(t, err, 404, "no such page")
	_, err = client.Request(ctx, 4, nil)
	wantCode(t, err, bridge.CodeNoReply, "no code")
	_, err = client.Request(ctx, 5, nil)
	wantCode(t, err, bridge.CodeNoReply, "no message type")
	for _, c := range []struct {
		msgType int
		want    string
		failure string
	}{
		{6, "one two ", ""},
		{7, "one ", "part 2 of the reply was lost"},
		{8, "one ", "the reply has 2 parts, and 1 have come"},
	} {
		var got string
		var err error
		for m, e := range client.RequestParts(ctx, c.msgType, nil) {
			if err = e; e == nil {
				got += string(m.Data) + " "
			}
		}
		if got != c.want {
			t.Errorf("type %d: parts %q, want %q", c.msgType, got, c.want)
		}
		if c.failure != "" {
			wantCode(t, err, bridge.CodeNoReply, c.failure)
		} else if err != nil {
			t.Error(err)
		}
	}
	_, err = client.Request(ctx, 6, nil) // one reply was asked for
	var e *ipc.ReplyError
	if !errors.As(err, &e) || e.Code != bridge.CodeNoReply {
		t.Errorf("%v", err)
	}

	if err := client.Write(9, []byte("message")); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, messages); got != "message" {
		t.Errorf("%q", got)
	}
	if err := nc.Publish("ipc.service.out.7", []byte("news")); err != nil {
		t.Fatal(err)
	}
	if m, err := nextMessage(ctx, client); err != nil || m.MsgType != 7 || string(m.Data) != "news" {
		t.Errorf("%+v, %v", m, err)
	}
}
