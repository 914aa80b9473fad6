//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// startProxy starts a proxy of f called "proxy", and returns when it listens.
func startProxy(t *testing.T, dir string, args ...string) *tool {
	t.Helper()
	p := start(t, append([]string{"proxy", "fake", "proxy", "-dir", dir}, args...)...)
	if got := p.complaint(); !strings.Contains(got, "listening on "+dir+"/proxy.sock") {
		t.Fatalf("%q", got)
	}
	return p
}

// endProxy ends p by Ctrl-C, and returns what it has printed.
func endProxy(t *testing.T, p *tool) (lines []string) {
	t.Helper()
	p.interrupt()
	out, said, status := p.end()
	if status != 0 || strings.Count(said, "\n") != 1 {
		t.Errorf("exit status %d after Ctrl-C, and %q", status, said)
	}
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
}

// await reads the lines of a proxy with -json up to one of that kind, which it
// returns.
func (r *tool) await(kind string) string {
	r.t.Helper()
	for {
		line := r.line()
		if parseJSON(r.t, line)["kind"] == kind {
			return line
		}
	}
}

// connectTo returns a client of the server called name, which answers requests
// with the same. Messages go to got, which may be nil.
func connectTo(t *testing.T, dir, name string, got chan<- string) *ipc.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{
		Name:      name,
		SocketDir: dir,
		Handler: func(_ *ipc.Client, m *ipc.Message) {
			switch {
			case m.IsRequest():
				m.Reply(m.MsgType, m.Data)
			case m.MsgType > 0 && got != nil:
				got <- string(m.Data)
			case m.MsgType < 0 && got != nil:
				got <- m.Status
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// TestProxy has three clients converse at once: messages in order, requests in
// both directions, with every kind of an answer.
func TestProxy(t *testing.T) {
	t.Parallel()
	for _, encrypt := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypt=%v", encrypt), func(t *testing.T) {
			f := serve(t, func(c *ipc.ServerConfig) { c.Encryption = encrypt })
			p := startProxy(t, f.dir)
			p.collect()
			var clients sync.WaitGroup
			for i := range 3 {
				got := make(chan string, 1000)
				client := connectTo(t, f.dir, "proxy", got)
				clients.Go(func() { converse(t, i, client, got) })
			}
			clients.Wait()
			for range 3 {
				receive(t, f.left)
			}
			if s := f.Stats(); s.HandshakeFailures != 0 {
				t.Errorf("%v", s)
			}
			lines := endProxy(t, p)
			joined, left := 0, 0
			for _, line := range lines {
				switch {
				case strings.Contains(line, " -> joined"):
					joined++
				case strings.Contains(line, " -> left"):
					left++
				}
			}
			if joined != 3 || left != 3 {
				t.Errorf("%d clients have joined, and %d have left:\n%s", joined, left, strings.Join(lines, "\n"))
			}
		})
	}
}

// converse is what client i does.
func converse(t *testing.T, i int, client *ipc.Client, got <-chan string) {
	defer client.Close()
	next := func(want string) {
		if v := receive(t, got); v != want {
			t.Errorf("client %d: %q, want %q", i, v, want)
		}
	}
	next("Connecting")
	next("Connected")
	for j := range 300 {
		if err := client.Write(typeEcho, fmt.Append(nil, i, j)); err != nil {
			t.Error(err)
		}
	}
	for j := range 300 {
		next(fmt.Sprint(i, j))
	}
	large := bytes.Repeat([]byte{byte('a' + i)}, 1_000_000)
	if err := client.Write(typeEcho, large); err != nil {
		t.Error(err)
	}
	next(string(large))
	client.Write(typeAsk, fmt.Append(nil, "question ", i))
	next(fmt.Sprint("question ", i))

	m, err := client.Request(t.Context(), typeEcho, large)
	if err != nil || !bytes.Equal(m.Data, large) {
		t.Error(err)
	}
	_, err = client.Request(t.Context(), typeFail, nil)
	if e, ok := err.(*ipc.ReplyError); !ok || e.Code != 7 {
		t.Errorf("%v, want a ReplyError", err)
	}
	if _, err = client.Request(t.Context(), typeNone, nil); !errors.Is(err, ipc.ErrNoReply) {
		t.Errorf("%v, want ErrNoReply", err)
	}
	var parts []string
	for m, err := range client.RequestParts(t.Context(), typeParts, []byte("a b c")) {
		if err != nil {
			t.Error(err)
			break
		}
		parts = append(parts, string(m.Data))
	}
	if strings.Join(parts, " ") != "a b c" {
		t.Errorf("parts %q", parts)
	}
}

// TestProxyTranscript looks at each line.
func TestProxyTranscript(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	p := startProxy(t, f.dir, "-json")
	q := startProxyAs(t, f.dir, "plain")
	for _, name := range []string{"proxy", "plain"} {
		client := connectTo(t, f.dir, name, nil)
		receive(t, f.came)
		if err := client.Write(9, []byte("secret")); err != nil {
			t.Fatal(err)
		}
		f.next(t)
		client.Request(t.Context(), typeEcho, []byte("secret"))
		client.Request(t.Context(), typeFail, nil)
		client.Request(t.Context(), typeNone, nil)
		for range client.RequestParts(t.Context(), typeParts, []byte("secret se")) {
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			m := <-f.held
			cancel()
			<-m.Context().Done()
		}()
		client.Request(ctx, typeHold, nil)
		client.Write(typeAsk, []byte("secret"))
		client.Close()
		receive(t, f.left)
	}
	// Whether the client was still asked is a matter of luck: it has left.
	want := []string{
		"client joined",
		"client message type=9 size=6",
		"client request id=1 type=1 size=6",
		"server reply id=1 type=1 size=6 took",
		"client request id=2 type=2 size=0",
		"server error id=2 code=7 size=14 took",
		"client request id=3 type=6 size=0",
		"server no reply id=3 took",
		"client request id=4 type=3 size=9 parts",
		"server part id=4 type=3 size=6 took",
		"server part id=4 type=3 size=2 took",
		"server end id=4 took",
		"client request id=5 type=4 size=0",
		"client cancel id=5",
	}
	for _, w := range want {
		if got := summary(parseJSON(t, p.line())); got != w {
			t.Errorf("%q, want %q", got, w)
		}
	}
	p.await("left")
	texts := []string{
		`-> joined .*`,
		`-> message        type 9  6 bytes`,
		`-> request #1     type 1  6 bytes`,
		`<- reply #1       type 1  6 bytes  \S+s`,
		`-> request #2     type 2  0 bytes`,
		`<- error #2       code 7  14 bytes  \S+s`,
		`-> request #3     type 6  0 bytes`,
		`<- no reply #3    \S+s`,
		`-> request #4     type 3  9 bytes  parts welcome`,
		`<- part #4        type 3  6 bytes  \S+s`,
		`<- part #4        type 3  2 bytes  \S+s`,
		`<- end #4         \S+s`,
		`-> request #5     type 4  0 bytes`,
		`-> cancel #5`,
	}
	lines := endProxy(t, q)
	for i, w := range texts {
		if !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{6}  1 ` + w + `$`).MatchString(lines[i]) {
			t.Errorf("%q, want %q", lines[i], w)
		}
	}
	if all := strings.Join(lines, "") + strings.Join(endProxy(t, p), ""); strings.Contains(all, "secret") || strings.Contains(all, "animal") {
		t.Errorf("data was printed: %s", all)
	}
}

func startProxyAs(t *testing.T, dir, name string, args ...string) *tool {
	t.Helper()
	p := start(t, append([]string{"proxy", "fake", name, "-dir", dir}, args...)...)
	p.complaint()
	return p
}

// summary returns what the test compares of a line.
func summary(line map[string]any) string {
	s := fmt.Sprint(line["from"], " ", line["kind"])
	for _, key := range []string{"id", "type", "code", "size"} {
		if v := line[key]; v != nil {
			s += fmt.Sprintf(" %s=%v", key, v)
		}
	}
	if line["parts"] == true {
		s += " parts"
	}
	if took, ok := line["seconds"].(float64); ok && took >= 0 {
		s += " took"
	}
	return s
}

func TestProxyData(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	p := startProxy(t, f.dir, "-json", "-data")
	q := startProxyAs(t, f.dir, "plain", "-data")
	for _, name := range []string{"proxy", "plain"} {
		start(t, "request", name, "1", "question", "-dir", f.dir).want(0, "question", "")
		start(t, "request", name, "2", "x", "-dir", f.dir).want(1, "", "animal")
		start(t, "send", name, "9", "\xff", "-dir", f.dir).want(0, "", "")
	}
	for _, c := range []struct{ kind, key, want string }{
		{"request", "data", "question"},
		{"reply", "data", "question"},
		{"error", "data", "no such\nanimal"},
		{"message", "base64", "/w=="},
	} {
		wantJSON(t, p.await(c.kind), map[string]any{c.key: c.want})
	}
	for _, want := range []string{`  "question"`, `  "no such\nanimal"`, `  "\xff"`} {
		for !strings.HasSuffix(q.line(), want) {
		}
	}
	endProxy(t, p)
	endProxy(t, q)
}

// TestProxyOrder sends messages and requests by turns. They come in this order.
func TestProxyOrder(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	p := startProxy(t, f.dir)
	p.collect()
	conn, err := net.Dial("unix", filepath.Join(f.dir, "proxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := wire.Client{Secrets: wire.System}
	if _, err := ask.Handshake(conn); err != nil {
		t.Fatal(err)
	}
	const n = 500
	var frames []byte
	for i := range n {
		head := make([]byte, wire.ControlHeaderSize)
		data := fmt.Append(nil, i)
		if i%2 == 0 {
			wire.PutHeader(head, 9, len(data))
			head = head[:wire.HeaderSize]
		} else {
			wire.PutControlHeader(head, &wire.Control{Kind: wire.Request, N: 9, ID: uint64(i)}, len(data))
		}
		frames = append(append(frames, head...), data...)
	}
	if _, err := conn.Write(frames); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if m := f.next(t); m.isRequest != (i%2 == 1) || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("%v, %q at place %d", m.isRequest, m.Data, i)
		}
	}
	conn.Close()
	receive(t, f.left)
	endProxy(t, p)
}

// TestProxyOfOld has a client that knows no requests. The server learns it, and
// the client gets no frame that it does not know.
func TestProxyOfOld(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	p := startProxy(t, f.dir)
	p.collect()
	conn, err := net.Dial("unix", filepath.Join(f.dir, "proxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := wire.Client{Secrets: wire.System}
	n, err := ask.Handshake(unannounced{conn})
	if err != nil {
		t.Fatal(err)
	}
	old := newSide(conn, n)
	if err := old.write(9, nil, false); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(t, f.came).Request(t.Context(), 1, nil); !errors.Is(err, ipc.ErrNoRequests) {
		t.Errorf("%v, want ErrNoRequests", err)
	}
	if err := old.write(typeEcho, []byte("x"), false); err != nil {
		t.Fatal(err)
	}
	if msgType, data, err := old.read(); msgType != typeEcho || string(data) != "x" || err != nil {
		t.Errorf("type %d, %q, %v", msgType, data, err)
	}
	conn.Close()
	endProxy(t, p)
}

// TestProxyEnds has the server leave, and break the rules, and be away.
func TestProxyEnds(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	p := startProxy(t, f.dir, "-json")
	got := make(chan string, 1000)
	connectTo(t, f.dir, "proxy", got)
	receive(t, got)
	receive(t, got)
	server := receive(t, f.came)
	for i := range 500 {
		if err := server.Write(9, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	for i := range 500 {
		if v := receive(t, got); v != fmt.Sprint(i) {
			t.Fatalf("%q, want %d", v, i)
		}
	}
	if v := receive(t, got); v != "Reconnecting" {
		t.Errorf("%q, want the event Reconnecting", v)
	}
	// Without a server, the client is turned away when it comes again.
	for range 2 {
		line := parseJSON(t, p.await("left"))
		if line["from"] != "server" || (line["error"] != nil) != (line["client"] != 1.0) {
			t.Errorf("%v: want an error where there was no connection to the server", line)
		}
	}
	g := serveIn(t, f.dir, nil)
	if v := receive(t, got); v != "Connected" {
		t.Errorf("%q, want the event Connected", v)
	}
	receive(t, g.came)

	// A client that breaks the rules is reported.
	conn, err := net.Dial("unix", filepath.Join(f.dir, "proxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := wire.Client{Secrets: wire.System}
	if _, err := ask.Handshake(conn); err != nil {
		t.Fatal(err)
	}
	// A message, and in the same write what is none.
	if _, err := conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if m := g.next(t); m.MsgType != 9 {
		t.Errorf("the server got type %d", m.MsgType)
	}
	for {
		line := parseJSON(t, p.await("left"))
		if line["from"] == "client" {
			if s, _ := line["error"].(string); !strings.Contains(s, "message type 4294967295") {
				t.Errorf("%v", line)
			}
			break
		}
	}
	endProxy(t, p)
}

// TestProxyWaitsForPlace has a server without MultiMode: the second client waits,
// and the third leaves while it does.
func TestProxyWaitsForPlace(t *testing.T) {
	t.Parallel()
	f := serve(t, func(c *ipc.ServerConfig) { c.MultiMode = false })
	p := startProxy(t, f.dir, "-json")
	first := connectTo(t, f.dir, "proxy", nil)
	p.await("joined")
	conn, err := net.Dial("unix", filepath.Join(f.dir, "proxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	p.await("joined")
	conn.Close()
	wantJSON(t, p.line(), map[string]any{"kind": "left", "client": 2, "error": nil})
	second := start(t, "request", "proxy", "1", "x", "-dir", f.dir, "-timeout", "1m")
	p.await("joined")
	first.Close()
	second.want(0, "x", "")
	endProxy(t, p)
}

func TestProxyEncrypt(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	p := startProxy(t, f.dir, "-encrypt", "-json")
	conn, err := net.Dial("unix", filepath.Join(f.dir, "proxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line := p.await("left"); !strings.Contains(line, "encryption is required") {
		t.Errorf("%s", line)
	}
	start(t, "send", "proxy", "1", "x", "-dir", f.dir, "-timeout", "50ms").want(4, "", "has not admitted")
	endProxy(t, p)
	f = serve(t, func(c *ipc.ServerConfig) { c.Encryption = true })
	p = startProxy(t, f.dir, "-encrypt")
	start(t, "request", "proxy", "1", "x", "-dir", f.dir, "-encrypt").want(0, "x", "")
	endProxy(t, p)
}

func TestProxyCannotListen(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	start(t, "proxy", "fake", "fake", "-dir", f.dir).want(5, "", "fake.sock: a live server has this name; choose another AS")
	if _, err := os.Stat(filepath.Join(f.dir, "fake.sock")); err != nil {
		t.Error(err)
	}
	dir := socktest.Dir(t)
	p := start(t, "proxy", "fake", "proxy", "-dir", dir, "-wait")
	p.complaint()
	endProxy(t, p)
}

// TestProxyUnread has nobody read any more what the proxy prints. It ends, and its
// socket is removed.
func TestProxyUnread(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := newTool(t, "proxy", "fake", "proxy", "-dir", f.dir)
	p.cmd.Stdout = w
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	if _, err := said.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.Close()
	conn, err := net.Dial("unix", filepath.Join(f.dir, "proxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line, err := said.ReadString('\n')
	p.cmd.Wait()
	if status := p.cmd.ProcessState.ExitCode(); status != 5 || !strings.Contains(line, "broken pipe") {
		t.Errorf("exit status %d, %q, %v", status, line, err)
	}
}
