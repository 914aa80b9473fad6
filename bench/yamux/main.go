// Command yamux measures yamux.
package main

import (
	"io"
	"net"

	"github.com/hashicorp/yamux"

	"github.com/joe-at-startupmedia/golang-ipc/bench/frames"
	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() { harness.Program(peer) }

// peer sends messages on a stream of a yamux session: one write a message,
// and a buffered reader, for yamux has no messages of its own.
var peer = harness.Peer{
	Name:   "yamux",
	Module: "github.com/hashicorp/yamux",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		ln, err := net.Listen("unix", s.Path())
		if err != nil {
			return nil, err
		}
		return &frames.Server{Listener: ln, Open: func(conn net.Conn) (*frames.Framer, error) {
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
		conn, err := frames.Dial(s)
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
		return &yamuxClient{Framer: yamuxFramer(s, stream), session: session}, nil
	},
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard // the ends of connections are not news here
	return c
}

func yamuxFramer(s *harness.Spec, stream net.Conn) *frames.Framer {
	return frames.New(stream, false, s.Kind == harness.Stream && s.Size <= frames.SmallMessage)
}

type yamuxClient struct {
	*frames.Framer
	session *yamux.Session
}

func (c *yamuxClient) Close() error { return c.session.Close() }
