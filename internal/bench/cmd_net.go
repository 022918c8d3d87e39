package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const netUsage = `Usage: bench net [flags]

Compares dkv's network mode over loopback with redis, where a server has the data in
memory, and with embedded etcd and NATS JetStream KV, where three members have it on
disks that are synced. Servers have a process of their own, and so have the callers,
who share one client. Without %s in PATH, redis is left out.

Workloads, sets and gets of a key of %d bytes and its value of %d, by so many callers:
  %s
        one server: dkv, redis
  %s
        the same over a unix socket
  %s
        three members, whose endpoints the client has; gets are linearizable (not those
        of NATS, which any replica may answer): dkv, etcd, nats
  %s
        values of 512 KiB: dkv, redis
  %s
        what the memory of the server grows by for each of so many connections that
        nobody uses: dkv, redis
  %s
        allocations of client and server, which share a process: dkv

Flags:
`

// runNet compares network modes.
func runNet(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	sizes := netSizesOfRun
	flags := flag.NewFlagSet("net", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		of := func(where string, callers ...int) string {
			name := netName(where, "{set,get}", callers[0])
			for _, n := range callers[1:] {
				name += fmt.Sprintf(" /%d", n)
			}
			return name
		}
		fmt.Fprintf(stderr, netUsage, redisProgram, keySize, valueSize,
			of(localNet, sizes.callers...), of(unixNet, sizes.unix), of(replicatedNet, sizes.callers...),
			of(valuesNet, sizes.ofValues...), idleName(sizes.idle), getsName(sizes.getters))
		flags.PrintDefaults()
	}
	s := &clusterSettings{log: stderr, net: &sizes}
	f := s.flags(flags, netSystems)
	flags.IntVar(&s.rounds, "rounds", 5, "rounds, of which the medians are told")
	flags.IntVar(&s.keys, "keys", 10_000, "number of keys")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if f.quick {
		f.seconds, s.rounds, s.keys, sizes = 0.1, 1, 200, netSizesOfShort
	}
	if err := s.choose(f); err != nil {
		return err
	}
	if flags.NArg() > 0 || s.keys < 1 || s.rounds < 1 || s.time <= 0 {
		return errors.New("at least one key and a round, and some time; no arguments but flags")
	}
	s.withoutRedis()
	return s.carryOut(ctx, f, netBars, stdout)
}

func netCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runNet(ctx, args, os.Stdout, os.Stderr)
}
