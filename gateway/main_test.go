package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats-server/v2/server"
)

func TestParse(t *testing.T) {
	env := map[string]string{"NATS_URL": "nats://from-env:4222", "NATS_CREDS": "env.creds"}
	for _, c := range []struct {
		args string
		want bridge.Config
	}{
		{"expose x", bridge.Config{Name: "x", URL: "nats://from-env:4222", Creds: "env.creds", SocketDir: "/tmp"}},
		{"-creds f -dir /d -tlscert c -tlskey k -tlsca a join -mode 660 -group g y -keepalive 5s -log debug -metrics :1 -nats nats://flag:1", bridge.Config{
			Name: "y", URL: "nats://flag:1", Creds: "f", SocketDir: "/d", TLSCert: "c", TLSKey: "k", TLSCA: "a",
			Mode: fs.FileMode(0o660), Group: "g", KeepAlive: 5 * time.Second,
		}},
	} {
		var stderr bytes.Buffer
		got, err := parse(strings.Fields(c.args), func(key string) string { return env[key] }, &stderr)
		if err != nil {
			t.Errorf("%s: %v: %s", c.args, err, &stderr)
			continue
		}
		text := func(c bridge.Config) string {
			c.Options = nil
			b, _ := json.Marshal([]any{c.Name, c.URL, c.Creds, c.SocketDir, c.TLSCert, c.TLSKey, c.TLSCA, c.Mode, c.Group, c.KeepAlive})
			return string(b)
		}
		if text(got.config) != text(c.want) {
			t.Errorf("%s:\n%s, want\n%s", c.args, text(got.config), text(c.want))
		}
	}
}

// TestStatus has command lines that end at once.
func TestStatus(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"-h"}, 0, "usage: gateway [flags] expose NAME"},
		{nil, 2, "usage: "},
		{[]string{"expose"}, 2, "usage: "},
		{[]string{"dance", "x"}, 2, "usage: "},
		{[]string{"join", "x", "-dance"}, 2, "-dance"},
		{[]string{"join", "x", "y"}, 2, "usage: "},
		{[]string{"-mode", "rwx", "join", "x"}, 2, "mode"},
		{[]string{"-log", "loud", "join", "x"}, 2, "log"},
		{[]string{"-creds", missing, "expose", "x"}, 1, "gateway: expose x: open " + missing},
		{[]string{"-dir", missing, "join", "x"}, 1, "gateway: join x: ipc: "},
	} {
		var stderr bytes.Buffer
		status := run(t.Context(), c.args, func(string) string { return "" }, &stderr)
		if status != c.status || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%q: exit status %d, want %d and %q:\n%s", c.args, status, c.status, c.want, &stderr)
		}
	}
}

// TestRun has the program run until it is told to stop.
func TestRun(t *testing.T) {
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	defer ns.Shutdown()
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	args := []string{"-dir", dir, "-metrics", taken.Addr().String(), "join", "x"}
	getenv := func(key string) string { return map[string]string{"NATS_URL": ns.ClientURL()}[key] }
	var stderr bytes.Buffer
	if status := run(t.Context(), args, getenv, &stderr); status != 1 || !strings.Contains(stderr.String(), "gateway: serve metrics: listen") {
		t.Errorf("exit status %d, want that the address is taken:\n%s", status, &stderr)
	}

	args = append(args[:2], "join", "x")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	started := make(chan struct{})
	stderr.Reset()
	go func() { ended <- run(ctx, args, getenv, &notify{&stderr, "msg=joined", started}) }()
	select {
	case <-started:
	case status := <-ended:
		t.Fatalf("exit status %d:\n%s", status, &stderr)
	}
	cancel()
	if status := <-ended; status != 0 {
		t.Errorf("exit status %d:\n%s", status, &stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "x.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket: %v, want that it has been removed", err)
	}
}

// notify closes seen when text is written.
type notify struct {
	*bytes.Buffer
	text string
	seen chan struct{}
}

func (n *notify) Write(p []byte) (int, error) {
	if n.text != "" && bytes.Contains(p, []byte(n.text)) {
		n.text = ""
		defer close(n.seen)
	}
	return n.Buffer.Write(p)
}

// TestMetrics reads the counts as a monitoring system does.
func TestMetrics(t *testing.T) {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	g, err := bridge.Join(&bridge.Config{Name: "x", SocketDir: dir, URL: "nats://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	w := httptest.NewRecorder()
	metrics(g).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/vars", nil))
	if text := w.Body.String(); strings.Contains(text, os.Args[0]) || !strings.Contains(text, "memstats") {
		t.Errorf("want what Go has, without the command line: %s", text)
	}
	var vars struct{ Gateway bridge.Stats }
	if err := json.Unmarshal(w.Body.Bytes(), &vars); err != nil {
		t.Fatal(err)
	}
	if s := vars.Gateway; s.Connected || !s.Serving {
		t.Errorf("%+v", s)
	}
}
