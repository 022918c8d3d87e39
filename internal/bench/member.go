package main

import (
	"context"
	"io"
	"slices"
	"strings"
)

// member is one of those that make up a cluster, and the way for the program that
// it lives in to use it. All methods may be called concurrently. A value that is
// set is the caller's again when Set returns.
type member interface {
	// Ready waits until the member takes writes and answers reads.
	Ready(ctx context.Context) error
	// Leads tells whether the member leads what the keys are in.
	Leads() bool
	Set(ctx context.Context, key string, value []byte) error
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	Close() error
}

// What else a member may be able to do.
type (
	// staler reads what the member has, be it the latest or not.
	staler interface {
		GetStale(ctx context.Context, key string) (value []byte, ok bool, err error)
	}
	// batcher sets many keys at once; used where filling is not what is
	// measured.
	batcher interface {
		SetAll(ctx context.Context, keys []string, values [][]byte) error
	}
	// transactor sets some keys in one transaction.
	transactor interface {
		SetInTxn(ctx context.Context, keys []string, values [][]byte) error
	}
	// locker has locks. Locks returns the way of one caller to them, until it is
	// closed.
	locker interface {
		Locks(ctx context.Context) (locks, error)
	}
	// watcher has watches, which are closed together.
	watcher interface {
		Watches() watches
	}
)

// watches are those of some keys. Watch calls changed for each change of the key,
// from when it has called opened until Close, which is no error.
type watches interface {
	Watch(key string, opened, changed func()) error
	Close() error
}

// locks are those that one caller takes, one after another.
type locks interface {
	Lock(ctx context.Context, name string) (unlock func(context.Context) error, err error)
	Close() error
}

// memberConfig is what a member is opened with.
type memberConfig struct {
	Dir  string
	Node string
	// Raft and Client are the addresses of all members by name: where they
	// hear each other, and where they would hear clients.
	Raft, Client map[string]string
	// Listen has a server of the network mode listen on these endpoints, Connect
	// makes a client of them; each is "tcp://host:port" or "unix:///path".
	Listen, Connect []string

	// Of members that strangers come to, see guarded.
	Detour map[string]string // where members are dialled by name, until told otherwise
	Peers  *credentials      // how members make sure of each other; nil: not at all
}

// system is a store by name: a replicated one, one that is used by way of a network,
// or both.
type system struct {
	name      string
	module    string // the module whose version the report tells, if any
	note      string
	netNote   string // in its place where it is used by way of a network; "": the same
	open      func(memberConfig) (member, error)
	fillsFast bool // loads a million keys in a time that a benchmark has

	// Of systems that are used by way of a network:
	connect func(endpoints []string) (member, error)                // a client of servers; nil if there is none
	dial    func(endpoint string) (io.Closer, error)                // a connection that has had an answer; nil: connect
	serve   func(context.Context, memberConfig) (*netServer, error) // servers that are another program; nil: open
	server  func() string                                           // the name and version of that program
}

const (
	clusterSubject  = "dkv"
	clusterBaseline = "etcd"
)

var (
	systems    = []*system{dkvSystem, etcdSystem, natsSystem} // replicated ones
	netSystems = []*system{dkvSystem, redisSystem, etcdSystem, natsSystem}
	allSystems = slices.Concat(netSystems, raftSystems, []*system{guardedSystem})
)

func (s *system) String() string { return s.name }

// address is what is listened on at an endpoint of Listen or Connect.
func address(endpoint string) (network, address string) {
	network, address, _ = strings.Cut(endpoint, "://")
	return network, address
}

// addresses are those of some endpoints, without their networks.
func addresses(endpoints []string) (all []string) {
	for _, e := range endpoints {
		_, a := address(e)
		all = append(all, a)
	}
	return all
}

// noMember is what clients have in common.
type noMember struct{}

func (noMember) Leads() bool { return false }
