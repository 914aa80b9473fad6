module github.com/joe-at-startupmedia/golang-ipc/test/compat/originals

go 1.25

require (
	github.com/james-barrow/golang-ipc v1.2.4
	github.com/joe-at-startupmedia/golang-ipc v1.3.5
)

require (
	github.com/Microsoft/go-winio v0.6.1 // indirect
	github.com/sirupsen/logrus v1.9.3 // indirect
	golang.org/x/mod v0.10.0 // indirect
	golang.org/x/sys v0.8.0 // indirect
	golang.org/x/tools v0.9.1 // indirect
)
