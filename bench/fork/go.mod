module github.com/joe-at-startupmedia/golang-ipc/bench/fork

go 1.25

require (
	github.com/joe-at-startupmedia/golang-ipc v1.3.5
	github.com/joe-at-startupmedia/golang-ipc/bench/harness v0.0.0
)

require (
	github.com/sirupsen/logrus v1.9.3 // indirect
	golang.org/x/sys v0.0.0-20220715151400-c0bba94af5f8 // indirect
)

replace github.com/joe-at-startupmedia/golang-ipc/bench/harness => ../harness
