package main

import "fmt"

// startFork fails: the fork does not build for Windows.
func startFork(what, _ string, _ bool) (endpoint, error) {
	return nil, fmt.Errorf("there is no %s on Windows", what)
}
