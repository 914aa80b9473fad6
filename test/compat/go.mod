module github.com/joe-at-startupmedia/golang-ipc/test/compat

go 1.25

require github.com/joe-at-startupmedia/golang-ipc v0.0.0

replace github.com/joe-at-startupmedia/golang-ipc => ../../
