// Command bench measures dkv beside its peers, in one process and one run. What
// it compares is a subcommand; "maple", the in-memory engine, is what it does
// without one:
//
//	go -C internal/bench run . maple -bars -json maple.json
//
// It is a module of its own, so that the peers are no dependencies of dkv. In
// the files: engine.go and peer_*.go have the peers, one each; keys.go what they
// are asked for; measure.go how one measurement is made, run.go the rounds;
// steady.go, bulk.go, tail.go, stall.go and gc.go the workloads; results.go,
// bars.go and report.go what is told of them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

var commands = map[string]func(args []string) error{
	"maple":   mapleCommand,
	"cluster": clusterCommand,
}

func main() {
	if isProcess() {
		serve()
	}
	name, args := "maple", os.Args[1:]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	command, ok := commands[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: there is no subcommand %q\n", name)
		os.Exit(2)
	}
	if err := command(args); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}
