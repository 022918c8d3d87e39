package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// runMaple compares Maple with its peers.
func runMaple(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("maple", flag.ContinueOnError)
	flags.SetOutput(stderr)
	s := &settings{log: stderr}
	var (
		peerList = flags.String("peers", "", "peers to compare, separated by commas (default all)")
		sizes    = flags.String("sizes", "16,128,4096", "lengths of values in bytes")
		only     = flags.String("only", "", "measure only workloads that match this regexp")
		jsonFile = flags.String("json", "", "write the figures to this file as JSON")
		bars     = flags.Bool("bars", false, "print what Maple has to reach, and whether it does")
		quick    = flags.Bool("short", false, "small and short, to see that all works; the figures mean nothing")
		list     = flags.Bool("list", false, "print the workloads and exit")
	)
	flags.IntVar(&s.nkeys, "keys", 1_000_000, "number of keys")
	flags.IntVar(&s.gcKeys, "gckeys", 0, "number of keys of the workload gc (default 5 times -keys)")
	flags.IntVar(&s.timedKeys, "timedkeys", 0, "number of keys of the workload "+timedMemoryName+" (default 10 times -keys)")
	flags.IntVar(&s.rounds, "rounds", 5, "rounds, of which the medians are told")
	flags.DurationVar(&s.time, "time", time.Second, "time per measurement")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *quick {
		s.nkeys, s.gcKeys, s.timedKeys, s.rounds, s.time = 5_000, 10_000, 10_000, 1, 10*time.Millisecond
	}
	if s.gcKeys == 0 {
		s.gcKeys = 5 * s.nkeys
	}
	if s.timedKeys == 0 {
		s.timedKeys = 10 * s.nkeys
	}
	var err error
	if s.peers, err = choosePeers(*peerList); err != nil {
		return err
	}
	if s.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			return fmt.Errorf("-sizes: %q is no length", size)
		}
		s.sizes = append(s.sizes, n)
	}
	if flags.NArg() > 0 || s.nkeys < 100 || s.gcKeys < 100 || s.timedKeys < 100 || s.rounds < 1 || s.time <= 0 {
		return fmt.Errorf("at least 100 keys, one round and some time; no arguments but flags")
	}
	groups := s.groups()
	if *list {
		for _, g := range groups {
			for _, w := range g.workloads {
				fmt.Fprintln(stdout, w)
			}
		}
		return nil
	}
	return s.report(groups, *bars, *jsonFile, stdout)
}

// groups are all that this run can measure.
func (s *settings) groups() []group {
	var groups []group
	for _, size := range s.sizes {
		// Twice the data for the collector, once for what is saved, and more
		// for a peer that is not lean.
		if need, free := 4*s.nkeys*size, memory("MemAvailable"); free > 0 && need > free {
			fmt.Fprintf(s.log, "values of %d bytes are left out: they want %d MiB of memory\n", size, need>>20)
			continue
		}
		groups = append(groups, steady(size), expiring(size))
	}
	return append(groups, tail(128), stall, timedMemory, collection)
}

func (s *settings) report(groups []group, bars bool, jsonFile string, w io.Writer) error {
	// A peer that is not lean must not take the run down with it. The others
	// stay far below, where the limit changes nothing.
	if total := memory("MemTotal"); total > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(total / 10 * 6))
	}
	d := &document{Machine: thisMachine(), Peers: make(map[string]string)}
	d.Settings = map[string]any{
		"keys": s.nkeys, "gckeys": s.gcKeys, "timedkeys": s.timedKeys, "rounds": s.rounds, "seconds": s.time.Seconds(),
		"sizes": s.sizes, "only": s.only.String(), "zipf_s": zipfS,
	}
	d.Machine.print(w)
	fmt.Fprintf(w, "%d keys of %d bytes; medians of %d rounds of %v, interleaved.\n\n", s.nkeys, keySize, s.rounds, s.time)
	for _, p := range s.peers {
		about := strings.TrimSpace(p.module + " " + version(p.module))
		if p.note != "" {
			about = strings.TrimPrefix(about+": "+p.note, ": ")
		}
		d.Peers[p.name] = about
		fmt.Fprintf(w, "- %s\n", strings.TrimSuffix(p.name+": "+about, ": "))
	}
	d.Harness = overhead(s.keyset(0, s.nkeys).streams["uniform"], s.time/2)
	fmt.Fprintf(w, "\nThe harness itself adds %s ns to each operation.\n\n", short(d.Harness))

	began := time.Now()
	samples, err := s.measure(groups)
	r := mapleResults(samples, groups, s.peers)
	r.printOps(w)
	r.printOthers(w, func(workload string) bool { return r.has(workload, nsPerOp) })
	r.printNoise(w)
	if verdicts := judge(mapleBars, r); bars {
		printBars(w, verdicts)
		d.Bars = verdicts
	}
	fmt.Fprintf(w, "It took %v; load after: %s\n", time.Since(began).Round(time.Second), firstLine("/proc/loadavg"))
	if jsonFile != "" {
		d.fill(r)
		err = errors.Join(err, d.write(jsonFile))
	}
	return err
}

func mapleCommand(args []string) error { return runMaple(args, os.Stdout, os.Stderr) }
