// Command simple is a conversation in one program: a server, a client, and four
// questions.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The types of the messages, and the codes of errors, which the program chooses.
const (
	question = 1
	answer   = 2

	codeUnknown = 1
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	// A folder of its own keeps two runs apart.
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      "simple",
		SocketDir: dir,
		MultiMode: true, // any number of clients at once
		Handler:   serve,
	})
	if err != nil {
		return err
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "simple", SocketDir: dir})
	if err != nil {
		return err
	}
	defer client.Close()
	for _, q := range []string{"Who are you?", "How many processes are we?", "What is love?", "Shall we stop?"} {
		if err := ask(ctx, client, q); err != nil {
			return err
		}
	}
	return nil
}

// ask sends a question, and waits for the reply to it.
func ask(ctx context.Context, client *ipc.Client, text string) error {
	fmt.Println("client asks: ", text)
	reply, err := client.Request(ctx, question, []byte(text))
	var refused *ipc.ReplyError
	switch {
	case errors.As(err, &refused):
		fmt.Println("server fails:", refused.Text)
	case err != nil:
		return err
	default:
		fmt.Println("client hears:", string(reply.Data))
	}
	return nil
}

var answers = map[string]string{
	"Who are you?":               "A server on a Unix socket.",
	"How many processes are we?": "One, this time. Try example/daemon for two.",
	"Shall we stop?":             "Gladly.",
}

// serve is called with each message and event of a client: for one client one at a
// time, for several clients at once.
func serve(_ *ipc.Server, m *ipc.Message) {
	if !m.IsRequest() {
		return // such as the events Connected and Disconnected
	}
	var err error
	if text, ok := answers[string(m.Data)]; ok {
		err = m.Reply(answer, []byte(text))
	} else {
		err = m.ReplyError(codeUnknown, "I have no answer to that.")
	}
	if err != nil {
		log.Print(err) // the client has left
	}
}
