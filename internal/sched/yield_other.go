//go:build !linux

package sched

// Yield does nothing here.
func Yield() {}
