package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// chat joins the room under a name. It says what comes from in and prints what
// the others say, until in or ctx ends.
func chat(ctx context.Context, config *ipc.ClientConfig, name string, in io.Reader, out io.Writer) error {
	client, err := ipc.StartClientContext(ctx, config)
	if err != nil {
		return err
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	go func() {
		if err := say(ctx, client, name, in); err != nil {
			fmt.Fprintln(out, "!", err)
		}
		client.Close() // sends what was said, and ends listen
	}()
	return listen(client, name, out)
}

// say says each line of in.
func say(ctx context.Context, client *ipc.Client, name string, in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		// While the server is away this waits for it.
		if err := client.WriteContext(ctx, typeSay, encode(post{Name: name, Text: lines.Text()})); err != nil {
			return nil // listen tells why
		}
	}
	return lines.Err()
}

// listen prints what the others say and how the connection fares, until the
// client ends.
func listen(client *ipc.Client, name string, out io.Writer) error {
	number := 0
	for m, err := range client.Messages(context.Background()) {
		switch {
		case errors.Is(err, ipc.ErrClosed):
			return nil
		case err != nil:
			return err
		case m.Err != nil:
			fmt.Fprintf(out, "! %v\n", m.Err)
		case m.Status == ipc.Connected.String():
			// To each server anew: it may be another one. If this fails, the
			// connection is gone again and there will be a next.
			_ = client.Write(typeHere, encode(post{Name: name}))
		case m.Status == ipc.ReConnecting.String():
			fmt.Fprintln(out, "* the server is away")
		case m.MsgType == typeYou, m.MsgType == typeSaid:
			var p post
			if err := json.Unmarshal(m.Data, &p); err != nil {
				return err
			}
			if m.MsgType == typeYou {
				number = p.Number
			} else if p.Number == 0 || p.Number != number {
				fmt.Fprintln(out, p)
			}
		}
	}
	return nil
}
