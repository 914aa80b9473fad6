package ipc

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// newcomer is a connection that waits for a place.
type newcomer struct {
	client net.Conn // the other end
	result chan error
}

// ask lets a connection ask a for a place. It is served, or waits, when ask
// returns. The caller is in a bubble of synctest.
func ask(a *admission) newcomer {
	client, server := net.Pipe()
	n := newcomer{client, make(chan error, 1)}
	go func() {
		defer server.Close()
		n.result <- a.acquire(server)
	}()
	synctest.Wait()
	return n
}

// state returns "has a place", "waits", or the error.
func (n newcomer) state() string {
	synctest.Wait()
	select {
	case err := <-n.result:
		n.result <- err // it stays so
		if err != nil {
			return err.Error()
		}
		return "has a place"
	default:
		return "waits"
	}
}

func wantStates(t *testing.T, all []newcomer, want ...string) {
	t.Helper()
	var got []string
	for _, n := range all {
		got = append(got, n.state())
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
}

const has, waits = "has a place", "waits"

// Places are given first come, first served, and one that is given back goes to
// the connection that has waited longest.
func TestAdmissionIsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{free: 2}
		var all []newcomer
		for range 5 {
			all = append(all, ask(a))
		}
		wantStates(t, all, has, has, waits, waits, waits)
		time.Sleep(time.Hour) // waiting has no limit
		wantStates(t, all, has, has, waits, waits, waits)
		a.release()
		wantStates(t, all, has, has, has, waits, waits)
		a.release()
		a.release()
		wantStates(t, all, has, has, has, has, has)
		all = append(all, ask(a))
		wantStates(t, all[5:], waits)
		a.release()
		a.release()
		all = append(all, ask(a), ask(a))
		wantStates(t, all[5:], has, has, waits)
		a.release()
		wantStates(t, all[5:], has, has, has)
	})
}

// A client that goes away while it waits is noticed at once, and loses its turn
// to the next.
func TestAdmissionOfOneThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{free: 1}
		all := []newcomer{ask(a), ask(a), ask(a)}
		all[1].client.Close()
		gone := "waiting for a place: EOF"
		wantStates(t, all, has, gone, waits)
		if err := <-all[1].result; !errors.Is(err, io.EOF) || errors.Is(err, ErrProtocol) {
			t.Errorf("%v, want io.EOF", err)
		}
		all[1].result <- io.EOF
		if len(a.waiting) != 1 || a.free != 0 {
			t.Errorf("%d wait, and %d places are free", len(a.waiting), a.free)
		}
		a.release()
		wantStates(t, all[2:], has)
		a.release()
		wantStates(t, []newcomer{ask(a), ask(a)}, has, waits)
		a.release()
	})
}

// A step of the handshake must not come before its time.
func TestAdmissionOfOneThatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{free: 1}
		all := []newcomer{ask(a), ask(a), ask(a)}
		if _, err := all[1].client.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := <-all[1].result; !errors.Is(err, ErrProtocol) {
			t.Errorf("%v, want ErrProtocol", err)
		}
		a.release()
		wantStates(t, all[2:], has)
	})
}

// lateConn is a connection whose peer does something just when it is given a
// place.
type lateConn struct {
	net.Conn  // nil: nothing else is called
	read      func(b []byte) (int, error)
	deadlines []time.Time
}

func (c *lateConn) Read(b []byte) (int, error) { return c.read(b) }

func (c *lateConn) SetReadDeadline(t time.Time) error {
	c.deadlines = append(c.deadlines, t)
	return nil
}

// A place that is given to a client which has just gone away, or gone on, is
// passed on.
func TestAdmissionPassesOn(t *testing.T) {
	for name, tt := range map[string]struct {
		n    int
		err  error
		want error
	}{
		"gone away": {0, io.EOF, io.EOF},
		"gone on":   {1, nil, ErrProtocol},
		// A byte counts even if the read ends by the deadline of the grant.
		"gone on, with an error": {1, io.ErrUnexpectedEOF, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &admission{free: 1}
				first := ask(a)
				var next newcomer
				c := &lateConn{}
				c.read = func([]byte) (int, error) {
					next = ask(a)
					a.release() // for c
					return tt.n, tt.err
				}
				if err := a.acquire(c); !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				wantStates(t, []newcomer{first, next}, has, has)
				if !slices.EqualFunc(c.deadlines, []time.Time{{}, longAgo}, time.Time.Equal) {
					t.Errorf("read deadlines %v, want none and then one that has passed", c.deadlines)
				}
			})
		})
	}
}

// A deadline that passes while no place was given is not a place.
func TestAdmissionIsNotADeadline(t *testing.T) {
	a := &admission{}
	c := &lateConn{read: func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }}
	if err := a.acquire(c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if len(a.waiting) != 0 || a.free != 0 {
		t.Errorf("%d wait, and %d places are free", len(a.waiting), a.free)
	}
}

// What clients that have left hold counts: while it is over the bound nobody is
// given a place, even where places are unlimited; when it is read, those that
// wait are given those there are.
func TestAdmissionIsCharged(t *testing.T) {
	for _, unlimited := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a := &admission{free: 3, unlimited: unlimited}
			if unlimited {
				a.free = 0
			}
			a.charge(maxHeld)
			all := []newcomer{ask(a)} // at the bound
			wantStates(t, all, has)
			a.charge(1)
			all = append(all, ask(a), ask(a), ask(a))
			wantStates(t, all, has, waits, waits, waits)
			if !unlimited {
				a.release() // does not help
				wantStates(t, all, has, waits, waits, waits)
				a.free--
			}
			a.charge(-1)
			last := waits
			if unlimited {
				last = has
			}
			wantStates(t, all, has, has, has, last)
			a.release()
			wantStates(t, all[3:], has)
		})
	}
}

// Any number of clients is served without a limit, and none waits.
func TestAdmissionUnlimited(t *testing.T) {
	a := &admission{unlimited: true}
	for range 1000 {
		if err := a.acquire(nil); err != nil { // its Read would panic
			t.Fatal(err)
		}
	}
	for range 1000 {
		a.release()
	}
	if a.free != 0 {
		t.Errorf("%d places are free", a.free)
	}
}

// A client that has left is charged for more than its message, which may be tiny,
// until that has been read.
func TestDepartedClientsAreCharged(t *testing.T) {
	server := newServer(t, ServerConfig{MultiMode: true})
	held := func() int {
		server.admission.mu.Lock()
		defer server.admission.mu.Unlock()
		return server.admission.held
	}
	for _, data := range []string{"", "x", "a message"} {
		client := newClientOf(t, server, ClientConfig{})
		var here *conn
		server.ServerManager.Read(func(c *Server, _ *Message, _ error) { here = currentConn(&c.session) }) // Connected
		if err := client.Write(1, []byte(data)); err != nil {
			t.Fatal(err)
		}
		if n := held(); n != 0 {
			t.Errorf("%d bytes are held of a client that is here", n)
		}
		wantClose(t, client)
		<-here.done // it has left
		if n, want := held(), len(data)+messageCost+departedCost; n != want {
			t.Errorf("%d bytes are held of a client that has left a message, want %d", n, want)
		}
		for last := ""; last != Disconnected.String(); {
			server.ServerManager.Read(func(_ *Server, m *Message, err error) { last = m.Status })
		}
		if n := held(); n != 0 {
			t.Errorf("%d bytes are held when everything has been read", n)
		}
	}
	// One that has left nothing but events is not charged.
	client := newClientOf(t, server, ClientConfig{})
	var here *conn
	server.ServerManager.Read(func(c *Server, _ *Message, _ error) { here = currentConn(&c.session) })
	wantClose(t, client)
	<-here.done
	if n := held(); n != 0 {
		t.Errorf("%d bytes are held of a client that has left nothing", n)
	}
}

// handshakeFailures waits until everything waits, and returns how many handshakes
// have failed.
func handshakeFailures(s *Server) uint64 {
	synctest.Wait()
	return s.Stats().HandshakeFailures
}

// The clock of the handshake stands while a client waits for a place, and goes on
// then.
func TestHandshakeClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 5 * time.Second
		l := newPipeListener()
		s := newServer(t, ServerConfig{Listener: l, HandshakeTimeout: limit})
		first := l.dial()
		if err := join(first); err != nil {
			t.Fatal(err)
		}
		// The second takes three seconds for its first step, and waits.
		second := l.dial()
		hello := make([]byte, 2)
		if _, err := io.ReadFull(second, hello); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if _, err := second.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := handshakeFailures(s); n != 0 {
			t.Fatalf("%d handshakes have failed", n)
		}
		// It gets the place, and has two seconds for the rest.
		first.Close()
		if _, err := io.ReadFull(second, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Second - time.Millisecond)
		if n := handshakeFailures(s); n != 0 {
			t.Fatalf("%d handshakes have failed before the time", n)
		}
		time.Sleep(2 * time.Millisecond)
		if n := handshakeFailures(s); n != 1 {
			t.Fatalf("%d handshakes have failed after the time, want 1", n)
		}
		// The place is free again. What comes after the handshake has no limit.
		third := l.dial()
		if err := join(third); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := third.Write(plainFrame(7, nil)); err != nil {
			t.Fatal(err)
		}
		if m := nextData(t, &s.session); m.MsgType != 7 {
			t.Errorf("%+v", m)
		}
		third.Close()
		s.Close()
	})
}

// A client that says nothing has the time of the handshake, and others are served
// meanwhile.
func TestSilentClientIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 5 * time.Second
		l := newPipeListener()
		s := newServer(t, ServerConfig{Listener: l, HandshakeTimeout: limit, MultiMode: true})
		silent := l.dial()
		begin := time.Now()
		good := l.dial()
		if err := join(good); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, silent)
		if passed := time.Since(begin); passed != limit {
			t.Errorf("dropped after %v, want %v", passed, limit)
		}
		if n := handshakeFailures(s); n != 1 {
			t.Errorf("%d handshakes have failed, want 1", n)
		}
		good.Close()
		s.Close()
	})
}

// No more than maxUnfinished handshakes run beside each other, and Close ends
// them.
func TestUnfinishedHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := newServer(t, ServerConfig{Listener: l, MultiMode: true, HandshakeTimeout: time.Hour})
		var clients []net.Conn
		for range maxUnfinished {
			clients = append(clients, l.dial())
		}
		synctest.Wait()
		client, server := net.Pipe()
		select {
		case l.conns <- server:
			t.Fatal("one more was accepted")
		default:
		}
		// When one is through, there is room for one.
		if err := join(clients[0]); err != nil {
			t.Fatal(err)
		}
		l.conns <- server
		if err := join(client); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		wantClose(t, s)
		if passed := time.Since(begin); passed > closeFlush {
			t.Errorf("Close took %v", passed)
		}
		for _, c := range clients[1:] {
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Stats().HandshakeFailures; n != 0 {
			t.Errorf("%d handshakes that Close has ended count as failed", n)
		}
	})
}

// A failed Accept is waited out, with a pause that doubles up to a second, and
// starts anew after a success. Close ends the pause.
func TestAcceptPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := newServer(t, ServerConfig{Listener: l, MultiMode: true})
		fail := func() time.Duration {
			begin := time.Now()
			l.errs <- errors.New("no descriptors") // taken when the pause is over
			return time.Since(begin)
		}
		for range 2 {
			want := []time.Duration{0}
			for d := minAcceptPause; d < maxAcceptPause; d *= 2 {
				want = append(want, d)
			}
			want = append(want, maxAcceptPause, maxAcceptPause)
			for i, d := range want {
				if got := fail(); got != d {
					t.Errorf("failure %d: after a pause of %v, want %v", i, got, d)
				}
			}
			c := l.dial() // ends the series
			if err := join(c); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		synctest.Wait()
		if len(s.slots) != 1 { // of the Accept that is under way
			t.Errorf("%d slots are taken", len(s.slots))
		}
		for range 20 {
			fail()
		}
		begin := time.Now()
		wantClose(t, s)
		if time.Since(begin) != 0 {
			t.Errorf("Close waited %v", time.Since(begin))
		}
	})
}

// When the program closes its Listener the server ends: no client can come.
func TestListenerIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := newServer(t, ServerConfig{Listener: l})
		l.errs <- net.ErrClosed
		if m, err := s.Read(); err != nil || m.Status != Closed.String() {
			t.Errorf("%+v, %v, want the event Closed", m, err)
		}
		s.Close()
	})
}

// An Authorize that is set refuses a peer that the kernel does not report.
func TestAuthorizeFailsClosed(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	asked := false
	_, err := authorize(t.Context(), server, func(Peer) error {
		asked = true
		return nil
	})
	if !errors.Is(err, ErrUnauthorized) || !errors.Is(err, errors.ErrUnsupported) || asked {
		t.Errorf("%v, asked: %t", err, asked)
	}
	if info, err := authorize(t.Context(), server, nil); err != nil || !errors.Is(info.err, errors.ErrUnsupported) {
		t.Errorf("without Authorize: %v, and of the peer %v", err, info.err)
	}
}

// What is late is handed to the one who cleans up, unless it failed.
func TestRunContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errOwn := errors.New("of the program")
		late := 0
		run := func(d time.Duration, err error) (int, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return runContext(ctx, func() (int, error) {
				time.Sleep(d)
				return 7, err
			}, func(n int) { late += n })
		}
		for _, tt := range []struct {
			d    time.Duration
			err  error
			n    int
			want error
			late int
		}{
			{0, nil, 7, nil, 0},
			{0, errOwn, 7, errOwn, 0},
			{2 * time.Second, nil, 0, context.DeadlineExceeded, 7},
			{2 * time.Second, errOwn, 0, context.DeadlineExceeded, 0},
		} {
			late = 0
			begin := time.Now()
			n, err := run(tt.d, tt.err)
			if n != tt.n || err != tt.want || time.Since(begin) > time.Second {
				t.Errorf("%v, %v: %d, %v after %v", tt.d, tt.err, n, err, time.Since(begin))
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if late != tt.late {
				t.Errorf("%v, %v: %d is late, want %d", tt.d, tt.err, late, tt.late)
			}
		}
	})
}
