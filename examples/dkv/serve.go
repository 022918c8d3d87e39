package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"dkv/transport"

	"github.com/spf13/cobra"
)

// serveFlags are those of serve, as they are given.
type serveFlags struct {
	shards     string
	members    string
	serializer string
	transport  string
	workers    int
	logLevel   string
	timeout    seconds
	tls        tlsFlags
	token      secret
	tokensFile string

	backups backups

	nodeConfig
}

func newServe() *cobra.Command {
	f := new(serveFlags)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve stores and locks",
		Long: `Serve the stores and locks of shards until SIGTERM or SIGINT; a second signal ends the
process at once. Each shard has keys and locks and is of one of these kinds:

  lstore, lockmgr(lstore)   in the memory of this server; gone when it ends
  dstore, lockmgr(dstore)   replicated among --cluster-members, or those that it has
                            joined with --join; without them, durable in --data-dir
                            on this server alone

Endpoints are of the loopback interface, unless there is a certificate, or --insecure.
The transport http has a REST interface besides. Without tokens, whoever connects may do
everything; a file of tokens is JSON (no shard: all shards, no prefix: all keys):

  [{"token": "...", "rights": [{"shard": 100, "prefix": "app/", "write": true}]}]

With --backup-dir, backups of all shards but the lstore ones are written there, one file
each, while the server works; --restore has a new --data-dir begin with one.

The log goes to the standard error output, with --json as JSON.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(cmd, f.logLevel)
			if err == nil {
				err = f.parse()
			}
			for _, name := range []string{"backup-every", "backup-keep"} {
				if err == nil && f.backups.dir == "" && cmd.Flags().Changed(name) {
					err = fmt.Errorf("--%s: it goes with --backup-dir", name)
				}
			}
			if err != nil {
				return usage(err)
			}
			for _, name := range withoutEffect {
				if cmd.Flags().Changed(name) {
					log.Warn("flag has no effect", "flag", "--"+name)
				}
			}
			return f.run(cmd.Context(), log)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.shards, "shards", "100=lstore,200=lockmgr(lstore)", "shards as number=kind, separated by commas")
	flags.StringVar(&f.node, "replica-id", "", "name of this server among the cluster's members")
	flags.StringVar(&f.members, "cluster-members", "", "all servers of the cluster as name=host:port of their Raft ports, separated by commas, the same on each; default: no others")
	flags.StringSliceVar(&f.join, "join", nil, "Raft ports, as host:port and separated by commas, of servers of a cluster that this one joins with a new --data-dir, instead of --cluster-members")
	flags.StringVar(&f.address, "raft-address", "", "Raft port of this server, as host:port; goes with --join, as --cluster-members has it otherwise")
	flags.BoolVar(&f.learner, "learner", false, "with --join: get all that is written, and do not vote")
	flags.BoolVar(&f.witness, "witness", false, "with --join: vote, and keep no data; a cluster of two servers with data or more takes one in, whose --data-dir it is for ever")
	flags.Var(&f.peerSecret, "peer-secret", "what the cluster's members make sure of each other by, 16 random bytes or more, the same on each; better in DKV_PEER_SECRET, where others do not see it")
	flags.StringVar(&f.dir, "data-dir", "data", "directory of the replicated or durable shards")
	flags.StringVar(&f.restore, "restore", "", "backup, a `file`, that the replicated or durable shards begin with, the same on each server; it is read when --data-dir is new, and may stay or go later")
	flags.StringVar(&f.backups.dir, "backup-dir", "", "`directory`, of this server alone, to write backups of the replicated or durable shards to; default: none are made")
	secondsVar(flags, &f.backups.every, "backup-every", time.Hour, "how often a backup is made, as 3600 or 1h")
	flags.IntVar(&f.backups.keep, "backup-keep", 24, "how many backups stay in --backup-dir: the last ones")
	flags.StringVar(&f.serializer, "serializer", "binary", "messages to accept beside binary and json ones: binary, json or gob; gob is not made for strangers")
	flags.StringVar(&f.transport, "transport", "tcp", "transport of endpoints without a scheme: tcp, http or unix")
	flags.StringSliceVar(&f.endpoints, "transport-endpoint", []string{":8080"}, "where to listen, as host:port, tcp://host:port, http://host:port or unix:///path, separated by commas; one may be this server's Raft port, which is shared then")
	flags.IntVar(&f.workers, "transport-workers", 0, "accepted, and has no effect: a connection has as many requests under way as its client sends")
	flags.BoolVar(&f.listen.noDelay, "transport-tcp-nodelay", true, "send small packets at once")
	flags.IntVar(&f.listen.keepAlive, "transport-tcp-keepalive", 15, "seconds between probes of idle connections; 0 for none")
	flags.IntVar(&f.listen.linger, "transport-tcp-linger", -1, "seconds in which a closed connection sends what is left; -1 for the system's default")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	secondsVar(flags, &f.timeout, "timeout", 5*time.Second, "how long requests under way may take when the server stops, as 10 or 10s")
	f.tls.register(flags, "the certificate of the endpoints but those of unix, which are encrypted then", "the authorities that clients have to have a certificate of")
	flags.Var(&f.token, "token", "what clients have to show to do everything; better in DKV_TOKEN, where others do not see it")
	flags.StringVar(&f.tokensFile, "tokens-file", "", "`file` of what clients have to show, and what they may do then")
	flags.BoolVar(&f.listen.Insecure, "insecure", false, "be on other interfaces than loopback without a certificate, or without --peer-secret, for all on the way to see")
	return cmd
}

// withoutEffect are the flags that are accepted for those who are used to them.
var withoutEffect = []string{"transport-workers"}

// parse checks all flags, and tells every fault at once.
func (f *serveFlags) parse() error {
	var faults []error
	check := func(flag string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	var err error
	f.nodeConfig.shards, err = parseShards(f.shards)
	check("shards", err)
	if err == nil && !slices.ContainsFunc(f.nodeConfig.shards, func(s shard) bool { return !s.kind.local() }) {
		const why = "no shard is of the kind dstore or lockmgr(dstore): what is in memory alone is neither backed up nor restored"
		if f.restore != "" {
			check("restore", errors.New(why))
		}
		if f.backups.dir != "" {
			check("backup-dir", errors.New(why))
		}
	}
	if f.backups.every <= 0 {
		check("backup-every", errors.New("it must be more than 0"))
	}
	if f.backups.keep < 1 {
		check("backup-keep", errors.New("it must be 1 or more"))
	}
	f.nodeConfig.members, err = parseMembers(f.members)
	check("cluster-members", err)
	if len(f.join) > 0 {
		if f.members != "" {
			check("join", errors.New("it takes the place of --cluster-members"))
		}
		if f.node == "" || f.address == "" {
			check("join", errors.New("the server needs a name and a Raft port: --replica-id and --raft-address"))
		}
	} else if f.learner || f.witness || f.address != "" {
		check("raft-address, --learner, --witness", errors.New("they go with --join"))
	}
	if f.witness && f.learner {
		check("witness", errors.New("a witness votes and keeps no data, which is the contrary of --learner"))
	}
	if f.witness && f.backups.dir != "" {
		check("backup-dir", errors.New("a witness has no data"))
	}
	if members := f.nodeConfig.members; members[f.node] == "" && members != nil {
		check("replica-id", fmt.Errorf("%q is not among the --cluster-members %s", f.node, strings.Join(slices.Sorted(maps.Keys(members)), ", ")))
	}
	if f.codec, err = transport.ParseCodec(f.serializer); err != nil {
		check("serializer", err)
	}
	if len(f.endpoints) == 0 {
		check("transport-endpoint", errors.New("there is none"))
	}
	if f.listen.TLS, err = f.tls.server(); err != nil {
		faults = append(faults, err)
	}
	f.tokens, err = loadTokens(f.tokensFile, f.token.Secret)
	check("tokens-file", err)
	for i, e := range f.endpoints {
		f.endpoints[i], err = serverEndpoint(f.transport, e, f.listen.TLS != nil || f.listen.Insecure)
		check("transport-endpoint", err)
	}
	if address := transport.Twice(f.endpoints); address != "" {
		check("transport-endpoint", fmt.Errorf("it has %s twice", address))
	}
	if f.listen.keepAlive < 0 {
		check("transport-tcp-keepalive", errors.New("it must not be negative"))
	}
	return errors.Join(faults...)
}

func newLogger(cmd *cobra.Command, level string) (*slog.Logger, error) {
	opts := new(slog.HandlerOptions)
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is not debug, info, warn or error", level)
	}
	opts.Level = l
	if asJSON(cmd) {
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), opts)), nil
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), opts)), nil
}

// run serves until ctx ends.
func (f *serveFlags) run(ctx context.Context, log *slog.Logger) error {
	if err := f.backups.prepare(); err != nil {
		return usage(fmt.Errorf("--backup-dir: %w", err))
	}
	n, err := openNode(f.nodeConfig, log)
	if err != nil {
		return err
	}
	if f.listen.Insecure && f.tokens == nil {
		log.Warn("whoever reaches this machine may do everything: there are no tokens")
	}
	var endpoints []string
	for _, e := range f.endpoints {
		e, err := n.listen(e)
		if err != nil {
			return errors.Join(fmt.Errorf("--transport-endpoint: %w", err), n.close(0))
		}
		endpoints = append(endpoints, e)
	}
	log.Info("serving", "endpoints", endpoints, "shards", f.shards, "node", f.node)

	// It serves from the start: requests wait until enough of the others are there.
	// This only tells the user, and ends if the cluster does not take it in.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var making sync.WaitGroup
	var ended error
	switch err := n.ready(ctx); {
	case err == nil:
		log.Info("ready")
		if f.backups.dir != "" {
			making.Go(func() { f.backups.make(ctx, n.group, log) })
		}
		ended = n.await(ctx)
	case ctx.Err() == nil:
		ended = err
	}
	log.Info("stopping")
	cancel()
	making.Wait()
	err = errors.Join(ended, n.close(time.Duration(f.timeout)))
	if err == nil {
		log.Info("stopped")
	}
	return err
}
