package bridge

import (
	"cmp"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
	"github.com/nats-io/nats.go"
)

// Config configures [Expose] and [Join], which copy it. The zero value of each
// field is its default; Name is required.
type Config struct {
	// Name of the server. It is also the second token of the subjects, where the
	// characters that a token cannot have are escaped: see [Subject].
	Name string

	// SocketDir is the folder of the server's socket, or of the one that Join
	// makes. The default is "/tmp".
	SocketDir string

	// Mode and Group are those of the socket that Join makes, as in
	// ipc.ServerConfig: 0 is 0600. Expose makes none and refuses them.
	Mode  fs.FileMode
	Group string

	// Authorize decides who may be at the other end of a connection to the local
	// socket, as in ipc.ServerConfig and ipc.ClientConfig. nil admits all whom
	// the permissions of the socket admit.
	Authorize func(ipc.Peer) error

	// URL is that of a NATS server, or of several with commas between them. It may
	// contain a user and a password, or a token. The default is
	// nats://127.0.0.1:4222.
	URL string

	// Creds is a file with NATS credentials: a JWT and its seed.
	Creds string

	// TLSCert and TLSKey are PEM files for the gateway's own certificate, and
	// TLSCA is one with the authorities that may have signed the NATS server's.
	TLSCert, TLSKey, TLSCA string

	// Options are further options of the NATS connection, which win. The handlers
	// of the connection are the gateway's, which cannot do without them.
	Options []nats.Option

	// KeepAlive is how often, while a request waits for its reply, the exposing
	// side shows that it still has it. A request of Join without a sign of that
	// for three times as long ends with CodeNoReply. The default is 2 s, and 10 ms
	// the least.
	KeepAlive time.Duration

	// Logger takes the log. The default is slog.Default().
	Logger *slog.Logger
}

const (
	defaultKeepAlive = 2 * time.Second
	minKeepAlive     = 10 * time.Millisecond
)

// withDefaults returns a valid copy of c with nothing left to default, or what is
// wrong with it. Whether Name can be that of a socket is for package ipc to say.
func (c *Config) withDefaults() (Config, error) {
	if c == nil {
		return Config{}, invalid("Config is nil")
	}
	d := *c
	switch {
	case d.Name == "":
		return d, ipc.ErrName
	case d.KeepAlive < 0:
		return d, invalid("Config.KeepAlive %v is negative", d.KeepAlive)
	case (d.TLSCert == "") != (d.TLSKey == ""):
		return d, invalid("Config.TLSCert and TLSKey need each other")
	}
	d.URL = cmp.Or(d.URL, nats.DefaultURL)
	d.KeepAlive = max(cmp.Or(d.KeepAlive, defaultKeepAlive), minKeepAlive)
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return d, nil
}

// natsOptions returns the options that c asks for. The files are read here, so
// that one that is missing is an error at the start.
func (c *Config) natsOptions() ([]nats.Option, error) {
	var opts []nats.Option
	for _, file := range []string{c.Creds, c.TLSCert, c.TLSKey, c.TLSCA} {
		if file == "" {
			continue
		}
		if _, err := os.ReadFile(file); err != nil {
			return nil, err
		}
	}
	if c.Creds != "" {
		creds := nats.UserCredentials(c.Creds)
		if err := checkCreds(creds); err != nil {
			return nil, err
		}
		opts = append(opts, creds)
	}
	if c.TLSCert != "" {
		opts = append(opts, nats.ClientCert(c.TLSCert, c.TLSKey))
	}
	if c.TLSCA != "" {
		opts = append(opts, nats.RootCAs(c.TLSCA))
	}
	return append(opts, c.Options...), nil
}

// checkCreds returns an error if creds are of a file that has no seed. NATS's client
// would find that at each attempt to connect, and try for ever.
func checkCreds(creds nats.Option) error {
	var o nats.Options
	if err := creds(&o); err != nil {
		return err
	}
	_, err := o.SignatureCB(nil)
	return err
}

// invalid returns the error for a configuration that cannot work. Its caller adds
// the prefix.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, fs.ErrInvalid)...)
}
