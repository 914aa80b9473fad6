package bridge_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startCluster starts three NATS servers, and returns when clients of the first
// learn the others from it.
func startCluster(t *testing.T) (nodes []*server.Server) {
	t.Helper()
	var routes []*url.URL
	for i := range 3 {
		nodes = append(nodes, startNATS(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("node", i)
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT}
			o.Routes = routes
		}))
		if i == 0 {
			routes = []*url.URL{{Scheme: "nats", Host: nodes[0].ClusterAddr().String()}}
		}
	}
	learned := make(chan struct{}, 1)
	nc := plainNATS(t, nodes[0].ClientURL(), nats.DiscoveredServersHandler(func(*nats.Conn) {
		select {
		case learned <- struct{}{}:
		default:
		}
	}))
	for len(nc.DiscoveredServers()) < 2 {
		receive(t, learned)
	}
	nc.Close()
	return nodes
}

// TestNodeKilled has a NATS server of three killed, to which both sides of a
// service are connected, while clients ask. They go on over the others. No request
// is handled twice.
func TestNodeKilled(t *testing.T) {
	nodes := startCluster(t)
	var handled sync.Map
	there, here := tempDir(t), tempDir(t)
	startServer(t, there, func(_ *ipc.Server, m *ipc.Message) {
		if !m.IsRequest() {
			return
		}
		if _, twice := handled.LoadOrStore(string(m.Data), true); twice {
			t.Errorf("%s was handled twice", m.Data)
		}
		m.Reply(1, m.Data)
	})
	// Both learn the other nodes from the first.
	exposing := expose(t, bridge.Config{SocketDir: there, URL: nodes[0].ClientURL(), KeepAlive: keepAlive})
	joining := join(t, bridge.Config{SocketDir: here, URL: nodes[0].ClientURL(), KeepAlive: 4 * keepAlive})
	client := startClient(t, here)
	untilReply(t, client, 1, "first")

	var tasks sync.WaitGroup
	var kill sync.Once
	var failed atomic.Int64
	for i := range 8 {
		tasks.Go(func() {
			// Until a hundred requests in a row are answered after the kill.
			for n, since := 0, 0; since < 100; n++ {
				if n == 100 {
					kill.Do(nodes[0].Shutdown)
				}
				data := fmt.Sprintf("task %d, request %d", i, n)
				m, err := client.Request(bounded(t), 1, []byte(data))
				var e *ipc.ReplyError
				switch {
				case errors.As(err, &e) && e.Code >= bridge.CodeNoReply:
					failed.Add(1)
					since = 0
				case err != nil || string(m.Data) != data:
					t.Errorf("%s: %v, %v", data, m, err)
					return
				case joining.Stats().Reconnects > 0:
					since++
				}
			}
		})
	}
	tasks.Wait()
	if e, j := exposing.Stats(), joining.Stats(); e.Reconnects == 0 || j.Reconnects == 0 {
		t.Errorf("%+v, %+v: want that both have found another node", e, j)
	}
	t.Logf("%d requests were not answered", failed.Load())
}

// TestMachineKilled has one of two machines that expose a name killed: requests in
// its hands end with an error, and later ones are answered by the other. None is
// handled twice.
func TestMachineKilled(t *testing.T) {
	url := startNATS(t).ClientURL()
	here := tempDir(t)
	machines := map[string]*process{}
	for _, label := range []string{"a", "b"} {
		p := startProcess(t, "server,expose", tempDir(t), url, label)
		p.await("msg=exposed")
		machines[label] = p
	}
	join(t, bridge.Config{SocketDir: here, URL: url, KeepAlive: patient})
	client := startClient(t, here)
	for seen := map[string]bool{}; len(seen) < 2; {
		m, err := client.Request(bounded(t), typeLabel, []byte("which"))
		if err != nil {
			t.Fatal(err)
		}
		seen[string(m.Data)] = true
	}

	const held = 20
	errs := make(chan error, held)
	for i := range held {
		go func() {
			_, err := client.Request(bounded(t), typeHold, fmt.Appendf(nil, "held %d.", i))
			errs <- err
		}()
	}
	handled := make(map[string]string)
	got := make(chan [2]string)
	stop := make(chan struct{})
	for label, p := range machines {
		go func() {
			for line := range p.lines {
				if strings.HasPrefix(line, "handled held") {
					select {
					case got <- [2]string{label, line}:
					case <-stop:
						return
					}
				}
			}
		}()
	}
	note := func(g [2]string) {
		if before, twice := handled[g[1]]; twice {
			t.Errorf("%s by %s and by %s", g[1], before, g[0])
		}
		handled[g[1]] = g[0]
	}
	for range held {
		note(receive(t, got))
	}
	inA := 0
	for _, label := range handled {
		if label == "a" {
			inA++
		}
	}

	machines["a"].cmd.Process.Kill()
	for range inA {
		wantCode(t, receive(t, errs), bridge.CodeNoReply, "no sign of a reply")
	}
	for range 50 {
		if got := untilReply(t, client, typeLabel, "which"); got != "b" {
			t.Fatalf("a reply of %s", got)
		}
	}
	select {
	case g := <-got:
		note(g)
	case err := <-errs:
		t.Errorf("a request that the other machine holds has ended: %v", err)
	default:
	}
	close(stop)
}

// TestGatewayKilled has each of the gateways killed, and started again: server and
// client go on by themselves.
func TestGatewayKilled(t *testing.T) {
	url := startNATS(t).ClientURL()
	there, here := tempDir(t), tempDir(t)
	startServer(t, there, echo)
	exposing := startProcess(t, "expose", there, url, "")
	exposing.await("msg=exposed")
	joining := startProcess(t, "join", here, url, "")
	joining.await("msg=joined")
	client := startClient(t, here)
	if got := untilReply(t, client, 1, "first"); got != "first" {
		t.Errorf("reply %q", got)
	}

	exposing.kill()
	for code := 0; code != bridge.CodeNoServer; { // NATS notices
		_, err := client.Request(bounded(t), 1, nil)
		var e *ipc.ReplyError
		if !errors.As(err, &e) || e.Code != bridge.CodeNoServer && e.Code != bridge.CodeNoReply {
			t.Fatal(err)
		}
		code = e.Code
	}
	startProcess(t, "expose", there, url, "").await("msg=exposed")
	wantReply(t, client, 1, "second", "second")

	joining.kill()
	startProcess(t, "join", here, url, "")
	if got := untilReply(t, client, 1, "third"); got != "third" {
		t.Errorf("reply %q", got)
	}
}
