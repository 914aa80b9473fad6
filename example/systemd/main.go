// Command systemd is a server that systemd starts when its first client connects.
// systemd owns the socket, which outlives the server: during a restart clients
// wait in its queue, and none is refused.
//
//	go build -o ~/.local/bin/ipc-example ./example/systemd
//	cp example/systemd/ipc-example.* ~/.config/systemd/user/
//	systemctl --user daemon-reload
//	systemctl --user start ipc-example.socket
//	go run ./example/client -name ipc-example -dir "$XDG_RUNTIME_DIR"
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	passed, err := listeners()
	if err != nil {
		return err
	}
	listener := passed["ipc"] // FileDescriptorName= of the socket unit
	if listener == nil {
		return errors.New("systemd has passed no socket called ipc")
	}
	// Close closes the listener and leaves the socket's file alone.
	server, err := ipc.StartServer(&ipc.ServerConfig{Listener: listener, MultiMode: true})
	if err != nil {
		return err
	}
	fmt.Println("serving", server.Addr())
	for {
		err := server.ServerManager.ReadContext(ctx, answer)
		if errors.Is(err, context.Canceled) {
			return server.Close()
		}
		if err != nil {
			return err
		}
	}
}

func answer(client *ipc.Server, m *ipc.Message, err error) {
	switch {
	case err != nil:
	case m.MsgType < 0:
		fmt.Printf("client %d: %s\n", client.ClientID(), m.Status)
	default:
		if err := client.Write(m.MsgType, fmt.Appendf(nil, "you said %q", m.Data)); err != nil {
			fmt.Println("no answer:", err)
		}
	}
}

// firstFD is the first descriptor that systemd passes.
const firstFD = 3

// listeners returns the listening sockets that systemd has passed to this
// process, by their names; sd_listen_fds(3) describes the protocol. It unsets the
// variables, so that child processes do not use the descriptors.
func listeners() (map[string]net.Listener, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil // none, or another process's
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS: %w", err)
	}
	name := strings.Split(names, ":")
	passed := make(map[string]net.Listener)
	for i := range n {
		// The listener gets a duplicate, which children do not inherit.
		f := os.NewFile(uintptr(firstFD+i), "systemd")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", firstFD+i, err)
		}
		if i < len(name) {
			passed[name[i]] = l
		}
	}
	return passed, nil
}
