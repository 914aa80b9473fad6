package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/joe-at-startupmedia/golang-ipc/internal/peercred"
	"github.com/joe-at-startupmedia/golang-ipc/internal/wire"
)

var proxyCommand = command{
	name: "proxy", args: "NAME AS", min: 2, max: 2,
	summary: "stand between clients and a server, and print what they say",
	help: `
Proxy listens as AS, in the same folder, and connects to the server NAME once for each
client that it gets. It passes on everything in both directions as it comes, and prints
a line for each: the time, the number of the client, the direction (-> is to the
server), what it is, its type and size, and for a reply the time since its request.
Requests are numbered; the reply to "-> request #1" is "<- reply #1". Data is not
printed, unless -data is given.

To look at a server without changing its clients, start the server under another name,
and the proxy as the name that the clients know. Ctrl-C ends it, and the connections.`,
	setup: func(flags *flag.FlagSet) runner {
		var p proxy
		p.declare(flags)
		flags.BoolVar(&p.out.data, "data", false, "print data, too")
		flags.BoolVar(&p.out.json, "json", false, "print a JSON object in a line for each")
		return p.run
	},
}

// handshakeTimeout bounds the opening of a connection, but for the wait for a place
// with the server.
const handshakeTimeout = 5 * time.Second

// proxy stands between clients and a server.
//
// The goroutine of run accepts. Each client has a goroutine, serve, which connects
// to the server and ends when either side has left, or with run's context; it waits
// for those that it starts, and run waits for it.
//
// It works on frames, below messages and requests: so all stays in order, and
// nothing is added that the two sides do not say.
type proxy struct {
	target
	out transcript

	path string // of the server
}

func (p *proxy) run(ctx context.Context, args []string) (err error) {
	p.name = args[0]
	if p.path, err = p.target.path(); err != nil {
		return err
	}
	as := target{name: args[1], dir: p.dir}
	path, err := as.path()
	if err != nil {
		return err
	}
	if err := p.check(); err != nil && !p.wait {
		return err
	}
	keepWriting()
	l, err := listen(path)
	switch {
	case errors.Is(err, ipc.ErrInUse):
		return fmt.Errorf("listen on %s: a live server has this name; choose another AS", path)
	case err != nil:
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	p.out.start(fail)
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	fmt.Fprintf(os.Stderr, "ipc proxy: listening on %s for %s; Ctrl-C ends it\n", path, p.path)
	for n := 1; ; n++ {
		client, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if client != nil {
				client.Close()
			}
			return outputError(ctx)
		case err != nil:
			return fmt.Errorf("accept on %s: %w", path, err)
		}
		clients.Go(func() { p.serve(ctx, client, n) })
	}
}

// outputError returns why ctx has ended, if it was not by Ctrl-C.
func outputError(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// serve stands between one client and the server.
func (p *proxy) serve(ctx context.Context, client net.Conn, number int) {
	defer client.Close()
	c := &conversation{number: number, out: &p.out, began: [2]map[uint64]time.Time{{}, {}}}
	cred, err := peercred.Of(client)
	c.joined(cred, err)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { client.Close() })()

	server, n, err := p.join(ctx, client)
	switch {
	case err == errLeft:
		c.left(toServer, nil)
		return
	case err != nil:
		c.left(toClient, err)
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	client.SetDeadline(time.Now().Add(handshakeTimeout))
	own := wire.Server{Encrypt: n.Cipher != nil, MaxMsgSize: n.MaxMsgSize, Secrets: wire.System}
	theirs, err := own.Handshake(client, func() error { return nil })
	if err != nil {
		c.left(toServer, fmt.Errorf("handshake: %w", err))
		return
	}
	client.SetDeadline(time.Time{})
	c.left(c.relay(newSide(client, theirs), newSide(server, n)))
}

// join connects to the server, and returns when it has given the client a place.
// It gives up if the client leaves meanwhile.
func (p *proxy) join(ctx context.Context, client net.Conn) (net.Conn, wire.Negotiated, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The server's side speaks first, so nothing is to come from a client that
	// stays.
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel(errLeft)
		}
	}()
	server, n, err := p.dial(ctx)
	client.SetReadDeadline(time.Unix(1, 0))
	<-watched
	client.SetReadDeadline(time.Time{})
	if context.Cause(ctx) == errLeft {
		if err == nil {
			server.Close()
		}
		err = errLeft
	}
	return server, n, err
}

// errLeft says that the client has left before it had a place.
var errLeft = errors.New("left")

// dial connects to the server.
func (p *proxy) dial(ctx context.Context) (net.Conn, wire.Negotiated, error) {
	conn, err := dial(ctx, p.path)
	if err != nil {
		return nil, wire.Negotiated{}, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	ask := wire.Client{RequireEncryption: p.encrypt, Secrets: wire.System}
	n, err := ask.Handshake(unannounced{conn})
	if err != nil {
		conn.Close()
		return nil, wire.Negotiated{}, fmt.Errorf("handshake: %w", err)
	}
	return conn, n, nil
}

// unannounced is a connection, for the handshake, that leaves out of the last step
// the announcement that the client knows requests: whether the client does is for
// it to say. The last step begins with a 0, and a key does not.
type unannounced struct{ net.Conn }

func (u unannounced) Write(b []byte) (int, error) {
	if b[0] != 0 {
		return u.Conn.Write(b)
	}
	if _, err := u.Conn.Write(b[:1]); err != nil {
		return 0, err
	}
	return len(b), nil
}
