package main

import (
	"io"
	"net"

	"github.com/hashicorp/yamux"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// yamuxPeer sends messages on a stream of a yamux session: one write a message,
// and a buffered reader, for yamux has no messages of its own.
var yamuxPeer = harness.Peer{
	Name:   "yamux",
	Module: "github.com/hashicorp/yamux",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		ln, err := net.Listen("unix", s.Path())
		if err != nil {
			return nil, err
		}
		return &framedServer{ln: ln, open: func(conn net.Conn) (*framer, error) {
			session, err := yamux.Server(conn, yamuxConfig())
			if err != nil {
				return nil, err
			}
			stream, err := session.Accept()
			if err != nil {
				return nil, err
			}
			return yamuxFramer(s, stream), nil
		}}, nil
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		conn, err := dialUnix(s)
		if err != nil {
			return nil, err
		}
		session, err := yamux.Client(conn, yamuxConfig())
		if err != nil {
			return nil, err
		}
		stream, err := session.Open()
		if err != nil {
			return nil, err
		}
		return &yamuxClient{framer: yamuxFramer(s, stream), session: session}, nil
	},
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard // the ends of connections are not news here
	return c
}

func yamuxFramer(s *harness.Spec, stream net.Conn) *framer {
	return newFramer(stream, false, s.Kind == harness.Stream && s.Size <= smallMessage)
}

type yamuxClient struct {
	*framer
	session *yamux.Session
}

func (c *yamuxClient) Close() error { return c.session.Close() }
