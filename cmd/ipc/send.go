package main

import (
	"context"
	"flag"
)

var sendCommand = command{
	name: "send", args: "NAME TYPE [DATA]", min: 2, max: 3,
	summary: "send a message",
	help: `
Send sends a message of type TYPE to the server NAME. DATA is text, @file, or - for
standard input, which is also read without DATA if it is not a terminal.

It ends when the system has the message. Whether the server has read it only a reply
can tell: see ipc help request.`,
	setup: func(flags *flag.FlagSet) runner {
		var t target
		t.declare(flags)
		t.declareTimeout(flags, ", and for sending")
		return func(ctx context.Context, args []string) error { return send(ctx, &t, args) }
	},
}

func send(ctx context.Context, t *target, args []string) error {
	t.name = args[0]
	msgType, data, err := readMessage(args[1:])
	if err != nil {
		return err
	}
	client, err := t.connect(ctx, discard)
	if err != nil {
		return err
	}
	p := newPatience(ctx, t.timeout)
	defer p.end()
	err = client.WriteContext(p, msgType, data)
	if err == nil {
		err = client.Flush(p)
	}
	if closed := client.Close(); err == nil {
		err = closed
	}
	if err != nil && p.expired() {
		return t.timeoutError("send to", "")
	}
	return err
}
