// Package maple is dkv's in-memory engine: a concurrent hash table of immutable
// records with revisions, two-stage expiry, order and consistent views. It knows
// nothing of Raft or the network; what an operation means is decided here and
// nowhere else, so that every mode of dkv means the same by it.
//
// Reads take no lock. Writes lock one small shard of the table. A [View] is the
// state at one revision: while it is open, a write keeps the version that it
// supersedes if the view can see it.
//
// Time comes from one of two places. A DB with a clock measures deadlines by
// it. A DB without one stands still but for [DB.Tick], so that a replicated
// state machine can make time a function of its log.
//
// What bounds it, measured on two processors (BENCHMARKS.md): a new key costs twice
// a bare map's because it has to find its page of the order, and pages that fill up
// are split by looking up the 64 keys that they have. Save and Load wait for
// memory: records lie where the allocator put them. A SetE is a Set that reads the
// clock and writes 24 bytes more; one that brings a deadline forward sets a
// reminder besides. The longest stall of a Set beside the carrying out of a million
// deadlines is that of a Set beside any other work: the garbage collector's and the
// system's time slices; no lock of this package is held for longer than some
// microseconds, but by a transaction, for as much again with each of its keys.
//
// In the files: this one has the DB and its reads, record.go what a version of a
// key is in memory, table.go the hash table, order.go the order of the keys,
// apply.go the writes, transact.go transactions, expiry.go the carrying out of deadlines, tick.go time
// without a clock, view.go views and old versions, scan.go the way through a view
// in order, save.go and load.go the saved state, size.go what memory things are
// reckoned to take.
package maple

import (
	"io"
	"sync/atomic"
	"time"

	"dkv/store"
	"dkv/store/engine"

	"github.com/puzpuzpuz/xsync/v3"
)

// Factory makes Maples.
var Factory = engine.Factory{
	New:  func(opts engine.Options) engine.Engine { return New(opts) },
	Load: func(r io.Reader, opts engine.Options) (engine.Engine, error) { return Load(r, opts) },
}

// DB is the engine. All methods may be called concurrently, except that a DB
// without a clock wants its changes (Apply, Tick, Reap) one at a time, as a log
// gives them.
//
// Lock order: expiry.reaping, views, a shard, then a lane or what order says.
type DB struct {
	spaces [engine.Spaces]keyspace

	revision atomic.Uint64 // of the last change, see replace

	changed func(engine.Change) // nil if nobody wants to know

	clock  func() time.Duration // nil if only Tick moves the time
	ticked atomic.Int64         // the reading without a clock

	// Records written since the last two ticks, in a DB without a clock. What
	// they point to is guarded by the caller, who makes changes one at a time.
	epochs atomic.Pointer[epochs]

	expiry expiry
	views  views

	bytes *xsync.Counter // lengths of keys and values in space Keys
	size  atomic.Int64   // what records are reckoned to take
}

// keyspace is the keys of one space.
type keyspace struct {
	table *table
	order *order
	keys  *xsync.Counter // records that are no tombstones
}

var _ engine.Engine = (*DB)(nil)

// New returns an empty DB.
func New(opts engine.Options) *DB {
	db := &DB{clock: opts.Now, changed: opts.Changed, bytes: xsync.NewCounter()}
	for i := range db.spaces {
		sp := &db.spaces[i]
		sp.table = newTable()
		sp.order = newOrder(sp.table)
		sp.keys = xsync.NewCounter()
	}
	if db.clock == nil {
		db.epochs.Store(&epochs{settling: newEpoch(0), open: newEpoch(0)})
	}
	db.expiry.init()
	db.views.active.Store(new([]*View))
	return db
}

// Get returns the value of key, which is shared with the DB and not to be
// changed. ok is false if there is no such key or its value has expired.
func (db *DB) Get(space engine.Space, key string) (value []byte, ok bool) {
	r := db.spaces[space].load(key)
	if r == nil || r.kind() != live || r.deadlines() != nil && r.isExpired(db.now()) {
		return nil, false
	}
	return r.value(), true
}

// Has tells whether key is there, be its value expired or not.
func (db *DB) Has(space engine.Space, key string) bool {
	r := db.spaces[space].load(key)
	return r != nil && !r.isDeleted(db.reading(0, r))
}

// Entry returns key with all that is known of it. Key and value are shared with
// the DB and not to be changed.
func (db *DB) Entry(space engine.Space, key string) (store.Entry, bool) {
	r := db.spaces[space].load(key)
	if r == nil {
		return store.Entry{}, false
	}
	for {
		now := db.reading(0, r)
		e, ok := r.entry(now)
		if db.clock != nil || db.reading(0, r) == now {
			return e, ok
		}
		// A tick has come meanwhile: the deadlines may be as it has told them, and
		// the time that is left until then is not that from before it.
	}
}

// Now is the reading of the clock that deadlines are compared with.
func (db *DB) Now() time.Duration { return time.Duration(db.now()) }

func (db *DB) now() int64 {
	if db.clock == nil {
		return db.ticked.Load()
	}
	return int64(db.clock())
}

// Revision is that of the last change.
func (db *DB) Revision() uint64 { return db.revision.Load() }

// Skip leaves out the next n revisions. Nothing else may be done meanwhile.
func (db *DB) Skip(n uint64) { db.revision.Add(n) }

// Info fills in what the engine knows.
func (db *DB) Info(info *store.Info) {
	info.Revision = store.Revision(db.revision.Load())
	info.Keys = db.spaces[engine.Keys].keys.Value()
	info.Locks = db.spaces[engine.Locks].keys.Value() + db.spaces[engine.Shared].keys.Value()
	info.Waiters = db.spaces[engine.Waiters].keys.Value()
	info.Bytes = db.bytes.Value()
	info.Size = db.size.Load()
	info.Views = len(*db.views.active.Load())
	info.Retained = db.views.versions.Load()
	info.RetainedBytes = db.views.bytes.Load()
}

// load returns the record of key, nil if there is none, once it has its revision.
func (sp *keyspace) load(key string) *record {
	r := sp.table.load(key)
	if r != nil {
		r.revision()
	}
	return r
}

// remove removes a locked key that no view needs.
func (sp *keyspace) remove(l *locked, key string) {
	sp.order.remove(key, l.place)
	l.remove()
}
