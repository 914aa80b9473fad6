module github.com/joe-at-startupmedia/golang-ipc/bench/zmq

go 1.25

require (
	github.com/joe-at-startupmedia/golang-ipc/bench/harness v0.0.0
	github.com/pebbe/zmq4 v1.4.0
)

replace github.com/joe-at-startupmedia/golang-ipc/bench/harness => ../harness
