// Command cluster is a small web service that keeps its data in dkv: short links,
// and jobs of which only one node at a time runs each. Every node is this one
// program with one replica inside; there is no database beside it.
//
// Start three nodes, each in a terminal of its own:
//
//	go run ./examples/cluster -node a
//	go run ./examples/cluster -node b
//	go run ./examples/cluster -node c
//
// They serve HTTP on ports 8001, 8002 and 8003. What is written on one is read on
// the others:
//
//	curl -X PUT -d https://go.dev/doc/ localhost:8001/links/docs
//	curl localhost:8002/links/docs
//
// A link may have an end. It is gone (410) from then on, and after a minute more
// it never was (404):
//
//	curl -X PUT -d https://go.dev/blog/ 'localhost:8001/links/news?for=3s'
//	sleep 3; curl localhost:8003/links/news
//
// A job that is running on one node is refused on the others (409):
//
//	curl -X POST 'localhost:8001/jobs/report/run?take=3s' &
//	sleep 1; curl -X POST localhost:8002/jobs/report/run
//
// The status shows a node's process. Kill one; the other two go on, and when it
// is started again it has all that it missed:
//
//	curl localhost:8001/status
//	kill -9 <pid>
//	curl -X PUT -d https://pkg.go.dev/ localhost:8002/links/docs
//	curl localhost:8003/links/docs
//	go run ./examples/cluster -node a
//	curl localhost:8001/links/docs
//	curl -X DELETE localhost:8001/links/docs
//
// A cluster may also begin as one node, and grow and shrink while it serves. A node that
// joins has a name of one letter here, which its ports come from:
//
//	go run ./examples/cluster -node a -members a=127.0.0.1:7001 -dir /tmp/one/a
//	go run ./examples/cluster -node b -join 127.0.0.1:7001 -dir /tmp/one/b
//	curl localhost:8001/members
//	curl -X POST localhost:8001/members/b/lead
//	curl -X DELETE localhost:8001/members/a
//
// The node that was removed ends. What it has stored is on those that are left.
//
// Nodes on more machines than one make sure of each other by a secret, of 16 random bytes
// or more, that the environment variable CLUSTER_PEER_SECRET has on all of them.
//
// SIGINT and SIGTERM end a node in good order: it finishes the requests that it
// has, hands leadership over and stops.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dkv"
)

func main() {
	cfg, err := parseFlags(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the node at once
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// run is one node, from start to end.
func run(ctx context.Context, cfg config) error {
	log := slog.Default().With("node", cfg.node)
	db, err := dkv.Open(dkv.Options{
		Dir:        cfg.dir,
		Node:       cfg.node,
		Members:    cfg.members,
		Address:    cfg.address,
		Join:       cfg.join,
		PeerSecret: dkv.Secret(os.Getenv("CLUSTER_PEER_SECRET")),
		Logger:     log,
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.http)
	if err != nil {
		return errors.Join(err, db.Close())
	}
	server := &http.Server{
		Handler:           newService(db, log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		defer cancel() // to serve no longer is to stop
		served <- server.Serve(listener)
	}()
	log.Info("serving", "http", "http://"+cfg.http, "dir", cfg.dir)

	// The node serves from the start: requests wait until enough of the others
	// are there, or end with 503. This only tells the user.
	switch err := db.Ready(ctx); {
	case err == nil:
		log.Info("ready")
	case ctx.Err() == nil: // it was not taken in, and why
		log.Error("not ready", "error", err)
		cancel()
	}
	go func() {
		for alive(ctx, db) {
		}
		cancel()
	}()
	<-ctx.Done()

	log.Info("stopping")
	drain, cancelDrain := context.WithTimeout(context.Background(), jobLimit+time.Second)
	defer cancelDrain()
	err = server.Shutdown(drain)
	if cause := <-served; !errors.Is(cause, http.ErrServerClosed) {
		err = errors.Join(cause, err)
	}
	return errors.Join(err, db.Close())
}

// alive waits a second. It is false when the node was removed from the cluster, or ctx
// has ended.
func alive(ctx context.Context, db *dkv.DB) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Second):
		return !errors.Is(db.Live(), dkv.ErrRemoved)
	}
}

// config is the command line.
type config struct {
	node    string
	members map[string]string // Raft address by name
	address string            // of a node that joins
	join    []string          // addresses of members
	dir     string
	http    string
}

// parseFlags fills in what a node's place among the members decides: the first serves on
// port 8001, the next on 8002 and so on. The place of a node that joins is that of its
// letter in the alphabet.
func parseFlags(args []string) (config, error) {
	var cfg config
	var members, join string
	flags := flag.NewFlagSet("cluster", flag.ExitOnError)
	flags.StringVar(&cfg.node, "node", "", "this node's `name` among the members (required)")
	flags.StringVar(&members, "members", "a=127.0.0.1:7001,b=127.0.0.1:7002,c=127.0.0.1:7003",
		"all founding nodes as `name=host:port` of their Raft ports, the same on every one of them")
	flags.StringVar(&join, "join", "", "`addresses` of Raft ports of a running cluster that this node joins, instead of -members")
	flags.StringVar(&cfg.address, "raft", "", "`address` of the Raft port of a node that joins (default 127.0.0.1:7001 for a, 7002 for b ...)")
	flags.StringVar(&cfg.dir, "dir", "", "data `directory` (default dkv-cluster/<node> among the temporary files)")
	flags.StringVar(&cfg.http, "http", "", "`address` to serve HTTP on (default 127.0.0.1:8001 for the first member, 8002 for the second ...)")
	_ = flags.Parse(args) // exits if it fails
	if flags.NArg() > 0 {
		return cfg, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	place, err := cfg.place(members, join)
	if err != nil {
		return cfg, err
	}
	if cfg.dir == "" {
		cfg.dir = filepath.Join(os.TempDir(), "dkv-cluster", cfg.node)
	}
	if cfg.http == "" {
		cfg.http = fmt.Sprintf("127.0.0.1:%d", 8001+place)
	}
	return cfg, nil
}

// place reads who the members are, or who is to be joined, and returns the node's place.
func (cfg *config) place(members, join string) (int, error) {
	if join != "" {
		cfg.join = strings.Split(join, ",")
		if len(cfg.node) != 1 || cfg.node < "a" || cfg.node > "z" {
			return 0, errors.New("-node must be a letter, a to z, with -join")
		}
		place := int(cfg.node[0] - 'a')
		if cfg.address == "" {
			cfg.address = fmt.Sprintf("127.0.0.1:%d", 7001+place)
		}
		return place, nil
	}
	if cfg.address != "" {
		return 0, errors.New("-raft goes with -join; -members has the address otherwise")
	}
	cfg.members = make(map[string]string)
	for _, member := range strings.Split(members, ",") {
		name, addr, ok := strings.Cut(member, "=")
		if !ok || cfg.members[name] != "" {
			return 0, fmt.Errorf("-members: %q is not name=host:port, or is named twice", member)
		}
		cfg.members[name] = addr
	}
	names := slices.Sorted(maps.Keys(cfg.members))
	place := slices.Index(names, cfg.node)
	if place < 0 {
		return 0, fmt.Errorf("-node must be one of %s", strings.Join(names, ", "))
	}
	return place, nil
}
