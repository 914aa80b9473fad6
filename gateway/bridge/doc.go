// Package bridge carries the messages and requests of package ipc between
// machines, over NATS. The programs at both ends are those that talk over a socket
// of one machine: they need not know.
//
//	machine A                                     machine B
//	clients ─► Join, the server NAME there ─► NATS ─► Expose, a client ─► server NAME
//
// [Expose] stands beside a server and hands it what comes from other machines.
// [Join] takes the place of the server on a machine that has none. Several machines
// that expose one name share the work, as members of a queue group.
//
// The README of this module has the guarantees, and the subjects and headers for
// programs that take part without this package.
package bridge
