package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const strangersUsage = `Usage: bench strangers [flags]

Has strangers come to the Raft port of the member that leads three, each in a process of
its own, in all ways in which members make sure of each other: with what no member would
send, and without what a member shows. Honest writes go on by way of all three. Each row
is measured first without strangers and then with them.

Flags:
`

// strangerSettings are those of a run.
type strangerSettings struct {
	dir    string
	log    io.Writer
	rounds int
	rate   int           // honest writes per second
	time   time.Duration // of a row without strangers, and with them
	settle time.Duration
	calm   bool // rows are measured without strangers first
	short  bool
	sizes  strangerSizes
	only   *regexp.Regexp
}

// faced is a row and what came of it in each round.
type faced struct {
	guard string
	stranger
	rounds []stood
}

// measure has strangers come to a group of each kind, one after the other unless it is
// short.
func (s *strangerSettings) measure(ctx context.Context) (all []*faced, err error) {
	of := make([][]*faced, len(guards))
	one := func(i int) (err error) {
		if of[i], err = s.measureOne(ctx, guards[i]); err != nil {
			err = fmt.Errorf("%s: %w", guards[i], err)
		}
		return err
	}
	if s.short {
		err = atOnce(len(guards), one)
	} else {
		for i := range guards {
			err = errors.Join(err, one(i))
		}
	}
	return slices.Concat(of...), err
}

func (s *strangerSettings) measureOne(ctx context.Context, guard string) (all []*faced, err error) {
	dir, err := os.MkdirTemp(s.dir, "bench-strangers")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b, err := s.besiege(ctx, dir, guard)
	if err != nil {
		return nil, err
	}
	defer b.end()
	rows, err := b.rows(guard)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if s.only == nil || s.only.MatchString(guard+"/"+r.name) {
			all = append(all, &faced{guard: guard, stranger: r})
		}
	}
	for n := range s.rounds {
		for _, f := range all {
			if ctx.Err() != nil {
				return all, ctx.Err()
			}
			if f.deposes && n < s.rounds-1 {
				continue
			}
			stood, err := b.endure(f.stranger, s.time)
			// Members elect as well when the machine stands still, but hardly each time, and
			// it may be too slow for strangers to come.
			for longer := 2 * s.time; s.short && longer < 20*s.time && err == nil && (stood.deposed() > 0 && !f.deposes || !stood.took(f.stranger)); longer *= 2 {
				stood, err = b.endure(f.stranger, longer)
			}
			f.rounds = append(f.rounds, stood)
			fmt.Fprintf(s.log, "round %d/%d %s: %s: %v; %d turned away, %d let in and out, %d taken: %s; memory +%.1f MiB, %d files, none left %d times; p99 %v, %v before\n",
				n+1, s.rounds, guard, f.name, &stood.attacked, stood.Turned, stood.seen.Ended, stood.Accepted, mostOften(stood.Why),
				mib(stood.grown), stood.files, stood.Out, quantile(stood.during, 0.99), quantile(stood.before, 0.99))
			if err != nil {
				return all, fmt.Errorf("%s: %w", f.name, err)
			}
		}
	}
	return all, nil
}

// mostOften are some reasons, the most frequent first.
func mostOften(why map[string]int) string {
	var names []string
	for name := range why {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return why[b] - why[a] })
	var text []string
	for _, name := range names[:min(len(names), 4)] {
		text = append(text, fmt.Sprintf("%d %s", why[name], name))
	}
	return strings.Join(text, ", ")
}

// sum of all rounds, and most of them, and the median.
func (f *faced) sum(of func(*stood) int) (n int) {
	for i := range f.rounds {
		n += of(&f.rounds[i])
	}
	return n
}

func (f *faced) most(of func(*stood) int) (n int) {
	for i := range f.rounds {
		n = max(n, of(&f.rounds[i]))
	}
	return n
}

func (f *faced) median(of func(*stood) float64) float64 {
	var values []float64
	for i := range f.rounds {
		values = append(values, of(&f.rounds[i]))
	}
	m, _ := median(values)
	return m
}

func (s *stood) accepted() int { return s.Accepted + s.Listened }

// slower is how much longer a write takes at p99 while strangers come.
func (s *stood) slower() float64 {
	before := quantile(s.before, 0.99)
	if before == 0 {
		return 0
	}
	return float64(quantile(s.during, 0.99)) / float64(before)
}

func (s *stood) elections() int {
	n := 0
	if s.terms[0] != s.terms[1] {
		n = max(1, s.Terms)
	}
	return n
}

func (s *stood) deposed() int {
	if s.leaders[0] != s.leaders[1] || s.elections() > 0 {
		return 1
	}
	return 0
}

func (f *faced) row() []string {
	at := func(q float64, of func(*stood) []time.Duration) string {
		return short(f.median(func(s *stood) float64 { return millis(quantile(of(s), q)) }))
	}
	before := func(s *stood) []time.Duration { return s.before }
	during := func(s *stood) []time.Duration { return s.during }
	last := f.rounds[len(f.rounds)-1]
	ms := at(0.5, during) + " / " + at(0.99, during)
	if f.rounds[0].before != nil {
		ms = at(0.5, before) + " / " + at(0.99, before) + " → " + ms
	}
	return []string{
		f.guard + ": " + f.name,
		fmt.Sprint(f.sum(func(s *stood) int { return s.Conns })),
		short(float64(f.sum(func(s *stood) int { return int(s.Bytes) })) / 1e6),
		fmt.Sprint(f.sum(func(s *stood) int { return s.Turned + s.seen.Ended })),
		fmt.Sprint(f.sum((*stood).accepted)),
		fmt.Sprintf("%d %s → %d %s", f.rounds[0].terms[0], f.rounds[0].leaders[0], last.terms[1], last.leaders[1]),
		short(mib(f.most(func(s *stood) int { return s.grown }))),
		ms,
		short(f.median((*stood).slower)),
		fmt.Sprint(f.sum(func(s *stood) int { return s.failed })),
		fmt.Sprint(f.sum(func(s *stood) int { return s.deaths })),
	}
}

// verdicts are how strangers were withstood.
func (s *strangerSettings) verdicts(all []*faced) (verdicts []verdict) {
	var accepted, deaths, elections, deposed, failed, absent, grown int
	var slowest, flooded float64
	for n, f := range all {
		deaths += f.sum(func(s *stood) int { return s.deaths })
		absent += f.sum(func(s *stood) int {
			if s.took(f.stranger) {
				return 0
			}
			return 1
		})
		if f.deposes {
			continue
		}
		elections += f.sum((*stood).elections)
		deposed += f.sum((*stood).deposed)
		failed += f.sum(func(s *stood) int { return s.failed })
		slower := f.median((*stood).slower)
		if f.control {
			if flood := all[max(0, n-1)]; flood.flood && slower > 0 {
				flooded = max(flooded, flood.median((*stood).slower)/slower)
			}
			continue
		}
		if !f.proof {
			accepted += f.sum((*stood).accepted)
		}
		grown = max(grown, f.most(func(s *stood) int { return s.grown }))
		if !f.flood {
			slowest = max(slowest, slower)
		}
	}
	add := func(name, unit string, figure, limit float64) {
		b := bar{name: name, unit: unit, bar: limit, stretch: limit}
		verdicts = append(verdicts, verdict{name, unit, false, figure, limit, limit, b.verdict(figure, true)})
	}
	add("messages, snapshots and requests of strangers that were taken", "", float64(accepted), 0)
	add("members that died", "", float64(deaths), 0)
	add("changes of the term", "", float64(elections), 0)
	add("rows in which the leader was deposed", "", float64(deposed), 0)
	add("honest writes that failed", "", float64(failed), 0)
	add("rows that did not take place, or would not have been seen", "", float64(absent), 0)
	if !s.short {
		add("memory of the leader, at most", "MiB", mib(grown), 64)
		add("p99 of honest writes / just before, the worst row but floods", "×", slowest, 2)
		add("the same of a flood / that of a flood of another port", "×", flooded, 2)
	}
	return verdicts
}

func (s *strangerSettings) report(all []*faced, w io.Writer) {
	fmt.Fprintf(w, "%d rounds of %v without strangers, and %v with them; %d honest writes per second by way of three members. Sums of all rounds, memory the most of them, times their medians.\n\n",
		s.rounds, s.time, s.time, s.rate)
	rows := [][]string{{"strangers", "connections", "MB", "turned away", "taken", "term and leader", "memory + MiB", "write p50 / p99 ms", "p99 ×", "failed", "deaths"}}
	for _, f := range all {
		if len(f.rounds) > 0 {
			rows = append(rows, f.row())
		}
	}
	table(w, rows)
}

func runStrangers(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("strangers", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, strangersUsage)
		flags.PrintDefaults()
	}
	s := &strangerSettings{log: stderr, settle: time.Second, calm: true, sizes: strangerSizesOfRun}
	var seconds float64
	var only string
	var bars bool
	flags.StringVar(&s.dir, "dir", os.TempDir(), "where to make the data directories, which are removed in the end")
	flags.IntVar(&s.rounds, "rounds", 3, "rounds, of which the medians are told")
	flags.IntVar(&s.rate, "rate", 600, "honest writes per second")
	flags.Float64Var(&seconds, "seconds", 3, "seconds per row without strangers, and with them")
	flags.StringVar(&only, "only", "", "measure only rows that match this regexp, as in clear/HTTP")
	flags.BoolVar(&bars, "bars", false, "print what has to hold, and fail if something does not")
	flags.BoolVar(&s.short, "short", false, "small and short, to see that all works; the times mean nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.short {
		s.rounds, s.rate, seconds, s.settle, s.calm, s.sizes = 1, 60, 0.05, 200*time.Millisecond, false, strangerSizesOfShort
	}
	s.time = time.Duration(seconds * float64(time.Second))
	var err error
	if s.only, err = regexp.Compile(only); err != nil {
		return err
	}
	if flags.NArg() > 0 || s.rounds < 1 || s.rate < nmembers || s.time <= 0 {
		return fmt.Errorf("a round and some time at least, and %d writes per second; no arguments but flags", nmembers)
	}
	thisMachine().print(stdout)
	all, err := s.measure(ctx)
	s.report(all, stdout)
	verdicts := s.verdicts(all)
	if bars {
		printBars(stdout, verdicts)
		for _, v := range verdicts {
			if v.Verdict == "miss" {
				err = errors.Join(err, fmt.Errorf("missed: %s: %s", v.Name, short(v.Figure)))
			}
		}
	}
	return err
}

func strangersCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runStrangers(ctx, args, os.Stdout, os.Stderr)
}
