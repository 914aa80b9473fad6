package peercred

import "math/bits"

// pointer is the size of a pointer.
const pointer = bits.UintSize / 8

// xucredPID is where a struct xucred has cr_pid: behind 16 groups, aligned like a
// pointer. Before FreeBSD 13 there is a null pointer instead.
const xucredPID = (xucredSize + pointer - 1) / pointer * pointer
