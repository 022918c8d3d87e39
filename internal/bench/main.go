// Command bench measures dkv beside its peers, in one run. What it compares is a
// subcommand: "maple", which it does without one, is the in-memory engine beside
// maps and caches, all in this process; "cluster" is three members of dkv beside
// three of etcd and of NATS, in processes of their own; "locks" is locks,
// transactions and watches of such members beside etcd's; "net" is the network mode
// beside redis, and beside etcd and NATS; "raft" is what takes Raft messages from one
// member to another beside Dragonboat's own transport; "join" is how long a node takes
// to become a member; "strangers" is what a leader and its clients suffer from those that
// are no members and come to its Raft port:
//
//	go -C internal/bench run . maple -bars -json maple.json
//	go -C internal/bench run . cluster -bars -json cluster.json
//	go -C internal/bench run . locks -bars -json locks.json
//	go -C internal/bench run . net -bars -json net.json
//	go -C internal/bench run . raft -bars -json raft.json
//	go -C internal/bench run . join
//	go -C internal/bench run . strangers -bars
//
// It is a module of its own, so that the peers are no dependencies of dkv.
//
// In the files of maple: engine.go has what a peer can do, and the files of the
// peers, peer_maple.go and so on, one each; keys.go what they are asked for;
// measure.go how one measurement is made, run.go the rounds; steady.go, bulk.go,
// tail.go, stall.go, memory.go and gc.go the workloads.
//
// In those of cluster: member.go has what a peer can do, peer_dkv.go, peer_etcd.go
// and peer_nats.go have the peers; process.go and host.go the two ends of a process
// that members live in; cluster.go the rounds, and how members are put into
// processes; rows.go the workloads; cell.go, stale.go and probe.go how each is
// measured, latency.go and usage.go what with. Those of locks use them as well:
// locks.go has the workloads; lockcell.go and watchcell.go how each is measured. So do
// those of net: net.go has the workloads, and how servers and clients are put into
// processes; netcell.go how what is no cell is measured; peer_redis.go one more peer. Those
// of raft are peer_raft.go and cmd_raft.go, and that of join is cmd_join.go. Of strangers
// strangers.go has what they do and attack.go how; guarded.go has the members, siege.go how
// they bear it, credentials.go what is shown, relay.go what is said again, and
// cmd_strangers.go the rounds and what is told of them.
//
// results.go, bars.go and report.go have what is told of either, and bars_cluster.go,
// report_cluster.go, bars_locks.go and bars_net.go what is told of a cluster or a
// network alone.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

var commands = map[string]func(args []string) error{
	"maple":     mapleCommand,
	"cluster":   clusterCommand,
	"locks":     locksCommand,
	"net":       netCommand,
	"raft":      raftCommand,
	"join":      joinCommand,
	"strangers": strangersCommand,
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
