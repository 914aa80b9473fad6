// Command original measures golang-ipc as it was at first.
package main

import (
	"fmt"

	barrow "github.com/james-barrow/golang-ipc"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() { harness.Program(peer) }

// peer is the library that this one descends from. It has one client,
// and its sockets are in /tmp whatever is asked for.
var peer = harness.Peer{
	Name:   "original",
	Module: "github.com/james-barrow/golang-ipc",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		srv, err := barrow.StartServer(s.Name, &barrow.ServerConfig{Encryption: s.Encrypted})
		if err != nil {
			return nil, err
		}
		return originalServer{srv}, nil
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		c, err := barrow.StartClient(s.Name, &barrow.ClientConfig{Encryption: s.Encrypted})
		if err != nil {
			return nil, err
		}
		// It goes on connecting only while its events are read.
		for {
			m, err := c.Read()
			if err != nil {
				return nil, fmt.Errorf("connecting: %w", err)
			}
			if m.Status == "Connected" {
				return &originalClient{c: c}, nil
			}
		}
	},
}

type originalServer struct{ srv *barrow.Server }

func (s originalServer) Echo() error {
	for {
		m, err := s.srv.Read()
		if err != nil {
			return err
		}
		if m.MsgType > 0 {
			if err := s.srv.Write(m.MsgType, m.Data); err != nil {
				return err
			}
		}
	}
}

func (s originalServer) Sink(sink func([]byte)) error {
	for {
		m, err := s.srv.Read()
		if err != nil {
			return err
		}
		if m.MsgType > 0 {
			sink(m.Data)
		}
	}
}

type originalClient struct {
	c    *barrow.Client
	copy harness.TwoBuffers
}

func (c *originalClient) Send(p []byte) error { return c.c.Write(1, c.copy.Of(p)) }

func (c *originalClient) Flush() error { return nil }

func (c *originalClient) Call(p []byte) ([]byte, error) {
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

func (c *originalClient) Close() error {
	c.c.Close()
	return nil
}
