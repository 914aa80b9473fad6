//go:build race

// Package race tells whether the race detector is on.
package race

// Enabled says whether the program is built with the race detector.
const Enabled = true
