module github.com/joe-at-startupmedia/golang-ipc/bench/harness

go 1.25
