// Command simple is a conversation in one program: a server, a client, three
// questions and their answers.
package main

import (
	"fmt"
	"log"
	"os"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// The types of the messages, which the program chooses.
const (
	question = 1
	answer   = 2
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	// A folder of its own keeps two runs apart.
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	server, err := ipc.StartServer(&ipc.ServerConfig{Name: "simple", SocketDir: dir})
	if err != nil {
		return err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(server)
	}()

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: "simple", SocketDir: dir})
	if err != nil {
		return err
	}
	for _, q := range []string{"Who are you?", "How many processes are we?", "Shall we stop?"} {
		if err := ask(client, q); err != nil {
			return err
		}
	}

	if err := client.Close(); err != nil {
		return err
	}
	if err := server.Close(); err != nil {
		return err
	}
	<-served
	return nil
}

// ask sends a question, and waits for the answer.
func ask(client *ipc.Client, text string) error {
	fmt.Println("client asks:   ", text)
	if err := client.Write(question, []byte(text)); err != nil {
		return err
	}
	for {
		m, err := client.Read()
		if err != nil {
			return err
		}
		if m.MsgType == answer { // and not an event, such as Connected
			fmt.Println("client hears:  ", string(m.Data))
			return nil
		}
	}
}

// serve answers questions until the server is closed.
func serve(server *ipc.Server) {
	answers := map[string]string{
		"Who are you?":               "A server on a Unix socket.",
		"How many processes are we?": "One, this time. Try example/server and example/client for two.",
		"Shall we stop?":             "Gladly.",
	}
	for {
		m, err := server.Read()
		if err != nil {
			return
		}
		if m.MsgType != question {
			fmt.Println("server notices:", m.Status)
			continue
		}
		if err := server.Write(answer, []byte(answers[string(m.Data)])); err != nil {
			log.Print(err)
		}
	}
}
