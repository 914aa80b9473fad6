//go:build !windows

package main

import (
	"fmt"

	fork "github.com/joe-at-startupmedia/golang-ipc"
)

// forkEndpoint is one of the fork. It differs from the original's in the type of its
// messages only.
type forkEndpoint struct{ forkActor }

type forkActor interface {
	Read() (*fork.Message, error)
	Write(msgType int, data []byte) error
}

func (e forkEndpoint) read() (*message, error) {
	m, err := e.Read()
	if err != nil {
		return nil, err
	}
	return &message{MsgType: m.MsgType, Data: m.Data, Status: m.Status}, nil
}

func startFork(what, name string, encrypted bool) (endpoint, error) {
	switch what {
	case "fork server":
		s, err := fork.StartServer(&fork.ServerConfig{Name: name, Encryption: encrypted})
		return forkEndpoint{s}, err
	case "fork client":
		c, err := fork.StartClient(&fork.ClientConfig{Name: name, Encryption: encrypted})
		return forkEndpoint{c}, err
	}
	return nil, fmt.Errorf("there is no %s", what)
}
