// Package maple is dkv's in-memory engine: a concurrent hash map of immutable
// entries with revisions, two-stage expiry and consistent views. It knows
// nothing of Raft or the network; what an operation means is decided here and
// nowhere else, so that every mode of dkv means the same by it.
//
// Reads take no lock. Writes exclude each other per hash bucket only. A [View]
// is the state at one revision: opening one takes constant time, and while it is
// open a write keeps the version it supersedes if the view can see it.
//
// Time comes from one of two places. A DB with a clock measures deadlines by
// it. A DB without one stands still but for [DB.Tick], so that a replicated
// state machine can make time a function of its log; see [DB.Tick] for how
// deadlines begin to count then.
//
// In the files: this one has the DB and its reads, apply.go the writes,
// expiry.go deadlines and ticks, view.go views and old versions, stream.go
// Save and Load.
package maple

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"dkv/internal/command"
	"dkv/store"

	"github.com/puzpuzpuz/xsync/v3"
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
type DB struct {
	spaces [command.Spaces]*xsync.MapOf[string, *entry]

	// revision is that of the last change. A change draws its revision and
	// becomes visible while it holds its key's bucket lock, and holds gate
	// shared around both.
	revision atomic.Uint64

	// gate keeps changes out while a view is opened or closed, so that a view
	// holds either all of a change or nothing. Lock order: gate, a bucket's
	// lock, expiry or retained.
	gate *xsync.RBMutex

	clock  func() time.Duration // nil if only Tick moves the time
	ticked atomic.Int64         // the reading without a clock

	// Entries written since the last tick are in open, those written between
	// the last two in settling. Only in a DB without a clock; guarded by the
	// caller, who makes changes one at a time.
	open, settling *epoch

	expiry expiry

	// active are the views that are open; it changes while gate is held
	// exclusively. newest is the greatest revision among them, 0 if there are
	// none.
	active []*View
	newest atomic.Uint64

	// retained are the keys that may have superseded versions behind them.
	retained struct {
		sync.Mutex
		keys map[spaceKey]struct{}
	}

	keys     [command.Spaces]atomic.Int64 // entries that are no tombstones
	bytes    atomic.Int64                 // lengths of keys and values in space Keys
	versions atomic.Int64                 // superseded versions that are kept
}

type spaceKey struct {
	space command.Space
	key   string
}

// entry is one version of a key. It does not change once it is in the map, but
// for prev.
type entry struct {
	value     []byte
	rev       uint64     // of the change that made this version
	written   uint64     // of the last call that changed the key: <= rev
	deadlines *deadlines // nil: none
	kind      kind

	// prev is the next older version that an open view may need. It is set
	// while the key's bucket is locked.
	prev atomic.Pointer[entry]
}

type kind uint8

const (
	live      kind = iota // has a value, until it expires
	expired               // its value has gone
	tombstone             // deleted; in the map only while a view needs what is behind it
)

// New returns an empty DB.
func New(opts Options) *DB {
	db := &DB{
		gate:  xsync.NewRBMutex(),
		clock: opts.Now,
	}
	for i := range db.spaces {
		db.spaces[i] = xsync.NewMapOf[string, *entry]()
	}
	if db.clock == nil {
		db.open, db.settling = newEpoch(), newEpoch()
	}
	db.retained.keys = make(map[spaceKey]struct{})
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
	e, loaded := db.spaces[space].Load(key)
	if !loaded || e.kind != live || e.deadlines != nil && e.isExpired(db.Now()) {
		return nil, false
	}
	return e.value, true
}

// Has tells whether key is there, be its value expired or not.
func (db *DB) Has(space command.Space, key string) bool {
	e, loaded := db.spaces[space].Load(key)
	return loaded && e.kind != tombstone && (e.deadlines == nil || !e.isDeleted(db.Now()))
}

// GetEntry returns key with all that is known of it.
func (db *DB) GetEntry(space command.Space, key string) (Entry, bool) {
	e, loaded := db.spaces[space].Load(key)
	if !loaded {
		return Entry{}, false
	}
	return e.read(db.Now())
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

// read shows e as it is at the reading now.
func (e *entry) read(now int64) (Entry, bool) {
	if e.isDeleted(now) {
		return Entry{}, false
	}
	out := Entry{Value: e.value, Revision: e.written, Expired: e.isExpired(now)}
	if out.Expired {
		out.Value = nil
	}
	if d := e.deadlines; d != nil {
		out.DeleteIn = d.left(d.delete, now)
		if !out.Expired {
			out.ExpireIn = d.left(d.expire, now)
		}
	}
	return out, true
}

// isDeleted tells whether the key is gone at the reading now.
func (e *entry) isDeleted(now int64) bool {
	return e.kind == tombstone || e.deadlines != nil && e.deadlines.at(e.deadlines.delete) <= now
}

// isExpired tells whether the value is gone at the reading now.
func (e *entry) isExpired(now int64) bool {
	return e.kind != live || e.deadlines != nil && e.deadlines.at(e.deadlines.expire) <= now
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
	token := db.gate.RLock()
	info.Views = len(db.active)
	db.gate.RUnlock(token)
}

// never is a deadline that does not come.
const never = math.MaxInt64
