// Package harness is the half of the benchmark that runs inside the two
// processes of a measurement: a server process and a client process. It knows
// the workloads and how they are timed; a library under test is plugged in as
// a Peer. It is a module of its own, without dependencies, so that a peer whose
// import path or whose C library does not fit into the main module can be a
// binary of its own and still be measured by the same code.
package harness

import (
	"path/filepath"
	"time"
)

// Kind is what a measurement does.
type Kind string

// The kinds of measurement. Messages go from the client process to the server
// process, but for Broadcast; in RoundTrip, Request and Connect the server answers
// each with itself.
const (
	RoundTrip Kind = "roundtrip" // every client waits for its answer before it sends again
	Request   Kind = "request"   // the same by requests, where the library has them
	Stream    Kind = "stream"    // every client sends as fast as it is let
	Connect   Kind = "connect"   // connect, one round trip, close; one after another
	Idle      Kind = "idle"      // every client sends one message and stays
	Broadcast Kind = "broadcast" // the server sends each message to every client
)

// Spec describes one measurement to both of its processes.
type Spec struct {
	Peer      string
	Kind      Kind
	Size      int // bytes of one message
	Clients   int // connections that the client process uses
	Callers   int // goroutines that call at once on each of them; 0 is one
	Beside    int // connections that it opens as well, for one round trip, and leaves idle
	MultiMode bool
	Handler   bool // the server is called with each message instead of reading it
	Encrypted bool
	BusyPoll  time.Duration
	Dir, Name string // the socket's folder, and a name that is unique in it
	Warmup    time.Duration
	Measure   time.Duration
	Profile   string // if set, the prefix of the files for CPU profiles
}

// Path is where the socket of the measurement goes.
func (s *Spec) Path() string { return filepath.Join(s.Dir, s.Name+".sock") }

// Calls reports whether the workload is calls that are timed.
func (s *Spec) Calls() bool { return s.Kind == RoundTrip || s.Kind == Request }

// OneWay reports whether nothing is answered. Some libraries have other sockets
// for that.
func (s *Spec) OneWay() bool { return s.Kind == Stream || s.Kind == Idle }

// Peer is a library under test.
type Peer struct {
	Name   string
	Module string // its module path, to report the version that was measured
	Listen func(*Spec) (Server, error)
	Dial   func(*Spec) (Client, error)
}

// Server is the receiving end, listening already. Echo or Sink is called, once,
// and runs until the process ends.
type Server interface {
	// Echo answers each message, or request, with itself.
	Echo() error

	// Sink hands over each message. It may call sink from many goroutines, but
	// not for messages of one client at the same time. sink does not keep p.
	Sink(sink func(p []byte)) error
}

// Broadcaster is a Server that can send to all of its clients.
type Broadcaster interface {
	// Await returns when so many clients are connected.
	Await(clients int) error

	// Broadcast sends a message to every client. It fails if it leaves one out.
	Broadcast(p []byte) error

	// Flush waits until the kernel has all that Broadcast has accepted.
	Flush() error
}

// Receiver is a Client that can receive what it has not asked for.
type Receiver interface {
	// Receive waits for a message, which the caller may change, and which is
	// valid until the next call.
	Receive() ([]byte, error)
}

// Asker is a Client of a library that has requests.
type Asker interface {
	// Ask sends a request and waits for the reply, which belongs to the caller. Any
	// number of goroutines may do so at once.
	Ask(p []byte) ([]byte, error)
}

// Client is the sending end, connected already. It is used by one goroutine.
type Client interface {
	// Send sends one message, and has no use for p when it returns.
	Send(p []byte) error

	// Flush pushes out what Send may have kept.
	Flush() error

	// Call sends one message and waits for the answer, which is valid until the
	// next Call.
	Call(p []byte) ([]byte, error)

	Close() error
}

// Result is what one process found out.
type Result struct {
	Messages uint64             // in all, with the warm-up: both ends must agree
	Bytes    uint64             // the same
	Metrics  map[string]float64 // what is reported
}

// Names of metrics.
const (
	P50      = "p50"      // of the round trips, in seconds
	P99      = "p99"      // the same
	Rate     = "rate"     // messages, or connections, a second
	Fairness = "fairness" // messages of the slowest client for one of the fastest
	AllocOut = "allocout" // allocations for each message in the sending process
	AllocIn  = "allocin"  // the same in the receiving process
	AllocAsk = "allocask" // allocations for each call in the process that calls
	AllocAns = "allocans" // the same in the process that answers
	AllocAll = "allocall" // the same in both together
	CPUOut   = "cpuout"   // CPU seconds for each message in the sending process
	CPUIn    = "cpuin"    // the same in the receiving process
	RSS      = "rss"      // resident bytes of the server process for each client
	LiveRSS  = "liverss"  // the same after a garbage collection
)
