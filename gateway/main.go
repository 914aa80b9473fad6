// Command gateway carries the messages and requests of a server to other machines,
// over NATS:
//
//	gateway expose NAME    on the machine of the server NAME
//	gateway join NAME      on a machine without it, where it takes the server's place
//
// The programs at both ends need not know. Flags may stand before and after NAME; -h
// lists them. It runs until SIGINT or SIGTERM. The exit status is 0 then, 2 if the
// command line is wrong, and otherwise 1.
package main

import (
	"cmp"
	"context"
	"errors"
	"expvar"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats.go"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

// command is what the command line asks for.
type command struct {
	config  bridge.Config
	start   func(*bridge.Config) (*bridge.Gateway, error)
	metrics string // address
	level   slog.Level
}

// run is the program, until ctx ends. It returns the exit status.
func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	c, err := parse(args, getenv, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return exitUsage
	}
	c.config.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.level}))
	if err := c.serve(ctx); err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return 0
}

// parse returns what args ask for, or what is wrong with them, which it has shown.
func parse(args []string, getenv func(string) string, stderr io.Writer) (*command, error) {
	c := new(command)
	f := flag.NewFlagSet("gateway", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.config.URL, "nats", "", "`URL` of a NATS server, or several with commas between them (default NATS_URL, or else "+nats.DefaultURL+")")
	f.StringVar(&c.config.Creds, "creds", "", "`file` with NATS credentials (default NATS_CREDS)")
	f.StringVar(&c.config.TLSCert, "tlscert", "", "PEM `file` with the gateway's certificate")
	f.StringVar(&c.config.TLSKey, "tlskey", "", "PEM `file` with its key")
	f.StringVar(&c.config.TLSCA, "tlsca", "", "PEM `file` with the authorities that sign the NATS server's certificate")
	f.StringVar(&c.config.SocketDir, "dir", "/tmp", "`folder` of the socket")
	f.Func("mode", "join: permissions of the socket, an octal `number` (default 0600)", func(s string) error {
		n, err := strconv.ParseUint(s, 8, 32)
		c.config.Mode = fs.FileMode(n)
		return err
	})
	f.StringVar(&c.config.Group, "group", "", "join: `group` that the socket is given to")
	f.DurationVar(&c.config.KeepAlive, "keepalive", 0, "`interval` of the signs that a request is being handled; three that are missing end it (default 2s)")
	f.StringVar(&c.metrics, "metrics", "", "`address` on which HTTP serves counts at /debug/vars, such as 127.0.0.1:8228")
	f.TextVar(&c.level, "log", slog.LevelInfo, "`level` of the log on standard error: debug, info, warn or error")
	f.Usage = func() {
		fmt.Fprint(stderr, "usage: gateway [flags] expose NAME   beside the server NAME, on its machine\n"+
			"       gateway [flags] join NAME     in its place, on another machine\n\n")
		f.PrintDefaults()
	}
	var operands []string // between which there may be flags
	for rest := args; len(rest) > 0; {
		if err := f.Parse(rest); err != nil {
			return nil, err
		}
		if rest = f.Args(); len(rest) > 0 {
			operands, rest = append(operands, rest[0]), rest[1:]
		}
	}
	if len(operands) == 2 {
		switch operands[0] {
		case "expose":
			c.start = bridge.Expose
		case "join":
			c.start = bridge.Join
		}
	}
	if c.start == nil {
		f.Usage()
		return nil, errors.New("usage")
	}
	c.config.Name = operands[1]
	c.config.URL = cmp.Or(c.config.URL, getenv("NATS_URL"))
	c.config.Creds = cmp.Or(c.config.Creds, getenv("NATS_CREDS"))
	return c, nil
}

// serve runs the gateway until ctx ends, or it does.
func (c *command) serve(ctx context.Context) error {
	g, err := c.start(&c.config)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { g.Close() })()
	if c.metrics != "" {
		listener, err := net.Listen("tcp", c.metrics)
		if err != nil {
			g.Close()
			return fmt.Errorf("gateway: serve metrics: %w", err)
		}
		defer listener.Close()
		go http.Serve(listener, metrics(g))
	}
	return g.Wait()
}

// metrics serves the counts of g beside what Go has of every program, without the
// command line, in which -nats may have a password.
func metrics(g *bridge.Gateway) http.Handler {
	vars := new(expvar.Map)
	expvar.Do(func(v expvar.KeyValue) {
		if v.Key != "cmdline" {
			vars.Set(v.Key, v.Value)
		}
	})
	vars.Set("gateway", expvar.Func(func() any { return g.Stats() }))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/vars", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprintln(w, vars)
	})
	return mux
}
