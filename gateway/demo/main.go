// Command demo shows two machines on one: two folders stand for them,
// and one embedded NATS server for the network between. The daemon of
// ../example/daemon runs on one of them, and its command line tool on the other.
// Neither knows.
//
//	go run ./demo
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/gateway/bridge"
	"github.com/nats-io/nats-server/v2/server"
)

const (
	service = "daemon" // the name that ../example/daemon takes

	// limit bounds the whole demo, for a machine that is very slow.
	limit = 2 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// demo is what the steps have in common.
type demo struct {
	ctx context.Context
	out io.Writer
	bin string // folder of the programs
	url string // of NATS
}

// machine is a folder that stands for a machine.
type machine struct {
	*demo
	name string
	dir  string
}

func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "ipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{ctx: ctx, out: out, bin: filepath.Join(dir, "bin")}
	a, b := &machine{d, "A", filepath.Join(dir, "a")}, &machine{d, "B", filepath.Join(dir, "b")}
	for _, folder := range []string{d.bin, a.dir, b.dir} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
	}
	if err := d.build(); err != nil {
		return err
	}
	stopNATS, err := d.startNATS()
	if err != nil {
		return err
	}
	defer stopNATS()
	return d.show(a, b)
}

// build builds the example, as it is, and the gateway.
func (d *demo) build() error {
	for _, pkg := range []string{"github.com/joe-at-startupmedia/golang-ipc/example/daemon", "github.com/joe-at-startupmedia/golang-ipc/gateway"} {
		cmd := exec.CommandContext(d.ctx, "go", "build", "-o", d.bin+string(filepath.Separator), pkg)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build %s: %w", pkg, err)
		}
	}
	return nil
}

func (d *demo) startNATS() (stop func(), err error) {
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, err
	}
	ns.Start()
	if !ns.ReadyForConnections(limit) {
		ns.Shutdown()
		return nil, fmt.Errorf("NATS does not start")
	}
	d.url = ns.ClientURL()
	fmt.Fprintf(d.out, "NATS listens on %s\n", d.url)
	return ns.Shutdown, nil
}

// show is what there is to see.
func (d *demo) show(a, b *machine) error {
	// The tool starts the daemon if there is none.
	if err := a.tool(0, "status"); err != nil {
		return err
	}
	defer a.command("daemon", "-dir", a.dir, "stop").Run() // what a failure has left

	exposing, err := a.gateway("exposed", "expose")
	if err != nil {
		return err
	}
	defer exposing.end()
	joining, err := b.gateway("joined", "join")
	if err != nil {
		return err
	}
	defer joining.end()

	if err := b.tool(0, "status"); err != nil {
		return err
	}
	if err := b.tool(2, "dance"); err != nil { // an error of the daemon, and its exit status
		return err
	}
	// It follows the log of the other machine, until the daemon is stopped there.
	follower, err := b.start("daemon", "-dir", b.dir, "logs", "-f")
	if err != nil {
		return err
	}
	defer follower.end()
	if err := follower.await("Connected"); err != nil {
		return err
	}
	if err := a.tool(0, "stop"); err != nil {
		return err
	}
	if err := follower.wait(); err != nil {
		return err
	}
	if err := exposing.await("the server has gone"); err != nil {
		return err
	}
	return b.tool(noServer&0xff, "status") // an error of the gateway: there is no daemon
}

// noServer is what the tool takes its exit status from at the end.
const noServer = bridge.CodeNoServer

// command returns one that runs a program on m.
func (m *machine) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(m.ctx, filepath.Join(m.bin, program), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// tool runs the tool on m, shows what it prints, and checks its exit status.
func (m *machine) tool(status int, args ...string) error {
	fmt.Fprintf(m.out, "%s$ daemon %s\n", m.name, strings.Join(args, " "))
	cmd := m.command("daemon", append([]string{"-dir", m.dir}, args...)...)
	output, err := cmd.CombinedOutput()
	m.out.Write(output)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		return fmt.Errorf("exit status %d, want %d", got, status)
	}
	return nil
}

// gateway starts a gateway on m, and waits until it logs that it is ready.
func (m *machine) gateway(ready, side string) (*program, error) {
	p, err := m.start("gateway", "-nats", m.url, "-dir", m.dir, side, service)
	if err != nil {
		return nil, err
	}
	if err := p.await(ready); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// program is a program that runs beside the demo.
type program struct {
	name  string
	cmd   *exec.Cmd
	lines chan string // that it has printed
}

// start starts a program on m, and shows what it prints.
func (m *machine) start(name string, args ...string) (*program, error) {
	fmt.Fprintf(m.out, "%s$ %s %s &\n", m.name, name, strings.Join(args, " "))
	p := &program{name, m.command(name, args...), make(chan string, 1000)}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	p.cmd.Stdout, p.cmd.Stderr = write, write
	if err := p.cmd.Start(); err != nil {
		read.Close()
		return nil, err
	}
	go func() {
		defer read.Close()
		defer close(p.lines)
		for s := bufio.NewScanner(read); s.Scan(); {
			fmt.Fprintf(m.out, "   %s: %s\n", name, s.Text())
			p.lines <- s.Text()
		}
	}()
	return p, nil
}

// await waits for a line with text.
func (p *program) await(text string) error {
	for line := range p.lines {
		if strings.Contains(line, text) {
			return nil
		}
	}
	return fmt.Errorf("%s has ended without %q", p.name, text)
}

// wait waits until the program ends by itself.
func (p *program) wait() error {
	for range p.lines {
	}
	return p.cmd.Wait()
}

// end ends the program, if it has not ended.
func (p *program) end() {
	if p.cmd.ProcessState == nil {
		p.cmd.Cancel()
		p.wait()
	}
}
