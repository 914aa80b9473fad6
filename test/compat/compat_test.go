// Package compat tests this library together with those that it descends from:
// github.com/james-barrow/golang-ipc (the original) and the fork of it at its last
// release before this one. They know no requests, and ignore messages of type 0.
// They run in a program of their own, which is in originals.
package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

const (
	// patience bounds a test, and with it everything that the test waits for.
	patience = time.Minute

	// many messages take the server of the original four seconds: it sleeps for 2 ms
	// after each.
	many = 2000
	few  = 100

	// keyTries is how often an encrypted client of the others is started. In one of
	// 256 handshakes it hashes another key than the server, and leaves.
	keyTries = 4
	keySize  = 97
)

// program is the path of that in originals. It is built, unless the variable of the
// environment has one, for machines without the go command.
var program string

const programVariable = "IPC_COMPAT_ORIGINALS"

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if program = os.Getenv(programVariable); program != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "compat")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "originals")
		build := exec.Command("go", "build", "-o", program, ".")
		build.Dir = "originals"
		build.Env = append(os.Environ(), "GOWORK=off")
		if said, err := build.CombinedOutput(); err != nil {
			fmt.Printf("building originals: %v\n%s", err, said)
			return 1
		}
		return m.Run()
	}())
}

// setup is one of the other libraries, and whether the server encrypts.
type setup struct {
	library   string
	encrypted bool
}

func (s setup) mode() string {
	if s.encrypted {
		return "encrypted"
	}
	return "plain"
}

func eachSetup(t *testing.T, test func(t *testing.T, ctx context.Context, s setup)) {
	for _, library := range libraries {
		for _, encrypted := range []bool{false, true} {
			s := setup{library, encrypted}
			t.Run(s.library+"/"+s.mode(), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				t.Cleanup(cancel)
				test(t, ctx, s)
			})
		}
	}
}

var names atomic.Int64

// socketName returns a name that no other test has.
func socketName(t *testing.T) string {
	name := fmt.Sprintf("compat-%d-%d", os.Getpid(), names.Add(1))
	t.Cleanup(func() { _ = os.Remove(theirPath(name)) }) // a killed server leaves it
	return name
}

// peer is a running program of originals.
type peer struct {
	out    *bufio.Scanner
	errors bytes.Buffer
	cmd    *exec.Cmd
}

func (s setup) start(t *testing.T, ctx context.Context, role, name string) *peer {
	t.Helper()
	p := &peer{cmd: exec.CommandContext(ctx, program, s.library, role, name, s.mode())}
	p.cmd.Stderr = &p.errors
	out, err := p.cmd.StdoutPipe()
	noError(t, "StdoutPipe", err)
	p.out = bufio.NewScanner(out)
	noError(t, "Start", p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// says waits until the program prints a line, and reports whether it does before it
// ends.
func (p *peer) says(line string) bool {
	for p.out.Scan() {
		if p.out.Text() == line {
			return true
		}
	}
	return false
}

func (p *peer) wantSays(t *testing.T, line string) {
	t.Helper()
	if !p.says(line) {
		_ = p.cmd.Wait()
		t.Fatalf("the program ended and did not say %s: %s", line, &p.errors)
	}
}

// end is a Client or a Server of this library.
type end interface {
	ReadContext(ctx context.Context) (*ipc.Message, error)
	WriteContext(ctx context.Context, msgType int, data []byte) error
	Request(ctx context.Context, msgType int, data []byte) (*ipc.Message, error)
}

// exchange writes n messages, and reads them back from a peer that echoes, in
// order. There is nothing else to be read, but for events.
func exchange(t *testing.T, ctx context.Context, e end, n int) {
	t.Helper()
	want := func(i int) (int, []byte) { return i%5 + 1, bytes.Repeat(fmt.Appendf(nil, "%d ", i), i%50) }
	for i := range n {
		msgType, data := want(i)
		noError(t, "Write", e.WriteContext(ctx, msgType, data))
	}
	for i := range n {
		m := next(t, ctx, e)
		if msgType, data := want(i); m.MsgType != msgType || !bytes.Equal(m.Data, data) {
			t.Fatalf("message %d has type %d and data %q, want type %d and data %q", i, m.MsgType, m.Data, msgType, data)
		}
	}
}

// next reads the next message that is no event.
func next(t *testing.T, ctx context.Context, e end) *ipc.Message {
	t.Helper()
	for {
		m, err := e.ReadContext(ctx)
		noError(t, "Read", err)
		if m.MsgType != -1 {
			return m
		}
	}
}

// ask checks that a Request finds out that the peer knows none.
func ask(ctx context.Context, e end) error {
	if _, err := e.Request(ctx, 1, []byte("is there anybody?")); !errors.Is(err, ipc.ErrNoRequests) {
		return fmt.Errorf("Request = %v, want ErrNoRequests", err)
	}
	return nil
}

func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// A client announces itself in one write with the last step of the handshake. Their
// servers read that step as one byte, and ignore the announcement.
func TestTheirServer(t *testing.T) {
	eachSetup(t, func(t *testing.T, ctx context.Context, s setup) {
		// Once as programs connect, and once with a look at what is written. Each has
		// a server of its own: theirs keep the writer of a connection that has ended,
		// and two writers change the order of messages.
		for _, record := range []bool{false, true} {
			name := socketName(t)
			server := s.start(t, ctx, "server", name)
			server.wantSays(t, "Listening")
			prepareServer(t, ctx, name)
			config := &ipc.ClientConfig{Name: name, SocketDir: theirDir, Encryption: s.encrypted, Timeout: patience}
			var sent writes
			if record {
				config.Dial = sent.dial(theirPath(name))
			}
			client, err := ipc.StartClientContext(ctx, config)
			noError(t, "StartClient", err)
			defer client.Close()
			server.wantSays(t, "Connected")

			asked := make(chan error, 1)
			go func() { asked <- ask(ctx, client) }()
			exchange(t, ctx, client, many)
			noError(t, "while messages come", <-asked)
			noError(t, "afterwards", ask(ctx, client))
			exchange(t, ctx, client, few)

			noError(t, "Close", client.Close())
			server.wantSays(t, "Disconnected")
			if record {
				sent.wantAnnouncement(t, s, many+few)
			}
		}
	})
}

// writes are what a client has written, one by one.
type writes struct {
	mu  sync.Mutex
	all [][]byte
}

// dial is for a ClientConfig.
func (w *writes) dial(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx, path)
		if err != nil {
			return nil, err
		}
		return &recordedConn{conn, w}, nil
	}
}

type recordedConn struct {
	net.Conn
	writes *writes
}

func (c *recordedConn) Write(p []byte) (int, error) {
	c.writes.mu.Lock()
	c.writes.all = append(c.writes.all, bytes.Clone(p))
	c.writes.mu.Unlock()
	return c.Conn.Write(p)
}

// wantAnnouncement checks that the announcement is in one write with the last step
// of a client's handshake, and is followed by n messages and nothing else.
func (w *writes) wantAnnouncement(t *testing.T, s setup, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	last := 1 // of the steps
	if s.encrypted {
		last = 2
	}
	if len(w.all) <= last {
		t.Fatalf("%d writes, want more than those of the handshake", len(w.all))
	}
	if with := frames(t, w.all[last][1:]); len(with) != 1 {
		t.Errorf("%d frames are in one write with the last step, want the announcement", len(with))
	}
	all := frames(t, bytes.Join(w.all[last:], nil)[1:])
	if len(all) != n+1 {
		t.Errorf("%d frames were sent, want the announcement and %d messages", len(all), n)
	}
	if s.encrypted {
		return
	}
	if start := []byte("\x00\x00\x00\x00\x01ipc\x01"); !bytes.HasPrefix(all[0], start) {
		t.Errorf("the first frame is %q, want the announcement", all[0])
	}
	wantMessages(t, all[1:])
}

// Their clients announce nothing, and are sent nothing of type 0.
func TestTheirClient(t *testing.T) {
	eachSetup(t, func(t *testing.T, ctx context.Context, s setup) {
		for _, silent := range []bool{true, false} {
			name := socketName(t)
			server, err := ipc.StartServer(&ipc.ServerConfig{Name: name, SocketDir: ourDir(t), Encryption: s.encrypted})
			noError(t, "StartServer", err)
			defer server.Close()
			relay := startRelay(t, theirPath(name), server.Addr().String())
			s.startClient(t, ctx, name)
			for server.StatusCode() != ipc.Connected {
				_, err := server.ReadContext(ctx) // the event
				noError(t, "Read", err)
			}

			if silent { // the client has sent no frame yet
				noError(t, "of a silent client", ask(ctx, server))
			}
			exchange(t, ctx, server, many)
			noError(t, "afterwards", ask(ctx, server))
			exchange(t, ctx, server, few)

			noError(t, "Close", server.Close())
			relay.close()
			relay.wantMessages(t, s, many+few)
		}
	})
}

// startClient starts a client of theirs, and again if it has left because of its key.
func (s setup) startClient(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	for try := 1; ; try++ {
		p := s.start(t, ctx, "client", name)
		if p.says("Connected") {
			return
		}
		_ = p.cmd.Wait()
		if !s.encrypted || try == keyTries {
			t.Fatalf("the program ended before it was connected: %s", &p.errors)
		}
	}
}

// relay is between a server and its clients, one after another, and keeps what the
// server sends.
type relay struct {
	listener net.Listener
	server   string       // its path
	sent     bytes.Buffer // by the server over the newest connection
	done     chan struct{}
}

func startRelay(t *testing.T, path, server string) *relay {
	t.Helper()
	listener, err := listen(path)
	noError(t, "Listen", err)
	r := &relay{listener: listener, server: server, done: make(chan struct{})}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		defer close(r.done)
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			r.serve(client)
		}
	}()
	return r
}

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	server, err := dial(context.Background(), r.server)
	if err != nil {
		return // the server was closed
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	r.sent.Reset()
	_, _ = io.Copy(client, io.TeeReader(server, &r.sent))
}

// close returns when the server, which is closed already, has been read to its end.
func (r *relay) close() {
	_ = r.listener.Close()
	<-r.done
}

// wantMessages checks that the server has sent n messages and nothing else.
func (r *relay) wantMessages(t *testing.T, s setup, n int) {
	t.Helper()
	steps := 2
	if s.encrypted {
		steps += keySize
	}
	if r.sent.Len() <= steps {
		t.Fatalf("%d bytes were sent, want more than those of the handshake", r.sent.Len())
	}
	all := frames(t, r.sent.Bytes()[steps:])[1:] // the first is the handshake's
	if len(all) != n {
		t.Errorf("%d frames were sent, want %d messages", len(all), n)
	}
	if !s.encrypted {
		wantMessages(t, all)
	}
}

// frames splits what follows a handshake. Those of an encrypted connection stay
// sealed.
func frames(t *testing.T, stream []byte) (all [][]byte) {
	t.Helper()
	for len(stream) > 0 {
		if len(stream) < 4 || uint64(len(stream)) < 4+uint64(binary.BigEndian.Uint32(stream)) {
			t.Fatalf("what was sent ends inside frame %d", len(all))
		}
		end := 4 + int(binary.BigEndian.Uint32(stream))
		all = append(all, stream[4:end])
		stream = stream[end:]
	}
	return all
}

// wantMessages checks that none of the frames, which are not sealed, has type 0.
func wantMessages(t *testing.T, frames [][]byte) {
	t.Helper()
	for i, f := range frames {
		if len(f) < 4 || binary.BigEndian.Uint32(f) == 0 {
			t.Errorf("frame %d is %q, want a message", i, f)
		}
	}
}
