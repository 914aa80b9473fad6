package main

import "github.com/joe-at-startupmedia/golang-ipc/bench/harness"

// contestant is a library under test, as the benchmark sees it: a name, and the
// program that its worker processes run.
type contestant struct {
	name     string
	folder   string // of the nested module that is its program; "": this program
	many     bool   // serves more than one client
	encrypts bool
}

// Names that workloads and targets speak of.
const (
	ours     = "ours"
	plain    = "plain"
	buffered = "bufio"
	fork     = "fork"
	original = "original"
	grpcName = "gRPC"
	zeroMQ   = "ZeroMQ"
)

// contestants are in the order of the table's columns and of the runs.
var contestants = []contestant{
	{name: ours, many: true, encrypts: true},
	{name: plain, many: true},
	{name: buffered, many: true},
	{name: fork, folder: "fork", encrypts: true},
	{name: original, encrypts: true},
	{name: zeroMQ, folder: "zmq", many: true},
	{name: "mangos", many: true},
	{name: grpcName, many: true},
	{name: "yamux", many: true},
	{name: "net/rpc", many: true},
}

// builtin are the peers in this program.
var builtin = []harness.Peer{
	oursPeer, plainPeer, bufferedPeer, originalPeer,
	mangosPeer, grpcPeer, yamuxPeer, netrpcPeer,
}
