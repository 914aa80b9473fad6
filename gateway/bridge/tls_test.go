package bridge_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats-server/v2/server"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
	file string // PEM, for those who trust it
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(dir, name+".pem")}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, key := a.sign(template)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, key
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// sign makes a key and its certificate, which the authority signs, or, before it has
// one, the key itself.
func (a *authority) sign(template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// issue makes a certificate for either end of a connection on loopback, and returns
// its files.
func (a *authority) issue(name string) (cert, key string) {
	a.t.Helper()
	der, private := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	base := filepath.Join(filepath.Dir(a.file), name)
	writePEM(a.t, base+".cert", "CERTIFICATE", der)
	writePEM(a.t, base+".key", "PRIVATE KEY", text)
	return base + ".cert", base + ".key"
}

func writePEM(t *testing.T, file, kind string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTLS has NATS show a certificate and ask for one.
func TestTLS(t *testing.T) {
	dir := tempDir(t)
	ours, others := newAuthority(t, dir, "ours"), newAuthority(t, dir, "others")
	options := func(o *server.Options) {
		cert, key := ours.issue("server")
		config, err := server.GenTLSConfig(&server.TLSConfigOpts{
			CertFile: cert, KeyFile: key, CaFile: ours.file, Verify: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		o.TLSConfig, o.TLSVerify, o.TLSTimeout = config, true, long.Seconds()
	}
	url := startNATS(t, options).ClientURL()
	cert, key := ours.issue("gateway")
	otherCert, otherKey := others.issue("other")

	there, here := tempDir(t), tempDir(t)
	startServer(t, there, echo)
	expose(t, bridge.Config{SocketDir: there, URL: url, TLSCert: cert, TLSKey: key, TLSCA: ours.file})
	join(t, bridge.Config{SocketDir: here, URL: url, TLSCert: cert, TLSKey: key, TLSCA: ours.file})
	wantReply(t, startClient(t, here), 1, "sealed", "sealed")

	for _, c := range []struct {
		what   string
		config bridge.Config
		want   string
	}{
		{"nothing", bridge.Config{}, "certificate signed by unknown authority"},
		{"other authority", bridge.Config{TLSCert: cert, TLSKey: key, TLSCA: others.file}, "certificate signed by unknown authority"},
		{"no certificate", bridge.Config{TLSCA: ours.file}, "tls"}, // of TLS 1.3, which tells the reason late
		{"other certificate", bridge.Config{TLSCert: otherCert, TLSKey: otherKey, TLSCA: ours.file}, "tls"},
	} {
		t.Run(c.what, func(t *testing.T) {
			c.config.URL, c.config.SocketDir = url, tempDir(t)
			g := join(t, c.config)
			g.log.await("NATS cannot be reached", 1)
			g.log.await(c.want, 1) // in that line
			_, err := startClient(t, c.config.SocketDir).Request(bounded(t), 1, nil)
			wantCode(t, err, bridge.CodeNotConnected, "")
		})
	}
}
