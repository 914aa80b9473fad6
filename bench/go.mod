module github.com/joe-at-startupmedia/golang-ipc/bench

go 1.26.0

require (
	github.com/hashicorp/yamux v0.1.2
	github.com/james-barrow/golang-ipc v1.2.4
	github.com/joe-at-startupmedia/golang-ipc v0.0.0
	github.com/joe-at-startupmedia/golang-ipc/bench/harness v0.0.0
	go.nanomsg.org/mangos/v3 v3.4.2
	google.golang.org/grpc v1.85.0
)

require (
	github.com/Microsoft/go-winio v0.6.1 // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.23.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	golang.org/x/tools v0.49.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/joe-at-startupmedia/golang-ipc => ../
	github.com/joe-at-startupmedia/golang-ipc/bench/harness => ./harness
)
