package dkv

import (
	"crypto/tls"
	"fmt"
	"log/slog"
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

	// Node is this member's name. It goes with Members. Default: none, the
	// group is this member alone.
	Node string

	// Members has the address of every founding member's Raft port, as
	// host:port by name; this member's own, where it listens, is among them.
	// They must be the same on every member and each time Dir is opened.
	Members map[string]string

	// Listen has the network mode listen on these endpoints, each "tcp://host:port",
	// "http://host:port" or "unix:///path/of/socket". Those that are not of the
	// loopback interface need TLS, or Insecure. Without Tokens, whoever connects may
	// do everything. Default: none, no port is opened for it.
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

	// Insecure lets Listen be on other interfaces than loopback without TLS, and
	// Connect send Token to other hosts without it: whoever is on the way sees and may
	// change what is stored, and learns the token. Default: false.
	Insecure bool

	// Tokens, if there are any, are what clients of Listen have to show one of, and
	// Token is that which a client of Connect shows. Default: none.
	Tokens []Token
	Token  Secret

	// Codecs are the forms of messages that Listen accepts; the endpoints of a client
	// name others than binary as in "tcp://host:port?codec=json". Default: binary and
	// JSON.
	Codecs []Codec

	// Logger gets what an operator may want to know. Default: nothing is
	// logged; dkv writes nothing to stdout or stderr.
	Logger *slog.Logger

	// Clock measures deadlines. Default: the system's monotonic clock.
	Clock store.Clock

	// MaxBytes is how much memory, in bytes, what is stored may take: the Size of
	// [Info], which is within 5% of what the heap grows by as a store is filled. A
	// write
	// that would take it further fails with [ErrFull] and changes nothing. In a
	// group it holds for the writes of this member, so give it to all. Default:
	// no limit.
	MaxBytes int64

	// Engine makes what holds the data. All members of a group must use the
	// same. Default: Maple, dkv's own.
	Engine engine.Factory

	// SnapshotBytes is how much is written to the log before the state is saved
	// and the log cut short; more if the state is larger than that. It goes
	// with Dir. Default: 64 MiB.
	SnapshotBytes int64
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
			{"Listen", len(o.Listen) > 0},
			{"Logger", o.Logger != nil},
			{"Clock", o.Clock != nil},
			{"SnapshotBytes", o.SnapshotBytes != 0},
			{"MaxBytes", o.MaxBytes != 0},
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
		if o.SnapshotBytes != 0 {
			faults = append(faults, "SnapshotBytes is set without Dir: a store in memory has no snapshots")
		}
		if o.MaxBytes < 0 {
			faults = append(faults, "MaxBytes is negative")
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
			{"Insecure", o.Insecure},
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
	if faults == nil {
		return nil
	}
	slices.Sort(faults)
	return fmt.Errorf("%w: %s", store.ErrBadOptions, strings.Join(faults, "; "))
}
