// Package ipc sends messages between processes on one machine over Unix domain
// sockets. A [Server] has a name; a [Client] finds it by that name, and
// reconnects when the server was restarted; a [ServerManager] reads from many
// clients at once. A message is a type number and bytes.
//
// # Starting
//
// [StartServer] returns when clients can connect, [StartClient] when it has
// connected; they may be called in either order, in one process or in two.
//
//	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "greeter"})
//
//	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "greeter"})
//
// The socket is /tmp/greeter.sock. [ServerConfig] and [ClientConfig] are
// validated and copied; the zero value of every other field is its default. A
// live server keeps its name, and a second one gets [ErrInUse]. What a server
// that was killed has left behind is taken over.
//
// StartClient waits for its server for ever, for ClientConfig.Timeout, or, as
// [StartClientContext], until a context ends. The same Timeout bounds each
// reconnecting later on.
//
// [Server.Close] and [Client.Close] send what has been accepted, for one second
// at most, wake every call that waits, and leave nothing behind.
//
// # Reading
//
// Server and Client have the same four ways to read. All of them return what
// the peer wrote and the events of the connection, in order:
//
//   - [Client.Read] waits without a limit;
//   - [Client.ReadTimed] waits for so long, and then returns [TimeoutMessage], or
//     a message of the caller's own;
//   - [Client.ReadContext] waits until a context ends;
//   - [Client.Messages] is an iterator over the same.
//
// When a wait ends early, only the call ends: nothing is lost, doubled or
// reordered. A goroutine that reads gets its messages fastest if it calls one of
// them again and again, since it then reads the socket itself.
//
// What is unread is held in memory up to about 1 MiB for each connection. Beyond
// that the socket fills up, and then the peer has to wait: if a reader stops,
// its sender blocks, and memory stays bounded.
//
// # Events
//
// An event is a [Message] with MsgType -1 and a Status:
//
//   - "Connecting" and "Connected": the first two that a client reads. A server
//     reads "Connected" for each client that joins.
//   - "Disconnected": a server's client is gone. What it had sent comes before.
//   - "Reconnecting", then "Connected" again: a client has lost its server, and
//     found it.
//   - "Timeout": a client has not found it again within ClientConfig.Timeout.
//     This is the end of that client.
//   - "Error", with Err set: something went wrong that is not the end. A peer
//     broke the protocol or made no progress for too long, and has lost its
//     connection; the server that came back has become one that the client
//     must not talk to; or a message that was queued for it is over its limit,
//     and was dropped.
//   - "Closed": after Close. This is the end.
//
// At most 64 unread events are kept. A program that only writes may leave them
// all unread.
//
// # Writing
//
// [Client.Write] and [Server.Write] copy the message into a queue and return;
// what gathers there while the kernel is busy goes out in one system call. They
// wait only for room in the queue, which holds 4 MiB, and before the first
// connection. While the connection is lost they return [ErrNotConnected].
// [Client.WriteContext] waits for the next connection instead, until its context
// ends. [Client.Flush] waits until everything accepted has been given to the
// kernel. A message of 32 KiB or more is not copied: its Write returns when the
// kernel has all of it.
//
// What Write has accepted is sent once and in order. A client keeps what it had
// not given to the kernel when the connection was lost, and sends it after the
// reconnect. What the kernel had taken and the server had not read is lost with
// the server: to get confirmation, have the receiver reply. A server drops what
// was meant for a client that has left; the next one may be another.
//
// Types are 1 to 2147483647, and mean what the program wants them to. Data may
// be empty, and has at most ServerConfig.MaxMsgSize bytes, in either direction.
//
// # Many clients
//
// A server with MultiMode set has any number of clients on its one socket, and
// for each of them another Server, with a [Server.ClientID].
// [ServerManager.ReadContext] waits until any of them has something, hands that
// over in the caller's goroutine, and returns:
//
//	for {
//		err := server.ServerManager.ReadContext(ctx, func(client *ipc.Server, m *ipc.Message, err error) {
//			if err == nil && m.MsgType > 0 {
//				client.Write(m.MsgType, m.Data)
//			}
//		})
//		if err != nil {
//			return err // of ctx, or ErrClosed
//		}
//	}
//
// Clients take turns. To handle them in parallel, run this loop in several
// goroutines: the messages of one client are never handled by two at a time, so
// that its order is kept. [ServerManager.Read] and [ServerManager.ReadTimed]
// return nothing: in a loop, look at the error that the callback gets, since once
// the server is closed they no longer wait. [ServerManager.Broadcast] writes to
// all, and waits for none.
//
// Without MultiMode there is one client at a time and others wait for their
// turn. Read and Write of the Server are for the one that is connected. While the program
// still handles what one client sent before it left, the next may be connected,
// and get the answer: where that matters, use MultiMode.
//
// In MultiMode a client that makes no progress for ServerConfig.WriteTimeout is
// dropped, so that a Write to it does not wait for ever. ServerConfig.MaxClients
// bounds how many there are at once. What a client has sent before it left is
// still handed over; while 64 MiB of that are unread, no new client gets a place.
//
// # Errors
//
// An error from Read is the end of a Server or Client. It is the same every time,
// and Write and Flush return it, too. Errors are matched with [errors.Is]:
// [ErrClosed] after Close and [ErrTimeout] after a Timeout are the two ends. They
// also match [net.ErrClosed] and [os.ErrDeadlineExceeded]. What goes wrong
// without being the end is an event.
//
// With an error from Write nothing was sent. Which one it is says what to do:
// [ErrNotConnected] may pass, unless it is [ErrClosed] as well: then that client
// has left for good. [ErrMsgTooLarge] and [ErrReservedType] do not.
// [ErrMultiMode] means that a call for one client was made on the Server that
// stands for all.
//
// # Security
//
// Who may connect is decided by the socket's permissions: by default only
// processes of the same user, and root. ServerConfig.Mode and Group let in a
// group, UnmaskPermissions all users. In /tmp any user may take a name before its
// server does. Where there are other users on the machine, set SocketDir to a
// folder that only the right ones can write to, or have the client check the
// server:
//
//	&ipc.ClientConfig{Name: "greeter", Authorize: ipc.SameUser}
//
// Authorize is asked before the first byte is exchanged, on either side, and is
// told the [Peer] as the kernel reports it. This works on Linux; elsewhere the
// kernel is not asked, and an Authorize that is set refuses all.
//
// Encryption is off by default. It keeps the content of a stream that is relayed
// from those who only read it. It does not authenticate, so it does not stop a
// man in the middle: on one machine permissions and Authorize do. Between
// machines use a Listener and a Dial with TLS.
//
// A peer that breaks the protocol loses its own connection, and no other peer
// does. A length is checked before memory is allocated for it.
//
// # Performance
//
// Nothing has to be tuned. What can be:
//
//   - [Message.Release] gives the memory of a large message back, which is worth
//     it in a stream of them.
//   - BusyPoll, in both configs, trades a core for the time that a sleeping
//     reader takes to wake up: for conversations of short messages where each
//     side waits for the other.
//   - Many small writes need no gathering by the program: the queue does that.
//   - A program that does nothing but receive as fast as it can, with a small
//     heap, spends much of its time in the garbage collector. GOGC=400 let it
//     take a quarter more messages of 64 bytes, and half as many again of 1 KiB
//     (two cores, Go 1.26).
//   - In MultiMode each client has a goroutine that reads its socket, and that
//     has to wake the one in ServerManager.Read: answers take longer than in
//     single mode.
//
// # Logging
//
// Nothing is logged in normal life at the default level, "error". LogLevel, or
// the environment variable IPC_DEBUG, shows more: text on standard error. Logger
// takes a [log/slog.Logger] instead. Each line has the attribute socket, and
// where it applies client, peer, reason, error, repeated and pause. Message data
// and keys are never logged.
//
// # Elsewhere
//
// Clients can be written in any language; PROTOCOL.md in the repository has the
// wire format, and examples in Node and Python. Sockets with names exist on
// Linux, macOS and the BSDs. On other systems, such as Windows, the package works
// with Listener and Dial, and [StartServer] and [StartClient] return
// [errors.ErrUnsupported] without.
package ipc
