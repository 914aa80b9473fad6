package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

var requestCommand = command{
	name: "request", args: "NAME TYPE [DATA]", min: 2, max: 3,
	summary: "send a request, and print the reply",
	help: `
Request sends a request of type TYPE to the server NAME, and writes the data of its
reply to standard output as it is (on a terminal, with a newline at the end). DATA is
text, @file, or - for standard input, which is also read without DATA if it is not a
terminal.

If the server answers with a ReplyError, that goes to standard error, and the exit
status is 1. Ctrl-C cancels the request, which the server is told.`,
	setup: func(flags *flag.FlagSet) runner {
		var t target
		t.declare(flags)
		t.declareTimeout(flags, ", and then for the reply, or each part of it")
		parts := flags.Bool("parts", false, "take a reply in any number of parts, and print each as it comes")
		asJSON := flags.Bool("json", false, "print each reply as a JSON object in a line")
		return func(ctx context.Context, args []string) error {
			return request(ctx, &t, args, *parts, *asJSON)
		}
	},
}

func request(ctx context.Context, t *target, args []string, parts, asJSON bool) error {
	t.name = args[0]
	msgType, data, err := readMessage(args[1:])
	if err != nil {
		return err
	}
	client, err := t.connect(ctx, discard)
	if err != nil {
		return err
	}
	defer client.Close() // what was sent has been answered, or is no longer wanted
	p := newPatience(ctx, t.timeout)
	defer p.end()
	if !parts {
		m, err := client.Request(p, msgType, data)
		if err != nil {
			return t.requestError(p, err)
		}
		return printReply(m, asJSON)
	}
	err = eachPart(p, client.RequestParts(p, msgType, data), func(m *ipc.Message) error {
		return printReply(m, asJSON)
	})
	return t.requestError(p, err)
}

// requestError returns err, of a wait for a reply that p bounds, with what to do
// about it.
func (t *target) requestError(p *patience, err error) error {
	switch {
	case err == nil:
		return nil
	case p.expired() && errors.Is(err, ipc.ErrNoReply):
		return t.timeoutError("request to", ", and the server may have handled it")
	case p.expired():
		return t.timeoutError("request to", ", and it was not sent: that a server knows no requests shows after 5 seconds")
	case errors.Is(err, ipc.ErrNoRequests):
		return fmt.Errorf("%w; try: ipc send", err)
	}
	return err
}

// eachPart calls do with each part. The limit of p is for the next one.
func eachPart(p *patience, parts iter.Seq2[*ipc.Message, error], do func(*ipc.Message) error) error {
	for m, err := range parts {
		if err == nil {
			err = do(m)
		}
		if err != nil {
			return err
		}
		p.renew()
	}
	return nil
}

// replyJSON is a reply as -json shows it.
type replyJSON struct {
	Type int `json:"type"`
	Size int `json:"size"`
	bytesJSON
}

func printReply(m *ipc.Message, asJSON bool) error {
	if asJSON {
		return writeJSON(os.Stdout, replyJSON{m.MsgType, len(m.Data), newBytesJSON(m.Data)})
	}
	_, err := os.Stdout.Write(m.Data)
	if err == nil && isTerminal(os.Stdout) && !bytes.HasSuffix(m.Data, []byte("\n")) {
		_, err = os.Stdout.WriteString("\n")
	}
	return err
}
