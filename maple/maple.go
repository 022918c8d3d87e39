// Package maple is dkv's in-memory engine: a concurrent hash table of immutable
// records with revisions, two-stage expiry and consistent views. It knows
// nothing of Raft or the network; what an operation means is decided here and
// nowhere else, so that every mode of dkv means the same by it.
//
// Reads take no lock. Writes lock one small shard of the table. A [View] is the
// state at one revision: while it is open, a write keeps the version that it
// supersedes if the view can see it.
//
// Time comes from one of two places. A DB with a clock measures deadlines by
// it. A DB without one stands still but for [DB.Tick], so that a replicated
// state machine can make time a function of its log; see [DB.Tick] for how
// deadlines begin to count then.
//
// In the files: this one has the DB and its reads, record.go what a version of a
// key is in memory, table.go the hash table, apply.go the writes, expiry.go
// deadlines and ticks, view.go views and old versions, stream.go Save and Load.
package maple

import (
	"math"
	"sync/atomic"
	"time"

	"dkv/internal/command"
	"dkv/store"
)

// Options says how a DB works. The zero value is a DB whose time only Tick
// moves.
type Options struct {
	// Now reads a monotonic clock. If it is nil, time stands still but for
	// Tick.
	Now func() time.Duration
}

// DB is the engine. All methods may be called concurrently, except that a DB
// without a clock wants its changes (Apply, Tick, Reap, View) one at a time,
// as a log gives them.
//
// Lock order: views, a shard's lock, then expiry.mu or views.retained.
type DB struct {
	spaces [command.Spaces]*table

	// revision is that of the last change. A change draws its revision and
	// becomes visible while it holds the lock of its key's shard.
	revision atomic.Uint64

	clock  func() time.Duration // nil if only Tick moves the time
	ticked atomic.Int64         // the reading without a clock

	// Records written since the last tick are in open, those written between
	// the last two in settling. Only in a DB without a clock; guarded by the
	// caller, who makes changes one at a time.
	open, settling *epoch

	expiry expiry
	views  views

	keys     [command.Spaces]atomic.Int64 // records that are no tombstones
	bytes    atomic.Int64                 // lengths of keys and values in space Keys
	versions atomic.Int64                 // superseded versions that are kept
}

// New returns an empty DB.
func New(opts Options) *DB {
	db := &DB{clock: opts.Now}
	for i := range db.spaces {
		db.spaces[i] = newTable()
	}
	if db.clock == nil {
		db.open, db.settling = newEpoch(2), newEpoch(1)
	}
	db.views.init()
	return db
}

// Entry is a key as a reader sees it.
type Entry struct {
	Value              []byte // shared with the DB: not to be changed
	Revision           uint64
	Expired            bool          // the key is there, its value is not
	ExpireIn, DeleteIn time.Duration // time left, 0 = never
}

// Get returns the value of key, which is shared with the DB and not to be
// changed. ok is false if there is no such key or its value has expired.
func (db *DB) Get(space command.Space, key string) (value []byte, ok bool) {
	r := db.spaces[space].load(key)
	if r == nil || r.kind() != live || r.deadlines() != nil && r.isExpired(db.Now()) {
		return nil, false
	}
	return r.value(), true
}

// Has tells whether key is there, be its value expired or not.
func (db *DB) Has(space command.Space, key string) bool {
	r := db.spaces[space].load(key)
	return r != nil && r.kind() != tombstone && (r.deadlines() == nil || !r.isDeleted(db.Now()))
}

// GetEntry returns key with all that is known of it.
func (db *DB) GetEntry(space command.Space, key string) (Entry, bool) {
	r := db.spaces[space].load(key)
	if r == nil {
		return Entry{}, false
	}
	return r.read(db.Now())
}

// Entry returns a key of space Keys as stores hand it out: the value is the
// caller's own.
func (db *DB) Entry(key string) (store.Entry, bool) {
	e, ok := db.GetEntry(command.Keys, key)
	if !ok {
		return store.Entry{}, false
	}
	out := store.Entry{
		Key:      key,
		Revision: store.Revision(e.Revision),
		Expired:  e.Expired,
		ExpireIn: e.ExpireIn,
		DeleteIn: e.DeleteIn,
	}
	if !e.Expired {
		out.Value = append(make([]byte, 0, len(e.Value)), e.Value...)
	}
	return out, true
}

// read shows r as it is at the reading now.
func (r *record) read(now int64) (Entry, bool) {
	if r.isDeleted(now) {
		return Entry{}, false
	}
	out := Entry{Revision: r.written(), Expired: r.isExpired(now)}
	if !out.Expired {
		out.Value = r.value()
	}
	if d := r.deadlines(); d != nil {
		out.DeleteIn = d.left(d.delete, now)
		if !out.Expired {
			out.ExpireIn = d.left(d.expire, now)
		}
	}
	return out, true
}

// isDeleted tells whether the key is gone at the reading now.
func (r *record) isDeleted(now int64) bool {
	if r.kind() == tombstone {
		return true
	}
	d := r.deadlines()
	return d != nil && d.at(d.delete) <= now
}

// isExpired tells whether the value is gone at the reading now.
func (r *record) isExpired(now int64) bool {
	if r.kind() != live {
		return true
	}
	d := r.deadlines()
	return d != nil && d.at(d.expire) <= now
}

// Now is the reading of the clock that deadlines are compared with, in
// nanoseconds.
func (db *DB) Now() int64 {
	if db.clock == nil {
		return db.ticked.Load()
	}
	return int64(db.clock())
}

// Revision is that of the last change.
func (db *DB) Revision() uint64 { return db.revision.Load() }

// Info fills in what the engine knows.
func (db *DB) Info(info *store.Info) {
	info.Revision = store.Revision(db.revision.Load())
	info.Keys = db.keys[command.Keys].Load()
	info.Locks = db.keys[command.Locks].Load()
	info.Bytes = db.bytes.Load()
	info.Retained = db.versions.Load()
	info.Views = len(*db.views.active.Load())
}

// never is a deadline that does not come.
const never = math.MaxInt64
