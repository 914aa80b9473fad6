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
		srv, err := ipc.StartServer(&ipc.ServerConfig{
			Name:       s.Name,
			SocketDir:  s.Dir,
			Encryption: s.Encrypted,
			MultiMode:  s.Manager,
			BusyPoll:   s.BusyPoll,
		})
		if err != nil {
			return nil, err
		}
		return &oursServer{srv: srv, spec: s}, nil
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
}

func (s *oursServer) Echo() error {
	return s.each(func(from *ipc.Server, m *ipc.Message) {
		// A client that left meanwhile is no concern of the others.
		_ = from.Write(m.MsgType, m.Data)
	})
}

func (s *oursServer) Sink(sink func([]byte)) error {
	return s.each(func(_ *ipc.Server, m *ipc.Message) { sink(m.Data) })
}

// each hands over all messages, through the manager if the workload says so.
func (s *oursServer) each(handle func(*ipc.Server, *ipc.Message)) error {
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
	if !s.spec.Manager {
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
