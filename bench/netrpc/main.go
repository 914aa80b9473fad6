// Command netrpc measures the standard library's net/rpc.
package main

import (
	"net"
	"net/rpc"
	"sync"

	"github.com/joe-at-startupmedia/golang-ipc/bench/frames"
	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() { harness.Program(peer) }

// peer is the standard library's net/rpc with its gob codec. A stream is
// calls of which many are under way at once: it has no messages without an
// answer.
var peer = harness.Peer{
	Name: "net/rpc",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		ln, err := net.Listen("unix", s.Path())
		if err != nil {
			return nil, err
		}
		return &netrpcServer{ln: ln}, nil
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		conn, err := frames.Dial(s)
		if err != nil {
			return nil, err
		}
		c := &netrpcClient{c: rpc.NewClient(conn), done: make(chan *rpc.Call, netrpcWindow)}
		for range netrpcWindow {
			c.done <- &rpc.Call{}
		}
		return c, nil
	},
}

// netrpcWindow is how many calls of a stream are under way at once.
const netrpcWindow = 256

type netrpcServer struct {
	ln net.Listener
	mu sync.Mutex
	// sink is called under mu: net/rpc handles the calls of one client side by
	// side.
	sink func([]byte)
}

// Bench is the service. It is exported, like its methods, because net/rpc finds
// them by reflection.
type Bench struct{ s *netrpcServer }

// Echo answers a message with itself.
func (b Bench) Echo(msg []byte, answer *[]byte) error {
	*answer = msg
	return nil
}

// Take takes a message of a stream.
func (b Bench) Take(msg []byte, _ *struct{}) error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.sink(msg)
	return nil
}

func (s *netrpcServer) Echo() error { return s.serve() }

func (s *netrpcServer) Sink(sink func([]byte)) error {
	s.sink = sink
	return s.serve()
}

func (s *netrpcServer) serve() error {
	srv := rpc.NewServer()
	if err := srv.Register(Bench{s}); err != nil {
		return err
	}
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return err
		}
		go srv.ServeConn(conn)
	}
}

type netrpcClient struct {
	c      *rpc.Client
	done   chan *rpc.Call
	answer []byte
}

func (c *netrpcClient) Send(p []byte) error {
	if call := <-c.done; call.Error != nil {
		return call.Error
	}
	c.c.Go("Bench.Take", p, &struct{}{}, c.done)
	return nil
}

// Flush waits for all answers, and leaves the window as it found it.
func (c *netrpcClient) Flush() error {
	calls := make([]*rpc.Call, 0, netrpcWindow)
	for range netrpcWindow {
		call := <-c.done
		if call.Error != nil {
			return call.Error
		}
		calls = append(calls, call)
	}
	for _, call := range calls {
		c.done <- call
	}
	return nil
}

func (c *netrpcClient) Ask(p []byte) (answer []byte, err error) {
	err = c.c.Call("Bench.Echo", p, &answer)
	return answer, err
}

func (c *netrpcClient) Call(p []byte) ([]byte, error) {
	c.answer = c.answer[:0]
	err := c.c.Call("Bench.Echo", p, &c.answer)
	return c.answer, err
}

func (c *netrpcClient) Close() error { return c.c.Close() }
