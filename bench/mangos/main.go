// Command mangos measures mangos.
package main

import (
	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/pull"
	"go.nanomsg.org/mangos/v3/protocol/push"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	"go.nanomsg.org/mangos/v3/protocol/req"
	_ "go.nanomsg.org/mangos/v3/transport/ipc" // registers ipc://

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() { harness.Program(peer) }

// peer uses the sockets that fit: PUSH and PULL one way, REQ and REP for
// round trips.
var peer = harness.Peer{
	Name:   "mangos",
	Module: "go.nanomsg.org/mangos/v3",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		sock, err := mangosSocket(s, pull.NewSocket, rep.NewSocket)
		if err != nil {
			return nil, err
		}
		return mangosServer{sock}, sock.Listen("ipc://" + s.Path())
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		sock, err := mangosSocket(s, push.NewSocket, req.NewSocket)
		if err != nil {
			return nil, err
		}
		return &mangosClient{sock: sock}, sock.Dial("ipc://" + s.Path())
	},
}

func mangosSocket(s *harness.Spec, oneWay, roundTrip func() (mangos.Socket, error)) (mangos.Socket, error) {
	newSocket := roundTrip
	if s.OneWay() {
		newSocket = oneWay
	}
	sock, err := newSocket()
	if err != nil {
		return nil, err
	}
	// The default refuses a message of 1 MiB.
	return sock, sock.SetOption(mangos.OptionMaxRecvSize, 0)
}

type mangosServer struct{ sock mangos.Socket }

func (s mangosServer) Echo() error {
	for {
		m, err := s.sock.RecvMsg()
		if err != nil {
			return err
		}
		if err := s.sock.SendMsg(m); err != nil {
			return err
		}
	}
}

func (s mangosServer) Sink(sink func([]byte)) error {
	for {
		m, err := s.sock.RecvMsg()
		if err != nil {
			return err
		}
		sink(m.Body)
		m.Free()
	}
}

type mangosClient struct {
	sock   mangos.Socket
	answer *mangos.Message
}

func (c *mangosClient) Send(p []byte) error { return c.sock.Send(p) }

func (c *mangosClient) Flush() error { return nil }

func (c *mangosClient) Call(p []byte) ([]byte, error) {
	if c.answer != nil {
		c.answer.Free()
		c.answer = nil
	}
	if err := c.sock.Send(p); err != nil {
		return nil, err
	}
	m, err := c.sock.RecvMsg()
	if err != nil {
		return nil, err
	}
	c.answer = m
	return m.Body, nil
}

func (c *mangosClient) Close() error { return c.sock.Close() }
