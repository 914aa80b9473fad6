package ipc

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

// Defaults of the configuration.
const (
	defaultMaxMsgSize       = 3 << 20
	defaultWriteTimeout     = 10 * time.Second
	defaultHandshakeTimeout = 5 * time.Second
	defaultRetryTimer       = 20 * time.Second
)

// ServerConfig configures [StartServer], which validates and copies it. The
// zero value of each field is its default; Name (or Listener) is required.
type ServerConfig struct {
	// Name of the server. The socket is SocketDir/Name.sock. A name with a
	// path separator or a NUL, "." and ".." are refused with ErrName. With
	// Listener it is only a label and may be empty.
	Name string

	// Encryption encrypts every connection. It keeps the content from a
	// passive reader, of a relayed stream, say. There is no authentication in
	// it: it does not stop a man in the middle, nor does it decide who may
	// connect, which is up to permissions and Authorize. Each connection has a
	// key of its own. The default is false.
	Encryption bool

	// MaxMsgSize is the largest Data of one message, in bytes, in either
	// direction; clients learn it when they connect. 0 or less is 3145728, and
	// 2147483584 the most. With less than 16 there are no requests: they fail with
	// ErrNoRequests.
	MaxMsgSize int

	// UnmaskPermissions lets every user connect: the socket has mode 0777
	// instead of 0600. On Windows it lets every user with an account.
	UnmaskPermissions bool

	// Mode is the exact mode of the socket, whatever the umask; 0 is 0600.
	// It excludes UnmaskPermissions. On Windows the right to write of the group
	// and of others is the right to connect, and the own user always has it.
	Mode fs.FileMode

	// Group, a name or a number, is the group that the socket is given to: one
	// of the user's own, except for root. Empty leaves it. On Windows it is the name
	// or the SID of the group that Mode is about, and empty is none.
	Group string

	// MultiMode serves any number of clients on one socket, each with a
	// Server of its own; see ServerManager. Without it there is one client
	// at a time, and others wait for their turn.
	MultiMode bool

	// LogLevel is "debug", "info", "warn" or "error", the default. The
	// environment variable IPC_DEBUG ("true" for debug, or a level) wins.
	LogLevel string

	// Logger takes the log instead of standard error, and decides what it
	// keeps: LogLevel and IPC_DEBUG do not apply then. Its handler must not call
	// Close, which waits for the goroutines that log; "go server.Close()" works.
	Logger *slog.Logger

	// SocketDir is the folder of the socket. The default is "/tmp". On Windows it
	// is a prefix of the pipe's name, \\.\pipe\SocketDir\Name, and empty by default.
	SocketDir string

	// MaxClients bounds the clients that are connected at once in
	// MultiMode; more wait in the handshake, first come first served. 0 is
	// no limit. No new client gets a place either while 64 MiB of messages are
	// unread that clients have sent before they left.
	MaxClients int

	// WriteTimeout, in MultiMode, is how long a client may make no progress in
	// taking what was written to it before it is dropped. 0 is 10 s, negative is
	// never.
	WriteTimeout time.Duration

	// HandshakeTimeout bounds the opening of a connection. 0 is 5 s. Time
	// spent waiting for a place does not count.
	HandshakeTimeout time.Duration

	// Authorize decides, before the first byte is exchanged, whether a peer
	// may connect: an error refuses it. It is called in a goroutine of its
	// own for each connection, several at once, and has to answer within
	// HandshakeTimeout. Where the kernel does not tell who the peer is,
	// all are refused.
	Authorize func(Peer) error

	// Listener is accepted from instead of a socket of the Server's own, and
	// closed with the Server; the path of a Unix listener is not removed by
	// that. Its connections must heed deadlines. SocketDir does not apply, and Mode,
	// Group and UnmaskPermissions are refused: the listener's creator sets its
	// permissions.
	Listener net.Listener

	// BusyPoll is how long a reader keeps trying after each message before
	// it sleeps: it saves the time that waking up takes, and costs a core
	// while it tries, though on Linux it leaves the core to other threads that
	// wait for it. In MultiMode the reader of every client does so for itself: with
	// more clients in conversation at once than there are cores to spare they
	// slow each other down. It applies to Unix and TCP sockets. 0 is off.
	BusyPoll time.Duration

	// Handler is called with each message and event instead of reading them: in
	// order, one call at a time for a client, in parallel for the clients of
	// MultiMode. It gets the client's Server. The message is lent: it, and its
	// Data, are valid until Handler returns; Clone keeps it. A Handler that takes
	// long holds up its own client and no other. It may call all methods, Close
	// too, which does not wait for it. A request that it has neither replied to nor
	// cloned when it returns ends without a reply.
	Handler func(*Server, *Message)

	loopDelay time.Duration // see the constant; tests change it
}

// ClientConfig configures [StartClient], which validates and copies it. The
// zero value of each field is its default; Name (or Dial) is required.
type ClientConfig struct {
	// Name of the server. With Dial it is only a label and may be empty: errors and
	// the log say "(unnamed)" then.
	Name string

	// Encryption refuses a server that does not encrypt, with
	// ErrEncryptionRequired: at once while StartClient runs; at a reconnect
	// it tells so with an Error event and goes on trying. It does not show
	// that the server is the one that was meant: Authorize does. False
	// follows the server, also from encryption to none at a reconnect.
	Encryption bool

	// Timeout bounds connecting, and each reconnecting. The error after it matches
	// ErrTimeout, and why the last attempt failed. 0 is no limit.
	//
	// A negative Timeout makes one attempt, at once, for programs that have
	// something else to do where there is no server: the ErrTimeout matches
	// fs.ErrNotExist if there is no socket, and syscall.ECONNREFUSED if the
	// server that made it is dead. If a server is there, it is waited for as
	// with 0; the context of StartClientContext bounds that. After a connection
	// that was lost comes one attempt as well.
	Timeout time.Duration

	// RetryTimer is the longest pause between two attempts to connect: the
	// first comes at once, the next after 5 ms, then the pause doubles up to
	// this. Each is drawn between half of that and all of it. A connection that
	// has brought a message, or lasted for a second, starts them anew. 0 is 20 s.
	//
	// So after a long absence of the server a client may take this long to notice
	// that it is back. A program that a person waits for would choose a second or
	// so; many clients that lose the same server come back more gently with more.
	//
	// No pause is shorter than 5 ms. A bare number means nanoseconds, as in
	// every time.Duration: RetryTimer: 20 is 5 ms here, and 20 seconds is
	// 20*time.Second.
	RetryTimer time.Duration

	// LogLevel is "debug", "info", "warn" or "error", the default. The
	// environment variable IPC_DEBUG ("true" for debug, or a level) wins.
	LogLevel string

	// Logger takes the log instead of standard error, and decides what it
	// keeps: LogLevel and IPC_DEBUG do not apply then. Its handler must not call
	// Close, which waits for the goroutine that logs; "go client.Close()" works.
	Logger *slog.Logger

	// SocketDir is the folder of the socket. The default is "/tmp". On Windows it
	// is a prefix of the pipe's name, \\.\pipe\SocketDir\Name, and empty by default.
	SocketDir string

	// Authorize decides, before the first byte is exchanged, whether the
	// peer is the server that was meant: an error refuses it. Where the
	// kernel does not tell, every server is refused.
	Authorize func(Peer) error

	// Dial makes the connection instead of the named socket, for every
	// attempt; SocketDir does not apply. Its context ends with Timeout, with
	// the context of StartClientContext while that runs, and with Close. The
	// Client closes the connection. The context is for dialling only, and ends
	// when connecting has: the connection must not depend on it.
	Dial func(ctx context.Context) (net.Conn, error)

	// BusyPoll is how long a reader keeps trying after each message before
	// it sleeps: it saves the time that waking up takes, and costs a core
	// while it tries, though on Linux it leaves the core to other threads that
	// wait for it. It applies to Unix and TCP sockets. 0 is off.
	BusyPoll time.Duration

	// Handler is called with each message and event instead of reading them: in
	// order, one call at a time. The message is lent: it, and its Data, are valid
	// until Handler returns; Clone keeps it. It may call all methods, Close too,
	// which does not wait for it. A request that it has neither replied to nor
	// cloned when it returns ends without a reply.
	Handler func(*Client, *Message)

	loopDelay time.Duration // see the constant; tests change it
}

// withDefaults returns a valid copy of c with nothing left to default, or
// what is wrong with it.
func (c *ServerConfig) withDefaults() (ServerConfig, error) {
	if c == nil {
		return ServerConfig{}, invalid("ServerConfig is nil")
	}
	d := *c
	var err error
	switch {
	case d.Listener != nil && (d.Mode != 0 || d.Group != "" || d.UnmaskPermissions):
		err = invalid("ServerConfig.Mode, Group and UnmaskPermissions have no effect on a Listener")
	case d.Mode != 0 && d.UnmaskPermissions:
		err = invalid("ServerConfig.Mode %v and UnmaskPermissions exclude each other", d.Mode)
	case d.Mode&^fs.ModePerm != 0:
		err = invalid("ServerConfig.Mode %v has more than permissions", d.Mode)
	case int64(d.MaxMsgSize) > wire.MaxLimit:
		err = invalid("ServerConfig.MaxMsgSize %d is over %d", d.MaxMsgSize, int64(wire.MaxLimit))
	case d.MaxClients < 0:
		err = invalid("ServerConfig.MaxClients %d is negative", d.MaxClients)
	case d.MaxClients > 1 && !d.MultiMode:
		err = invalid("ServerConfig.MaxClients %d needs MultiMode", d.MaxClients)
	case d.BusyPoll < 0:
		err = invalid("ServerConfig.BusyPoll %v is negative", d.BusyPoll)
	case d.HandshakeTimeout < 0:
		err = invalid("ServerConfig.HandshakeTimeout %v is negative", d.HandshakeTimeout)
	}
	if err != nil {
		return ServerConfig{}, err
	}
	if d.MaxMsgSize <= 0 {
		d.MaxMsgSize = defaultMaxMsgSize
	}
	if d.SocketDir == "" {
		d.SocketDir = defaultSocketDir
	}
	if d.WriteTimeout == 0 {
		d.WriteTimeout = defaultWriteTimeout
	}
	if d.HandshakeTimeout == 0 {
		d.HandshakeTimeout = defaultHandshakeTimeout
	}
	if !d.MultiMode {
		d.MaxClients = 1
	}
	d.loopDelay = cmp.Or(d.loopDelay, loopDelay)
	d.Logger, err = newLogger(d.Logger, "ServerConfig", d.LogLevel)
	return d, err
}

// withDefaults returns a valid copy of c with nothing left to default, or
// what is wrong with it.
func (c *ClientConfig) withDefaults() (ClientConfig, error) {
	if c == nil {
		return ClientConfig{}, invalid("ClientConfig is nil")
	}
	d := *c
	var err error
	switch {
	case d.BusyPoll < 0:
		err = invalid("ClientConfig.BusyPoll %v is negative", d.BusyPoll)
	case d.RetryTimer < 0:
		err = invalid("ClientConfig.RetryTimer %v is negative", d.RetryTimer)
	}
	if err != nil {
		return ClientConfig{}, err
	}
	if d.RetryTimer == 0 {
		d.RetryTimer = defaultRetryTimer
	}
	if d.SocketDir == "" {
		d.SocketDir = defaultSocketDir
	}
	d.loopDelay = cmp.Or(d.loopDelay, loopDelay)
	d.Logger, err = newLogger(d.Logger, "ClientConfig", d.LogLevel)
	return d, err
}

// invalid returns the error for a configuration that cannot work. Its caller adds
// the prefix.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, fs.ErrInvalid)...)
}
