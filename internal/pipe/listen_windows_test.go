package pipe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/joe-at-startupmedia/golang-ipc/internal/errs"
	"github.com/joe-at-startupmedia/golang-ipc/internal/peercred"
)

func TestInUse(t *testing.T) {
	l := mustListen(t, newPath(t))
	for _, path := range []string{l.path, strings.ToUpper(l.path)} {
		if second, err := Listen(path, ownerOnly); !errors.Is(err, errs.InUse) {
			t.Errorf("%v, %v: want InUse", second, err)
		}
	}
	_, line := startChild(t, l.path)
	if line != errs.InUse.Error() {
		t.Errorf("another process: %q", line)
	}
	if l.Addr().String() != l.path || l.Addr().Network() != "pipe" {
		t.Errorf("address %v", l.Addr())
	}
	l.Close()
	mustListen(t, l.path) // at once
}

// Of any number of starters exactly one wins.
func TestContest(t *testing.T) {
	if underWine() {
		t.Skip("Wine ignores FILE_FLAG_FIRST_PIPE_INSTANCE")
	}
	path := newPath(t)
	var wg sync.WaitGroup
	won := make(chan *Listener, 20)
	for range cap(won) {
		wg.Go(func() {
			l, err := Listen(path, ownerOnly)
			if err == nil {
				won <- l
			} else if !errors.Is(err, errs.InUse) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d have won", len(won))
	}
	for len(won) > 0 {
		(<-won).Close()
	}
}

// The name of a server that was killed is free at once, or when its clients have
// noticed.
func TestTakeover(t *testing.T) {
	path := newPath(t)
	child, line := startChild(t, path)
	if line != "ready" {
		t.Fatal(line)
	}
	c := mustDial(t, path)
	echo(t, c)
	child.Process.Kill()
	child.Wait()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v: want io.EOF", n, err)
	}
	closed := make(chan struct{})
	time.AfterFunc(200*time.Millisecond, func() { c.Close(); close(closed) })
	l := mustListen(t, path)
	<-closed
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	echo(t, mustDial(t, path))
}

// echo checks that what is sent comes back.
func echo(t *testing.T, c net.Conn) {
	t.Helper()
	b := []byte("echo")
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(b))
	if _, err := io.ReadFull(c, got); !bytes.Equal(got, b) || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestDialErrors(t *testing.T) {
	path := newPath(t)
	var op *net.OpError
	_, err := Dial(t.Context(), path)
	if !errors.Is(err, fs.ErrNotExist) || !MayPass(err) || !errors.As(err, &op) || op.Op != "dial" || op.Addr.String() != path {
		t.Errorf("no server: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := Dial(ended, path); !errors.Is(err, context.Canceled) || MayPass(err) {
		t.Errorf("cancelled: %v", err)
	}
	if MayPass(syscall.ERROR_ACCESS_DENIED) {
		t.Error("a missing permission may pass")
	}
}

// Clients wait in the backlog, and one more finds the pipe busy; all are served.
func TestBacklog(t *testing.T) {
	l := mustListen(t, newPath(t))
	var clients []*conn
	for range backlog {
		clients = append(clients, mustDial(t, l.path))
	}
	if _, err := Dial(t.Context(), l.path); !errors.Is(err, errPipeBusy) || !MayPass(err) {
		t.Errorf("one too many: %v", err)
	}
	// Wine creates a second first instance.
	if second, err := Listen(l.path, ownerOnly); err == nil && underWine() {
		second.Close()
	} else if !errors.Is(err, errs.InUse) {
		t.Errorf("a server with a full backlog: %v: want InUse", err)
	}
	for range clients {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.Copy(c, c)
			c.Close()
		}()
	}
	for _, c := range clients {
		echo(t, c)
	}
	mustDial(t, l.path)
}

// A client that has left again before it is accepted is handed out with what it
// had written.
func TestClientLeavesTheBacklog(t *testing.T) {
	l := mustListen(t, newPath(t))
	c := mustDial(t, l.path)
	if _, err := c.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if b, err := io.ReadAll(server); string(b) != "last words" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestCloseOfAListener(t *testing.T) {
	l := mustListen(t, newPath(t))
	waiting := mustDial(t, l.path)
	taken, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	unaccepted := mustDial(t, l.path)
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	last := mustDial(t, l.path)

	accepted := make(chan error)
	c, err := l.Accept() // last
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for range 2 {
		go func() { _, err := l.Accept(); accepted <- err }()
	}
	l.Close()
	l.Close()
	for range 2 {
		if err := <-accepted; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v: want net.ErrClosed", err)
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	for _, c := range []*conn{unaccepted, last} {
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v: want io.EOF", err)
		}
	}
	go io.Copy(taken, taken)
	echo(t, waiting) // what was accepted lives on
}

// freeHandle returns the lowest handle that is free: Windows gives out that one
// next. It grows if handles are left open.
func freeHandle(t *testing.T) int {
	t.Helper()
	h, err := newEvent()
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseHandle(h)
	return int(h) / 4
}

// 200 servers that start and close, with clients, leave no handle behind.
func TestHandles(t *testing.T) {
	path := newPath(t)
	cycle := func() {
		l, err := Listen(path, ownerOnly)
		if err != nil {
			t.Fatal(err)
		}
		client, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []net.Conn{server, client} {
			if _, err := peercred.Of(c); err != nil {
				t.Fatal(err)
			}
		}
		pending, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan struct{})
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					close(accepted)
					return
				}
				c.Close()
			}
		}()
		client.Close()
		server.Close()
		l.Close()
		<-accepted
		pending.Close()
	}
	for range 20 { // the runtime's threads have handles, too
		cycle()
	}
	before := freeHandle(t)
	for range 200 {
		cycle()
	}
	// A leak of one in each cycle would be 200.
	if after := freeHandle(t); after > before+60 {
		t.Errorf("the first free handle was %d, and is %d", before, after)
	}
}

// Permissions are those that were asked for.
func TestDescriptor(t *testing.T) {
	own, err := peercred.Self()
	if err != nil {
		t.Fatal(err)
	}
	toText := advapi32.NewProc("ConvertSecurityDescriptorToStringSecurityDescriptorW")
	getSecurityInfo := advapi32.NewProc("GetSecurityInfo")
	for _, p := range []Perm{{0o600, ""}, {0o660, "S-1-5-32-545"}, {0o777, ""}} {
		l, err := Listen(newPath(t), p)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		const kernelObject, ownerAndDACL, revision = 6, 1 | 4, 1
		var d syscall.Handle
		code, _, _ := getSecurityInfo.Call(uintptr(l.waiting[0].pipe), kernelObject, ownerAndDACL, 0, 0, 0, 0, uintptr(unsafe.Pointer(&d)))
		if code != 0 {
			t.Fatal(syscall.Errno(code))
		}
		var text *[1 << 10]uint16
		ok, _, err := toText.Call(uintptr(d), revision, ownerAndDACL, uintptr(unsafe.Pointer(&text)), 0)
		if ok == 0 {
			t.Fatal(err)
		}
		n := 0
		for text[n] != 0 {
			n++
		}
		got := syscall.UTF16ToString(text[:n])
		// Every entry, with names of Windows' own for some of the users.
		want := p.sddl(own)
		if strings.Count(got, "(A;") != strings.Count(want, "(A;") || strings.Count(got, "0x12019b") != strings.Count(want, "0x12019b") {
			t.Errorf("%v: %s: want %s", p, got, want)
		}
		syscall.LocalFree(d)
		syscall.LocalFree(syscall.Handle(unsafe.Pointer(text)))
	}
}

func TestPeers(t *testing.T) {
	server, client := newPair(t)
	own, err := peercred.Self()
	if err != nil {
		t.Fatal(err)
	}
	want := peercred.Cred{PID: os.Getpid(), UID: peercred.NoID, GID: peercred.NoID, SID: own}
	for name, c := range map[string]*conn{"server": client, "client": server} {
		if got, err := peercred.Of(c); got != want || err != nil {
			t.Errorf("%s: %+v, %v: want %+v", name, got, err, want)
		}
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	c, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := peercred.Of(c); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("TCP: %+v, %v: want ErrUnsupported", got, err)
	}
}

func TestLookupGroup(t *testing.T) {
	if got, err := LookupGroup("S-1-5-32-545"); got != "S-1-5-32-545" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, s := range []string{"no such group", "S-1-nonsense", ""} {
		if got, err := LookupGroup(s); err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("LookupGroup(%q) = %q, %v", s, got, err)
		}
	}
}
