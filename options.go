package dkv

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	"dkv/store"
	"dkv/store/engine"
	"dkv/transport"
)

// Options says what Open starts. The zero value is a store in memory; the zero
// value of each field is its default.
type Options struct {
	// Dir is the data directory, which Open makes if need be. It belongs to
	// one member of one group for ever, and to one process at a time. Default:
	// none, the data is in memory only.
	Dir string

	// Node is this member's name: up to 255 bytes, without an @, a space at either end or
	// a dot at the end, and different from the others' in more than case. It goes with
	// Members, Join or Address. Default: none, the group is this member alone.
	Node string

	// Members has the address of every founding member's Raft port, as
	// host:port by name; this member's own, where it listens, is among them.
	// They must be the same on every founding member when it is first opened, and the
	// names for ever, whoever joins or is removed later. Addresses may be others later:
	// members tell each other where they are, and remember it, so a new address has to be
	// given to its member alone. Those beyond the loopback interface need PeerSecret,
	// PeerTLS or Insecure.
	Members map[string]string

	// Address is where this member's Raft port is, as host:port; it listens there and the
	// others reach it there. Default: what Members has for Node.
	Address string

	// PeerListener, if it is set, is the Raft port, listened on already: by a program that
	// shares its port, see [transport.SharePort], or was handed it by another. The others
	// reach it at Address all the same. Close closes it, and so does an Open that fails.
	// Default: Open listens at Address.
	PeerListener net.Listener

	// Join has addresses of members of a group: with Node, Address and a Dir that is new,
	// this node becomes a member of it. [DB.Ready] returns when it has caught up and votes.
	// An Open that follows one that was cut short goes on with it, and later Join may be
	// left out, or stay. A node with Address and neither Join nor Members waits until
	// [DB.AddMember] of a member has it join. Default: none.
	Join []string

	// Learner has a node that joins get all that is written and not vote: no write waits
	// for it. Opened without Learner it votes later. Default: false.
	Learner bool

	// Witness has a node that joins vote and keep no data. Two members with data and a
	// witness go on without any one of the three: what is acknowledged is on the disks of
	// both members with data. If one of them has not answered for 1 s, or 300 ms after an
	// election, which writes wait for then, it is on the other's alone, until the one that
	// was away has caught up.
	//
	// Of each log entry a witness keeps the number, less than 100 bytes, and cuts that short
	// after SnapshotBytes, by default 8 MiB. It comes in when the group has two members with
	// data, a group has one, and it never leads. Its DB has Members, Info, and Ready, which
	// returns when it votes. Changes of members are refused there with ErrMembers, and all
	// that reads or writes with ErrNoData, so the Connect of clients is better without it.
	// MaxBytes, Restore and Learner are refused with it. The directory is a witness' for
	// ever: an Open that says otherwise is refused. Default: false.
	Witness bool

	// Resolve, if it is set, is asked for the address of a member's Raft port each
	// time that it is dialled, and Members if it has an error or "". It may be called
	// by several goroutines at once. Default: none. A host name in Members is looked
	// up each time, too.
	Resolve func(ctx context.Context, node string) (address string, err error)

	// PeerSecret is how the members of a group make sure of each other: all have the
	// same, of 16 random bytes at least. What they say is encrypted (TLS 1.3, with
	// keys that are new each time), and nothing of the secret is sent. Default: none.
	PeerSecret Secret

	// PeerTLS does the same by certificates, each of which has to be for the name of
	// its member: it has this member's own, and RootCAs with the authority of all, which
	// has to be one for members alone: whoever has a certificate of it, or knows
	// PeerSecret, can join the group and read all. With
	// GetCertificate and GetClientCertificate they are changed without a restart.
	// Default: none.
	PeerTLS *tls.Config

	// Listen has the network mode listen on these endpoints, each "tcp://host:port",
	// "http://host:port" or "unix:///path/of/socket". Those that are not of the
	// loopback interface need TLS, or Insecure. Without Tokens, whoever connects may
	// do everything. One that is this member's Raft port, in the same words as Address
	// or Members have it, shares that: what connects there is told apart by what it
	// begins with. With PeerListener it has to be shared by whoever has made that.
	// Default: none, no port is opened for it.
	Listen []string

	// Connect makes this a client of the network mode of other processes, at
	// endpoints as in Listen: it goes on at another when one fails. Of the other
	// fields Shard, TLS, Insecure and Token go with it. Default: none.
	Connect []string

	// Shard is the number that the network mode knows the store by: with Listen that
	// under which it is served, with Connect that which is asked for. Default: 0.
	Shard uint64

	// TLS has the network mode be encrypted, but for unix sockets. With Listen it has
	// the certificate, and ClientAuth and ClientCAs if clients need one too; with
	// Connect it says which certificates of servers are good. Default: none.
	TLS *tls.Config

	// Insecure lets Listen be on other interfaces than loopback without TLS, Members and
	// Address without PeerSecret or PeerTLS, and Connect send Token to other hosts without TLS:
	// whoever is on the way sees and may change what is stored, and learns the token.
	// Default: false.
	Insecure bool

	// Tokens, if there are any, are what clients of Listen have to show one of, and
	// Token is that which a client of Connect shows. Default: none.
	Tokens []Token
	Token  Secret

	// Codecs are the forms of messages that Listen accepts; the endpoints of a client
	// name others than binary as in "tcp://host:port?codec=json". Default: binary and
	// JSON.
	Codecs []Codec

	// Logger gets what an operator may want to know of a store with Dir; the others have
	// nothing to tell. Default: nothing is logged; dkv writes nothing to stdout or stderr.
	Logger *slog.Logger

	// Clock measures deadlines. Default: the system's monotonic clock.
	Clock store.Clock

	// MaxBytes is how much memory, in bytes, what is stored may take: the Size of
	// [Info], which is within 5% of what the heap grows by as a store is filled. A
	// write that would take it further fails with [ErrFull] and changes nothing. In a
	// group it holds for the writes of this member, so give it to all. Default:
	// no limit.
	MaxBytes int64

	// Engine makes what holds the data. All members of a group must use the
	// same. Default: Maple, dkv's own.
	Engine engine.Factory

	// SnapshotBytes is how much is written to the log before the state is saved
	// and the log cut short; as much as the state was when it was saved last, or is now,
	// if both are more. Before a node joins it may be less. It goes with Dir. Default:
	// 64 MiB.
	SnapshotBytes int64

	// Restore is the path of a backup, see [DB.Backup], that a new store begins with:
	// one in memory, or one whose Dir is made by this Open. All founding members of a
	// group are given the same file, or copies of it: those that begin with different
	// ones do not listen to each other. The directory remembers that it has begun with
	// one, and later it may be left out, or stay and is not read; a directory that has
	// begun without one is refused with ErrBadOptions. That it has begun with
	// another is not noticed.
	//
	// Keys and locks have the time left that they had when the backup was made.
	// Revisions and tokens go on 2^40 behind that of the backup, so none is given again
	// that the old store may have given since the backup: a token of the new store is
	// greater than each of the old one, and watches of the old one end with
	// ErrCompacted. If a second store begins with the same backup, because what the first
	// has done is lost too, it gives the same revisions as the first: whoever keeps such,
	// to tell a former holder of a lock by, has to forget them. It is loaded even if it
	// takes more than MaxBytes. Default: none, the store begins empty.
	Restore string
}

// validate names every fault in how the options go together; what they say
// each, the store that they choose looks at.
func (o Options) validate() error {
	var faults []string
	if len(o.Connect) > 0 {
		const why = "%s is set with Connect: a client has no data here"
		for _, field := range []struct {
			name string
			set  bool
		}{
			{"Dir", o.Dir != ""},
			{"Node", o.Node != ""},
			{"Members", len(o.Members) > 0},
			{"Address", o.Address != ""},
			{"PeerListener", o.PeerListener != nil},
			{"Join", len(o.Join) > 0},
			{"Learner", o.Learner},
			{"Witness", o.Witness},
			{"Resolve", o.Resolve != nil},
			{"PeerSecret", o.PeerSecret != ""},
			{"PeerTLS", o.PeerTLS != nil},
			{"Listen", len(o.Listen) > 0},
			{"Logger", o.Logger != nil},
			{"Clock", o.Clock != nil},
			{"SnapshotBytes", o.SnapshotBytes != 0},
			{"MaxBytes", o.MaxBytes != 0},
			{"Restore", o.Restore != ""},
			{"Tokens", len(o.Tokens) > 0},
			{"Codecs", len(o.Codecs) > 0},
			{"Engine", o.Engine.New != nil || o.Engine.Load != nil},
		} {
			if field.set {
				faults = append(faults, fmt.Sprintf(why, field.name))
			}
		}
	} else if o.Dir == "" {
		const why = "%s is set without Dir: a member of a group needs a data directory"
		if o.Node != "" {
			faults = append(faults, fmt.Sprintf(why, "Node"))
		}
		if len(o.Members) > 0 {
			faults = append(faults, fmt.Sprintf(why, "Members"))
		}
		if o.Address != "" {
			faults = append(faults, fmt.Sprintf(why, "Address"))
		}
		if len(o.Join) > 0 {
			faults = append(faults, fmt.Sprintf(why, "Join"))
		}
		if o.Learner {
			faults = append(faults, fmt.Sprintf(why, "Learner"))
		}
		if o.Witness {
			faults = append(faults, fmt.Sprintf(why, "Witness"))
		}
		if o.SnapshotBytes != 0 {
			faults = append(faults, "SnapshotBytes is set without Dir: a store in memory has no snapshots")
		}
		if o.MaxBytes < 0 {
			faults = append(faults, "MaxBytes is negative")
		}
	}
	alone := len(o.Members) == 0 && o.Address == "" && len(o.Join) == 0
	if len(o.Connect) == 0 && alone {
		const why = "%s is set without Members, Address or Join: it is for members that reach each other"
		if o.Resolve != nil {
			faults = append(faults, fmt.Sprintf(why, "Resolve"))
		}
		if o.PeerSecret != "" {
			faults = append(faults, fmt.Sprintf(why, "PeerSecret"))
		}
		if o.PeerTLS != nil {
			faults = append(faults, fmt.Sprintf(why, "PeerTLS"))
		}
		if o.PeerListener != nil {
			faults = append(faults, fmt.Sprintf(why, "PeerListener"))
		}
	}
	if len(o.Connect) == 0 && o.Token != "" {
		faults = append(faults, "Token is set without Connect: it is what a client shows; a server's are in Tokens")
	}
	if len(o.Connect) == 0 && len(o.Listen) == 0 {
		const why = "%s is set without Listen or Connect: it is for the network mode"
		for _, field := range []struct {
			name string
			set  bool
		}{
			{"Shard", o.Shard != 0},
			{"TLS", o.TLS != nil},
			{"Insecure", o.Insecure && alone},
			{"Tokens", len(o.Tokens) > 0},
			{"Codecs", len(o.Codecs) > 0},
		} {
			if field.set {
				faults = append(faults, fmt.Sprintf(why, field.name))
			}
		}
	}
	if len(o.Listen) > 0 && o.TLS != nil && len(o.TLS.Certificates) == 0 && o.TLS.GetCertificate == nil && o.TLS.GetConfigForClient == nil {
		faults = append(faults, "TLS has no certificate, which Listen needs")
	}
	for i, t := range o.Tokens {
		if t.Secret == "" {
			faults = append(faults, fmt.Sprintf("Tokens[%d] has no secret", i))
		}
	}
	if (o.Engine.New == nil) != (o.Engine.Load == nil) {
		faults = append(faults, "Engine is incomplete: it has to have both New and Load")
	}
	for field, endpoints := range map[string][]string{"Connect": o.Connect, "Listen": o.Listen} {
		for _, e := range endpoints {
			if err := transport.CheckEndpoint(e); err != nil {
				faults = append(faults, fmt.Sprintf("%s: %v", field, err))
			}
		}
	}
	if o.PeerListener != nil && slices.ContainsFunc(o.Listen, o.isRaftPort) {
		faults = append(faults, "Listen has the Raft port, which is PeerListener's: it is shared by transport.SharePort and a transport.Server then")
	}
	if address := transport.Twice(o.Listen); address != "" {
		faults = append(faults, fmt.Sprintf("Listen has %q twice", address))
	}
	if faults == nil {
		return nil
	}
	slices.Sort(faults)
	return fmt.Errorf("%w: %s", store.ErrBadOptions, strings.Join(faults, "; "))
}
