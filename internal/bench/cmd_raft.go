package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

const raftUsage = `Usage: bench raft [flags]

Compares what takes Raft messages from one member to another: Dragonboat's own transport,
dkv's, and dkv's with members that make sure of each other. Three members each of
Dragonboat, with dkv's log, on disks that are synced, in one process.

Workloads:
  %s, %s
        so many callers propose entries of %d bytes at the leader

Flags:
`

var raftCallers = []int{1, 1024}

// raftRow is writes of entries that nobody keeps.
func (s *clusterSettings) raftRow() row {
	r := row{systems: raftSystems, base: overDragonboat}
	for _, callers := range s.callers {
		r.workloads = append(r.workloads, cellName("write", "leader", callers))
	}
	r.run = func(t *clusterTurn) error {
		p, err := t.together()
		if err != nil {
			return err
		}
		defer p.end()
		for _, callers := range s.callers {
			name := cellName("write", "leader", callers)
			if !t.wants(name) {
				continue
			}
			c := cell{Workload: "write", Callers: callers, Time: t.time, Data: data{Keys: t.keys, Size: valueSize}}
			if err := t.measureCell(p, name, "leader", c); err != nil {
				return err
			}
		}
		return nil
	}
	return r
}

// raftBars are what dkv's transport has to reach.
var raftBars = []bar{
	{"writes of 1,024 callers / over Dragonboat's transport", "×", true, 1.1, 1.1, ofTransports(overRaftnet, overDragonboat, 1024, opsPerSec)},
	{"a lone write, p50 / over Dragonboat's transport", "×", false, 0.95, 0.95, ofTransports(overRaftnet, overDragonboat, 1, p50Micros)},
	{"writes of 1,024 callers, mutual TLS / in the clear", "×", true, 0.85, 0.85, ofTransports(overSecret, overRaftnet, 1024, opsPerSec)},
}

func ofTransports(system, base string, callers int, metric string) func(*results) (float64, bool) {
	workload := cellName("write", "leader", callers)
	return func(r *results) (float64, bool) {
		return r.ratio(figure{workload, system, metric}, figure{workload, base, metric})
	}
}

func runRaft(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("raft", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, raftUsage, cellName("write", "leader", raftCallers[0]), cellName("write", "leader", raftCallers[1]), keySize+valueSize)
		flags.PrintDefaults()
	}
	s := &clusterSettings{log: stderr, raft: true, callers: raftCallers}
	f := s.flags(flags, raftSystems)
	flags.IntVar(&s.rounds, "rounds", 7, "rounds, of which the medians are told")
	flags.IntVar(&s.keys, "keys", 10_000, "number of keys")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if f.quick {
		f.seconds, s.rounds, s.keys, s.callers = 0.1, 1, 200, []int{1, 16}
	}
	if err := s.choose(f); err != nil {
		return err
	}
	if flags.NArg() > 0 || s.keys < 1 || s.rounds < 1 || s.time <= 0 {
		return errors.New("at least one key and a round, and some time; no arguments but flags")
	}
	return s.carryOut(ctx, f, raftBars, stdout)
}

func raftCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runRaft(ctx, args, os.Stdout, os.Stderr)
}

func sortedNames(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
