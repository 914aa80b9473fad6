package main

import (
	"net"

	"github.com/joe-at-startupmedia/golang-ipc/bench/frames"
	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// The references: what a socket does with nothing around it, and what it does
// where a program can afford to let small messages wait for each other.
var (
	plainPeer    = socketPeer("plain", false)
	bufferedPeer = socketPeer("bufio", true)
)

func socketPeer(name string, buffered bool) harness.Peer {
	open := func(s *harness.Spec, conn net.Conn) *frames.Framer {
		// One write a message need not mean two reads of a small one.
		streams := s.Kind == harness.Stream || s.Kind == harness.Broadcast
		return frames.New(conn, buffered, streams && s.Size <= frames.SmallMessage)
	}
	return harness.Peer{
		Name: name,
		Listen: func(s *harness.Spec) (harness.Server, error) {
			ln, err := net.Listen("unix", s.Path())
			if err != nil {
				return nil, err
			}
			return &frames.Server{Listener: ln, Open: func(conn net.Conn) (*frames.Framer, error) {
				return open(s, conn), nil
			}}, nil
		},
		Dial: func(s *harness.Spec) (harness.Client, error) {
			conn, err := frames.Dial(s)
			if err != nil {
				return nil, err
			}
			return open(s, conn), nil
		},
	}
}
