package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"dkv"
	"dkv/transport"
	"dkv/transport/rest"
)

// nodeConfig says what a node has.
type nodeConfig struct {
	node    string
	members map[string]string
	join    []string // Raft ports of servers whose cluster it joins
	address string   // its own, with join
	learner bool
	witness bool
	dir     string
	shards  []shard
	tokens  []dkv.Token
	codec   transport.Codec // to be accepted beside the usual ones
	listen  listenOptions

	endpoints []string // where clients connect; one may be at the Raft port

	peerSecret secret // of members
	restore    string // path of the backup that what is not local begins with, or ""
}

// node is what a server runs: the stores of its shards, and who answers for them.
type node struct {
	server *transport.Server
	opts   listenOptions
	port   *transport.Port // that an endpoint shares with Raft, nil if none does
	raft   string          // its address
	group  *dkv.DB         // has the shards that are not local, each in a namespace; or nil
	local  []*dkv.DB       // one for each local shard
}

// openNode opens the stores of all shards. Nobody can reach them before listen.
func openNode(c nodeConfig, log *slog.Logger) (*node, error) {
	n := &node{server: transport.NewServer(transport.ServerOptions{
		Tokens: c.tokens,
		Codecs: []transport.Codec{transport.Binary, transport.JSON, c.codec},
	}), opts: c.listen}
	if slices.ContainsFunc(c.shards, func(s shard) bool { return !s.kind.local() }) {
		peers, err := n.sharePort(c)
		if err != nil {
			return nil, err
		}
		inCluster := c.members != nil || c.join != nil
		var peerSecret dkv.Secret // which the environment may have for servers of a cluster
		if inCluster {
			peerSecret = c.peerSecret.Secret
		}
		group, err := dkv.Open(dkv.Options{
			Dir:          c.dir,
			Node:         c.node,
			Members:      c.members,
			Join:         c.join,
			Address:      c.address,
			Learner:      c.learner,
			Witness:      c.witness,
			PeerListener: peers,
			PeerSecret:   peerSecret,
			Insecure:     c.listen.Insecure && inCluster,
			Logger:       log,
			Restore:      c.restore,
		})
		if err != nil {
			n.closePort()
			return nil, byFlags{err}
		}
		n.group = group
	} else if c.members != nil || c.join != nil {
		log.Warn("no shard is replicated: the cluster's members are not used")
	}
	for _, s := range c.shards {
		backend, err := n.open(s)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("shard %v: %w", s, err), n.close(0))
		}
		n.server.Handle(s.number, backend)
	}
	return n, nil
}

// byFlags is an error of dkv.Open that names the flags which set what it is about.
type byFlags struct{ error }

func (e byFlags) Unwrap() error { return e.error }

func (e byFlags) Error() string {
	return optionName.ReplaceAllStringFunc(e.error.Error(), func(name string) string {
		return cmp.Or(flagsOf[name], name) // what is quoted, the user has said
	})
}

var (
	flagsOf = map[string]string{
		"Dir":        "--data-dir",
		"Node":       "--replica-id",
		"Members":    "--cluster-members",
		"Address":    "--raft-address",
		"Join":       "--join",
		"Learner":    "--learner",
		"Witness":    "--witness",
		"PeerSecret": "--peer-secret",
		"Insecure":   "--insecure",
		"Restore":    "--restore",
	}
	optionName = regexp.MustCompile(`"[^"]*"|\b(` + strings.Join(slices.Collect(maps.Keys(flagsOf)), "|") + `)\b`)
)

// sharePort has the Raft port be shared if an endpoint is there, and returns the listener
// for members then.
func (n *node) sharePort(c nodeConfig) (net.Listener, error) {
	n.raft = cmp.Or(c.address, c.members[c.node])
	if !slices.ContainsFunc(c.endpoints, n.isRaftPort) {
		return nil, nil
	}
	l, err := net.Listen("tcp", n.raft)
	if err != nil {
		return nil, fmt.Errorf("the Raft port, which is in --transport-endpoint, too: %w", err)
	}
	n.port = transport.SharePort(l)
	return n.port.Peers(), nil
}

func (n *node) isRaftPort(endpoint string) bool { return transport.IsAt(endpoint, n.raft) }

func (n *node) closePort() {
	if n.port != nil {
		n.port.Close()
	}
}

func (n *node) open(s shard) (transport.Backend, error) {
	if !s.kind.local() {
		return transport.Namespace(n.group.Backend(), strconv.FormatUint(s.number, 10)), nil
	}
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		return nil, err
	}
	n.local = append(n.local, db)
	return db.Backend(), nil
}

// listen has the server answer whoever connects to an endpoint, and returns where
// that is: the port has been chosen if it was 0.
func (n *node) listen(endpoint string) (string, error) {
	how := n.opts.ListenOptions
	if n.isRaftPort(endpoint) {
		how.Port = n.port
	}
	l, err := transport.Listen(endpoint, how)
	if err != nil {
		return "", err
	}
	l = tcpListener{l, n.opts}
	scheme, _, _ := strings.Cut(endpoint, "://")
	switch scheme {
	case "http":
		n.server.StartHTTP(l, rest.ForServer(n.server))
	case "unix":
		n.server.Start(l)
		return endpoint, nil
	default:
		n.server.Start(l)
	}
	return scheme + "://" + l.Addr().String(), nil
}

// ready waits until the shards that are not local have a quorum.
func (n *node) ready(ctx context.Context) error {
	if n.group == nil {
		return nil
	}
	return n.group.Ready(ctx)
}

// await waits until ctx ends. If the stores end before that, by themselves, it returns why:
// the member was removed from its cluster, or would have to be started anew.
func (n *node) await(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n.group == nil {
			continue
		}
		if err := n.group.Live(); err != nil {
			return err
		}
	}
}

// close stops. Requests under way have the time drain to end.
func (n *node) close(drain time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	n.server.Shutdown(ctx) // its error says only that the time was over
	var err error
	if n.group != nil {
		err = n.group.Close()
	}
	for _, db := range n.local {
		err = errors.Join(err, db.Close())
	}
	n.closePort()
	return err
}

// listenOptions are for the connections of clients.
type listenOptions struct {
	transport.ListenOptions
	noDelay   bool
	keepAlive int // seconds; 0: none
	linger    int // seconds; less than 0: the system's default
}

// tcpListener sets the options of connections that are of tcp.
type tcpListener struct {
	net.Listener
	opts listenOptions
}

// Accept implements net.Listener. That an option cannot be set is no reason to turn
// a client away.
func (l tcpListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	below := conn
	if encrypted, ok := conn.(*tls.Conn); ok {
		below = encrypted.NetConn()
	}
	if tcp, ok := below.(interface { // a net.TCPConn, or what has its methods
		SetNoDelay(bool) error
		SetKeepAliveConfig(net.KeepAliveConfig) error
		SetLinger(int) error
	}); ok {
		tcp.SetNoDelay(l.opts.noDelay)
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable:   l.opts.keepAlive > 0,
			Idle:     time.Duration(l.opts.keepAlive) * time.Second,
			Interval: time.Duration(l.opts.keepAlive) * time.Second,
		})
		tcp.SetLinger(l.opts.linger)
	}
	return conn, err
}
