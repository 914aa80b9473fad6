package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func TestConfig(t *testing.T) {
	dir := tempDir(t)
	missing := filepath.Join(dir, "missing")
	noPEM := filepath.Join(dir, "no.pem")
	if err := os.WriteFile(noPEM, []byte("this is none"), 0o600); err != nil {
		t.Fatal(err)
	}
	startServer(t, dir, echo)
	for _, c := range []struct {
		what   string
		start  func(*bridge.Config) (*bridge.Gateway, error)
		config *bridge.Config
		is     error
		text   string
	}{
		{"nil", bridge.Expose, nil, fs.ErrInvalid, "Config is nil"},
		{"nil", bridge.Join, nil, fs.ErrInvalid, "Config is nil"},
		{"no name", bridge.Expose, &bridge.Config{}, ipc.ErrName, "empty"},
		{"a path", bridge.Join, &bridge.Config{Name: "a/b"}, ipc.ErrName, "separator"},
		{"keepalive", bridge.Join, &bridge.Config{Name: name, KeepAlive: -1}, fs.ErrInvalid, "KeepAlive"},
		{"certificate alone", bridge.Join, &bridge.Config{Name: name, TLSCert: noPEM}, fs.ErrInvalid, "TLSKey"},
		{"no certificate", bridge.Join, &bridge.Config{Name: name, TLSCert: noPEM, TLSKey: noPEM}, nil, "PEM"},
		{"no authorities", bridge.Join, &bridge.Config{Name: name, TLSCA: missing}, fs.ErrNotExist, missing},
		{"no credentials", bridge.Expose, &bridge.Config{Name: name, Creds: missing}, fs.ErrNotExist, missing},
		{"other credentials", bridge.Expose, &bridge.Config{Name: name, Creds: noPEM}, nil, noPEM},
		{"mode", bridge.Expose, &bridge.Config{Name: name, Mode: 0o666}, fs.ErrInvalid, "Mode"},
		{"no URL", bridge.Expose, &bridge.Config{Name: name, URL: "nats://u:secret@h:%"}, fs.ErrInvalid, "Config.URL \"nats://u:xxxxx@h:%\" is no URL"},
		{"in use", bridge.Join, &bridge.Config{Name: name, SocketDir: dir}, ipc.ErrInUse, name},
	} {
		if c.config != nil {
			c.config.Logger = newLog(t).logger()
		}
		g, err := c.start(c.config)
		if err == nil {
			t.Errorf("%s: there is no error", c.what)
			g.Close()
			continue
		}
		if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) ||
			strings.Contains(err.Error(), "secret") || strings.Count(err.Error(), "gateway: ") != 1 || strings.Count(err.Error(), "ipc: ") > 1 {
			t.Errorf("%s: %v, want %v and %q", c.what, err, c.is, c.text)
		}
	}
}

// laterNATS returns where a NATS server can be started later.
func laterNATS(t *testing.T) (url string, port int) {
	t.Helper()
	ns := startNATS(t)
	url, port = ns.ClientURL(), ns.Addr().(*net.TCPAddr).Port
	ns.Shutdown()
	ns.WaitForShutdown()
	return url, port
}

// TestNATSLater has gateways and programs started before NATS: requests get an
// answer at once, and once NATS comes they are handled.
func TestNATSLater(t *testing.T) {
	url, port := laterNATS(t)
	there, here := tempDir(t), tempDir(t)
	startServer(t, there, echo)
	exposing := start(t, bridge.Expose, bridge.Config{SocketDir: there, URL: url})
	joining := join(t, bridge.Config{SocketDir: here, URL: url})
	client := startClient(t, here)
	_, err := client.Request(bounded(t), 1, nil)
	wantCode(t, err, bridge.CodeNotConnected, "no connection to NATS at "+url)
	if err := client.Write(1, []byte("lost")); err != nil {
		t.Error(err)
	}
	joining.log.await("message dropped: there is no connection to NATS yet", 1)
	if s := joining.Stats(); s.Connected || s.Dropped != 1 {
		t.Errorf("%+v", s)
	}
	exposing.log.await("NATS cannot be reached", 1)

	startNATS(t, func(o *server.Options) { o.Port = port })
	if got := untilReply(t, client, 1, "there"); got != "there" {
		t.Errorf("reply %q", got)
	}
}

// TestNobody has a name that no machine exposes: that is known at once.
func TestNobody(t *testing.T) {
	here := tempDir(t)
	join(t, bridge.Config{SocketDir: here, URL: startNATS(t).ClientURL(), KeepAlive: long})
	client := startClient(t, here)
	_, err := client.Request(bounded(t), 1, nil)
	wantCode(t, err, bridge.CodeNoServer, "no machine exposes "+name)
	for _, err := range client.RequestParts(bounded(t), 1, nil) {
		wantCode(t, err, bridge.CodeNoServer, "no machine exposes "+name)
	}
}

// users has NATS permit as much as u says.
func users(u *server.User) func(*server.Options) {
	u.Username, u.Password = "u", "p"
	return func(o *server.Options) { o.Users = []*server.User{u} }
}

// TestDenied has NATS not permit what a gateway needs.
func TestDenied(t *testing.T) {
	login := nats.UserInfo("u", "p")
	dir := tempDir(t)
	startServer(t, dir, echo)

	t.Run("publish", func(t *testing.T) {
		url := startNATS(t, users(&server.User{Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"ipc.service.7"}},
		}})).ClientURL()
		here := tempDir(t)
		expose(t, bridge.Config{SocketDir: dir, URL: url, Options: []nats.Option{login}})
		joining := join(t, bridge.Config{SocketDir: here, URL: url, Options: []nats.Option{login}, KeepAlive: long})
		client := startClient(t, here)
		_, err := client.Request(bounded(t), 7, nil)
		wantCode(t, err, bridge.CodeDenied, "ipc.service.7")
		wantReply(t, client, 8, "permitted", "permitted")
		joining.log.await(`msg="NATS does not permit to publish"`, 1)

		// Many of them do not flood the log.
		const most = 500
		for range most {
			if err := client.Write(7, nil); err != nil {
				t.Fatal(err)
			}
		}
		_, err = client.Request(bounded(t), 7, nil) // after them
		wantCode(t, err, bridge.CodeDenied, "ipc.service.7")
		joining.log.mu.Lock()
		defer joining.log.mu.Unlock()
		if n := strings.Count(joining.log.text.String(), "does not permit to publish"); n > most/2 {
			t.Errorf("%d lines of log", n)
		}
	})
	for _, c := range []struct {
		subject string
		dir     string
		start   func(*bridge.Config) (*bridge.Gateway, error)
	}{
		{"ipc.service.*", dir, bridge.Expose},
		{"ipc.service.cancel.>", dir, bridge.Expose},
		{"ipc.service.out.*", tempDir(t), bridge.Join},
	} {
		t.Run(c.subject, func(t *testing.T) {
			url := startNATS(t, users(&server.User{Permissions: &server.Permissions{
				Subscribe: &server.SubjectPermission{Deny: []string{c.subject}},
			}})).ClientURL()
			err := start(t, c.start, bridge.Config{SocketDir: c.dir, URL: url, Options: []nats.Option{login}}).Wait()
			if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), "subscribe to "+c.subject) {
				t.Errorf("%v, want that %s is not permitted", err, c.subject)
			}
		})
	}
	t.Run("password", func(t *testing.T) {
		url := startNATS(t, users(new(server.User))).ClientURL()
		err := start(t, bridge.Expose, bridge.Config{SocketDir: dir, URL: url, Options: []nats.Option{nats.UserInfo("u", "wrong"), nats.ReconnectWait(time.Millisecond)}}).Wait()
		if !errors.Is(err, nats.ErrAuthorization) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%v, want that the password is refused", err)
		}
	})
}

// TestTooLarge has messages in each direction that are larger than NATS, a gateway
// or the server takes.
func TestTooLarge(t *testing.T) {
	const limit = 100_000
	url := startNATS(t, func(o *server.Options) { o.MaxPayload = limit }).ClientURL()
	there, here := tempDir(t), tempDir(t)
	got := make(chan int, 1)
	s := startServer(t, there, func(_ *ipc.Server, m *ipc.Message) {
		switch {
		case m.IsRequest() && m.MsgType == 2:
			m.Reply(1, make([]byte, limit+1))
		case m.IsRequest() && m.MsgType == 3:
			m.ReplyPart(1, nil)
			m.Reply(1, make([]byte, limit+1))
		case m.IsRequest():
			m.Reply(1, m.Data)
		case m.MsgType > 0:
			got <- len(m.Data)
		}
	})
	exposing := expose(t, bridge.Config{SocketDir: there, URL: url})
	join(t, bridge.Config{SocketDir: here, URL: url})
	client := startClient(t, here)
	ctx := bounded(t)

	if err := client.Write(1, make([]byte, limit+1)); !errors.Is(err, ipc.ErrMsgTooLarge) {
		t.Errorf("a message of %d bytes: %v", limit+1, err)
	}
	if err := client.Write(1, make([]byte, limit)); err != nil {
		t.Error(err)
	}
	if n := receive(t, got); n != limit {
		t.Errorf("%d bytes", n)
	}
	if _, err := client.Request(ctx, 1, make([]byte, limit+1)); !errors.Is(err, ipc.ErrMsgTooLarge) {
		t.Errorf("a request of %d bytes: %v", limit+1, err)
	}
	_, err := client.Request(ctx, 1, make([]byte, limit-16)) // the headers are too much
	wantCode(t, err, bridge.CodeTooLarge, "its limit is 100000")
	if m, err := client.Request(ctx, 1, make([]byte, limit-100)); err != nil || len(m.Data) != limit-100 {
		t.Error(err)
	}
	_, err = client.Request(ctx, 2, nil)
	wantCode(t, err, bridge.CodeReplyTooLarge, "its limit is 100000")
	parts := 0
	for _, e := range client.RequestParts(ctx, 3, nil) {
		if err = e; e == nil {
			parts++
		}
	}
	wantCode(t, err, bridge.CodeReplyTooLarge, "its limit is 100000")
	if parts != 1 {
		t.Errorf("%d parts, want 1", parts)
	}
	if err := s.ServerManager.Broadcast(1, make([]byte, limit+1)); err != nil {
		t.Error(err)
	}
	exposing.log.await("message dropped: of the server, not published", 1)
}

// TestLongError has the text of an error be larger than what a gateway's clients
// take, as it was started before NATS: they get the beginning.
func TestLongError(t *testing.T) {
	url, port := laterNATS(t)
	here := tempDir(t)
	joining := join(t, bridge.Config{SocketDir: here, URL: url})
	startNATS(t, func(o *server.Options) { o.Port, o.MaxPayload = port, 4<<20 })
	joining.log.await("connected to NATS", 1)
	nc := plainNATS(t, url)
	text := strings.Repeat("größer ", 1<<18)
	_, err := nc.QueueSubscribe("ipc.service.*", "ipc", func(m *nats.Msg) {
		nc.PublishMsg(&nats.Msg{Subject: m.Reply, Data: []byte(text), Header: nats.Header{"Nats-Service-Error-Code": {"5"}}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	_, err = startClient(t, here).Request(bounded(t), 1, nil)
	var e *ipc.ReplyError
	if !errors.As(err, &e) || e.Code != 5 || !strings.HasPrefix(text, e.Text) || len(e.Text) < 1<<20-20 {
		t.Errorf("%.100v, want code 5 and the beginning of the text", err)
	}
}

// TestServerTakesLess has a server with a limit that is smaller than NATS's.
func TestServerTakesLess(t *testing.T) {
	url := startNATS(t, func(o *server.Options) { o.MaxPayload = 4 << 20 }).ClientURL()
	there, here := tempDir(t), tempDir(t)
	s, err := ipc.StartServer(&ipc.ServerConfig{Name: name, SocketDir: there, MultiMode: true, MaxMsgSize: 1000, Handler: echo})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	exposing := expose(t, bridge.Config{SocketDir: there, URL: url})
	join(t, bridge.Config{SocketDir: here, URL: url})
	client := startClient(t, here)
	_, err = client.Request(bounded(t), 1, make([]byte, 1001))
	wantCode(t, err, bridge.CodeTooLarge, "the server takes no request of 1001 bytes")
	if err := client.Write(1, make([]byte, 1001)); err != nil {
		t.Error(err)
	}
	exposing.log.await("message dropped: the server does not take it", 1)
}

// TestServerRestarts has the server come after its gateway, go with a request in
// flight, and come back. Meanwhile another machine has all the work.
func TestServerRestarts(t *testing.T) {
	url := startNATS(t).ClientURL()
	first, second, here := tempDir(t), tempDir(t), tempDir(t)
	exposing := start(t, bridge.Expose, bridge.Config{SocketDir: first, URL: url, KeepAlive: long})
	exposing.log.await("waiting for the server", 1)
	join(t, bridge.Config{SocketDir: here, URL: url, KeepAlive: long})
	client := startClient(t, here)
	_, err := client.Request(bounded(t), 1, nil)
	wantCode(t, err, bridge.CodeNoServer, "no machine exposes")

	held := make(chan struct{}, 1)
	hold := func(_ *ipc.Server, m *ipc.Message) {
		switch {
		case !m.IsRequest():
		case m.MsgType == typeHold:
			m.Clone()
			held <- struct{}{}
		default:
			m.Reply(1, []byte("first"))
		}
	}
	s := startServer(t, first, hold)
	exposing.log.await("msg=exposed", 1)
	wantReply(t, client, 1, "", "first")

	errs := make(chan error, 1)
	go func() {
		_, err := client.Request(bounded(t), typeHold, nil)
		errs <- err
	}()
	receive(t, held)
	startServer(t, second, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			m.Reply(1, []byte("second"))
		}
	})
	expose(t, bridge.Config{SocketDir: second, URL: url})
	s.Close()
	wantCode(t, receive(t, errs), bridge.CodeNoReply, "the server has gone")
	exposing.log.await("no longer exposed", 1)
	for range 20 {
		wantReply(t, client, 1, "", "second")
	}

	startServer(t, first, hold)
	exposing.log.await("msg=exposed", 2)
	for seen := ""; seen != "first"; {
		seen = untilReply(t, client, 1, "") // they share the work again
	}
}

// TestServerRestartsWithoutNATS has the server go while its gateway has no connection
// to NATS. The gateway leaves the queue group nevertheless: once both are back, each
// request reaches the server.
func TestServerRestartsWithoutNATS(t *testing.T) {
	ns := startNATS(t)
	port := ns.Addr().(*net.TCPAddr).Port
	there, here := tempDir(t), tempDir(t)
	s := startServer(t, there, echo)
	exposing := expose(t, bridge.Config{SocketDir: there, URL: ns.ClientURL()})
	join(t, bridge.Config{SocketDir: here, URL: ns.ClientURL(), KeepAlive: 4 * keepAlive})
	client := startClient(t, here)
	untilReply(t, client, 1, "first")

	ns.Shutdown()
	ns.WaitForShutdown()
	exposing.log.await("connection to NATS lost", 1)
	s.Close()
	exposing.log.await("the server has gone", 1)
	startNATS(t, func(o *server.Options) { o.Port = port })
	exposing.log.await("no longer exposed", 1)
	startServer(t, there, echo)
	exposing.log.await("msg=exposed", 2)
	ctx := bounded(t)
	for row := 0; row < 20; row++ {
		if _, err := client.Request(ctx, 1, nil); err != nil {
			row = -1 // NATS may not have noticed yet
		}
		if ctx.Err() != nil {
			t.Fatal("there are never 20 requests in a row that are answered")
		}
	}
}

// TestSilence has nothing come back for a request, and a long one be handled.
func TestSilence(t *testing.T) {
	ns := startNATS(t)
	here := tempDir(t)
	join(t, bridge.Config{SocketDir: here, URL: ns.ClientURL(), KeepAlive: keepAlive})
	client := startClient(t, here)
	nc := plainNATS(t, ns.ClientURL())
	cancelled := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe("ipc.service.cancel.>", cancelled); err != nil {
		t.Fatal(err)
	}
	asked := make(chan *nats.Msg, 1)
	if _, err := nc.ChanQueueSubscribe("ipc.service.*", "ipc", asked); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	_, err := client.Request(bounded(t), 1, nil)
	wantCode(t, err, bridge.CodeNoReply, "no sign of a reply for 150ms")
	if c, a := receive(t, cancelled), receive(t, asked); c.Subject != "ipc.service.cancel."+a.Reply {
		t.Errorf("%s is cancelled, want %s", c.Subject, a.Reply)
	}
}

// TestLong has a request take longer than the time without a sign of life that
// would end it: until there have been more signs than may be missing.
func TestLong(t *testing.T) {
	ns := startNATS(t)
	there, here := tempDir(t), tempDir(t)
	requests := make(chan *ipc.Message, 1)
	startServer(t, there, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			requests <- m.Clone()
		}
	})
	expose(t, bridge.Config{SocketDir: there, URL: ns.ClientURL()})
	join(t, bridge.Config{SocketDir: here, URL: ns.ClientURL(), KeepAlive: patient})
	nc := plainNATS(t, ns.ClientURL())
	answers := make(chan *nats.Msg, 100)
	if _, err := nc.ChanSubscribe("_INBOX.>", answers); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	client := startClient(t, here)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		wantReply(t, client, 1, "", "late")
	}()
	r := receive(t, requests)
	for range 4 {
		if m := receive(t, answers); m.Header.Get("Ipc-Alive") == "" {
			t.Errorf("%s: %v, %q, want a sign of life", m.Subject, m.Header, m.Data)
		}
	}
	if err := r.Reply(1, []byte("late")); err != nil {
		t.Error(err)
	}
	receive(t, answered)
}

// TestLostRequester has a requester go without a word.
func TestLostRequester(t *testing.T) {
	ns := startNATS(t)
	dir := tempDir(t)
	contexts := make(chan context.Context, 1)
	startServer(t, dir, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			contexts <- m.Clone().Context()
		}
	})
	expose(t, bridge.Config{SocketDir: dir, URL: ns.ClientURL()})
	nc := plainNATS(t, ns.ClientURL())
	inbox := nc.NewInbox()
	if _, err := nc.SubscribeSync(inbox); err != nil {
		t.Fatal(err)
	}
	err := nc.PublishMsg(&nats.Msg{Subject: "ipc.service.1", Reply: inbox, Header: nats.Header{"Ipc-Alive": {"10"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := receive(t, contexts)
	nc.Close()
	receive(t, ctx.Done())
}

// TestSlowConsumer has a server stop reading: NATS's client keeps what it may, and
// drops the rest.
func TestSlowConsumer(t *testing.T) {
	ns := startNATS(t)
	dir := tempDir(t)
	stop := make(chan struct{})
	startServer(t, dir, func(_ *ipc.Server, m *ipc.Message) {
		if m.MsgType > 0 {
			<-stop
		}
	})
	defer close(stop)
	exposing := expose(t, bridge.Config{SocketDir: dir, URL: ns.ClientURL()})
	nc := plainNATS(t, ns.ClientURL())
	data := make([]byte, 1<<20)
	for range 90 {
		if err := nc.Publish("ipc.service.1", data); err != nil {
			t.Fatal(err)
		}
	}
	exposing.log.await("too slow for NATS: messages are dropped", 1)
	if n := exposing.Stats().SlowConsumer; n == 0 {
		t.Error("nothing is counted")
	}
}

// TestStalled has a client take no more parts of its reply: the server is held up,
// and in the end the reply is given up. Others can ask again after that.
func TestStalled(t *testing.T) {
	const size, most = 100_000, 600
	url := startNATS(t).ClientURL()
	there, here := tempDir(t), tempDir(t)
	sent := make(chan int)
	startServer(t, there, func(_ *ipc.Server, m *ipc.Message) {
		switch {
		case !m.IsRequest():
		case m.MsgType == 2:
			m.Reply(2, m.Data)
		default:
			r := m.Clone()
			go func() {
				n := 0
				for n < most && r.ReplyPart(1, make([]byte, size)) == nil {
					n++
				}
				sent <- n
			}()
		}
	})
	exposing := expose(t, bridge.Config{SocketDir: there, URL: url, KeepAlive: keepAlive})
	join(t, bridge.Config{SocketDir: here, URL: url})
	client, other := startClient(t, here), startClient(t, here)
	var err error
	for _, e := range client.RequestParts(bounded(t), 1, nil) {
		if err = e; err != nil || sent == nil {
			continue
		}
		if n := receive(t, sent); n == most {
			t.Errorf("%d parts were taken from the server while the client took none", n)
		}
		sent = nil
		wantReply(t, other, 2, "other", "other")
	}
	wantCode(t, err, bridge.CodeNoReply, "the requester does not take the parts of the reply")
	if s := exposing.Stats(); s.Parts >= most || s.GatewayErrors != 1 {
		t.Errorf("%+v", s)
	}
}

// TestBusy has more requests wait for a server than its gateway keeps.
func TestBusy(t *testing.T) {
	ns := startNATS(t)
	dir := tempDir(t)
	hold := make(chan struct{})
	startServer(t, dir, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			<-hold
			m.Reply(1, nil)
		}
	})
	exposing := expose(t, bridge.Config{SocketDir: dir, URL: ns.ClientURL()})
	nc := plainNATS(t, ns.ClientURL())
	const kept = 8192
	replies := make(chan *nats.Msg, kept+1)
	inbox := nc.NewInbox()
	if _, err := nc.ChanSubscribe(inbox+".*", replies); err != nil {
		t.Fatal(err)
	}
	for i := range kept + 1 {
		if err := nc.PublishRequest("ipc.service.1", fmt.Sprint(inbox, ".", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	m := receive(t, replies)
	if m.Subject != fmt.Sprint(inbox, ".", kept) || m.Header.Get("Nats-Service-Error-Code") != fmt.Sprint(bridge.CodeBusy) {
		t.Errorf("%s: %v", m.Subject, m.Header)
	}
	if s := exposing.Stats(); s.InFlight != kept {
		t.Errorf("%+v", s)
	}
	close(hold)
	for range kept {
		if m := receive(t, replies); m.Header != nil {
			t.Errorf("%s: %v", m.Subject, m.Header)
		}
	}
}

// TestPermissions has NATS permit each side no more than the README says it needs.
func TestPermissions(t *testing.T) {
	permit := func(user string, publish, subscribe []string) *server.User {
		return &server.User{Username: user, Password: "p", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: subscribe},
		}}
	}
	url := startNATS(t, func(o *server.Options) {
		o.Users = []*server.User{
			permit("expose", []string{"ipc.service.out.*", "_INBOX.>"}, []string{"ipc.service.*", "ipc.service.cancel.>", "_INBOX.>"}),
			permit("join", []string{"ipc.service.*", "ipc.service.cancel.>", "_INBOX.>"}, []string{"ipc.service.out.*", "_INBOX.>"}),
			permit("test", []string{"ipc.service.1"}, []string{"_INBOX.>"}),
		}
	}).ClientURL()
	there, here := tempDir(t), tempDir(t)
	requests := make(chan *ipc.Message)
	s := startServer(t, there, func(_ *ipc.Server, m *ipc.Message) {
		if m.IsRequest() {
			requests <- m.Clone()
		}
	})
	login := func(user string) []nats.Option { return []nats.Option{nats.UserInfo(user, "p")} }
	exposing := expose(t, bridge.Config{SocketDir: there, URL: url, Options: login("expose")})
	joining := join(t, bridge.Config{SocketDir: here, URL: url, Options: login("join")})
	client := startClient(t, here)
	ctx := bounded(t)

	// A sign of life.
	nc := plainNATS(t, url, login("test")...)
	inbox := nc.NewInbox()
	signs, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	err = nc.PublishMsg(&nats.Msg{Subject: "ipc.service.1", Reply: inbox, Header: nats.Header{"Ipc-Alive": {"10"}}})
	if err != nil {
		t.Fatal(err)
	}
	m := receive(t, requests)
	if m, err := signs.NextMsgWithContext(ctx); err != nil || m.Header.Get("Ipc-Alive") == "" {
		t.Errorf("%+v, %v", m, err)
	}
	if err := m.Reply(1, nil); err != nil {
		t.Error(err)
	}

	// Parts that are told to have been taken.
	answered := make(chan error, 1)
	go func() {
		for _, err := range client.RequestParts(ctx, 1, nil) {
			if err != nil {
				answered <- err
				return
			}
		}
		answered <- nil
	}()
	m = receive(t, requests)
	for range 3000 {
		if err := m.ReplyPart(1, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.ReplyEnd(); err != nil {
		t.Error(err)
	}
	if err := receive(t, answered); err != nil {
		t.Error(err)
	}

	cancelled, cancel := context.WithCancel(ctx)
	go client.Request(cancelled, 1, nil)
	m = receive(t, requests)
	cancel()
	receive(t, m.Context().Done())

	if err := s.ServerManager.Broadcast(7, nil); err != nil {
		t.Error(err)
	}
	if _, err := nextMessage(ctx, client); err != nil {
		t.Error(err)
	}
	for _, side := range []side{exposing, joining} {
		side.log.mu.Lock()
		if text := side.log.text.String(); strings.Contains(text, "permit") {
			t.Error("something is not permitted")
		}
		side.log.mu.Unlock()
	}
}

// TestServerAsks has a server ask what it takes for a client.
func TestServerAsks(t *testing.T) {
	dir := tempDir(t)
	clients := make(chan *ipc.Server, 1)
	startServer(t, dir, func(client *ipc.Server, m *ipc.Message) {
		if m.Status == ipc.Connected.String() {
			clients <- client
		}
	})
	expose(t, bridge.Config{SocketDir: dir, URL: startNATS(t).ClientURL()})
	_, err := receive(t, clients).Request(bounded(t), 1, nil)
	wantCode(t, err, bridge.CodeRefused, "reaches no client on another machine")
}
