package main

import "github.com/joe-at-startupmedia/golang-ipc/bench/harness"

// contestant is a library under test, as the benchmark sees it: a name, and the
// program that its worker processes run.
type contestant struct {
	name     string
	folder   string // of its program; "": this program
	many     bool   // serves more than one client
	encrypts bool
	asks     bool // has requests
}

// Names that workloads and targets speak of.
const (
	ours     = "ours"
	plain    = "plain"
	buffered = "bufio"
	fork     = "fork"
	original = "original"
	grpcName = "gRPC"
	netRPC   = "net/rpc"
	zeroMQ   = "ZeroMQ"
)

// contestants are in the order of the table's columns and of the runs.
var contestants = []contestant{
	{name: ours, many: true, encrypts: true, asks: true},
	{name: plain, many: true},
	{name: buffered, many: true},
	{name: fork, folder: "fork", encrypts: true},
	{name: original, folder: "original", encrypts: true},
	{name: zeroMQ, folder: "zmq", many: true},
	{name: "mangos", folder: "mangos", many: true},
	{name: grpcName, folder: "grpc", many: true, asks: true},
	{name: "yamux", folder: "yamux", many: true},
	{name: netRPC, folder: "netrpc", many: true, asks: true},
}

// builtin are the peers in this program. Every other library has a program of
// its own: what the collector has to look through is then a library's own, and
// two with the same import path can be measured.
var builtin = []harness.Peer{oursPeer, plainPeer, bufferedPeer}
