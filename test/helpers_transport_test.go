package ipc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// route is a way from a client to a server.
type route struct {
	server func() ipc.ServerConfig // a config for each start of a server: a Listener serves only one
	client ipc.ClientConfig
}

// transport is a kind of route.
type transport struct {
	name string
	open func(testing.TB) *route
}

var (
	unixTransport = transport{"unix", unixRoute}
	pipeTransport = transport{"pipe", pipeRoute}
	transports    = []transport{
		unixTransport, {"busy", busyRoute}, {"sealed", sealedRoute},
		{"tcp", tcpRoute}, {"tls", tlsRoute}, {"wrapped", wrappedRoute}, pipeTransport,
	}
)

// retryTimer keeps tests that reconnect short.
const retryTimer = 20 * time.Millisecond

// unixRoute is the named socket.
func unixRoute(t testing.TB) *route { return unixRouteIn(socketDir(t)) }

// unixRouteIn is the named socket in dir.
func unixRouteIn(dir string) *route {
	return &route{
		server: func() ipc.ServerConfig { return ipc.ServerConfig{Name: "test", SocketDir: dir} },
		client: ipc.ClientConfig{Name: "test", SocketDir: dir, RetryTimer: retryTimer},
	}
}

// busyRoute is the named socket with readers that do not sleep at once.
func busyRoute(t testing.TB) *route {
	const poll = 50 * time.Microsecond
	route := unixRoute(t)
	route.client.BusyPoll = poll
	return route.changed(func(c *ipc.ServerConfig) { c.BusyPoll = poll })
}

// sealedRoute is the named socket with encryption.
func sealedRoute(t testing.TB) *route {
	route := unixRoute(t)
	route.client.Encryption = true
	return route.changed(func(c *ipc.ServerConfig) { c.Encryption = true })
}

// changed makes a change to each config of a server.
func (route *route) changed(change func(*ipc.ServerConfig)) *route {
	server := route.server
	route.server = func() ipc.ServerConfig {
		config := server()
		change(&config)
		return config
	}
	return route
}

// hookRoute goes through ServerConfig.Listener and ClientConfig.Dial. A client
// dials the latest listener.
func hookRoute(t testing.TB, listen func() (net.Listener, error), dial func(context.Context, net.Listener) (net.Conn, error)) *route {
	var latest atomic.Pointer[net.Listener]
	return &route{
		server: func() ipc.ServerConfig {
			l, err := listen()
			noError(t, "listen", err)
			t.Cleanup(func() { l.Close() })
			latest.Store(&l)
			return ipc.ServerConfig{Listener: l}
		},
		client: ipc.ClientConfig{
			RetryTimer: retryTimer,
			Dial: func(ctx context.Context) (net.Conn, error) {
				l := latest.Load()
				if l == nil {
					return nil, syscall.ECONNREFUSED
				}
				return dial(ctx, *l)
			},
		},
	}
}

// tcpRoute is a plain socket that is not a Unix socket.
func tcpRoute(t testing.TB) *route {
	return hookRoute(t,
		func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
		func(ctx context.Context, l net.Listener) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", l.Addr().String())
		})
}

// tlsRoute is a connection with buffers and records of its own.
func tlsRoute(t testing.TB) *route {
	server, client := certificate()
	return hookRoute(t,
		func() (net.Listener, error) { return tls.Listen("tcp", "127.0.0.1:0", server) },
		func(ctx context.Context, l net.Listener) (net.Conn, error) {
			d := tls.Dialer{Config: client}
			return d.DialContext(ctx, "tcp", l.Addr().String())
		})
}

// certificate makes the configs of a TLS server and of a client that trusts
// it, once.
var certificate = sync.OnceValues(func() (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), // in a bubble it is 2000
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{RootCAs: roots}
})

// wrappedRoute is a connection that embeds a socketConn and overrides what
// matters: a library that uses the socket below it reads garbage.
func wrappedRoute(t testing.TB) *route {
	address := socketAddresses(t)
	return hookRoute(t,
		func() (net.Listener, error) {
			l, err := net.Listen(socketNetwork, address())
			return maskedListener{l}, err
		},
		func(ctx context.Context, l net.Listener) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, socketNetwork, l.Addr().String())
			return mask(c, err)
		})
}

type maskedListener struct{ net.Listener }

func (l maskedListener) Accept() (net.Conn, error) { return mask(l.Listener.Accept()) }

func mask(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &maskedConn{c.(*socketConn)}, nil
}

// maskedConn inverts every byte on the wire.
type maskedConn struct{ *socketConn }

func (c *maskedConn) Read(b []byte) (int, error) {
	n, err := c.socketConn.Read(b)
	invert(b[:n], b)
	return n, err
}

func (c *maskedConn) Write(b []byte) (int, error) {
	masked := make([]byte, len(b))
	invert(b, masked)
	return c.socketConn.Write(masked)
}

func invert(from, to []byte) {
	for len(from) > 0 {
		n := subtle.XORBytes(to, from, ones)
		from, to = from[n:], to[n:]
	}
}

var ones = bytes.Repeat([]byte{0xff}, 64<<10)

// pipeRoute is net.Pipe, which holds nothing: a write ends when the other end
// has read it, and a read gets from one write at most. It has no descriptor,
// and works in bubbles.
func pipeRoute(t testing.TB) *route {
	return hookRoute(t,
		func() (net.Listener, error) {
			return newPipeListener(), nil
		},
		func(ctx context.Context, l net.Listener) (net.Conn, error) { return l.(*pipeListener).dial(ctx) })
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }

func (pipeAddr) String() string { return "pipe" }

// dial makes a raw connection to the server at the far end of route.
func (route *route) dial(t testing.TB) *wireConn {
	t.Helper()
	var c net.Conn
	var err error
	if route.client.Dial != nil {
		c, err = route.client.Dial(context.Background())
	} else {
		c, err = dialAt(t.Context(), route.path())
	}
	noError(t, "dial", err)
	t.Cleanup(func() { c.Close() })
	return &wireConn{c, t}
}

// path is where the server of a unixRoute has its socket.
func (route *route) path() string {
	return socketPath(route.client.SocketDir, route.client.Name)
}

// listen takes the place of a server of ours.
func (route *route) listen(t testing.TB) net.Listener {
	t.Helper()
	ln := route.server().Listener
	if ln == nil {
		var err error
		ln, err = listenAt(route.path())
		noError(t, "listen", err)
		t.Cleanup(func() { ln.Close() })
	}
	return ln
}
