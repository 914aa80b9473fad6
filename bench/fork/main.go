// Command fork measures the fork of golang-ipc at its last release. It has the
// same import path as the library of this repository: hence a module, and a
// binary, of its own.
package main

import (
	ipc "github.com/joe-at-startupmedia/golang-ipc"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() { harness.Program(peer) }

// peer has one client: with many (its MultiClient) it loses connections. Its
// sockets are in /tmp whatever is asked for.
var peer = harness.Peer{
	Name:   "fork",
	Module: "github.com/joe-at-startupmedia/golang-ipc",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		srv, err := ipc.StartServer(&ipc.ServerConfig{Name: s.Name, Encryption: s.Encrypted})
		if err != nil {
			return nil, err
		}
		return server{srv}, nil
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		c, err := ipc.StartClient(&ipc.ClientConfig{Name: s.Name, Encryption: s.Encrypted})
		if err != nil {
			return nil, err
		}
		return &client{c: c}, nil
	},
}

type server struct{ srv *ipc.Server }

func (s server) Echo() error {
	return s.each(func(m *ipc.Message) error { return s.srv.Write(m.MsgType, m.Data) })
}

func (s server) Sink(sink func([]byte)) error {
	return s.each(func(m *ipc.Message) error {
		sink(m.Data)
		return nil
	})
}

func (s server) each(handle func(*ipc.Message) error) error {
	for {
		m, err := s.srv.Read()
		if err != nil {
			return err
		}
		if m.MsgType < 0 {
			continue
		}
		if err := handle(m); err != nil {
			return err
		}
	}
}

type client struct {
	c    *ipc.Client
	copy harness.TwoBuffers
}

func (c *client) Send(p []byte) error { return c.c.Write(1, c.copy.Of(p)) }

func (c *client) Flush() error { return nil }

func (c *client) Call(p []byte) ([]byte, error) {
	if err := c.c.Write(1, p); err != nil {
		return nil, err
	}
	for {
		m, err := c.c.Read()
		if err != nil {
			return nil, err
		}
		if m.MsgType > 0 {
			return m.Data, nil
		}
	}
}

func (c *client) Close() error {
	c.c.Close()
	return nil
}
