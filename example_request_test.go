package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// serve returns a server in MultiMode whose Handler is called with each request,
// and a client of it.
func serve(handle func(*ipc.Message)) (*ipc.Server, *ipc.Client) {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      name,
		MultiMode: true,
		Handler: func(_ *ipc.Server, message *ipc.Message) {
			if message.IsRequest() {
				handle(message)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	return server, client
}

// A request, and its reply.
func ExampleClient_Request() {
	name := uniqueName()
	server, err := ipc.StartServer(&ipc.ServerConfig{
		Name:      name,
		MultiMode: true,
		Handler: func(_ *ipc.Server, message *ipc.Message) {
			if message.IsRequest() {
				message.Reply(2, append([]byte("hello, "), message.Data...))
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	client, err := ipc.StartClient(&ipc.ClientConfig{Name: name})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	reply, err := client.Request(context.Background(), 1, []byte("world"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d %s\n", reply.MsgType, reply.Data)
	// Output: 2 hello, world
}

// What an error of Request means.
func ExampleClient_Request_errors() {
	server, client := serve(func(message *ipc.Message) {
		if string(message.Data) == "dance" {
			message.ReplyError(404, "I cannot dance")
		}
		// Other requests get no reply.
	})
	defer server.Close()
	defer client.Close()

	for _, command := range []string{"dance", "sing", strings.Repeat("x", 4<<20)} {
		_, err := client.Request(context.Background(), 1, []byte(command))
		var refused *ipc.ReplyError
		switch {
		case errors.As(err, &refused):
			fmt.Println("the answer is no:", refused.Code, refused.Text)
		case errors.Is(err, ipc.ErrNoReply):
			fmt.Println("it may have been done")
		case err != nil:
			fmt.Println("it has not been done:", errors.Is(err, ipc.ErrMsgTooLarge))
		}
	}
	// Output:
	// the answer is no: 404 I cannot dance
	// it may have been done
	// it has not been done: true
}

// A server may ask, too. Here its client reads, and replies; a Handler would do
// as well.
func ExampleServer_Request() {
	server, client := connect()
	defer server.Close()
	defer client.Close()
	go func() {
		for message, err := range client.Messages(context.Background()) {
			if err != nil {
				return
			}
			if message.IsRequest() {
				message.Reply(1, []byte("the client"))
			}
		}
	}()

	reply, err := server.Request(context.Background(), 1, []byte("Who is there?"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", reply.Data)
	// Output: the client
}

// A reply in parts, which come as they are sent. If the loop ends without an
// error, there were no others.
func ExampleClient_RequestParts() {
	server, client := serve(func(message *ipc.Message) {
		for word := range strings.FieldsSeq(string(message.Data)) {
			if err := message.ReplyPart(1, []byte(word)); err != nil {
				return // the client has gone, or wants no more
			}
		}
		message.ReplyEnd()
	})
	defer server.Close()
	defer client.Close()

	for part, err := range client.RequestParts(context.Background(), 1, []byte("one two three")) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", part.Data)
	}
	// Output:
	// one
	// two
	// three
}

// Leaving the loop cancels the request: the context of the server's Message ends.
func ExampleClient_RequestParts_break() {
	stopped := make(chan error)
	server, client := serve(func(message *ipc.Message) {
		request := message.Clone()
		go func() {
			ctx := request.Context()
			for n := 0; ctx.Err() == nil; n++ {
				request.ReplyPart(1, fmt.Append(nil, n))
			}
			stopped <- ctx.Err()
		}()
	})
	defer server.Close()
	defer client.Close()

	for part, err := range client.RequestParts(context.Background(), 1, nil) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", part.Data)
		if string(part.Data) == "2" {
			break
		}
	}
	fmt.Println(<-stopped)
	// Output:
	// 0
	// 1
	// 2
	// context canceled
}

// Requests and other messages come in the order in which they were sent.
func ExampleMessage_IsRequest() {
	server, client := connect()
	defer server.Close()

	client.Write(1, []byte("by Write"))
	go func() {
		client.Request(context.Background(), 1, []byte("by Request"))
		client.Close()
	}()
	for message, err := range server.Messages(context.Background()) {
		switch {
		case err != nil:
			fmt.Println(err)
			return
		case message.IsRequest():
			fmt.Printf("%s: it waits for a reply\n", message.Data)
			message.Reply(1, nil)
		case message.MsgType > 0:
			fmt.Printf("%s\n", message.Data)
		default:
			fmt.Println(message.Status)
			return
		}
	}
	// Output:
	// by Write
	// by Request: it waits for a reply
	// Disconnected
}

// A request gets one reply.
func ExampleMessage_Reply() {
	again := make(chan error, 1)
	server, client := serve(func(message *ipc.Message) {
		message.Reply(2, []byte("the reply"))
		again <- message.Reply(2, []byte("another one"))
	})
	defer server.Close()
	defer client.Close()

	reply, err := client.Request(context.Background(), 1, nil)
	fmt.Printf("%s %v\n", reply.Data, err)
	fmt.Println(errors.Is(<-again, ipc.ErrNotAsked))
	// Output:
	// the reply <nil>
	// true
}

// A Handler that has much to do for a reply clones the request, and returns. The
// reply comes from another goroutine, and other messages are handled meanwhile.
func ExampleMessage_Reply_later() {
	server, client := serve(func(message *ipc.Message) {
		if string(message.Data) == "quick" {
			message.Reply(1, []byte("the quick reply"))
			return
		}
		request := message.Clone()
		go func() {
			<-request.Context().Done() // it takes very long
		}()
	})
	defer server.Close()
	defer client.Close()

	ctx, cancel := context.WithCancel(context.Background())
	slow := make(chan error)
	go func() {
		_, err := client.Request(ctx, 1, []byte("slow"))
		slow <- err
	}()
	reply, err := client.Request(context.Background(), 1, []byte("quick"))
	fmt.Printf("%s %v\n", reply.Data, err)
	cancel()
	fmt.Println(errors.Is(<-slow, context.Canceled))
	// Output:
	// the quick reply <nil>
	// true
}

// Only RequestParts takes parts.
func ExampleMessage_ReplyPart() {
	server, client := serve(func(message *ipc.Message) {
		err := message.ReplyPart(1, []byte("a part"))
		if errors.Is(err, ipc.ErrNotAsked) {
			message.Reply(1, []byte("all at once"))
			return
		}
		message.Reply(1, []byte("and the last one"))
	})
	defer server.Close()
	defer client.Close()

	reply, err := client.Request(context.Background(), 1, nil)
	fmt.Printf("%s %v\n", reply.Data, err)
	for part, err := range client.RequestParts(context.Background(), 1, nil) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", part.Data)
	}
	// Output:
	// all at once <nil>
	// a part
	// and the last one
}

// ReplyEnd is the end of a reply in parts, of which there may be none.
func ExampleMessage_ReplyEnd() {
	server, client := serve(func(message *ipc.Message) {
		for range len(message.Data) {
			if err := message.ReplyPart(1, []byte("*")); err != nil {
				return
			}
		}
		message.ReplyEnd()
	})
	defer server.Close()
	defer client.Close()

	for _, data := range []string{"three", ""} {
		parts := 0
		for _, err := range client.RequestParts(context.Background(), 1, []byte(data)) {
			if err != nil {
				fmt.Println(err)
				return
			}
			parts++
		}
		fmt.Println(parts)
	}
	// Output:
	// 5
	// 0
}

// An error ends a reply in parts as well, and the parts before it have come.
func ExampleMessage_ReplyError() {
	server, client := serve(func(message *ipc.Message) {
		if err := message.ReplyPart(1, []byte("the first half")); err != nil {
			return
		}
		message.ReplyError(507, "the disk is full")
	})
	defer server.Close()
	defer client.Close()

	for part, err := range client.RequestParts(context.Background(), 1, nil) {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Printf("%s\n", part.Data)
	}
	// Output:
	// the first half
	// the disk is full (code 507)
}

// The context of a request ends when the reply is not wanted any more.
func ExampleMessage_Context() {
	asked, given := make(chan bool), make(chan error)
	server, client := serve(func(message *ipc.Message) {
		request := message.Clone()
		go func() {
			asked <- true
			<-request.Context().Done()
			given <- request.Reply(1, []byte("too late"))
		}()
	})
	defer server.Close()
	defer client.Close()

	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-asked
		cancel()
	}()
	_, err := client.Request(ctx, 1, nil)
	fmt.Println(errors.Is(err, context.Canceled), errors.Is(err, ipc.ErrNoReply))
	fmt.Println(errors.Is(<-given, context.Canceled))
	// Output:
	// true true
	// true
}

func ExampleReplyError() {
	server, client := serve(func(message *ipc.Message) {
		message.ReplyError(1, "not today")
	})
	defer server.Close()
	defer client.Close()

	_, err := client.Request(context.Background(), 1, nil)
	var refused *ipc.ReplyError
	fmt.Println(errors.As(err, &refused), refused.Code, refused.Text)
	// Output: true 1 not today
}
