package dkv

import (
	"fmt"
	"log/slog"
	"strings"

	"dkv/store"
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

	// Logger gets what an operator may want to know. Default: nothing is
	// logged; dkv writes nothing to stdout or stderr.
	Logger *slog.Logger

	// Clock measures deadlines. Default: the system's monotonic clock.
	Clock store.Clock

	// SnapshotBytes is how much is written to the log before the state is saved
	// and the log cut short; more if the state is larger than that. It goes
	// with Dir. Default: 64 MiB.
	SnapshotBytes int64
}

// validate names every fault in how the options go together; what they say
// each, the store that they choose looks at.
func (o Options) validate() error {
	var faults []string
	if o.Dir == "" {
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
	}
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", store.ErrBadOptions, strings.Join(faults, "; "))
}
