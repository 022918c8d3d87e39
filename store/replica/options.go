package replica

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"

	"dkv/internal/clock"
	"dkv/internal/raftnet"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/vfs"
)

// Options says what a store is. Dir is required; the zero value of every other
// field is its default.
type Options struct {
	// Dir is the data directory. It is made if need be, and belongs to one
	// member of one group for ever.
	Dir string

	// Node is this member's name, and Members has the address of the Raft port
	// of every founding member, this one included, as host:port by name. They
	// must be the same on all members when they are first opened. Later the names must
	// be, and the addresses may be others: members tell each other where they are, and
	// remember it, so a new address has to be given to the member that has it alone.
	// Without Members the group is this member alone, and uses no network.
	Node    string
	Members map[string]string

	// Address is where the Raft port of this member is, as host:port. Default: what
	// Members has for it.
	Address string

	// PeerListener, if it is set, is the Raft port, listened on already; the others reach
	// it at Address all the same. Close closes it, and so does an Open that fails.
	PeerListener net.Listener

	// Join has addresses of members of a group that a node with a new directory, and with
	// Node and Address, becomes a member of. The directory remembers that, and later Join
	// may be left out. Members may then say where others are, and makes no group. A node
	// with Address and neither Join nor Members waits until AddMember has it join.
	// With Learner it stays one: it does not vote. With Witness it votes and keeps no
	// data, see witness.go, and is opened with Witness ever after.
	Join    []string
	Learner bool
	Witness bool

	// Resolve, if it is set, returns where the Raft port of a member is now, each time
	// that it is dialled; Members says it for those that it has an error or "" for.
	Resolve func(ctx context.Context, node string) (address string, err error)

	// PeerTLS and PeerSecret are how members make sure of each other: all have the
	// one or the other. See raftnet.MutualTLS and raftnet.SharedSecret. Without
	// either, whoever reaches the Raft port can pass for a member, so that Members may
	// only be of the loopback interface, unless Insecure is set.
	PeerTLS    *tls.Config
	PeerSecret []byte
	Insecure   bool

	// Logger gets what an operator may want to know. Default: nothing is
	// logged.
	Logger *slog.Logger

	// Clock measures deadlines. Default: the system's monotonic clock.
	Clock store.Clock

	// Engine makes what holds the state. All members must use the same.
	// Default: Maple.
	Engine engine.Factory

	// MaxBytes is the Size of store.Info beyond which this member's operations
	// do not take the store: they fail with store.ErrFull. Default: no limit.
	MaxBytes int64

	// SnapshotBytes is how much is written to the log before the state is
	// saved and the log cut short; as much as the state was when it was saved last, or is
	// now, if both are more. Before a node joins it may be less. A
	// witness has no state and cuts its log short all the same. Default: 64 MiB, and 8
	// MiB of a witness.
	SnapshotBytes int64

	// Restore is the path of a backup that the group begins with, the same for all
	// founding members. It is read when the directory is new, and may be gone later;
	// for a directory that began without a backup it must not be set. Default: none,
	// the group begins empty.
	Restore string

	// Tests replace these.
	fs      vfs.FS
	wrapNet func(config.TransportFactory) config.TransportFactory

	noSnapshots bool // set by tests: none are made

	security *raftnet.Security // what PeerTLS or PeerSecret makes
}

// address is where this member is.
func (o *Options) address() string { return cmp.Or(o.Address, o.Members[o.Node]) }

// joins tells whether a new directory is for a node that joins a group.
func (o *Options) joins() bool { return len(o.Join) > 0 || o.Address != "" && len(o.Members) == 0 }

// alone tells whether the group is this member alone, and uses no network.
func (o *Options) alone() bool { return len(o.Members) == 0 && !o.joins() }

// aloneLabel is the label of a member that is alone.
const aloneLabel = "alone"

func (o *Options) setDefaults() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Engine.New == nil {
		o.Engine = maple.Factory
	}
	if o.SnapshotBytes == 0 {
		o.SnapshotBytes = 64 << 20
		if o.Witness {
			o.SnapshotBytes = 8 << 20
		}
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	o.Members = maps.Clone(o.Members)
	o.Join = slices.Clone(o.Join)
	return o.validate()
}

// validate names every fault at once.
func (o *Options) validate() error {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if o.Dir == "" {
		fault("Dir is empty: a replica needs a data directory")
	}
	if o.SnapshotBytes < 0 {
		fault("SnapshotBytes is negative")
	}
	if o.MaxBytes < 0 {
		fault("MaxBytes is negative")
	}
	if o.Witness && o.MaxBytes > 0 {
		fault("MaxBytes is set with Witness: a witness has no data")
	}
	if o.Witness && o.Learner {
		fault("Witness and Learner are both set: the one votes and keeps no data, the other keeps the data and does not vote")
	}
	switch _, ok := o.Members[o.Node]; {
	case o.alone():
		if o.Learner {
			fault("Learner is set without Join: it is for a node that joins a group")
		}
		if o.PeerListener != nil {
			fault("PeerListener is set without Members, Address or Join: nobody connects to it")
		}
		if o.Witness {
			fault("Witness is set without Join: it is for a node that joins a group")
		}
	case o.joins():
		o.checkJoin(fault)
	case o.Node == "":
		fault("Node is empty: it says which of Members this is")
	case !ok:
		fault("Node %q is not among Members %s", o.Node, memberList(o.Members))
	}
	if o.Address != "" {
		if err := checkAddress(o.Address); err != nil {
			fault("Address: %v", err)
		}
	}
	used, folded := make(map[string]string), make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(o.Members)) {
		addr := o.Members[name]
		if name == "" {
			fault("Members has an empty name, for %q", addr)
		}
		if why := checkName(name); why != "" && name != "" {
			fault("Members[%q]: a name %s", name, why)
		}
		if other, ok := folded[strings.ToLower(name)]; ok {
			fault("Members has %q and %q, which differ in case alone", other, name)
		}
		folded[strings.ToLower(name)] = name
		if len(name) > raftnet.MaxString || len(addr) > raftnet.MaxString {
			fault("Members[%q]: a name and an address have %d bytes at most", name, raftnet.MaxString)
		}
		if err := checkAddress(addr); err != nil {
			fault("Members[%q]: %v", name, err)
		}
		if other, ok := used[addr]; ok {
			fault("Members[%q] and Members[%q] have the same address %q", other, name, addr)
		}
		used[addr] = name
	}
	o.secure(fault)
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", store.ErrBadOptions, strings.Join(faults, "; "))
}

// checkName tells what is wrong with the name of a member, "" if nothing is.
func checkName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case strings.Contains(name, "@"):
		return "has an @"
	case strings.TrimSpace(name) != name || strings.HasSuffix(name, "."):
		return "begins or ends with a space, or ends with a dot"
	}
	return ""
}

// checkJoin names the faults in the options of a node that joins.
func (o *Options) checkJoin(fault func(format string, args ...any)) {
	if why := checkName(o.Node); why != "" {
		fault("Node %q: the name of a node that joins a group %s", o.Node, why)
	}
	if o.address() == "" {
		fault("Address is empty: a node that joins a group says where its Raft port is")
	}
	if o.Restore != "" {
		fault("Restore is set for a node that joins a group, which has its own data")
	}
	if len(joinerLabel(o.Node, 0, o.address())) > raftnet.MaxString {
		fault("Node and Address are too long together: %d bytes at most", raftnet.MaxString-18)
	}
	for i, address := range o.Join {
		if err := checkAddress(address); err != nil {
			fault("Join[%d]: %v", i, err)
		}
	}
}

// secure makes the security of what is asked for.
func (o *Options) secure(fault func(format string, args ...any)) {
	var err error
	switch {
	case o.PeerTLS != nil && len(o.PeerSecret) > 0:
		fault("PeerTLS and PeerSecret are both set")
	case o.PeerTLS != nil:
		if o.security, err = raftnet.MutualTLS(o.PeerTLS); err != nil {
			fault("PeerTLS: %v", err)
		}
	case len(o.PeerSecret) > 0:
		if o.security, err = raftnet.SharedSecret(o.PeerSecret, o.Node); err != nil {
			fault("PeerSecret: %v", err)
		}
	case !o.Insecure:
		if host, _, err := net.SplitHostPort(o.Address); err == nil && !isLoopback(host) {
			fault("Address %q is not of the loopback interface, and neither PeerTLS nor PeerSecret says how members make sure of each other (Insecure does without)", o.Address)
		}
		for _, name := range slices.Sorted(maps.Keys(o.Members)) {
			if host, _, err := net.SplitHostPort(o.Members[name]); err == nil && !isLoopback(host) {
				fault("Members[%q]: %q is not of the loopback interface, and neither PeerTLS nor PeerSecret says how members make sure of each other (Insecure does without)", name, o.Members[name])
			}
		}
	}
}

// isLoopback tells whether a host is this machine whatever the name service says.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return fmt.Errorf("%q has no valid port", addr)
	}
	if host == "" {
		return fmt.Errorf("%q has no host: the others could not reach it", addr)
	}
	if !config.IsValidAddress(addr) {
		return fmt.Errorf("%q has neither an IP address nor a valid host name", addr)
	}
	return nil
}

// startError says which field of Options a failure of Dragonboat's start is due
// to.
func startError(opts Options, err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		field := fmt.Sprintf("Members[%q]", opts.Node)
		if opts.Address != "" {
			field = "Address"
		}
		return fmt.Errorf("%w: %s: %w", store.ErrBadOptions, field, err)
	}
	return badDir(opts.Dir, err)
}
