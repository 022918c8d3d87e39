package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const clusterUsage = `Usage: bench cluster [flags]

Compares dkv with embedded etcd and NATS JetStream KV: three members each, on
disks that are synced, used by in-process clients. Every system runs in processes
of its own, one system at a time.

Workloads, each by way of the leader and of a follower, by so many callers:
  write, read    a key of %d bytes and its value of %d; reads are linearizable
                 (not those of NATS, which any replica may answer)
  stale          reads of what the member has (dkv GetStale, etcd serializable)
  mix            9 reads, 1 write
  write%s, read%s   values of 512 KiB

and, with members in processes of their own where it matters:
  idle           processor time at rest
  memory         resident memory before and after the workloads above
  allocs         allocations per write where it is submitted
  stale-cores    stale reads of a goroutine per core beside Maple's Get
  leader-closed, leader-killed   how long no write is acknowledged
  restart        a follower with many keys: from Open until a linearizable read

Flags:
`

// runCluster compares dkv with other replicated stores.
func runCluster(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, clusterUsage, keySize, valueSize, largeName, largeName)
		flags.PrintDefaults()
	}
	s := &clusterSettings{log: stderr}
	f := s.flags(flags, systems)
	callers := flags.String("callers", "1,16,128,1024", "numbers of callers, separated by commas")
	flags.IntVar(&s.rounds, "rounds", 3, "rounds, of which the medians are told; also how often a member is restarted")
	flags.IntVar(&s.trials, "trials", 3, "how often a leader is closed, and killed")
	flags.IntVar(&s.keys, "keys", 10_000, "number of keys; 10 times as many for stale-cores")
	flags.IntVar(&s.restartKeys, "restartkeys", 1_000_000, "number of keys of the workload restart")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if f.quick {
		*callers, f.seconds, s.rounds, s.trials, s.keys, s.restartKeys = "1,16", 0.1, 1, 1, 200, 5000
	}
	if err := s.choose(f); err != nil {
		return err
	}
	for number := range strings.SplitSeq(*callers, ",") {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 {
			return fmt.Errorf("-callers: %q is no number of callers", number)
		}
		s.callers = append(s.callers, n)
	}
	if flags.NArg() > 0 || s.keys < 1 || s.restartKeys < 1 || s.rounds < 1 || s.trials < 1 || s.time <= 0 {
		return errors.New("at least one key, round and trial, and some time; no arguments but flags")
	}
	return s.carryOut(ctx, f, clusterBars, stdout)
}

// memberFlags are the flags of every subcommand that compares members, as far as they
// are not settings as they are.
type memberFlags struct {
	systems              []*system // all there are
	peers, only, json    string
	seconds              float64
	bars, quick, listing bool
}

func (s *clusterSettings) flags(flags *flag.FlagSet, systems []*system) *memberFlags {
	f := &memberFlags{systems: systems}
	var names []string
	for _, sys := range systems {
		names = append(names, sys.name)
	}
	flags.StringVar(&f.peers, "peers", "", "peers to compare, separated by commas (default all: "+strings.Join(names, ",")+")")
	flags.StringVar(&f.only, "only", "", "measure only workloads that match this regexp")
	flags.Float64Var(&f.seconds, "seconds", 0.75, "seconds per measurement")
	flags.StringVar(&f.json, "json", "", "write the figures to this file as JSON")
	flags.BoolVar(&f.bars, "bars", false, "print what dkv has to reach, and whether it does")
	flags.BoolVar(&f.quick, "short", false, "small and short, to see that all works; the figures mean nothing")
	flags.BoolVar(&f.listing, "list", false, "print the workloads and exit")
	flags.StringVar(&s.dir, "dir", os.TempDir(), "where to make the data directories, which are removed in the end")
	return f
}

// choose sets what the flags say.
func (s *clusterSettings) choose(f *memberFlags) (err error) {
	s.time = time.Duration(f.seconds * float64(time.Second))
	s.systems = f.systems
	if f.peers != "" {
		if s.systems, err = named(f.systems, f.peers, (*system).String); err != nil {
			return err
		}
	}
	s.only, err = regexp.Compile(f.only)
	return err
}

// carryOut measures, or tells what there is to measure.
func (s *clusterSettings) carryOut(ctx context.Context, f *memberFlags, bars []bar, w io.Writer) error {
	if f.listing {
		for _, name := range s.workloads() {
			fmt.Fprintln(w, name)
		}
		return nil
	}
	return s.report(ctx, f, bars, w)
}

// workloads are the names of all that can be measured.
func (s *clusterSettings) workloads() (names []string) {
	for _, r := range s.rows() {
		names = append(names, r.workloads...)
	}
	return names
}

// told are the samples by the system that others are compared with.
func (s *clusterSettings) told(samples []sample) (all []*results) {
	workloads, peers := make(map[string][]string), make(map[string][]string)
	var bases []string
	for _, r := range s.rows() {
		base := cmp.Or(r.base, clusterBaseline)
		if !slices.Contains(bases, base) {
			bases = append(bases, base)
		}
		workloads[base] = append(workloads[base], r.workloads...)
		for _, sys := range r.of(s.systems) {
			if !slices.Contains(peers[base], sys.name) {
				peers[base] = append(peers[base], sys.name)
			}
		}
	}
	for _, base := range bases {
		all = append(all, newResults(samples, workloads[base], peers[base], opsPerSec, base))
	}
	return all
}

// about tells how large and long it is.
func (s *clusterSettings) about() string {
	text := fmt.Sprintf("%d keys of %d bytes, values of %d; medians of %d rounds of %v, interleaved",
		s.keys, keySize, valueSize, s.rounds, s.time)
	if s.net != nil {
		return text + ".\nServers in processes of their own, callers in another, over loopback; all share the processors."
	}
	if s.locks == nil && !s.raft {
		text += fmt.Sprintf("; %d failovers of each kind", s.trials)
	}
	return text + ".\nThree members, one process unless said otherwise."
}

// values are the settings by the names of their flags.
func (s *clusterSettings) values() map[string]any {
	v := map[string]any{"rounds": s.rounds, "seconds": s.time.Seconds(), "keys": s.keys, "only": s.only.String()}
	if s.locks == nil && s.net == nil && !s.raft {
		v["callers"], v["restartkeys"], v["trials"] = s.callers, s.restartKeys, s.trials
	}
	return v
}

func (s *clusterSettings) report(ctx context.Context, f *memberFlags, bars []bar, w io.Writer) error {
	d := &document{Machine: thisMachine(), Peers: make(map[string]string)}
	sync, err := syncTime(s.dir)
	if err != nil {
		return err
	}
	d.Settings = s.values()
	d.Settings["sync_us"] = micros(int64(sync))
	d.Machine.print(w)
	fmt.Fprintf(w, "%s A synced write of 4 KiB to the disk takes %v.\n\n",
		s.about(), sync.Round(time.Microsecond))
	for _, sys := range s.systems {
		note := sys.note
		if s.net != nil {
			note = cmp.Or(sys.netNote, note)
		}
		if sys.server != nil {
			note += " (" + sys.server() + ")"
		}
		about := strings.TrimPrefix(strings.TrimSpace(sys.module+" "+version(sys.module))+": "+note, ": ")
		d.Peers[sys.name] = about
		fmt.Fprintf(w, "- %v: %s\n", sys, about)
	}
	for _, why := range s.absent {
		fmt.Fprintf(w, "- %s\n", why)
	}
	fmt.Fprintln(w)

	began := time.Now()
	all, err := s.measure(ctx)
	var r *results // those of the last base; all of them find every figure
	for _, r = range s.told(all.samples) {
		r.printCells(w)
		r.printOthers(w, r.isCell)
		d.fill(r)
	}
	r.printNoise(w)
	if verdicts := judge(bars, r); f.bars {
		printBars(w, verdicts)
		d.Bars = verdicts
	}
	if len(all.skipped) > 0 {
		fmt.Fprintf(w, "Left out, for the peer cannot do it, or cannot be filled in time: %s.\n\n", strings.Join(all.skipped, ", "))
	}
	if all.failed > 0 {
		fmt.Fprintf(w, "%d OPERATIONS FAILED: the figures are not to be trusted.\n\n", all.failed)
	}
	fmt.Fprintf(w, "It took %v; load after: %s\n", time.Since(began).Round(time.Second), firstLine("/proc/loadavg"))
	if f.json != "" {
		d.Failed = all.failed
		err = errors.Join(err, d.write(f.json))
	}
	return err
}

func clusterCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runCluster(ctx, args, os.Stdout, os.Stderr)
}
