package main

import (
	"context"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// releaseSize is from where on a program that cares about speed calls
// Message.Release.
const releaseSize = 16 << 10

// oursPeer is the library that this benchmark belongs to.
var oursPeer = harness.Peer{
	Name:   "ours",
	Module: "github.com/joe-at-startupmedia/golang-ipc",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		o := &oursServer{spec: s, begun: make(chan struct{})}
		config := &ipc.ServerConfig{
			Name:       s.Name,
			SocketDir:  s.Dir,
			Encryption: s.Encrypted,
			MultiMode:  s.MultiMode,
			BusyPoll:   s.BusyPoll,
		}
		if s.Handler {
			config.Handler = o.called
		}
		var err error
		o.srv, err = ipc.StartServer(config)
		return o, err
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		c, err := ipc.StartClient(&ipc.ClientConfig{
			Name:       s.Name,
			SocketDir:  s.Dir,
			Encryption: s.Encrypted,
			BusyPoll:   s.BusyPoll,
			Timeout:    10 * time.Second,
		})
		if err != nil {
			return nil, err
		}
		return &oursClient{c: c, release: s.Size >= releaseSize}, nil
	},
}

type oursServer struct {
	srv  *ipc.Server
	spec *harness.Spec

	handle func(*ipc.Server, *ipc.Message) // what is to be done with a message
	begun  chan struct{}                   // closed when handle is set
}

// called is the Handler. A client's first call is the event that it has joined:
// that one waits until it is known what is to be done.
func (s *oursServer) called(from *ipc.Server, m *ipc.Message) {
	if m.MsgType < 0 {
		<-s.begun
		return
	}
	s.handle(from, m)
}

func (s *oursServer) Echo() error {
	if s.spec.Kind == harness.Request {
		return s.each(func(_ *ipc.Server, m *ipc.Message) { _ = m.Reply(m.MsgType, m.Data) })
	}
	return s.each(func(from *ipc.Server, m *ipc.Message) {
		// A client that left meanwhile is no concern of the others.
		_ = from.Write(m.MsgType, m.Data)
	})
}

func (s *oursServer) Sink(sink func([]byte)) error {
	return s.each(func(_ *ipc.Server, m *ipc.Message) { sink(m.Data) })
}

// each hands over all messages: by the Handler if the workload says so, and in
// MultiMode through the manager otherwise.
func (s *oursServer) each(handle func(*ipc.Server, *ipc.Message)) error {
	if s.spec.Handler {
		s.handle = handle
		close(s.begun)
		select {} // until the process ends
	}
	release := s.spec.Size >= releaseSize
	take := func(from *ipc.Server, m *ipc.Message) {
		if m.MsgType < 0 {
			return
		}
		handle(from, m)
		if release {
			m.Release()
		}
	}
	if !s.spec.MultiMode {
		for {
			m, err := s.srv.Read()
			if err != nil {
				return err
			}
			take(s.srv, m)
		}
	}
	for {
		var end error
		s.srv.ServerManager.Read(func(from *ipc.Server, m *ipc.Message, err error) {
			if err != nil {
				end = err
				return
			}
			take(from, m)
		})
		if end != nil {
			return end
		}
	}
}

// Await polls: a server that nothing reads from has no other way to tell.
func (s *oursServer) Await(clients int) error {
	for len(s.srv.ServerManager.Servers()) < clients {
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (s *oursServer) Broadcast(p []byte) error { return s.srv.ServerManager.Broadcast(1, p) }

func (s *oursServer) Flush() error { return s.srv.Flush(context.Background()) }

type oursClient struct {
	c       *ipc.Client
	release bool
	answer  *ipc.Message
}

func (c *oursClient) Send(p []byte) error { return c.c.Write(1, p) }

func (c *oursClient) Flush() error { return c.c.Flush(context.Background()) }

func (c *oursClient) Call(p []byte) ([]byte, error) {
	if c.release {
		c.answer.Release()
	}
	if err := c.c.Write(1, p); err != nil {
		return nil, err
	}
	return c.Receive()
}

func (c *oursClient) Ask(p []byte) ([]byte, error) {
	m, err := c.c.Request(context.Background(), 1, p)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func (c *oursClient) Receive() ([]byte, error) {
	for {
		m, err := c.c.Read()
		if err != nil {
			return nil, err
		}
		if m.MsgType > 0 {
			c.answer = m
			return m.Data, nil
		}
	}
}

func (c *oursClient) Close() error { return c.c.Close() }
