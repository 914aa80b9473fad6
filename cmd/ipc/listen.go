package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

var listenCommand = command{
	name: "listen", args: "NAME", min: 1, max: 1,
	summary: "print what a server sends",
	help: `
Listen connects to the server NAME and prints each message: the time, its type and
size, and its data, quoted. Events, such as Reconnecting, go to standard error. With
-json messages and events go to standard output.

It connects again when the server was restarted, and ends by Ctrl-C. A request of the
server is printed, and answered with an error.`,
	setup: func(flags *flag.FlagSet) runner {
		var t target
		t.declare(flags)
		t.declareTimeout(flags, " at first")
		asJSON := flags.Bool("json", false, "print each message and event as a JSON object in a line")
		return func(ctx context.Context, args []string) error { return listenTo(ctx, &t, args[0], *asJSON) }
	},
}

// messageJSON is a message or an event as -json shows it.
type messageJSON struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event,omitempty"`
	Error   string    `json:"error,omitempty"` // of an event
	Type    int       `json:"type,omitempty"`
	Request bool      `json:"request,omitempty"`
	Size    *int      `json:"size,omitempty"`
	bytesJSON
}

func listenTo(ctx context.Context, t *target, name string, asJSON bool) error {
	t.name = name
	client, err := t.connect(ctx, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	colors := colored(os.Stdout)
	for m, err := range client.Messages(ctx) {
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case asJSON:
			err = writeJSON(os.Stdout, newMessageJSON(now, m))
		case m.MsgType < 0:
			fmt.Fprintf(os.Stderr, "ipc listen: %s: %s\n", printable(name), eventText(m))
		default:
			err = printMessage(now, m, colors)
		}
		if m.IsRequest() {
			m.ReplyError(1, "ipc listen answers no requests") // an error: the server no longer waits for it
		}
		if err != nil {
			return err
		}
		m.Release()
	}
	return nil
}

func eventText(m *ipc.Message) string {
	if m.Err != nil {
		return m.Status + ": " + printable(m.Err.Error())
	}
	return m.Status
}

func newMessageJSON(now time.Time, m *ipc.Message) messageJSON {
	if m.MsgType > 0 {
		size := len(m.Data)
		return messageJSON{Time: now, Type: m.MsgType, Request: m.IsRequest(), Size: &size, bytesJSON: newBytesJSON(m.Data)}
	}
	j := messageJSON{Time: now, Event: m.Status}
	if m.Err != nil {
		j.Error = m.Err.Error()
	}
	return j
}

func printMessage(now time.Time, m *ipc.Message, colors bool) error {
	kind := "message"
	if m.IsRequest() {
		kind = "request"
	}
	_, err := fmt.Printf("%s  %s  type %d  %d bytes  %s\n", paint(colors, dim, clock(now)), paint(colors, cyan, kind),
		m.MsgType, len(m.Data), strconv.Quote(string(m.Data)))
	return err
}
