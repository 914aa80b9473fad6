//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ipc

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/socktest"
)

// The tests here are about who reads the socket of the only client. They stop the
// timer that is there for programs that do not read: where callers wait in Read,
// nothing may have to wait for it.

// onlyServer is a server in MultiMode that admits clients without a handshake.
type onlyServer struct {
	*Server
	t *testing.T
}

func startOnly(t *testing.T) onlyServer {
	t.Helper()
	return onlyServer{startServer(t, true), t}
}

// join admits a client, and returns its Server and the client's end.
func (s onlyServer) join() (*Server, net.Conn) {
	s.t.Helper()
	ends := unixPair(s.t)
	s.t.Cleanup(func() { ends[0].Close() })
	c, l := s.newClient(), newLink(ends[1], 1<<20, nil)
	if !s.admit(c, l) {
		s.t.Fatal("the server admits nobody")
	}
	stopTimer(c)
	s.tasks.Go(func() {
		defer close(l.done)
		c.serve(l)
		s.dismiss(c, l)
	})
	return c, ends[0]
}

// meet is join, after which the event Connected has been read.
func (s onlyServer) meet() (*Server, net.Conn) {
	s.t.Helper()
	c, conn := s.join()
	s.want(c, eventType)
	return c, conn
}

// stopTimer stops the timer of a client's link for ever.
func stopTimer(c *Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.link; l != nil && l.idle != nil {
		l.idle.Stop()
		l.timed = true // so nobody starts it
	}
}

// send sends a message from a client's end.
func (s onlyServer) send(conn net.Conn, msgType int) {
	s.t.Helper()
	var frame [headerSize]byte
	putHeader(frame[:], msgType, 0)
	if _, err := conn.Write(frame[:]); err != nil {
		s.t.Error(err)
	}
}

// onlyPatience is no expectation of speed: what takes so long hangs.
const onlyPatience = 10 * time.Second

// inTime fails if f hangs. A Read with a limit would not do: at its end it looks
// once more, and finds what nobody had told it of.
func (s onlyServer) inTime(f func()) {
	s.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(onlyPatience):
		s.t.Fatal("Read hangs")
	}
}

// want reads one message or event through the manager.
func (s onlyServer) want(from *Server, msgType int) {
	s.t.Helper()
	s.inTime(func() {
		s.ServerManager.Read(func(c *Server, m *Message, err error) {
			if c != from || err != nil || m.MsgType != msgType {
				s.t.Errorf("got %+v, %v of client %d, want message %d of client %d", m, err, c.id, msgType, from.id)
			}
		})
	})
}

// inReader reports whether a caller of the manager's Read waits at a socket.
func (s onlyServer) inReader() bool {
	s.ServerManager.mu.Lock()
	defer s.ServerManager.mu.Unlock()
	return s.ServerManager.reader != nil
}

func TestOnlyClientIsReadByTheCaller(t *testing.T) {
	s := startOnly(t)
	c, conn := s.meet()
	go func() {
		for !s.inReader() {
			runtime.Gosched()
		}
		if s.ServerManager.readOnly(&wait{manager: s.ServerManager}, true) {
			t.Error("a second caller is sent to the socket")
		}
		s.send(conn, 1)
	}()
	s.want(c, 1)
}

// Where nobody reads when a second client joins, the first one's own goroutine
// begins to.
func TestOnlyClientGetsCompany(t *testing.T) {
	s := startOnly(t)
	first, conn := s.meet()
	s.meet()
	s.send(conn, 1)
	s.want(first, 1)
}

// A caller who waits at the socket of the only client is there for those who
// join, and leaves the socket to the client's own goroutine then.
func TestOnlyClientGetsCompanyInRead(t *testing.T) {
	s := startOnly(t)
	first, conn := s.meet()
	var second *Server
	var other net.Conn
	s.inTime(func() {
		joined := make(chan *Server)
		go s.ServerManager.Read(func(c *Server, _ *Message, _ error) { joined <- c })
		for !s.inReader() {
			runtime.Gosched()
		}
		second, other = s.join()
		if c := <-joined; c != second {
			t.Errorf("Read returned something of client %d, want the Connected of client %d", c.id, second.id)
		}
	})
	s.send(conn, 1)
	s.want(first, 1)
	s.send(other, 2)
	s.want(second, 2)

	// The first one is alone again.
	other.Close()
	s.want(second, eventType)
	s.ServerManager.mu.Lock()
	defer s.ServerManager.mu.Unlock()
	if s.ServerManager.only != first {
		t.Error("the one that is left is not known as the only one")
	}
}

// A call of the client's Server takes the reader's role from its own goroutine,
// and gives it back: those who wait for all clients depend on that.
func TestOnlyClientIsReadInCallback(t *testing.T) {
	s := startOnly(t)
	first, conn := s.meet()
	s.meet()
	for range 200 {
		go s.send(conn, 1)
		s.inTime(func() {
			if m, err := first.Read(); err != nil || m.MsgType != 1 {
				t.Error(m, err)
			}
		})
		// What was read may still be in the manager's queue.
		s.ServerManager.ReadTimed(0, nil, func(*Server, *Message, error) {})
		s.send(conn, 2)
		s.want(first, 2)
	}
}

// When one of two callers has handled a message, the other one reads the socket.
func TestOnlyClientHasTwoReaders(t *testing.T) {
	s := startOnly(t)
	_, conn := s.meet()
	for n := range 200 {
		s.inTime(func() {
			got := make(chan int, 2)
			var reading sync.WaitGroup
			for range 2 {
				reading.Go(func() {
					s.ServerManager.Read(func(_ *Server, m *Message, _ error) {
						got <- m.MsgType
						for range n {
							runtime.Gosched() // the other one finds that this one has the turn
						}
					})
				})
			}
			for want := 3; want < 5; want++ {
				s.send(conn, want)
				if m := <-got; m != want {
					t.Errorf("got message %d, want %d", m, want)
				}
			}
			reading.Wait()
		})
	}
}

// A caller whose wait ends just when it is told that the socket is free tells
// somebody else.
func TestOnlyClientIsPassedOn(t *testing.T) {
	s := startOnly(t)
	_, conn := s.meet()
	for n := range 200 {
		s.inTime(func() {
			ctx, cancel := context.WithCancel(t.Context())
			busy, free := make(chan struct{}), make(chan struct{})
			var reading sync.WaitGroup
			reading.Go(func() {
				s.ServerManager.Read(func(*Server, *Message, error) {
					close(busy)
					<-free
				})
				cancel()
			})
			s.send(conn, 1)
			<-busy
			last := make(chan int, 2)
			reading.Go(func() {
				s.ServerManager.ReadContext(ctx, func(_ *Server, m *Message, _ error) { last <- m.MsgType })
			})
			reading.Go(func() {
				for range n {
					runtime.Gosched() // the other one waits first
				}
				s.ServerManager.Read(func(_ *Server, m *Message, _ error) { last <- m.MsgType })
			})
			for range 2 * n {
				runtime.Gosched() // both wait
			}
			close(free)
			<-ctx.Done()
			s.send(conn, 2)
			if m := <-last; m != 2 {
				t.Errorf("got message %d, want 2", m)
			}
			s.send(conn, 2) // for whoever did not get the first one
			reading.Wait()
		})
		s.ServerManager.ReadTimed(0, nil, func(*Server, *Message, error) {}) // or it is left
	}
}

// However short the waits are, they come to look at the socket.
func TestOnlyClientWithShortWaits(t *testing.T) {
	s := startOnly(t)
	_, conn := s.meet()
	for d := time.Duration(-1); d < 3*time.Microsecond; d += 10 {
		s.send(conn, 1)
		s.inTime(func() {
			for got := false; !got; {
				s.ServerManager.ReadTimed(d, nil, func(_ *Server, m *Message, _ error) { got = m != TimeoutMessage })
			}
		})
	}
}

// As real clients come and go, somebody always reads the socket of each.
func TestOnlyClientNeedsNoTimer(t *testing.T) {
	for _, readers := range []int{1, 3} {
		t.Run(fmt.Sprint(readers, " readers"), func(t *testing.T) {
			server := startServer(t, true)
			ctx, cancel := context.WithCancel(t.Context())
			var reading, calling sync.WaitGroup
			for range readers {
				reading.Go(func() {
					for server.ServerManager.ReadContext(ctx, echoWithoutTimer) == nil {
					}
				})
			}
			for n := range 3 {
				calling.Go(func() { comeAndGo(t, server.config.SocketDir, n) })
			}
			calling.Wait()
			cancel()
			reading.Wait()
		})
	}
}

// echoWithoutTimer answers each message, and stops the timer of each link.
func echoWithoutTimer(c *Server, m *Message, err error) {
	switch {
	case err != nil:
	case m.MsgType != eventType:
		c.Write(m.MsgType, m.Data) // fails if the client has left
	default:
		stopTimer(c)
	}
}

// comeAndGo is a client that connects again and again, alone or not.
func comeAndGo(t *testing.T, dir string, n int) {
	const visits, messages = 100, 20
	for visit := range visits {
		client, err := StartClient(&ClientConfig{Name: "test", SocketDir: dir})
		if err != nil {
			t.Error(err)
			return
		}
		burst := 1
		if (visit+n)%3 == 0 {
			burst = messages
		}
		for first := 0; first < messages; first += burst {
			for i := first; i < first+burst; i++ {
				if err := client.Write(i+1, fmt.Append(nil, n, visit, i)); err != nil {
					t.Error(err)
				}
			}
			for i := first; i < first+burst; i++ {
				want := fmt.Append(nil, n, visit, i)
				if m := nextMessage(client); m.MsgType != i+1 || !bytes.Equal(m.Data, want) {
					t.Errorf("client %d, visit %d: got message %d %q, want %d %q", n, visit, m.MsgType, m.Data, i+1, want)
					return
				}
			}
		}
		socktest.Close(t, client)
	}
}

// nextMessage returns the next message that is no event, or TimeoutMessage.
func nextMessage(c *Client) *Message {
	for {
		m, err := c.ReadTimed(10*time.Second, nil)
		if err != nil {
			return &Message{Err: err}
		}
		if m.MsgType != eventType {
			return m
		}
	}
}
