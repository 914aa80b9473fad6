package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func TestRun(t *testing.T) {
	if err := run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func certificate(t *testing.T, a *authority, name string) tls.Certificate {
	t.Helper()
	cert, err := a.issue(name)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func authorities(t *testing.T) (ours, theirs *authority) {
	t.Helper()
	for _, a := range []**authority{&ours, &theirs} {
		var err error
		if *a, err = newAuthority(); err != nil {
			t.Fatal(err)
		}
	}
	return ours, theirs
}

// TestStrangers checks who is refused, at either end.
func TestStrangers(t *testing.T) {
	ours, theirs := authorities(t)
	server, err := serve("127.0.0.1:0", ours.pool(), certificate(t, ours, "server"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	address := server.Addr().String()

	for name, test := range map[string]struct {
		pool  *x509.CertPool
		certs []tls.Certificate
	}{
		"client without a certificate":     {ours.pool(), nil},
		"client of another authority":      {ours.pool(), []tls.Certificate{certificate(t, theirs, "client")}},
		"server of another authority":      {theirs.pool(), []tls.Certificate{certificate(t, ours, "client")}},
		"neither knows the other's at all": {theirs.pool(), []tls.Certificate{certificate(t, theirs, "client")}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		client, err := connect(ctx, address, test.pool, test.certs...)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, %v", name, client, err)
		}
	}
	if n := server.Stats().MessagesIn; n != 0 {
		t.Errorf("%d messages of strangers", n)
	}
}

// TestRestart checks that a client finds the server again.
func TestRestart(t *testing.T) {
	ours, _ := authorities(t)
	cert := certificate(t, ours, "server")
	address := "127.0.0.1:0"
	var client *ipc.Client
	for round := range 2 {
		server, err := serve(address, ours.pool(), cert)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go answer(server)
		address = server.Addr().String()
		if round == 0 {
			if client, err = connect(t.Context(), address, ours.pool(), certificate(t, ours, "client")); err != nil {
				t.Fatal(err)
			}
			defer client.Close()
		}
		for m, err := range client.Messages(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Status == ipc.Connected.String() {
				break
			}
		}
		if err := client.Write(1, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		m, err := client.ReadContext(t.Context())
		if err != nil || string(m.Data) != `you said "hello"` {
			t.Fatal(m, err)
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The client of this example needs TLS: over plain TCP it gets nowhere.
func TestPlain(t *testing.T) {
	ours, _ := authorities(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ipc.StartServer(&ipc.ServerConfig{Listener: listener, MultiMode: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := connect(ctx, server.Addr().String(), ours.pool(), certificate(t, ours, "client")); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
