// Ipc is a tool to look at sockets of package ipc, and to talk to the servers
// behind them:
//
//	ipc ls                            which servers there are
//	ipc send NAME TYPE [DATA]         send a message
//	ipc request NAME TYPE [DATA]      send a request, and print the reply
//	ipc listen NAME                   print what a server sends
//	ipc proxy NAME AS                 stand between clients and a server, and print what they say
//	ipc bench NAME [TYPE [DATA]]      measure how fast a server answers
//	ipc help [COMMAND]
//
// NAME is the Name of the server's ServerConfig, and -dir its SocketDir, /tmp if
// it is not given. TYPE is the type of the message, 1 to 2147483647. Flags may
// stand before and after the other arguments, with one dash or two; what comes
// after "--" is no flag.
//
//	ipc ls -dir /run/app
//	ipc request greeter 1 '{"name": "ann"}'
//	ipc request greeter 1 @question.json -timeout 1m
//	git log | ipc send collector 7 -
//	ipc listen -json greeter | jq .type
//
// # Data
//
// DATA is sent as it is. If it begins with @, the rest is the name of a file, whose
// content is sent; if it is -, standard input is read to its end and sent, in one
// message. Without DATA, send and request read standard input unless that is a
// terminal: there the data is empty. In a script, whose standard input may be
// anything, give DATA always: "" is empty data. Data that begins with @ or that is
// a dash is sent by way of standard input.
//
// The data of replies is written to standard output as it is; on a terminal a
// newline is added if there is none. Listen, and proxy with -data, write data as a
// Go string, quoted, so that a message is a line and cannot steer the terminal.
// With -json each line is a JSON object, which has the data as the string "data" if
// it is valid UTF-8, and otherwise as "base64".
//
// # Connecting
//
// A server that is not there is an error at once; with -wait it is waited for. A
// server that is there may have no place: one without MultiMode has one client at a
// time, and one with MaxClients so many. Its place is waited for. -timeout bounds
// both (5 s; 0 is no limit), and after that, once more, each reply. With -encrypt a
// server that does not encrypt is refused; without, the tool does as the server
// does.
//
// Send, request, listen and bench are clients like any other: they take a place
// while they run, and a server without MultiMode has none for others meanwhile. Ls
// takes none, and no server notices it.
//
// # Ls
//
// Ls lists the sockets in a folder whose names end in .sock: the name, the processes
// that have it open, the owner of the file, and the state: alive, stale (the process
// that listened has ended without removing it; the next server of that name takes it
// over), or unknown, with the reason. The processes are known on Linux, where this
// user may see what files they have open. Other programs than servers of package
// ipc may call their sockets .sock as well: ls cannot tell.
//
// # Listen
//
// Listen prints messages to standard output and events, such as Reconnecting, to
// standard error; with -json both go to standard output. It connects again when the
// server was restarted, and ends by Ctrl-C. A request of the server is printed, and
// answered with an error.
//
// # Proxy
//
// Proxy listens as AS, in the same folder, and connects to NAME once for each client
// that it gets; when either leaves, so does the other. It passes on every frame as it
// comes, in both directions and in order: messages, requests, replies, their parts,
// cancels. The limit of messages, encryption, and the wait for a place are those of
// NAME. It prints a line for each: the time, the number of the client, the
// direction (-> is from the client to the server), what it is, its type and size;
// for replies the time since their request has passed by. Requests of one direction
// are numbered #1, #2 … and the reply to #1 comes from the other. Data is not
// printed, unless -data is given.
//
// The server sees the proxy in the place of the client: process and user are the
// proxy's, in Peer and for Authorize. AS is open to the user of the proxy only.
// A proxy whose output is not read stops the conversation.
//
// # Bench
//
// Bench sends requests for some time (-for, 5 s), one after the other or -c at
// once, and prints how many a second were answered and how long they took. The
// server must answer requests of the type, which is 1 if it is not given, with
// anything. With -echo it sends messages instead, and the server must send a message
// of the same type back for each. What is sent is DATA, or -size bytes that are 0.
// On a terminal it shows on standard error how far it is. Ctrl-C ends it early, and
// it prints what it has.
//
// A server to measure against is example/server, or this one:
//
//	ipc.StartServer(&ipc.ServerConfig{
//		Name:      "echo",
//		MultiMode: true,
//		Handler: func(client *ipc.Server, m *ipc.Message) {
//			switch {
//			case m.IsRequest():
//				m.Reply(m.MsgType, m.Data)
//			case m.MsgType > 0:
//				client.Write(m.MsgType, m.Data)
//			}
//		},
//	})
//
// # Exit status
//
//	0    done; listen, proxy and bench also after Ctrl-C
//	1    the server has answered with a ReplyError, which is on standard error
//	2    wrong usage
//	3    no server, or it cannot be connected to
//	4    timeout: no place, or no reply in time
//	5    anything else
//	130  interrupted
//
// What went wrong is one line on standard error. Colors are used on a terminal only,
// and not if the environment variable NO_COLOR is set, or TERM is dumb. IPC_DEBUG
// shows the log of package ipc, as in every program that uses it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// command is one of the tool's.
type command struct {
	name     string
	args     string // what follows the name, as usage shows it
	min, max int    // how many those are
	summary  string
	help     string // what there is to know beside summary and flags

	// setup declares the flags, and returns what runs the command once they
	// are parsed.
	setup func(*flag.FlagSet) runner
}

type runner func(ctx context.Context, args []string) error

var commands = []*command{&lsCommand, &sendCommand, &requestCommand, &listenCommand, &proxyCommand, &benchCommand}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process
	os.Exit(run(ctx, os.Args[1:]))
}

// run runs the tool, and returns its exit status.
func run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		showUsage(os.Stderr)
		return statusUsage
	}
	name := args[0]
	if strings.HasPrefix(name, "-") || name == "help" {
		return help(args)
	}
	c := find(name)
	if c == nil {
		return report(name, unknownCommand(name))
	}
	flags, run := c.flags()
	operands, err := parse(flags, args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		c.showHelp(os.Stdout)
		return statusOK
	case err == nil && len(operands) < c.min:
		err = errors.New("too few arguments")
	case err == nil && len(operands) > c.max:
		err = errors.New("too many arguments")
	}
	if err != nil {
		usage := strings.TrimSpace(c.name + " " + c.args)
		return report(c.name, usageError("%w; usage: ipc %s; see: ipc help %s", err, usage, c.name))
	}
	return report(c.name, run(ctx, operands))
}

func find(name string) *command {
	for _, c := range commands {
		if c.name == name {
			return c
		}
	}
	return nil
}

func unknownCommand(name string) error {
	return usageError("there is no command %q; see: ipc help", name)
}

// help is "ipc help", "ipc help COMMAND" and "ipc -h".
func help(args []string) int {
	switch name := strings.TrimLeft(args[0], "-"); {
	case name != "help" && name != "h":
		return report(args[0], usageError("flags come after the command; see: ipc help"))
	case len(args) == 1:
		showUsage(os.Stdout)
		return statusOK
	}
	c := find(args[1])
	if c == nil {
		return report("help", unknownCommand(args[1]))
	}
	c.showHelp(os.Stdout)
	return statusOK
}

func showUsage(w io.Writer) {
	fmt.Fprint(w, "ipc looks at sockets of package ipc, and talks to the servers behind them.\n\nusage: ipc COMMAND [flags] ...\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-31s%s\n", c.name+" "+c.args, c.summary)
	}
	fmt.Fprint(w, `  help [COMMAND]                 show what a command does, and its flags

NAME is the name of a server; its socket is in -dir (`+defaultDir+`). TYPE is the type of
the message, 1 to 2147483647. DATA is text, @file, or - for standard input, which is
also read without DATA if it is not a terminal. Flags may stand before and after the
arguments.

exit status:
  0    done; listen, proxy and bench also after Ctrl-C
  1    the server has answered with a ReplyError, which is on standard error
  2    wrong usage
  3    no server, or it cannot be connected to
  4    timeout: no place, or no reply in time
  5    anything else
  130  interrupted
`)
}

// flags returns the flags of c, and what runs it.
func (c *command) flags() (*flag.FlagSet, runner) {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run reports what is wrong
	return flags, c.setup(flags)
}

func (c *command) showHelp(w io.Writer) {
	usage := strings.TrimSpace(c.name + " [flags] " + c.args)
	fmt.Fprintf(w, "usage: ipc %s\n\n%s\n\nflags:\n", usage, strings.TrimSpace(c.help))
	flags, _ := c.flags()
	flags.SetOutput(w)
	flags.PrintDefaults()
}

// parse parses flags that may stand anywhere among the operands, which it
// returns. What follows "--" is no flag.
func parse(flags *flag.FlagSet, args []string) (operands []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		rest := flags.Args()
		parsed := args[:len(args)-len(rest)]
		if len(rest) == 0 || len(parsed) > 0 && parsed[len(parsed)-1] == "--" {
			return append(operands, rest...), nil
		}
		operands = append(operands, rest[0])
		args = rest[1:]
	}
}
