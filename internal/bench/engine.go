package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// engine is what every peer can do. All methods may be called concurrently. A
// key may be kept as it is; a value that is set is copied, because callers of a
// store reuse their buffers.
type engine interface {
	// Get returns a value that stays the engine's. Only its length is looked at,
	// because some peers lend it no longer than a transaction lasts.
	Get(key string) (value []byte, ok bool)
	// GetCopy returns a value that is the caller's own.
	GetCopy(key string) (value []byte, ok bool)
	Has(key string) bool
	Set(key string, value []byte)
	Delete(key string)
	Close()
}

// What else a peer may be able to do. Workloads that need it pass over peers
// that cannot.
type (
	// expirer keeps a deadline with a key. Peers with one deadline per key use
	// deleteIn.
	expirer interface {
		SetE(key string, value []byte, expireIn, deleteIn time.Duration)
		SetEIfUnset(key string, value []byte, expireIn, deleteIn time.Duration) bool
	}
	// reaper removes keys whose deadline has come by itself. Len is how many
	// are left.
	reaper interface {
		expirer
		Len() int
	}
	scanner interface {
		Scan(f func(key string, value []byte) bool)
	}
	// saver loads what it saved into an engine that is empty.
	saver interface {
		Save(w io.Writer) error
		Load(r io.Reader) error
	}
	// viewer opens a view of one moment, which release gives up.
	viewer interface {
		View() (release func())
	}
	// sizer tells how much memory it believes that it takes.
	sizer interface {
		Size() int64
	}
	// filler sets many keys faster than Set does; used where filling is not
	// what is measured.
	filler interface {
		Fill(n int, key func(i int) string, value func(i int) []byte)
	}
	// loader is the bare map's read that stops at the entry's address.
	loader interface {
		Load(key string) bool
	}
)

// config is what an engine is opened for.
type config struct {
	keys     int  // how many there will be
	expiring bool // SetE will be used; peers that pay for it per engine may leave it out otherwise
}

// peer is an engine by name.
type peer struct {
	name   string
	module string // the module whose version the report tells, if any
	note   string
	hidden bool // not among the default peers
	rounds int  // at most; 0: as many as there are
	open   func(config) (engine, error)
}

const (
	subject  = "maple"
	baseline = "xsync"
)

var peers = []*peer{
	maplePeer,
	xsyncPeer,
	syncMapPeer,
	shardedPeer,
	otterPeer,
	badgerPeer,
	// The baseline again: how far its ratio is from 1 is what chance does.
	{name: "xsync-again", module: xsyncPeer.module, open: xsyncPeer.open, hidden: true},
}

// choosePeers returns the peers of a comma-separated list; an empty one names
// all that are not hidden.
func choosePeers(list string) ([]*peer, error) {
	if list == "" {
		var chosen []*peer
		for _, p := range peers {
			if !p.hidden {
				chosen = append(chosen, p)
			}
		}
		return chosen, nil
	}
	return named(peers, list, func(p *peer) string { return p.name })
}

// named returns those of all that a comma-separated list names.
func named[P any](all []P, list string, name func(P) string) ([]P, error) {
	var found []P
	for n := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(p P) bool { return name(p) == n })
		if i < 0 {
			return nil, fmt.Errorf("no peer is named %q", n)
		}
		found = append(found, all[i])
	}
	return found, nil
}
