module github.com/joe-at-startupmedia/golang-ipc

go 1.25
