// Package ipc sends messages and requests between processes of one machine over
// Unix domain sockets. A [Server] has a name; a [Client] finds it by that name,
// and reconnects when the server was restarted; a [ServerManager] reads from many
// clients at once. A message is a type number and bytes; one that is sent by
// Request is answered by another.
//
// # Starting
//
// [StartServer] returns when clients can connect, [StartClient] when it has
// connected. They may be called in either order, in one process or in two. A
// server that answers requests:
//
//	func serve(ctx context.Context) error {
//		server, err := ipc.StartServer(&ipc.ServerConfig{
//			Name:      "greeter",
//			MultiMode: true, // any number of clients at once
//			Handler: func(client *ipc.Server, m *ipc.Message) {
//				if m.IsRequest() {
//					m.Reply(1, append([]byte("hello, "), m.Data...))
//				}
//			},
//		})
//		if err != nil {
//			return err
//		}
//		<-ctx.Done()
//		return server.Close()
//	}
//
// and a client that makes one:
//
//	client, err := ipc.StartClientContext(ctx, &ipc.ClientConfig{Name: "greeter"})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	reply, err := client.Request(ctx, 1, []byte("world"))
//	if err != nil {
//		return err
//	}
//	fmt.Printf("%s\n", reply.Data) // hello, world
//
// The socket is /tmp/greeter.sock. A live server keeps its name: of several that
// are started under one name one gets it, and the others [ErrInUse]. The socket
// of a server that was killed is taken over, and nothing else is ever removed but
// greeter.sock.lock, which a server holds while it starts. In a folder such as
// /tmp, where users cannot remove each other's files, another user's dead socket is
// in the way. A name that no socket can have is [ErrName].
//
// StartClient waits for its server without a limit, or for ClientConfig.Timeout,
// which bounds each reconnecting, too; [StartClientContext] waits until a context
// ends. A negative Timeout makes one attempt. When StartClient returns, the server
// may not know the client yet: Servers and Broadcast have it once the server has
// got the event "Connected".
//
// A Client that has lost its server tries again at once, after 5 ms, and then with
// pauses that double up to ClientConfig.RetryTimer, which is 20 s by default: after
// a long absence of its server it may take that long to be back.
//
// [Server.Close] and [Client.Close] send what has been accepted, for one second
// at most, wake every call that waits, and leave no goroutine, descriptor or file
// behind. They may be called from any goroutine, more than once, and on nil. All
// methods of this package may be called from any goroutine at any time, but for
// one thing: a callback of a ServerManager must not call that manager's own Read,
// ReadTimed or ReadContext.
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
// When a wait ends early, only the call ends: nothing is lost, duplicated
// or reordered. A goroutine that reads gets its messages fastest if it calls one of
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
//     connection; a reconnecting client found a server that it must not use, such
//     as one that does not encrypt; or a message that was queued for the next
//     server is over that one's limit, and was dropped.
//   - "Closed": after Close. This is the end.
//
// At most 64 unread events are kept. A program that only writes may leave them
// all unread.
//
// # Handlers
//
// A Handler in the config is the other way to read, and the faster one: a
// function that is called with each message and event, as net/http calls one for
// each request. The Handler of one client is called for one message at a time, in
// order; those of different clients run in parallel, so what they share needs a
// mutex or a channel.
//
// The message is lent: it lies in the read buffer, and is valid until the Handler
// returns. [Message.Clone] makes a copy that can be kept; Write and Broadcast do
// not keep what they are given. In a program that is built with the race detector,
// what was lent is overwritten after the call.
//
// A Handler may call all methods, also Write, Broadcast, and Close, which does
// not wait for it. Reading goes on while it runs: after 20 ms another goroutine
// reads the socket, notices its loss, and holds what comes, up to 1 MiB. So a
// Handler that takes long delays the messages of its own client only. Its last
// call is for the event Closed, for Timeout of a Client, or for Disconnected of a
// MultiMode server's client. A Handler that panics ends the program; one that
// calls [runtime.Goexit] ends the connection.
//
// Read and the other ways to read return [ErrHandler] then. Use a Handler where
// messages are handled as they come, by a server with many clients above all. Read
// is simpler where the program decides when it wants the next message, or where it
// keeps all of them anyway. A program that only waits for replies needs neither.
//
// # Requests
//
// [Client.Request] and [Server.Request] send a message and return the reply to
// it. Both sides may ask, any number of goroutines at once, and replies may come
// in any order. The other side gets a message of which [Message.IsRequest] is true,
// in its place among the others, from Read or in its Handler, and answers it with
// [Message.Reply] or [Message.ReplyError], once, from any goroutine. Request ends in
// one of these ways:
//
//   - with the reply;
//   - with a [*ReplyError], which is an answer as well: the peer called ReplyError;
//   - with an error that matches [ErrNoReply]: the request was sent, and no reply
//     will come. The peer may have handled it, or not. The error also matches the
//     reason: [ErrNotConnected] if the connection was lost, [ErrClosed] after
//     Close, and ctx.Err() if ctx has ended. It is ErrNoReply alone if the peer's
//     Handler returned without a reply.
//   - with any other error: the peer has not handled the request, and will not.
//     [ErrNoRequests] says that the peer knows no requests, which is known within
//     about five seconds, or after the program has read on if the inbox is full: it
//     uses an older version of this library, or another one.
//
// No request is sent twice, and a reply comes over the connection that its request
// came by, or not at all. A Client that is not connected waits for the next
// connection; a request that was not sent before a connection was lost does so,
// too. A Server without a client returns [ErrNotConnected].
//
// There is no time limit but ctx. When ctx ends, Request returns at once, and the
// peer is told: the [Message.Context] of its message ends, and Reply to it returns
// an error that matches [context.Canceled].
//
// [Client.RequestParts] is for a reply of any length: an iterator over the parts
// that the peer sends with [Message.ReplyPart] before [Message.ReplyEnd], or before
// Reply, which is the last part then. An iteration that ends without an error has had
// all of them. Leaving the loop cancels the request. Parts that were not taken yet
// count as unread messages, so a slow loop holds up the sender.
//
// A goroutine that waits in Request reads the connection if no other does, so that
// a program which only makes requests needs no Read, and a request costs what a
// round trip by Write and Read costs. What else comes meanwhile is put into the
// inbox for Read or the Handler. If a program leaves it unread until the inbox is
// full, replies behind it are not read either; when ctx ends in such a state, the
// error also matches [ErrFull].
//
// A Handler that returns without having replied to a request tells the peer so, and
// its Request ends with ErrNoReply. To reply later, Clone the message, return, and
// reply to the clone from another goroutine; then each request must be replied to,
// as also where a program reads: otherwise the peer waits until its ctx ends. A
// second reply is [ErrNotAsked].
//
// A Handler may call Request, also to the peer that waits in a Request for it:
// the peer's Handler is called meanwhile. But a Handler is not called again before
// it has returned, so two Handlers that each wait for the other side's Handler wait
// until ctx ends. The way out is the same: Clone, return, and ask from a goroutine.
//
// In each direction of a connection up to 1,024 requests may be without a reply,
// and further ones wait. The data of a request or reply may have 16 bytes less than
// ServerConfig.MaxMsgSize.
//
// Left out on purpose are: repeating a request, and a default time limit, since
// only the program knows what may be done twice; choosing a function by the type,
// for which a switch will do; encoding; and asking all clients at once.
//
// # Writing
//
// [Client.Write] and [Server.Write] copy the message into a queue and return; what
// gathers there while the kernel is busy goes out in one system call. So a program
// that ends right after Write loses the message: end with Close, or wait with
// [Client.Flush] until everything accepted has been given to the kernel.
//
// Write waits only for room in the queue, which holds 4 MiB, and before the first
// connection. While the connection is lost it returns [ErrNotConnected];
// [Client.WriteContext] waits for the next one instead, until its context ends. A
// message of 32 KiB or more is not copied: its Write returns when the kernel has all
// of it. (Requests and replies are always copied.)
//
// What Write has accepted is sent once and in order. A client keeps what it had
// not given to the kernel when the connection was lost, and sends it after the
// reconnect. What the kernel had taken and the server had not read is lost with
// the server: to get confirmation, use Request. A server drops the messages for a
// client that has left; the next client may be another one.
//
// Types are 1 to 2147483647, and mean what the program wants them to. Data may
// be empty, and has at most ServerConfig.MaxMsgSize bytes, in either direction.
//
// # Many clients
//
// A server with MultiMode set has any number of clients on its one socket, and
// for each of them another Server, with a [Server.ClientID]. A program that starts
// its clients itself knows each by the PID in [Server.Peer], or has it say who it is
// in its first message. A Handler gets that Server. Without a Handler,
// [ServerManager.ReadContext] waits until any client has something, hands that over
// in the caller's goroutine, and returns:
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
// return nothing: a loop around them has to end when the callback gets an error,
// since from then on they no longer wait. That is once the server was closed and
// what clients had sent before has been handed over.
//
// [ServerManager.Broadcast] writes to all clients, and waits for none: its error
// names those that had no room, with [ErrFull]. A slow client delays only the
// goroutines that write to it. A callback or Handler that does so delays its loop or
// its client: it can use WriteContext with a short limit, or Broadcast. A client that
// makes no progress for ServerConfig.WriteTimeout, 10 s by default, is dropped.
// ServerConfig.MaxClients bounds how many there are at once, and more wait for a
// place. What a client has sent before it left is still handed over; while 64 MiB
// of that are unread, no new client gets a place.
//
// Without MultiMode there is one client at a time and others wait for their
// turn. Read and Write of the Server are for the one that is connected. While the program
// still handles what one client sent before it left, the next may be connected,
// and get what is written: where that matters, use MultiMode, or requests, whose
// replies never reach another client.
//
// # Errors
//
// An error from Read is the end of a Server or Client. It is the same every time,
// and Write and Flush return it, too. What goes wrong without ending the Server or
// Client is an event. With an error from Write nothing was sent. Match errors with
// [errors.Is]:
//
//   - [ErrClosed], also [net.ErrClosed]: after Close, or on the Server of a client
//     that has left.
//   - [ErrTimeout], also [os.ErrDeadlineExceeded]: no connection within Timeout, or
//     no progress within WriteTimeout.
//   - [ErrNotConnected]: there is no peer at the moment, and another attempt may
//     succeed; with ErrClosed as well, that client has left for good.
//   - [ErrReservedType], [ErrMsgTooLarge]: a message that cannot be sent.
//   - [ErrInUse], [ErrName]: a server cannot have this name.
//   - [ErrNoReply], [ErrNoRequests], [ErrNotAsked], [*ReplyError] and [ErrFull]: see
//     Requests.
//   - [ErrMultiMode]: a call for one client was made on the Server that stands for
//     all. [ErrHandler]: a call reads, where a Handler does.
//   - [ErrUnauthorized]: the program's own Authorize has refused the peer.
//     [ErrVersion]: the peer speaks another version of the protocol.
//     [ErrEncryptionRequired]: the client insists on encryption, and the server does
//     not encrypt. [ErrProtocol]: the peer broke the protocol. StartClient returns
//     them, or an event "Error" has them.
//
// # Configuration
//
// [ServerConfig] and [ClientConfig] are validated and copied. The zero value of
// every field but Name is its default, and the comments of the fields say which.
// Beside those of the other sections there are Listener and Dial, for sockets and
// connections that are made elsewhere, by systemd or with TLS: Name is only a label
// then, and SocketDir does not apply. HandshakeTimeout, 5 s by default, bounds the
// opening of a connection.
//
// # Security
//
// Who may connect is decided by the socket's permissions: by default only
// processes of the same user, and root. ServerConfig.Mode and Group let in a
// group, such as 0660 and "staff", and UnmaskPermissions all users. The socket has
// exactly this mode, whatever the umask, and on Linux at no time a wider one. In /tmp
// any user may take a name before its server does. Where there are other users on
// the machine, set SocketDir to a folder that only the right ones can write to, or
// have the client check the server:
//
//	&ipc.ClientConfig{Name: "greeter", Authorize: ipc.SameUser}
//
// Authorize is called before the first byte is exchanged, on either side, with
// the [Peer] as the kernel reports it, and an error refuses the peer. The peer is
// not told: a client that is refused sees a closed connection and tries again. Where
// the kernel does not tell who the peer is, an Authorize that is set refuses all.
//
// Encryption, with keys of P-384 and AES-256-GCM, is off by default and the server's
// choice. It hides the content of a relayed stream from a passive reader. It does not
// authenticate, so it does not stop a man in the middle: on one machine permissions
// and Authorize do. Between machines use a Listener and a Dial with TLS.
//
// A peer that violates the protocol or is silent in the handshake loses its own
// connection; other peers are not affected. A length is checked before memory is
// allocated for it.
//
// # Performance
//
// Nothing has to be tuned. What can be:
//
//   - [Message.Release] gives the memory of a large message back for the next
//     one, which saves time in a stream of them.
//   - BusyPoll, in both configs, uses a core to save the time that a sleeping
//     reader takes to wake up: for short messages where each side waits for the
//     other.
//   - Small messages need not be gathered by the program: the queue does that.
//   - A program that does nothing but receive as fast as it can, with a small
//     heap, spends much of its time in the garbage collector. GOGC=400 let it
//     take a quarter more messages of 64 bytes, and half as many again of 1 KiB
//     (two cores, Go 1.26).
//   - In MultiMode each client has a goroutine that reads its socket. It calls
//     the Handler itself, but has to wake the goroutine in ServerManager.Read:
//     answers take longer then.
//
// # Logging
//
// Nothing is logged in normal operation at the default level, "error". LogLevel, or
// the environment variable IPC_DEBUG ("true", "debug", "info", "warn" or "error"),
// shows more: text on standard error. Logger takes a [log/slog.Logger] instead,
// which decides the level. The attributes of a line are
//
//   - socket: its path, or Name, or the listener's address;
//   - client: the ClientID, on the lines of a client of a MultiMode server;
//   - peer: the process at the other end, as peer.pid, peer.uid and peer.gid, or
//     peer.pid and peer.sid on Windows;
//   - reason: why a connection ended; error: what went wrong;
//   - repeated: how many lines of the same kind were left out before this one;
//   - pause: until the next attempt to accept a connection.
//
// Message data and keys are never logged. [Stats] counts messages, bytes, requests,
// reconnects and failed handshakes.
//
// # Elsewhere
//
// Clients can be written in any language; PROTOCOL.md in the repository has the
// wire format, and examples in Node and Python. A name is a Unix domain socket on
// Linux, macOS and the BSDs, and a named pipe on Windows. On other systems the package
// works with Listener and Dial, and [StartServer] and [StartClient] return
// [errors.ErrUnsupported] without. Where there are names, [Peer] is known,
// but on Windows for clients that do not let a server identify them.
//
// On Windows, which is experimental, the pipe is \\.\pipe\NAME, or
// \\.\pipe\DIR\NAME with a SocketDir. The own user, SYSTEM and the administrators can
// connect, with Mode and Group, or UnmaskPermissions, others too, and no other machine.
// No folder protects a name there: a client that must not talk to another user's
// server sets Authorize. A write that a context, WriteTimeout or a Close interrupts
// in the middle ends its connection, as over TLS: a Client sends the message again.
// With the race detector on, package os of Go 1.26 reports a race of its own there
// when a pipe is read and written at once.
//
// docs/MIGRATING.md in the repository is for programs on other versions of this
// library, plain sockets, net/rpc and gRPC, docs/DESIGN.md for those who change it.
package ipc
