package ipc_test

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// guides returns the guides: their paths and texts.
func guides(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"README.md", "docs/*.md", "example/*/README.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			noError(t, "ReadFile", err)
			all[filepath.ToSlash(path)] = string(text)
		}
	}
	return all
}

// docInMarkdown returns the package documentation as a text in Markdown.
func docInMarkdown(t *testing.T) string {
	t.Helper()
	doc, _ := packageDoc(t)
	var text strings.Builder
	code := false
	for line := range strings.Lines(doc) {
		rest, indented := strings.CutPrefix(line, "\t")
		if line != "\n" && indented != code { // code may have empty lines
			fence := "```\n"
			if indented {
				fence = "```go\n"
			}
			text.WriteString(fence)
			code = indented
		}
		text.WriteString(rest)
	}
	return text.String()
}

// block is a fenced block of a guide.
type block struct {
	language string // "go before" is for code that is to be replaced: it is not compiled
	heading  string // that it stands under
	text     string
}

// blocks returns the fenced blocks of a text in Markdown.
func blocks(t *testing.T, path, text string) (all []block) {
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
		t.Fatalf("%s: the block under %q is not closed", path, open.heading)
	}
	return all
}

// snippet is a block of Go.
type snippet struct{ name, text string }

func (s snippet) isProgram() bool { return strings.HasPrefix(s.text, "package ") }

// body returns the body of a function that runs the snippet: statements, an
// expression, or a function with a context.
func (s snippet) body() string {
	text := s.inDir()
	if name, ok := strings.CutPrefix(text, "func "); ok {
		name, rest, _ := strings.Cut(name, "(")
		return name + " := func(" + rest + "\nreturn " + name + "(ctx)"
	}
	if _, err := parser.ParseExpr(text); err == nil {
		return "_ = " + text + "\nreturn nil"
	}
	return "{\n" + text + "\n}\nreturn nil"
}

// inDir returns the text with its sockets in the folder that the variable dir
// names.
func (s snippet) inDir() string {
	return regexp.MustCompile(`ipc\.(Server|Client)Config\{`).ReplaceAllString(s.text, "${0}SocketDir: dir, ")
}

// snippets returns the Go of all guides, and of the package documentation, that is
// to be compiled. A name is the
// path, the heading, and a number under it.
func snippets(t *testing.T) (all []snippet) {
	t.Helper()
	texts := guides(t)
	texts["doc.go"] = docInMarkdown(t)
	for path, text := range texts {
		number := map[string]int{}
		for _, b := range blocks(t, path, text) {
			if language, _, _ := strings.Cut(b.language, " "); language != "go" {
				continue
			}
			formatted, err := format.Source([]byte(b.text))
			if err != nil {
				t.Errorf("%s: %s: %v", path, b.heading, err)
			} else if string(bytes.TrimSpace(formatted)) != strings.TrimSpace(b.text) {
				t.Errorf("%s: this under %q is not gofmt-ed:\n%s", path, b.heading, b.text)
			}
			if b.language != "go" {
				continue
			}
			number[b.heading]++
			all = append(all, snippet{fmt.Sprintf("%s: %s/%d", path, b.heading, number[b.heading]), strings.TrimSpace(b.text) + "\n"})
		}
	}
	slices.SortFunc(all, func(a, b snippet) int { return strings.Compare(a.name, b.name) })
	return all
}

// snippetsHead is what all snippets have before them, but for whole programs. Each
// is the body of a function that has these parameters.
const snippetsHead = `package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"strconv"
	"time"

	ipc "github.com/joe-at-startupmedia/golang-ipc"
)

// Some snippet needs each of them.
var (
	_ = bytes.ToUpper
	_ = tls.Listen
	_ = json.Marshal
	_ = errors.As
	_ = fmt.Println
	_ = log.Print
	_ net.Conn
	_ = strconv.AppendInt
	_ = time.Second
)

var snippets = map[string]snippet{
`

// build builds a program from its files, in a module that imports this one as any
// other would.
func build(t *testing.T, files map[string]string) (program string) {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles a program")
	}
	if runtime.GOOS == "windows" {
		t.Skip("the guides use sockets with names")
	}
	root, err := os.Getwd()
	noError(t, "Getwd", err)
	dir := t.TempDir()
	files["go.mod"] = "module guides\n\ngo 1.25\n\n" +
		"require github.com/joe-at-startupmedia/golang-ipc v1.0.0\n\n" +
		"replace github.com/joe-at-startupmedia/golang-ipc => " + root + "\n"
	for name, content := range files {
		noError(t, "WriteFile", os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	program = filepath.Join(dir, "program")
	if output, err := goCommand(t, dir, "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return program
}

// goCommand returns a command of the go tool, in a folder and without a network.
func goCommand(t *testing.T, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "PWD="+dir)
	return cmd
}

// socketDir returns a folder for sockets: t.TempDir's path may be too long.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "ipc")
	noError(t, "MkdirTemp", err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestGuideSnippets compiles and runs every Go snippet of the guides and of the
// package documentation.
// testdata/guides has the program around them.
func TestGuideSnippets(t *testing.T) {
	main, err := os.ReadFile("testdata/guides/main.go")
	noError(t, "ReadFile", err)
	var text bytes.Buffer
	text.WriteString(snippetsHead)
	for _, s := range snippets(t) {
		if !s.isProgram() {
			fmt.Fprintf(&text, "%q: func(ctx context.Context, server *ipc.Server, client *ipc.Client) error {\n%s\n},\n", s.name, s.body())
		}
	}
	text.WriteString("}\n")
	program := build(t, map[string]string{"main.go": string(main), "snippets.go": text.String()})

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, program, socketDir(t)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	// What they print, each after its name.
	for _, want := range []string{
		"== README.md: Many clients/1\nwe close at six\n",
		"connection/1\nEIGHT\n",
		"many clients/1\nto all\nto all\nto all again\n",
		"answer/2\nSEVEN\n",
		"question/1\nnews\nmail\n",
		"UnixConn/1\necho\n",
		"rpc/1\n6 * 7 = 42\n",
		"socket/1\nhello, world\nrefused: 3 no name\n",
		"TLS/1\nyou said hello\n",
		"doc.go: Starting/2\nhello, world\n",
		"doc.go: Many clients/1\nback\n",
	} {
		if !strings.Contains(string(output), want) {
			t.Errorf("the snippets do not print %q:\n%s", want, output)
		}
	}
}

// TestGuidePrograms runs the whole programs of the guides: each is a server with
// the argument serve, and a client without.
func TestGuidePrograms(t *testing.T) {
	programs := 0
	for _, s := range snippets(t) {
		if !s.isProgram() {
			continue
		}
		programs++
		dir := socketDir(t)
		program := build(t, map[string]string{
			"main.go": s.inDir(),
			"dir.go":  fmt.Sprintf("package main\n\nconst dir = %q\n", dir),
		})
		server := exec.CommandContext(t.Context(), program, "serve")
		noError(t, "Start", server.Start())
		output, err := exec.CommandContext(t.Context(), program).CombinedOutput()
		if want := "hello, world\n"; err != nil || string(output) != want {
			t.Errorf("%s: the client prints %q, %v, want %q", s.name, output, err, want)
		}
		noError(t, "Signal", server.Process.Signal(os.Interrupt))
		if err := server.Wait(); err != nil {
			t.Errorf("%s: the server: %v", s.name, err)
		}
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Errorf("%s: left behind: %v, %v", s.name, left, err)
		}
	}
	if programs == 0 {
		t.Error("there are no programs in the guides")
	}
}

// TestGuideInstall has a new module use a checkout as the README says.
func TestGuideInstall(t *testing.T) {
	var commands []string
	for _, b := range blocks(t, "README.md", guides(t)["README.md"]) {
		if b.heading == "Install" {
			commands = append(commands, strings.Split(strings.TrimSpace(b.text), "\n")...)
		}
	}
	if len(commands) == 0 {
		t.Fatal("no commands found")
	}
	if testing.Short() {
		t.Skip("compiles a program")
	}
	root, err := os.Getwd()
	noError(t, "Getwd", err)
	dir := filepath.Join(t.TempDir(), "module")
	noError(t, "Mkdir", os.Mkdir(dir, 0o700))
	noError(t, "Symlink", os.Symlink(root, filepath.Join(dir, "../golang-ipc")))
	noError(t, "WriteFile", os.WriteFile(filepath.Join(dir, "main.go"),
		[]byte("package main\n\nimport ipc \"github.com/joe-at-startupmedia/golang-ipc\"\n\nfunc main() { println(ipc.Connected.String()) }\n"), 0o600))
	commands = append([]string{"go mod init example.com/module"}, commands...)
	for _, c := range append(commands, "go vet .") {
		words := strings.Fields(c)
		if words[0] != "go" {
			t.Fatalf("%q: nothing is known about this command", c)
		}
		if output, err := goCommand(t, dir, words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", c, err, output)
		}
	}
}

// TestGuideCommands checks that what the guides' commands name is there.
func TestGuideCommands(t *testing.T) {
	exists := func(command, path string) {
		t.Helper()
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%q: %v", command, err)
		}
	}
	commands := map[string]int{}
	for path, text := range guides(t) {
		for _, b := range blocks(t, path, text) {
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
					case "build":
						exists(line, filepath.Join(dir, words[len(words)-1], "main.go"))
					case "test", "mod": // TestGuideInstall runs mod
					default:
						t.Errorf("%q: nothing is known about this command", line)
					}
				case "cp":
					if found, _ := filepath.Glob(words[1]); len(found) == 0 {
						t.Errorf("%q: there is no such file", line)
					}
				case "mkdir", "systemctl":
				case "ssh": // example/remote/ssh_test.sh runs it
				default:
					t.Errorf("%q: nothing is known about this command", line)
				}
			}
		}
	}
	if commands["go"] == 0 || commands["ssh"] == 0 || commands["systemctl"] == 0 {
		t.Errorf("commands found: %v", commands)
	}
}

var (
	htmlComment  = regexp.MustCompile(`(?s)<!--.*?-->`)
	fencedBlock  = regexp.MustCompile("(?ms)^```.*?^```$")
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	notInAnchors = regexp.MustCompile(`[^a-z0-9 -]`)
)

// anchors returns the headings of a text in Markdown, as links name them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(fencedBlock.ReplaceAllString(text, "")) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
			title = strings.ToLower(strings.TrimSpace(title))
			all[strings.ReplaceAll(notInAnchors.ReplaceAllString(title, ""), " ", "-")] = true
		}
	}
	return all
}

// TestLinks checks that what the documents link to is there: files, and the
// headings of documents.
func TestLinks(t *testing.T) {
	documents := guides(t)
	for _, path := range []string{"CONTRIBUTING.md", "SECURITY.md", "PROTOCOL.md", "bench/README.md"} {
		content, err := os.ReadFile(path)
		noError(t, "ReadFile", err)
		documents[path] = string(content)
	}
	links := 0
	for path, text := range documents {
		text = fencedBlock.ReplaceAllString(htmlComment.ReplaceAllString(text, ""), "")
		for _, l := range markdownLink.FindAllStringSubmatch(text, -1) {
			links++
			if strings.HasPrefix(l[1], "https://") || strings.HasPrefix(l[1], "../../security/") {
				continue // elsewhere, or a page of the repository's host
			}
			target, anchor, _ := strings.Cut(l[1], "#")
			if target = filepath.ToSlash(filepath.Join(filepath.Dir(path), target)); strings.HasPrefix(l[1], "#") {
				target = path
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if anchor != "" && !anchors(documents[target])[anchor] {
				t.Errorf("%s: no heading for %s", path, l[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links found", links)
	}
}

// TestReadmeSize keeps the README one that is read at one sitting.
func TestReadmeSize(t *testing.T) {
	if n := len(guides(t)["README.md"]); n > 10<<10 {
		t.Errorf("README.md has %d bytes, want 10 KiB at most", n)
	}
}

// packageDoc returns the package documentation, and the parsed files of the
// package without its tests.
func packageDoc(t *testing.T) (doc string, files map[string]*ast.File) {
	t.Helper()
	files = parse(t, ".", func(path string) bool { return !strings.HasSuffix(path, "_test.go") })
	return files["doc.go"].Doc.Text(), files
}

// parse returns the Go files of a folder that are wanted, by their paths.
func parse(t *testing.T, dir string, wanted func(path string) bool) map[string]*ast.File {
	t.Helper()
	entries, err := os.ReadDir(dir)
	noError(t, "ReadDir", err)
	files := map[string]*ast.File{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() || filepath.Ext(path) != ".go" || !wanted(path) {
			continue
		}
		files[path], err = parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		noError(t, "ParseFile", err)
	}
	return files
}

// TestDocNames checks that the package documentation leaves no error, event,
// log attribute or field of a configuration out.
func TestDocNames(t *testing.T) {
	doc, files := packageDoc(t)
	_, logging, _ := strings.Cut(doc, "# Logging")
	logging, _, _ = strings.Cut(logging, "\n# ")
	for _, attribute := range []string{"socket", "client", "peer", "reason", "error", "repeated", "pause"} {
		if !strings.Contains(logging, attribute) {
			t.Errorf("there is nothing about the attribute %s under Logging", attribute)
		}
	}
	for _, status := range []ipc.Status{ipc.Connecting, ipc.Connected, ipc.Disconnected, ipc.ReConnecting,
		ipc.Timeout, ipc.Error, ipc.Closed} {
		if !strings.Contains(doc, fmt.Sprintf("%q", status.String())) {
			t.Errorf("there is nothing about the event %q", status)
		}
	}
	for _, name := range exported(files) {
		config, field, isField := strings.Cut(name, ".")
		switch {
		case strings.HasPrefix(name, "Err") && name != "Error":
			if !strings.Contains(doc, "["+name+"]") {
				t.Errorf("there is nothing about %s", name)
			}
		case isField && strings.HasSuffix(config, "Config"):
			if !regexp.MustCompile(`\b` + field + `\b`).MatchString(doc) {
				t.Errorf("there is nothing about %s", name)
			}
		}
	}
}

// TestDocIsPinned checks the comments of tests that say which promise of the package
// documentation they pin, such as
//
//	// Pins doc.go, "Reading": nothing is lost, duplicated or reordered
//
// The promise has to stand in that section, and each paragraph and each item of a
// list has to be pinned by a test.
func TestDocIsPinned(t *testing.T) {
	doc, _ := packageDoc(t)
	type place struct{ section, text string }
	var places []place // paragraphs and items
	section := ""
	for _, paragraph := range strings.Split(doc, "\n\n") {
		if title, ok := strings.CutPrefix(paragraph, "# "); ok {
			section = title
			continue
		}
		if strings.HasPrefix(paragraph, "\t") {
			continue // code
		}
		for _, text := range strings.Split(paragraph, "\n  - ") {
			text = strings.TrimPrefix(text, "  - ")
			places = append(places, place{section, strings.Join(strings.Fields(docLink.ReplaceAllString(text, "$1")), " ")})
		}
	}

	pinned := make([]bool, len(places))
	noError(t, "WalkDir", filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || path == "guides_test.go" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, pin := range pin.FindAllStringSubmatch(string(text), -1) {
			found := false
			for i, p := range places {
				if p.section == pin[1] && strings.Contains(p.text, pin[2]) {
					pinned[i], found = true, true
				}
			}
			if !found {
				t.Errorf("%s: doc.go does not say under %q: %s", path, pin[1], pin[2])
			}
		}
		return err
	}))
	for i, p := range places {
		if pinned[i] || p.section == "" || slices.ContainsFunc(promisesNothing, func(s string) bool { return strings.HasPrefix(p.text, s) }) {
			continue
		}
		t.Errorf("no test pins what doc.go says under %q: %s", p.section, p.text)
	}
}

var (
	docLink = regexp.MustCompile(`\[([^\]]+)\]`)
	pin     = regexp.MustCompile(`(?m)^// Pins doc\.go, "([^"]+)": (.*)$`)
)

// promisesNothing has the beginnings of what is advice, or leads to what follows.
var promisesNothing = []string{
	"and a client that makes one:",
	"Left out on purpose are:",
	"Nothing has to be tuned.",
	"ErrNoReply, ErrNoRequests, ErrNotAsked, *ReplyError and ErrFull: see Requests.",
	"A program that does nothing but receive",
	"In MultiMode each client has a goroutine",
	"docs/MIGRATING.md",
}

// exported returns the exported names of the package: functions, types, variables
// and constants, and with their type's name methods and fields.
func exported(files map[string]*ast.File) (names []string) {
	add := func(in string, ids ...*ast.Ident) {
		for _, id := range ids {
			if id.IsExported() {
				names = append(names, in+id.Name)
			}
		}
	}
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				in := ""
				if d.Recv != nil {
					in = receiver(d) + "."
				}
				if in == "" || ast.IsExported(in) || in == "session." {
					add(in, d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.ValueSpec:
						add("", s.Names...)
					case *ast.TypeSpec:
						add("", s.Name)
						if st, ok := s.Type.(*ast.StructType); ok && s.Name.IsExported() {
							for _, field := range st.Fields.List {
								add(s.Name.Name+".", field.Names...)
							}
						}
					}
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

func receiver(d *ast.FuncDecl) string {
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	return typ.(*ast.Ident).Name
}

// TestEachNameHasAnExample checks that each exported name has an example, or is
// used in one that is run.
func TestEachNameHasAnExample(t *testing.T) {
	_, files := packageDoc(t)
	used := map[string]bool{}
	for path, f := range parse(t, ".", func(path string) bool { return strings.HasPrefix(filepath.Base(path), "example_") }) {
		examples := 0
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if strings.HasPrefix(fn.Name.Name, "Example") {
				examples++
				if !slices.ContainsFunc(f.Comments, func(c *ast.CommentGroup) bool {
					return c.Pos() > fn.Pos() && c.End() < fn.End() && regexp.MustCompile(`(?i)^(unordered )?output:`).MatchString(c.Text())
				}) {
					t.Errorf("%s: %s has no output, and is not run", path, fn.Name.Name)
				}
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					used[n.Sel.Name] = true
				case *ast.KeyValueExpr:
					if id, ok := n.Key.(*ast.Ident); ok {
						used[id.Name] = true
					}
				}
				return true
			})
		}
		if examples == 0 {
			t.Errorf("%s has no examples", path)
		}
	}
	for _, name := range exported(files) {
		_, last, isMember := strings.Cut(name, ".")
		if !isMember {
			last = name
		}
		switch last {
		case "String", "Error", "LogValue": // called by fmt and log/slog
			if isMember {
				continue
			}
		}
		if !used[last] {
			t.Errorf("%s stands in no example", name)
		}
	}
}

// TestNoExitAfterDeferredClose checks that no code that is made to be copied ends
// the program behind a deferred Close: what Write has accepted would be lost. A
// function literal counts as part of the function that it is in.
func TestNoExitAfterDeferredClose(t *testing.T) {
	check := func(name string, f *ast.File) {
		for _, d := range f.Decls {
			deferred := false
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.DeferStmt:
					deferred = deferred || callee(n.Call) == "Close"
				case *ast.CallExpr:
					if c := callee(n); deferred && (strings.HasPrefix(c, "Fatal") || c == "Exit") {
						t.Errorf("%s: %s: %s after a deferred Close", name, d.(*ast.FuncDecl).Name, c)
					}
				}
				return true
			})
		}
	}
	dirs := []string{"."}
	noError(t, "WalkDir", filepath.WalkDir("example", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	}))
	for _, dir := range dirs {
		for path, f := range parse(t, dir, func(path string) bool {
			return dir != "." && !strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "example_")
		}) {
			check(path, f)
		}
	}
	for _, s := range snippets(t) {
		text := s.text
		if !s.isProgram() {
			text = "package main\n\nfunc f() error {\n" + s.body() + "\n}\n"
		}
		f, err := parser.ParseFile(token.NewFileSet(), s.name, text, parser.SkipObjectResolution)
		noError(t, "ParseFile", err)
		check(s.name, f)
	}
}

// callee returns the name of the function or method that is called.
func callee(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		return f.Sel.Name
	case *ast.Ident:
		return f.Name
	}
	return ""
}
