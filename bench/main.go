// Command bench compares this library with plain Unix sockets and with other
// libraries. Run it in its own folder: "go run .". See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/joe-at-startupmedia/golang-ipc/bench/harness"
)

func main() {
	harness.Main(builtin...)

	var o options
	flag.BoolVar(&o.quick, "quick", false, "smoke test: one round, far too short to judge by")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each measurement is done")
	flag.DurationVar(&o.time, "time", 0, "how long one measurement takes (default 500ms)")
	flag.Var(&o.run, "run", "only the workloads whose id matches this `regexp`")
	flag.Var(&o.peers, "peers", "only the peers whose name matches this `regexp`; ours always takes part")
	flag.StringVar(&o.json, "json", "", "keep everything that was measured in this `file`")
	flag.StringVar(&o.plot, "plot", "", "draw the comparison into this SVG `file`")
	flag.StringVar(&o.readme, "readme", "", "write the short table into this Markdown `file`")
	flag.StringVar(&o.from, "from", "", "measure nothing: take what -json kept in this `file`")
	flag.StringVar(&o.profile, "profile", "", "write the CPU profiles of all workers into this `folder`")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: %q is not a flag\n", flag.Arg(0))
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.do(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	quick      bool
	rounds     int
	time       time.Duration
	run, peers pattern
	json, plot string
	readme     string
	from       string
	profile    string
}

// pattern is a flag that is a regular expression; without one, all match.
type pattern struct{ *regexp.Regexp }

func (p *pattern) String() string {
	if p.Regexp == nil {
		return ""
	}
	return p.Regexp.String()
}

func (p *pattern) Set(s string) (err error) {
	p.Regexp, err = regexp.Compile(s)
	return err
}

func (p *pattern) matches(s string) bool { return p.Regexp == nil || p.MatchString(s) }

func (o *options) do(ctx context.Context) error {
	var (
		r   *report
		err error
	)
	if o.from != "" {
		r, err = readReport(o.from)
	} else {
		r, err = o.bench(ctx)
	}
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	if o.json != "" {
		if err := r.write(o.json); err != nil {
			return err
		}
	}
	if o.plot != "" {
		if err := os.WriteFile(o.plot, r.plot(), 0o644); err != nil {
			return err
		}
	}
	if o.readme != "" {
		if err := r.intoReadme(o.readme); err != nil {
			return err
		}
	}
	if failed := r.failures(); len(failed) > 0 {
		return errors.New("what must work failed:\n" + strings.Join(failed, "\n"))
	}
	return nil
}

// bench measures.
func (o *options) bench(ctx context.Context) (*report, error) {
	s := fullScale
	if o.quick {
		s, o.rounds = quickScale, 1
	}
	if o.time > 0 {
		s.measure = o.time
	}
	s.idle, s.many, s.broadcast = affordable(s.idle), affordable(s.many), affordable(s.broadcast)
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	b := bench{options: o, dir: dir, programs: map[string]string{}, report: &report{
		Started: time.Now(), System: thisSystem(), Rounds: o.rounds, Quick: o.quick,
		Versions: map[string]string{}, LeftOut: map[string]string{},
	}}
	b.enter(ctx)
	if b.choose(workloads(s)); len(b.workloads) == 0 {
		return nil, errors.New("no workload matches -run")
	}
	defer progress("")
	// Whatever the machine does meanwhile is shared by all: every round has every
	// measurement once, and those that are compared follow each other.
	for round := range o.rounds {
		for i, w := range b.workloads {
			for _, c := range b.contestants {
				if !w.takes(c) {
					continue
				}
				progress("round %d of %d: %s, %s", round+1, o.rounds, w.label, c.name)
				b.measure(&b.report.Results[i], w, c)
				if ctx.Err() != nil {
					return nil, errors.New("interrupted")
				}
			}
		}
	}
	return b.report, nil
}

// bench is a run of the benchmark.
type bench struct {
	*options
	dir         string // for sockets and programs
	contestants []contestant
	programs    map[string]string // of the contestants
	workloads   []workload
	measured    int
	report      *report
}

// enter builds the contestants that are to take part.
func (b *bench) enter(ctx context.Context) {
	for _, c := range contestants {
		if c.name != ours && !b.peers.matches(c.name) {
			continue
		}
		p, err := program(ctx, c, b.dir)
		if err != nil {
			b.report.LeftOut[c.name] = err.Error()
			continue
		}
		b.contestants = append(b.contestants, c)
		b.programs[c.name] = p
		b.report.Names = append(b.report.Names, c.name)
	}
}

// choose takes the workloads that are asked for.
func (b *bench) choose(all []workload) {
	for _, w := range all {
		if b.run.matches(w.id) {
			b.workloads = append(b.workloads, w)
			b.report.Results = append(b.report.Results, newResult(w))
		}
	}
}

func (b *bench) measure(into *result, w workload, c contestant) {
	b.measured++
	spec := w.spec
	spec.Peer, spec.Dir = c.name, b.dir
	spec.Name = fmt.Sprintf("bench%d-%d", os.Getpid(), b.measured)
	if b.profile != "" {
		spec.Profile = filepath.Join(b.profile, strings.ReplaceAll(w.id+"-"+c.name, "/", "-"))
	}
	m, version := measure(b.programs[c.name], &spec)
	// Some know no other folder, and a killed server leaves its socket.
	_ = os.Remove(filepath.Join("/tmp", spec.Name+".sock"))
	into.Runs[c.name] = append(into.Runs[c.name], m)
	if version != "" {
		b.report.Versions[c.name] = version
	}
}

// progress replaces the line that says what is being done. It is for a
// terminal; in a log it would be noise.
func progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\033[K"+format, args...)
	}
}
