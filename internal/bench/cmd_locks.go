package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const locksUsage = `Usage: bench locks [flags]

Compares the locks, transactions and watches of dkv with those of embedded etcd and
its package concurrency, a session and an in-process client for each caller: three
members each, on disks that are synced, in one process, used by way of the leader.

Workloads:
  %s
        watchers that have nothing to do: memory of each, and processor time at rest
  %s
        one caller takes a lock and gives it up
  %s
        so many callers do, a lock each
  %s
        so many wait for one lock: the time from when Unlock is called until the next
        holder's Lock returns, beside a lone write
  %s
        %d writes as one transaction, beside as many at once
  %s
        the time from when Set returns until the event is in a loop over a watch by
        way of the same member; 0 if the event is first
  %s
        writes of %d callers beside so many watchers of other keys, and without

Flags:
`

// runLocks compares locks, transactions and watches.
func runLocks(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	sizes := lockSizesOfRun
	flags := flag.NewFlagSet("locks", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, locksUsage, watchersName(sizes.resting), lockName(1), lockName(sizes.callers),
			handoverName(sizes.waiters), txnName, txnSets, watchName, watchedName(sizes.watchers), sizes.callers)
		flags.PrintDefaults()
	}
	s := &clusterSettings{log: stderr, locks: &sizes}
	f := s.flags(flags, []*system{dkvSystem, etcdSystem})
	flags.IntVar(&s.rounds, "rounds", 5, "rounds, of which the medians are told")
	flags.IntVar(&s.keys, "keys", 10_000, "number of keys that are written")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if f.quick {
		f.seconds, s.rounds, s.keys, sizes = 0.1, 1, 200, lockSizesOfShort
	}
	if err := s.choose(f); err != nil {
		return err
	}
	if flags.NArg() > 0 || s.keys < txnSets || s.rounds < 1 || s.time <= 0 {
		return fmt.Errorf("at least %d keys and a round, and some time; no arguments but flags", txnSets)
	}
	return s.carryOut(ctx, f, lockBars, stdout)
}

func locksCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runLocks(ctx, args, os.Stdout, os.Stderr)
}
