//go:build unix

package ipc_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// requireVariable, set to 1, makes a missing language a failure, and the tests
// as long as they can be.
const requireVariable = "IPC_REQUIRE_LANGUAGES"

// encryptVariable tells a helper that its server is to encrypt.
const encryptVariable = "IPC_TEST_ENCRYPTION"

func init() { helpers["echo"] = echoMain }

// echoMain is a server that sends every message back, and says when it has
// done so often enough to be ended in the middle of it.
func echoMain() {
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:       "test",
		SocketDir:  os.Getenv(directoryVariable),
		Encryption: os.Getenv(encryptVariable) != "",
	})
	if err != nil {
		fmt.Println("StartServer:", err)
		return
	}
	fmt.Println("ready")
	echo(server, func() { fmt.Println("in the middle") })
}

// middle is how many messages a server sends back before it may be ended.
const middle = 50

// echo sends every message back, in either mode, until server is closed. It
// calls inTheMiddle once.
func echo(server *ipc.Server, inTheMiddle func()) {
	n := 0
	for closed := false; !closed; {
		server.ServerManager.Read(func(s *ipc.Server, m *ipc.Message, err error) {
			switch {
			case err != nil:
				closed = true
			case m.MsgType > 0:
				s.Write(m.MsgType, m.Data) // a client may be gone
				if n++; n == middle && inTheMiddle != nil {
					inTheMiddle()
				}
			}
		})
	}
}

// startEcho starts an echo beside the test, which ends with server.
func startEcho(t *testing.T, server *ipc.Server, inTheMiddle func()) {
	wait := background(func() error { echo(server, inTheMiddle); return nil })
	t.Cleanup(func() {
		server.Close()
		wait()
	})
}

// language is one that there is an example client in.
type language struct {
	name        string
	interpreter []string // where to look for it
	script      string
	driver      string   // in testdata: see language_requests_test.go
	itself      []string // arguments with which it prints where it is
	can         []string // arguments with which it shows that it can encrypt
	sessions    int      // that take about as long as starting it
	encrypts    bool     // in the tests that by default are run in one way only

	once    sync.Once
	found   []string // interpreters, after look
	sealing string   // the one that can encrypt
}

var languages = []*language{
	{
		name:        "node",
		interpreter: []string{"node", "nodejs"},
		script:      filepath.Join("..", "example", "node", "client.mjs"),
		driver:      "requests.mjs",
		itself:      []string{"--print", "process.execPath"},
		can:         []string{"--eval", "import('node:crypto')"},
		sessions:    20,
		encrypts:    true,
	}, {
		name:        "python",
		interpreter: []string{"python3", "/usr/bin/python3", "python"},
		script:      filepath.Join("..", "example", "python", "client.py"),
		driver:      "requests.py",
		itself:      []string{"-c", "import sys; print(sys.executable)"},
		can:         []string{"-c", "import cryptography"},
		sessions:    10,
	},
}

func required() bool { return os.Getenv(requireVariable) == "1" }

// find returns the interpreter, of several the first that can do what is asked.
func (g *language) find(t *testing.T, encrypted bool) string {
	t.Helper()
	g.once.Do(g.look)
	switch {
	case !encrypted && len(g.found) > 0:
		return g.found[0]
	case encrypted && g.sealing != "":
		return g.sealing
	case len(g.found) > 0:
		t.Skipf("%s cannot encrypt here: %s fails", g.name, strings.Join(g.can, " "))
	case required():
		t.Fatalf("%s is not installed, and %s=1", g.name, requireVariable)
	default:
		t.Skipf("%s is not installed", g.name)
	}
	return ""
}

// look looks for the interpreters, which takes a while.
func (g *language) look() {
	for _, name := range g.interpreter {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		// It may be a script that looks for the real one each time.
		if real, err := exec.Command(path, g.itself...).Output(); err == nil {
			path = strings.TrimSpace(string(real))
		}
		g.found = append(g.found, path)
		if exec.Command(path, g.can...).Run() == nil {
			g.sealing = path
			return
		}
	}
}

// foreign is a client in another language that runs.
type foreign struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	wait func() error
	out  strings.Builder
}

// wantOK waits for the end of the client, which must be content.
func (c *foreign) wantOK(says string) {
	c.t.Helper()
	err := c.wait()
	if out := c.out.String(); err != nil || !strings.HasPrefix(out, "ok: "+says) {
		c.t.Errorf("%s: %v\n%swant ok: %s", c.name, err, out, says)
	}
}

// until waits until the conversation has reached a point, unless the client
// ends before.
func (c *foreign) until(reached <-chan struct{}) {
	c.t.Helper()
	ended := make(chan struct{})
	go func() {
		c.wait()
		close(ended)
	}()
	select {
	case <-reached:
	case <-ended:
		c.t.Fatalf("%s ends: %s", c.name, &c.out)
	}
}

// eachLanguage runs test for each language, without encryption and with it.
func eachLanguage(t *testing.T, test func(t *testing.T, v *visit)) {
	t.Helper()
	for _, g := range languages {
		for _, encrypted := range []bool{false, true} {
			g.visit(t, encrypted, test)
		}
	}
}

// eachLanguageOnce is eachLanguage, but without or with encryption, unless the
// languages are required.
func eachLanguageOnce(t *testing.T, test func(t *testing.T, v *visit)) {
	t.Helper()
	if required() {
		eachLanguage(t, test)
		return
	}
	for _, g := range languages {
		g.visit(t, g.encrypts, test)
	}
}

// visit is a test of clients in a language.
type visit struct {
	*language
	t           *testing.T
	interpreter string
	encrypted   bool
	route       *route
}

func (g *language) visit(t *testing.T, encrypted bool, test func(t *testing.T, v *visit)) {
	t.Helper()
	name := g.name + " plain"
	if encrypted {
		name = g.name + " encrypted"
	}
	t.Run(name, func(t *testing.T) {
		interpreter := g.find(t, encrypted)
		begin(t)
		test(t, &visit{g, t, interpreter, encrypted, unixRoute(t)})
	})
}

// server starts a server, single or multi, that sends everything back.
func (v *visit) server(inTheMiddle func()) *ipc.Server {
	v.t.Helper()
	server := setup{multi: v.encrypted}.startServer(v.t, v.route, withEncryption(v.encrypted))
	startEcho(v.t, server, inTheMiddle)
	return server
}

// client starts the example client.
func (v *visit) client(args ...string) *foreign {
	v.t.Helper()
	return v.run(v.script, args...)
}

// run starts a script.
func (v *visit) run(script string, args ...string) *foreign {
	v.t.Helper()
	cmd := v.command(script, args...)
	c := &foreign{t: v.t, name: v.name + " " + strings.Join(args, " "), cmd: cmd}
	cmd.Stdout, cmd.Stderr = &c.out, &c.out
	noError(v.t, "starting "+v.name, cmd.Start())
	c.wait = background(cmd.Wait)
	v.t.Cleanup(func() {
		cmd.Process.Kill()
		c.wait()
	})
	return c
}

// command runs a script against the server.
func (v *visit) command(script string, args ...string) *exec.Cmd {
	args = append([]string{script, "--path", v.route.path()}, args...)
	if v.encrypted {
		args = append(args, "--encrypted")
	}
	cmd := exec.Command(v.interpreter, args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	return cmd
}

// withEncryption is a tweak.
func withEncryption(on bool) tweak {
	return func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
		if s != nil {
			s.Encryption = on
		}
	}
}

// Clients in other languages get back what they send, in as many sessions as
// they like, beside each other or, in single mode, one after the other.
func TestLanguagesEcho(t *testing.T) {
	parallel(t)
	eachLanguage(t, func(t *testing.T, v *visit) {
		sessions := v.sessions
		if required() {
			sessions = 600
		}
		server := v.server(nil)
		runs := []struct{ size, count, sessions int }{{0, 10, 1}, {100 << 10, 20, 2}, {5, 1, sessions}}
		var clients []*foreign
		messages, bytes := 0, 0
		for _, r := range runs {
			clients = append(clients, v.client(
				"--echo", fmt.Sprint(r.size), "--count", fmt.Sprint(r.count), "--sessions", fmt.Sprint(r.sessions)))
			messages += r.count * r.sessions
			bytes += r.count * r.sessions * r.size
		}
		for i, c := range clients {
			r := runs[i]
			c.wantOK(fmt.Sprintf("%d sessions, %d echoes of %d bytes", r.sessions, r.sessions*r.count, r.size))
		}
		want := ipc.Stats{
			MessagesIn: uint64(messages), MessagesOut: uint64(messages),
			BytesIn: uint64(bytes), BytesOut: uint64(bytes),
		}
		if !eventually(func() bool { return server.Stats() == want }) {
			t.Errorf("Stats() = %+v, want %+v", server.Stats(), want)
		}
	})
}

// Clients in other languages make as many requests as they like, which the server
// answers with what they answer to the same request of its own.
func TestLanguagesRequest(t *testing.T) {
	parallel(t)
	eachDriver(t, func(t *testing.T, v *visit) {
		v.startServer(func(s *ipc.ServerConfig, _ *ipc.ClientConfig) {
			s.Handler = func(peer *ipc.Server, m *ipc.Message) {
				if !m.IsRequest() {
					return
				}
				m = m.Clone()
				go func() {
					reply, err := peer.Request(m.Context(), m.MsgType, m.Data)
					if err != nil {
						m.ReplyError(1, err.Error())
						return
					}
					m.Reply(reply.MsgType, reply.Data)
				}()
			}
		})
		for _, r := range []struct{ size, count int }{{0, 1}, {64, 1200}, {1 << 20, 5}} {
			client := v.client("--request", fmt.Sprint(r.size), "--count", fmt.Sprint(r.count), "--timeout", "100")
			client.wantOK(fmt.Sprintf("%d requests of %d bytes, %d answered", r.count, r.size, r.count))
		}
	})
}

// Clients in other languages live through a restart of the server.
func TestLanguagesRestart(t *testing.T) {
	parallel(t)
	eachLanguageOnce(t, func(t *testing.T, v *visit) {
		reached := make(chan struct{})
		server := v.server(func() { close(reached) })
		client := v.client("--reconnect", "--count", "50")
		client.until(reached)
		noError(t, "Close", server.Close())
		v.server(nil)
		client.wantOK("1 restarts")
	})
}

// Clients in other languages live through the violent death of the server.
func TestLanguagesServerKilled(t *testing.T) {
	parallel(t)
	eachLanguageOnce(t, func(t *testing.T, v *visit) {
		var env []string
		if v.encrypted {
			env = []string{encryptVariable + "=1"}
		}
		removeAfter(t, v.route)
		server := startChild(t, "echo", v.route, env...)
		client := v.client("--reconnect", "--count", "50")
		reached := make(chan struct{})
		go func() {
			server.out.Scan()
			close(reached)
		}()
		client.until(reached)
		if line := server.out.Text(); line != "in the middle" {
			t.Fatalf("server says %q", line)
		}
		server.kill()
		startChild(t, "echo", v.route, env...)
		client.wantOK("1 restarts")
	})
}

// A client in another language that insists on encryption refuses a server
// that does not encrypt, and the server goes on.
func TestLanguagesEncryptionRequired(t *testing.T) {
	parallel(t)
	for _, g := range languages {
		g.visit(t, true, func(t *testing.T, v *visit) {
			server := setup{}.startServer(t, v.route, quiet)
			startEcho(t, server, nil)
			client := v.client("--echo", "5")
			var exit *exec.ExitError
			if err := client.wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(client.out.String(), "encrypt") {
				t.Errorf("%s: %v\n%s", client.name, err, &client.out)
			}
			if !eventually(func() bool { return server.Stats().HandshakeFailures == 1 }) {
				t.Errorf("HandshakeFailures = %d, want 1", server.Stats().HandshakeFailures)
			}
			next := v.route.startClient(t)
			wantRoundTrip(t, next, next)
		})
	}
}

// There are clients that read each step of the handshake with one read, and
// fail if it comes in pieces or together with the next. None may ever fail.
func TestStrictClients(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		n := 300 // in each mode
		if encrypted {
			n = 50
		}
		t.Run(fmt.Sprintf("encrypted=%t", encrypted), func(t *testing.T) {
			eachSetup(t, unixSetups, func(t *testing.T, s setup) {
				route := s.open(t)
				startEcho(t, s.startServer(t, route, withEncryption(encrypted)), nil)
				for i := range n {
					raw := &wireConn{route.dial(t), t}
					if encrypted {
						ref := &refPeer{wireConn: raw}
						ref.asClient()
						ref.send(ref.encode(i+1, []byte("hello")))
						ref.wantFrame(i+1, []byte("hello"))
					} else {
						raw.openClient()
						raw.send(encode(i+1, []byte("hello")))
						raw.wantFrame(i+1, []byte("hello"))
					}
					raw.Close()
				}
			})
		})
	}
}
