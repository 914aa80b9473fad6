// Command remote is a server and a client over TCP, as for two machines, with TLS
// and certificates for both. TLS refuses a peer without a certificate of the
// authority, before this library sends its first byte.
//
// Both are in one program, and the certificates are made when it starts. In
// practice each side reads its own certificate and key from files, and the
// authority's certificate without its key.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	authority, err := newAuthority()
	if err != nil {
		return err
	}
	serverCert, err := authority.issue("server")
	if err != nil {
		return err
	}
	clientCert, err := authority.issue("client")
	if err != nil {
		return err
	}

	server, err := serve("127.0.0.1:0", authority.pool(), serverCert)
	if err != nil {
		return err
	}
	defer server.Close()
	go answer(server)
	address := server.Addr().String()

	client, err := connect(ctx, address, authority.pool(), clientCert)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Write(1, []byte("is anyone there?")); err != nil {
		return err
	}
	for m, err := range client.Messages(ctx) {
		if err != nil {
			return err
		}
		if m.MsgType > 0 {
			fmt.Println("the server says:", string(m.Data))
			break
		}
		fmt.Println("*", m.Status)
	}

	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err = connect(ctx, address, authority.pool())
	if errors.Is(err, context.Canceled) {
		return err // Ctrl-C
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("a client without a certificate: %v", err)
	}
	fmt.Println("a client without a certificate does not get in")
	return nil
}

// serve starts a server for clients that have a certificate of the authority.
func serve(address string, authority *x509.CertPool, own tls.Certificate) (*ipc.Server, error) {
	listener, err := tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{own},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    authority,
		MinVersion:   tls.VersionTLS13,
	})
	if err != nil {
		return nil, err
	}
	return ipc.StartServer(&ipc.ServerConfig{Name: "remote", Listener: listener, MultiMode: true})
}

// connect connects to the server at address, if that has a certificate of the
// authority. It presents the certificate own, if there is one.
func connect(ctx context.Context, address string, authority *x509.CertPool, own ...tls.Certificate) (*ipc.Client, error) {
	dialer := tls.Dialer{Config: &tls.Config{
		Certificates: own,
		RootCAs:      authority,
		ServerName:   "server",
		MinVersion:   tls.VersionTLS13,
	}}
	return ipc.StartClientContext(ctx, &ipc.ClientConfig{
		Name: "remote",
		Dial: func(ctx context.Context) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		},
		RetryTimer: time.Second,
	})
}

// answer answers all clients until the server is closed.
func answer(server *ipc.Server) {
	for {
		err := server.ServerManager.ReadContext(context.Background(), func(client *ipc.Server, m *ipc.Message, err error) {
			if err != nil || m.MsgType < 0 {
				return
			}
			if err := client.Write(m.MsgType, fmt.Appendf(nil, "you said %q", m.Data)); err != nil {
				log.Print(err)
			}
		})
		if err != nil {
			return
		}
	}
}
