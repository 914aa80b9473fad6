// Command daemon is a daemon and its command line tool in one program. It is made
// to be copied: daemon.go serves, cli.go asks, start.go finds the daemon or starts
// it, and journal.go is what the daemon has to tell.
//
//	go run ./example/daemon status    # of the daemon, which is started if there is none
//	go run ./example/daemon logs      # what it has logged
//	go run ./example/daemon logs -f   # and what it logs from now on, until Ctrl-C
//	go run ./example/daemon stop
//
// Any number of tools may run at once. The exit status is 0 if the command was
// carried out, 2 if there is no such command, 130 after Ctrl-C, and otherwise 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// What daemon and tool have to agree on. Either may be older than the other, so a
// number is never used for something else.
const (
	name = "daemon" // of the socket

	// The types of the messages.
	typeCommand = 1 // tool to daemon, a request: the words of a command, as JSON
	typeText    = 2 // daemon to tool, a reply or a part of one: text to show

	// Exit statuses of the tool, and codes of the daemon's errors.
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // 128 and the number of SIGINT
)

func main() {
	dir := flag.String("dir", "", "`folder` of the socket, which only its user can enter (default: one of this user)")
	timeout := flag.Duration("timeout", 10*time.Second, "`limit` for starting the daemon, and for its answer")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: daemon [-dir folder] [-timeout limit] status | logs [-f] | stop | daemon")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(exitUsage)
	}
	// The only os.Exit after something was opened: run has closed it.
	os.Exit(exitStatus(run(*dir, *timeout, flag.Args())))
}

func run(dir string, timeout time.Duration, args []string) error {
	dir, err := socketDir(dir)
	if err != nil {
		return err
	}
	if args[0] == "daemon" {
		return serve(dir)
	}
	return command(dir, timeout, args)
}

// exitStatus says what went wrong, if anything did, and returns the exit status
// for it.
func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	var refused *ipc.ReplyError
	if errors.As(err, &refused) {
		fmt.Fprintln(os.Stderr, "daemon:", refused.Text)
		return refused.Code
	}
	fmt.Fprintln(os.Stderr, "daemon:", err)
	return exitFailed
}

// socketDir returns dir, or if that is empty a folder of the user's. Only this
// user can enter it: so no other user can take the daemon's name, as in /tmp.
func socketDir(dir string) (string, error) {
	if dir == "" {
		base := os.Getenv("XDG_RUNTIME_DIR")
		if base == "" {
			var err error
			if base, err = os.UserCacheDir(); err != nil {
				return "", err
			}
		}
		dir = filepath.Join(base, "ipc-example-daemon")
	}
	dir, err := filepath.Abs(dir) // the daemon has another working folder
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}
