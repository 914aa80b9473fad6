package main

import "syscall"

// spareFiles is what a process needs beside its connections.
const spareFiles = 100

// affordable is how many clients one process can have, n at most: each is an
// open file. It raises the limit for the workers where it may.
func affordable(n int) int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return n
	}
	want := l
	want.Max = max(want.Max, want.Cur, l.Max)
	if need := uint64(n + spareFiles); need > want.Max {
		want.Cur, want.Max = need, need
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) == nil {
			return n
		}
	}
	// Every Go program raises its own limit to the hard one when it starts.
	if fit := int(l.Max) - spareFiles; fit > 0 && uint64(fit) < uint64(n) {
		return fit
	}
	return n
}
