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

// chat joins the room under a name. It sends the lines of in and prints what the
// others say, until in or ctx ends.
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
		client.Close() // sends what Write has accepted, and ends listen
	}()
	return listen(client, name, out)
}

// say sends each line of in.
func say(ctx context.Context, client *ipc.Client, name string, in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		// While the server is away this waits for it.
		if err := client.WriteContext(ctx, typeSay, encode(post{Name: name, Text: lines.Text()})); err != nil {
			return nil // listen returns the reason
		}
	}
	return lines.Err()
}

// listen prints what the others say and the state of the connection, until the
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
			// A server that was restarted does not know the name yet. If this
			// fails, the connection is lost again and Connected comes once more.
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
