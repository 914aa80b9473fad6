package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

var lsCommand = command{
	name: "ls", args: "", min: 0, max: 0,
	summary: "list the servers in a folder",
	help: `
Ls lists the sockets in a folder whose names end in .sock: the name of the server, the
processes that have it open (on Linux, where you may see what files they have open),
the user who owns the socket, and its state:

  alive    a process has it open
  stale    the server has ended without removing it; the next one takes it over
  unknown  and why

No server notices it.`,
	setup: func(flags *flag.FlagSet) runner {
		var dir string
		dirFlag(flags, &dir)
		asJSON := flags.Bool("json", false, "print each server as a JSON object in a line")
		return func(context.Context, []string) error { return ls(dir, *asJSON) }
	},
}

// server is one that ls has found.
type server struct {
	Name  string `json:"name"`
	Path  string `json:"path"`
	PIDs  []int  `json:"pids,omitempty"` // of the processes that have it open, as far as is known
	User  string `json:"user,omitempty"` // that owns the socket, if that is known
	State state  `json:"state"`
	Error string `json:"error,omitempty"` // why the state is not known
}

type state string

const (
	stateAlive   state = "alive"
	stateStale   state = "stale"
	stateUnknown state = "unknown"
)

var stateColors = map[state]color{stateAlive: green, stateStale: yellow, stateUnknown: red}

func ls(dir string, asJSON bool) error {
	servers, err := list(dir)
	if err != nil {
		return fmt.Errorf("%w; name the folder of the sockets with -dir", err)
	}
	out := bufio.NewWriter(os.Stdout)
	if asJSON {
		for _, s := range servers {
			if err := writeJSON(out, s); err != nil {
				return err
			}
		}
		return out.Flush()
	}
	if len(servers) == 0 {
		fmt.Fprintf(os.Stderr, "no servers in %s\n", dir)
		return nil
	}
	writeTable(out, servers, colored(os.Stdout))
	return out.Flush()
}

// writeTable writes the servers for people. Only the last column has colors, which
// would count as width.
func writeTable(w io.Writer, servers []server, colors bool) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tPID\tUSER\tSTATE")
	for _, s := range servers {
		var pids []string
		for _, pid := range s.PIDs {
			pids = append(pids, strconv.Itoa(pid))
		}
		why := ""
		if s.Error != "" {
			why = ": " + printable(s.Error)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s%s\n", printable(s.Name), orDash(strings.Join(pids, ",")), orDash(s.User),
			paint(colors, stateColors[s.State], string(s.State)), why)
	}
	table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
