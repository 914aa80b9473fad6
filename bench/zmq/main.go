// Command zmq measures ZeroMQ through github.com/pebbe/zmq4. It needs cgo and
// libzmq: hence a module, and a binary, of its own, which the benchmark does
// without where they are missing.
package main

import (
	zmq "github.com/pebbe/zmq4"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() { harness.Program(peer) }

// peer uses the sockets that fit: PUSH and PULL one way, REQ and REP for round
// trips.
var peer = harness.Peer{
	Name:   "ZeroMQ",
	Module: "github.com/pebbe/zmq4",
	Listen: func(s *harness.Spec) (harness.Server, error) {
		sock, err := socket(s, zmq.PULL, zmq.REP)
		if err != nil {
			return nil, err
		}
		return server{sock}, sock.Bind("ipc://" + s.Path())
	},
	Dial: func(s *harness.Spec) (harness.Client, error) {
		sock, err := socket(s, zmq.PUSH, zmq.REQ)
		if err != nil {
			return nil, err
		}
		return client{sock}, sock.Connect("ipc://" + s.Path())
	},
}

func socket(s *harness.Spec, oneWay, roundTrip zmq.Type) (*zmq.Socket, error) {
	if s.OneWay() {
		return zmq.NewSocket(oneWay)
	}
	return zmq.NewSocket(roundTrip)
}

type server struct{ sock *zmq.Socket }

func (s server) Echo() error {
	for {
		p, err := s.sock.RecvBytes(0)
		if err != nil {
			return err
		}
		if _, err := s.sock.SendBytes(p, 0); err != nil {
			return err
		}
	}
}

func (s server) Sink(sink func([]byte)) error {
	for {
		p, err := s.sock.RecvBytes(0)
		if err != nil {
			return err
		}
		sink(p)
	}
}

type client struct{ sock *zmq.Socket }

func (c client) Send(p []byte) error {
	_, err := c.sock.SendBytes(p, 0)
	return err
}

func (c client) Flush() error { return nil }

func (c client) Call(p []byte) ([]byte, error) {
	if err := c.Send(p); err != nil {
		return nil, err
	}
	return c.sock.RecvBytes(0)
}

func (c client) Close() error { return c.sock.Close() }
