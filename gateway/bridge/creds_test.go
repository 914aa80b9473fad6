package bridge_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// newKey returns a key pair of NATS, its public key, and its seed.
func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	if seed, err = pair.Seed(); err != nil {
		t.Fatal(err)
	}
	return pair, public, seed
}

// startOperator starts a NATS server in operator mode, with one account, and returns
// a function that writes the credentials of a user of that account, or of an account
// that NATS does not know.
func startOperator(t *testing.T) (url string, creds func(file string, known bool) string) {
	t.Helper()
	operator, operatorID, _ := newKey(t, nkeys.CreateOperator)
	known, knownID, _ := newKey(t, nkeys.CreateAccount)
	unknown, _, _ := newKey(t, nkeys.CreateAccount)

	encode := func(c jwt.Claims, signer nkeys.KeyPair) string {
		t.Helper()
		text, err := c.Encode(signer)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	claims := jwt.NewOperatorClaims(operatorID)
	encode(claims, operator)
	resolver := new(server.MemAccResolver)
	if err := resolver.Store(knownID, encode(jwt.NewAccountClaims(knownID), operator)); err != nil {
		t.Fatal(err)
	}
	ns := startNATS(t, func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver = []*jwt.OperatorClaims{claims}, resolver
	})
	dir := tempDir(t)
	return ns.ClientURL(), func(name string, isKnown bool) string {
		t.Helper()
		_, id, seed := newKey(t, nkeys.CreateUser)
		account := known
		if !isKnown {
			account = unknown
		}
		text, err := jwt.FormatUserConfig(encode(jwt.NewUserClaims(id), account), seed)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
}

// TestCreds has NATS in operator mode: each side has credentials of its own.
func TestCreds(t *testing.T) {
	url, creds := startOperator(t)
	there, here := tempDir(t), tempDir(t)
	startServer(t, there, echo)
	expose(t, bridge.Config{SocketDir: there, URL: url, Creds: creds("expose", true)})
	join(t, bridge.Config{SocketDir: here, URL: url, Creds: creds("join", true)})
	wantReply(t, startClient(t, here), 1, "permitted", "permitted")

	for what, file := range map[string]string{"none": "", "of another account": creds("other", false)} {
		err := start(t, bridge.Join, bridge.Config{
			SocketDir: tempDir(t), URL: url, Creds: file, Options: []nats.Option{nats.ReconnectWait(time.Millisecond)},
		}).Wait()
		if !errors.Is(err, nats.ErrAuthorization) || !strings.Contains(err.Error(), "NATS refuses the connection") {
			t.Errorf("credentials %s: %v, want that they are refused", what, err)
		}
	}
}
