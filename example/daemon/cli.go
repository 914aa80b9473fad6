package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// command has the daemon do what args say, and shows its answer.
func command(dir string, timeout time.Duration, args []string) error {
	untilSignal, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(untilSignal, timeout, errors.New("the daemon does not answer in time"))
	defer cancel()

	client, err := connect(ctx, dir, args[0] != "stop")
	if errors.Is(err, errAbsent) {
		fmt.Println("not running")
		return nil
	}
	if err != nil {
		return err
	}
	defer client.Close()

	words, err := json.Marshal(args)
	if err != nil {
		return err
	}
	switch args[0] {
	case "logs":
		return follow(untilSignal, client, words)
	case "stop":
		return askToStop(ctx, client, words)
	default: // the daemon knows what there is
		return ask(ctx, client, words)
	}
}

// ask sends a command, and shows the reply.
func ask(ctx context.Context, client *ipc.Client, words []byte) error {
	reply, err := client.Request(ctx, typeCommand, words)
	if err != nil {
		return err
	}
	return show(reply)
}

// askToStop is ask that returns when the daemon has given its name back, so that
// another one can be started at once.
func askToStop(ctx context.Context, client *ipc.Client, words []byte) error {
	if err := ask(ctx, client, words); err != nil {
		return err
	}
	for client.StatusCode() == ipc.Connected {
		if _, err := client.ReadContext(ctx); err != nil {
			return err
		}
	}
	return nil
}

// follow sends a command, and shows the parts of its reply as they come. If ctx
// ends, the daemon is told. If the daemon ends in the middle, that is an error.
func follow(ctx context.Context, client *ipc.Client, words []byte) error {
	for part, err := range client.RequestParts(ctx, typeCommand, words) {
		if err != nil {
			return err
		}
		if err := show(part); err != nil {
			return err
		}
	}
	return nil
}

func show(m *ipc.Message) error {
	_, err := os.Stdout.Write(m.Data)
	return err
}
