//go:build unix

package ipc_test

import (
	"encoding/hex"
	"testing"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// vectorSession plays the steps of vectors with a driver, which has been told
// to draw what they say, and with a server that is made of their bytes.
type vectorSession struct {
	*drivenByHand
	*vectors
	questions map[uint64]int // by id: the driver's number of a request of the server
	cancelled map[uint64]bool
	firstCall int // what the driver's number of a call exceeds its id by
}

// eachVectorSession plays the steps of the vectors with requests, with each
// language, and calls test after that.
func eachVectorSession(t *testing.T, test func(s *vectorSession)) {
	eachDriver(t, func(t *testing.T, v *visit) {
		name := "requests-plain.json"
		if v.encrypted {
			name = "requests-encrypted.json"
		}
		s := &vectorSession{vectors: readVectors(t, name)}
		var args []string
		if v.encrypted {
			args = []string{"--key", hex.EncodeToString(s.ClientPrivateKey), "--prefix", hex.EncodeToString(s.ClientPrefix)}
		}
		s.drivenByHand = v.byHandWithout(uint32(s.MaxMsgSize), args...)
		s.play(nil)
		test(s)
	})
}

// play goes through the steps on a new connection. It sends the frames before right
// before the server's announcement.
func (s *vectorSession) play(before []vector) {
	s.t.Helper()
	s.raw = accept(s.t, s.ln)
	if s.encrypted {
		s.ref = &refPeer{wireConn: s.raw, key: privateKey(s.t, s.ServerPrivateKey)}
		s.ref.agree(s.ClientPublicKey)
	}
	s.questions = make(map[uint64]int)
	s.cancelled = make(map[uint64]bool)
	s.firstCall = s.calls
	for i, step := range s.Steps {
		switch {
		case step.From == "server":
			if wire.Kind(step.Kind) == wire.Announce {
				for _, frame := range before {
					s.raw.send(frame.Hex)
				}
			}
			s.raw.send(step.Hex)
			s.wantEvent(step)
		case step.SameWrite: // it has come
			s.driver.want(line{Event: "connect"})
		default:
			bytes := step.Hex
			if i+1 < len(s.Steps) && s.Steps[i+1].SameWrite {
				bytes = append(bytes[:len(bytes):len(bytes)], s.Steps[i+1].Hex...)
			}
			report := s.command(step)
			s.raw.want(step.What, bytes...)
			report()
		}
	}
}

// command has the driver send a step. What it returns wants the events after that.
func (s *vectorSession) command(step vector) (report func()) {
	call, request := s.firstCall+int(step.ID), s.questions[step.ID]
	answer := func(do string, isFinal bool) {
		s.do(line{Do: do, Request: request, Type: int(step.N), Data: step.Data, Code: int(step.N), Text: string(step.Data)})
		report = func() {
			s.driver.want(line{Event: "answered", Request: request})
			if isFinal {
				s.do(line{Do: "return", Request: request})
			}
		}
	}
	report = func() {}
	switch {
	case step.Type > 0:
		s.do(line{Do: "send", Type: step.Type, Data: step.Data})
	case wire.Kind(step.Kind) == wire.Request:
		do := "request"
		if step.Flags == wire.PartsWelcome {
			do = "parts"
		}
		s.calls = max(s.calls, call)
		s.do(line{Do: do, Call: call, Type: int(step.N), Data: step.Data})
	case wire.Kind(step.Kind) == wire.Cancel:
		s.cancelled[step.ID] = true
		s.do(line{Do: "cancel", Call: call})
		report = func() { s.driver.want(line{Event: "failed", Call: call, Kind: "cancelled", Maybe: true}) }
	case wire.Kind(step.Kind) == wire.Part:
		answer("part", false)
	case wire.Kind(step.Kind) == wire.Reply && step.N > 0:
		answer("reply", true)
	case wire.Kind(step.Kind) == wire.Reply:
		answer("end", true)
	case wire.Kind(step.Kind) == wire.Error && step.N > 0:
		answer("error", true)
	case wire.Kind(step.Kind) == wire.Error:
		s.do(line{Do: "return", Request: request})
	}
	return report
}

// wantEvent wants what the driver tells of a step of the server.
func (s *vectorSession) wantEvent(step vector) {
	s.t.Helper()
	call, n := s.firstCall+int(step.ID), int(step.N)
	welcomesParts := func(id uint64) bool {
		for _, step := range s.Steps {
			if step.From == "client" && wire.Kind(step.Kind) == wire.Request && step.ID == id {
				return step.Flags == wire.PartsWelcome
			}
		}
		return false
	}
	switch {
	case step.Type > 0:
		s.driver.want(line{Event: "message", Type: step.Type, Data: step.Data})
	case wire.Kind(step.Kind) == wire.Request:
		s.asked++
		s.questions[step.ID] = s.asked
		s.driver.want(line{Event: "request", Request: s.asked, Type: n, Data: step.Data, Parts: step.Flags == wire.PartsWelcome})
	case wire.Kind(step.Kind) == wire.Cancel:
		s.driver.want(line{Event: "cancelled", Request: s.questions[step.ID]})
	case s.cancelled[step.ID]:
	case wire.Kind(step.Kind) == wire.Part:
		s.driver.want(line{Event: "part", Call: call, Type: n, Data: step.Data})
	case wire.Kind(step.Kind) == wire.Reply && welcomesParts(step.ID):
		if n > 0 {
			s.driver.want(line{Event: "part", Call: call, Type: n, Data: step.Data})
		}
		s.driver.want(line{Event: "end", Call: call})
	case wire.Kind(step.Kind) == wire.Reply:
		s.driver.want(line{Event: "reply", Call: call, Type: n, Data: step.Data})
	case wire.Kind(step.Kind) == wire.Error && n > 0:
		s.driver.want(line{Event: "failed", Call: call, Kind: "error", Code: n, Text: string(step.Data)})
	case wire.Kind(step.Kind) == wire.Error:
		s.driver.want(line{Event: "failed", Call: call, Kind: "no reply", Maybe: true})
	}
}

// Clients in other languages send what the vectors say, to the byte, and understand
// what the server of the vectors sends. What is to be ignored is.
func TestLanguageVectors(t *testing.T) {
	parallel(t)
	eachVectorSession(t, func(s *vectorSession) {
		for _, frame := range s.Ignored {
			if frame.From != "client" {
				s.raw.send(frame.Hex)
			}
		}
		s.wantRead()
		s.flush()
		s.lose()
		s.play(s.Early)
		s.flush()
		s.close()
	})
}

// Each frame that has to be rejected ends the connection.
func TestLanguageRejectedVectors(t *testing.T) {
	parallel(t)
	eachVectorSession(t, func(s *vectorSession) {
		if len(s.Rejected) == 0 {
			s.t.Fatal("no frames to reject")
		}
		for _, frame := range s.Rejected {
			if frame.From == "client" {
				continue
			}
			s.raw.send(frame.Hex)
			s.driver.want(line{Event: "disconnect"})
			s.raw.wantDropped()
			s.driver.want(line{Event: "failed", Call: s.calls, Kind: "lost", Maybe: true})
			s.driver.want(line{Event: "cancelled", Request: s.asked})
			s.play(nil)
		}
		s.close()
	})
}
