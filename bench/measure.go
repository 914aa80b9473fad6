package main

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

// patience is how long one measurement may take beyond its own time: connecting
// 8,000 clients on a busy machine is the longest.
const patience = time.Minute

// errUnsupported says that a worker's library cannot do what was asked.
var errUnsupported = errors.New("not supported")

// measure runs the two processes of one measurement.
func measure(program string, spec *harness.Spec) (run, string) {
	m := measurement{program: program, spec: spec, news: make(chan news, newsRoom)}
	err := m.run()
	r := run{Metrics: m.metrics}
	if err != nil {
		r = run{Error: err.Error(), NotYet: errors.Is(err, errUnsupported)}
	}
	return r, m.version
}

type measurement struct {
	program string
	spec    *harness.Spec
	news    chan news
	version string
	metrics map[string]float64
}

func (m *measurement) run() error {
	server, err := startProcess(m.program, "server", m.spec, m.news)
	if err != nil {
		return err
	}
	defer server.stop()
	deadline := time.After(patience + m.spec.Warmup + m.spec.Measure)
	e, err := m.next(deadline)
	if err != nil {
		return err
	}
	m.version = e.event.Version

	client, err := startProcess(m.program, "client", m.spec, m.news)
	if err != nil {
		return err
	}
	defer client.stop()
	results := map[*process]*harness.Result{}
	// In a Connect only the client has anything to report.
	for results[client] == nil || m.spec.Kind != harness.Connect && results[server] == nil {
		e, err := m.next(deadline)
		switch {
		case err != nil:
			return err
		case e.event.Begun:
			err = server.order(harness.OrderBegin)
		case e.from == client && m.spec.Calls():
			results[client] = e.event.Result
			err = server.order(harness.OrderEnd)
		default:
			results[e.from] = e.event.Result
		}
		if err != nil {
			return err
		}
	}
	if err := m.check(results[client], results[server]); err != nil {
		return err
	}
	m.metrics = map[string]float64{}
	for _, r := range results {
		maps.Copy(m.metrics, r.Metrics)
	}
	return nil
}

// next waits for news that are good.
func (m *measurement) next(deadline <-chan time.Time) (news, error) {
	select {
	case n := <-m.news:
		switch {
		case n.ended:
			return n, fmt.Errorf("the %s ended early%s", n.from.role, &n.from.said)
		case n.event.Unsupported:
			return n, fmt.Errorf("%w: %s", errUnsupported, n.event.Error)
		case n.event.Error != "":
			return n, fmt.Errorf("%s: %s", n.from.role, n.event.Error)
		}
		return n, nil
	case <-deadline:
		return news{}, errors.New("it took too long")
	}
}

// check what the two processes have found out together.
func (m *measurement) check(client, server *harness.Result) error {
	switch {
	case m.spec.Kind == harness.Broadcast:
		return compare(server, client)
	case m.spec.OneWay():
		return compare(client, server)
	case m.spec.Calls():
		server.Metrics[harness.AllocAns] /= float64(client.Messages)
		server.Metrics[harness.AllocAll] = server.Metrics[harness.AllocAns] + client.Metrics[harness.AllocAsk]
	}
	return nil
}

// compare what was sent with what has arrived. A library that drops messages
// must not win by it.
func compare(sent, arrived *harness.Result) error {
	if sent.Messages != arrived.Messages || sent.Bytes != arrived.Bytes {
		return fmt.Errorf("sent %d messages with %d bytes, but %d with %d arrived",
			sent.Messages, sent.Bytes, arrived.Messages, arrived.Bytes)
	}
	return nil
}
