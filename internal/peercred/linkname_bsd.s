//go:build darwin || dragonfly || freebsd || netbsd || openbsd

// This file lets the package declare getsockopt, which has no body here.
