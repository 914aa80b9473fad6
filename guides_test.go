package ipc_test

import (
	"bytes"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// block is a fenced block of the README.
type block struct {
	language string
	heading  string // that it stands under
	text     string
}

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	noError(t, "ReadFile", err)
	return string(text)
}

// blocks returns the fenced blocks of a text in Markdown.
func blocks(t *testing.T, text string) (all []block) {
	t.Helper()
	heading := ""
	var open *block
	for line := range strings.Lines(text) {
		fence, fenced := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fenced && open == nil:
			open = &block{language: fence, heading: heading}
		case fenced:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if open != nil {
		t.Fatalf("the block under %q is not closed", open.heading)
	}
	return all
}

// snippetsHead is what all snippets have before them. Each is the body of a
// function that has these parameters.
const snippetsHead = `package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Some snippet needs each of them.
var (
	_ = errors.Is
	_ = fmt.Println
	_ = log.Print
	_ = slog.New
	_ = os.Stdout
	_ = time.Second
)

var snippets = map[string]func(ctx context.Context, server *ipc.Server, client *ipc.Client){
`

// TestReadmeSnippets compiles and runs every Go snippet of the README, in a
// module that imports this one as any other would. testdata/readme has the
// program around them.
func TestReadmeSnippets(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a program")
	}
	if runtime.GOOS == "windows" {
		t.Skip("the snippets use sockets with names")
	}
	root, err := os.Getwd()
	noError(t, "Getwd", err)
	main, err := os.ReadFile("testdata/readme/main.go")
	noError(t, "ReadFile", err)

	var snippets bytes.Buffer
	snippets.WriteString(snippetsHead)
	number := map[string]int{}
	for _, b := range blocks(t, readme(t)) {
		if b.language != "go" {
			continue
		}
		number[b.heading]++
		name := fmt.Sprintf("%s/%d", b.heading, number[b.heading])
		formatted, err := format.Source([]byte(b.text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(formatted) != b.text {
			t.Errorf("%s is not gofmt-ed:\n%s", name, b.text)
		}
		// Their sockets are to be in a folder of their own.
		text := regexp.MustCompile(`ipc\.(Server|Client)Config\{`).ReplaceAllString(b.text, "${0}SocketDir: dir, ")
		fmt.Fprintf(&snippets, "%q: func(ctx context.Context, server *ipc.Server, client *ipc.Client) {\n%s\n},\n", name, text)
	}
	snippets.WriteString("}\n")

	dir := t.TempDir()
	for name, content := range map[string]string{
		"main.go":     string(main),
		"snippets.go": snippets.String(),
		"go.mod": "module readme\n\ngo 1.25\n\n" +
			"require github.com/joe-at-startupmedia/golang-ipc v1.0.0\n\n" +
			"replace github.com/joe-at-startupmedia/golang-ipc => " + root + "\n",
	} {
		noError(t, "WriteFile", os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	sockets, err := os.MkdirTemp("", "ipc") // t.TempDir's path may be too long for a socket
	noError(t, "MkdirTemp", err)
	t.Cleanup(func() { os.RemoveAll(sockets) })
	cmd := exec.Command("go", "run", ".", sockets)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "PWD="+dir)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, output, &snippets)
	}
	// What they print, each after its name. A server and its client print at
	// the same time.
	for _, want := range []string{
		"== A server and a client/2\n",
		"\nhello, world\n",
		"== Reading/1\nnow Connecting\nnow Connected\ntype 7: seven\nnow Closed\nthis is the end: ",
		"== Reading/2\nin time\n",
		"\nclient 1 joins\n",
		"\necho\n",
		"== Many clients/2\nclient 1: to the manager\n",
		"== Many clients/3\nwe close at six\n",
		"== Handlers/1\nhandling client 1\n",
		"\necho of the handler\n",
		"== Requests/2\ndone: sweep\none\ntwo\nthree\nno such command (code 404)\n",
		"== Writing/1\nas soon as you can\n",
		"== Errors/1\nis the server running?\n",
		"== Permissions/1\n",
		`"msg":"ipc: listening"`,
	} {
		if !strings.Contains(string(output), want) {
			t.Errorf("the snippets do not print %q:\n%s", want, output)
		}
	}
}

// TestReadmeCommands checks that what the README's commands name is there.
func TestReadmeCommands(t *testing.T) {
	exists := func(command, path string) {
		t.Helper()
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%q: %v", command, err)
		}
	}
	commands := map[string]int{}
	for _, b := range blocks(t, readme(t)) {
		if b.language != "sh" {
			continue
		}
		dir := "."
		for line := range strings.Lines(b.text) {
			line = strings.TrimSpace(line)
			words := strings.Fields(line)
			commands[words[0]]++
			switch words[0] {
			case "cd":
				dir = words[1]
				exists(line, dir)
			case "go":
				switch words[1] {
				case "run":
					exists(line, filepath.Join(dir, words[2], "main.go"))
				case "test":
				default:
					t.Errorf("%q: nothing is known about this command", line)
				}
			case "node", "python3":
				exists(line, words[1])
			case "ssh": // example/remote/ssh_test.sh runs it
			default:
				t.Errorf("%q: nothing is known about this command", line)
			}
		}
	}
	if commands["go"] == 0 || commands["ssh"] == 0 {
		t.Errorf("commands found: %v", commands)
	}
}

var (
	htmlComment  = regexp.MustCompile(`(?s)<!--.*?-->`)
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	notInAnchors = regexp.MustCompile(`[^a-z0-9 -]`)
)

// TestLinks checks that what the documents link to is there: files, and
// headings of their own.
func TestLinks(t *testing.T) {
	for _, name := range []string{"README.md", "CONTRIBUTING.md"} {
		content, err := os.ReadFile(name)
		noError(t, "ReadFile", err)
		text := htmlComment.ReplaceAllString(string(content), "")
		anchors := map[string]bool{}
		for line := range strings.Lines(text) {
			if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
				title = strings.ToLower(strings.TrimSpace(title))
				anchors[strings.ReplaceAll(notInAnchors.ReplaceAllString(title, ""), " ", "-")] = true
			}
		}
		links := markdownLink.FindAllStringSubmatch(text, -1)
		if len(links) == 0 {
			t.Errorf("%s: no links found", name)
		}
		for _, l := range links {
			target := l[1]
			if strings.HasPrefix(target, "https://") {
				continue
			}
			path, anchor, _ := strings.Cut(target, "#")
			switch {
			case path == "" && !anchors[anchor]:
				t.Errorf("%s: no heading for %s", name, target)
			case path != "":
				if _, err := os.Stat(path); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// TestReadmeTables checks that the README's tables leave nothing out.
func TestReadmeTables(t *testing.T) {
	text := readme(t)
	has := func(heading, name string) {
		t.Helper()
		_, section, ok := strings.Cut(text, "\n"+heading)
		section, _, _ = strings.Cut(section, "\n\n")
		if !ok || !regexp.MustCompile(`(?m)^\|[^|]*`+"`"+regexp.QuoteMeta(name)+"`").MatchString(section) {
			t.Errorf("there is no row for %s in the table %q", name, heading)
		}
	}
	for heading, config := range map[string]any{
		"| `ServerConfig` |": ipc.ServerConfig{},
		"| `ClientConfig` |": ipc.ClientConfig{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(config)) {
			if field.IsExported() {
				has(heading, field.Name)
			}
		}
	}
	for _, status := range []ipc.Status{ipc.Connecting, ipc.Connected, ipc.Disconnected, ipc.ReConnecting,
		ipc.Timeout, ipc.Error, ipc.Closed} {
		has("| event, in `Status` |", status.String())
	}
	for _, attribute := range []string{"socket", "client", "peer", "reason", "error", "repeated", "pause"} {
		has("| attribute |", attribute)
	}
}
