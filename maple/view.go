package maple

import (
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// View is the state of a DB at one revision and one moment, however much is
// written meanwhile. It costs memory for what is superseded while it is open,
// until Release.
type View struct {
	db       *DB
	revision uint64
	now      int64
	epochs   epochs // those of the moment; nil in a DB with a clock

	release sync.Once
}

var _ engine.View = (*View)(nil)

// views are a DB's open views, and which versions are kept for them.
type views struct {
	sync.Mutex                         // held while a view is opened or given up
	active     atomic.Pointer[[]*View] // those that are open; replaced under the mutex

	// newest is the greatest revision of a view, 0 if there is none, or opening
	// while that is not known. A write keeps what it supersedes if its revision
	// is no greater.
	newest atomic.Uint64

	versions atomic.Int64 // that are kept
	bytes    atomic.Int64 // that they take

	// trimming is held while versions are dropped that no view needs any longer.
	// left is how many were kept after that was done the last time.
	trimming sync.Mutex
	left     int64
}

const opening = math.MaxUint64

// version is one that has been superseded and is kept for a view, with the older
// ones of its key behind it. Of two neighbours the older was the newest of the
// key from its revision until that of the newer; what was between them is not
// needed.
type version struct {
	rec   *record
	older *version
}

// history is the old versions of a key, the newest first.
type history struct{ newest *version }

// versionShare is the memory that a kept version is reckoned to take besides its
// record: its link, its key, and its part of the shard's map.
const versionShare = 96

// View opens a view of the state as it is now, in constant time.
func (db *DB) View() engine.View { return db.view() }

func (db *DB) view() *View {
	v := &View{db: db}
	vs := &db.views
	vs.Lock()
	defer vs.Unlock()
	// From here on, writes keep whatever they supersede.
	vs.newest.Store(opening)
	// The clock is read again if something has changed meanwhile, so that the
	// view is of one instant; but not for ever.
	for range 3 {
		v.revision = db.revision.Load()
		v.now = db.now()
		if db.revision.Load() == v.revision {
			break
		}
	}
	if db.clock == nil {
		v.epochs = *db.epochs.Load()
	}
	active := append(slices.Clone(*vs.active.Load()), v)
	vs.active.Store(&active)
	vs.newest.Store(v.revision)
	return v
}

// Revision is that of the last change that the view shows.
func (v *View) Revision() uint64 { return v.revision }

// Entry returns key as it was. What it returns is shared with the DB and not to
// be changed.
func (v *View) Entry(space engine.Space, key string) (store.Entry, bool) {
	t := v.db.spaces[space].table
	if r := v.version(t.shard(key), t.load(key)); r != nil {
		return v.entry(r)
	}
	return store.Entry{}, false
}

// version is what the view shows of the key of which r is the newest version, nil
// if it shows none. The key's shard is sh.
func (v *View) version(sh *shard, r *record) *record {
	if r == nil || r.revision() <= v.revision {
		return r
	}
	// As long as the view is open, what it shows of a key is kept until the key
	// has its next version, and a key that is deleted leaves a tombstone.
	sh.lock()
	defer sh.mu.Unlock()
	if h := sh.old[r.key()]; h != nil {
		for old := h.newest; old != nil; old = old.older {
			if old.rec.rev <= v.revision {
				return old.rec
			}
		}
	}
	return nil
}

// entry shows r as it was when the view was opened.
func (v *View) entry(r *record) (store.Entry, bool) {
	e, ok := r.entry(v.now)
	if epoch := v.epochOf(r); ok && epoch != nil {
		// It may have been settled since.
		d := r.deadlines()
		e.DeleteIn = whole(epoch.duration(d.delete.Load()))
		if !e.Expired {
			e.ExpireIn = whole(epoch.duration(d.expire.Load()))
		}
	}
	return e, ok
}

// whole is a duration none of which has passed.
func whole(d int64) time.Duration {
	if d == never {
		return 0
	}
	return time.Duration(d)
}

// epochOf is the epoch of r if its deadlines had not begun to count when the view
// was opened, else nil.
func (v *View) epochOf(r *record) *epoch {
	if v.epochs.settling == nil || r.deadlines() == nil {
		return nil
	}
	return v.epochs.of(r)
}

// keep keeps old, which has just been superseded by a version with a new revision,
// if an open view shows it. A reader who looks for it waits for the lock of the
// key's shard, which is held. It tells whether the key has old versions.
func (db *DB) keep(l *locked, old *record) bool {
	vs := &db.views
	h := l.old[old.key()]
	newest := vs.newest.Load()
	if newest != 0 && old.rev <= newest {
		if h == nil {
			if l.old == nil {
				l.old = make(map[string]*history)
			}
			h = new(history)
			l.old[strings.Clone(old.key())] = h // the record may go before its key does
		}
		h.newest = &version{old, h.newest}
		vs.versions.Add(1)
		vs.bytes.Add(old.kept())
		// Whoever gives the last view up looks at the number of versions after
		// that; if it was too early to see this one, it is seen here.
		newest = vs.newest.Load()
	}
	if newest == 0 && h != nil {
		// What views left behind that have been given up since goes with it.
		vs.drop(h)
		delete(l.old, old.key())
		return false
	}
	return h != nil
}

// kept is the memory that r is reckoned to take as an old version.
func (r *record) kept() int64 { return int64(allocated(r.length())) + versionShare }

// drop counts versions as gone.
func (vs *views) drop(h *history) {
	for v := h.newest; v != nil; v = v.older {
		vs.versions.Add(-1)
		vs.bytes.Add(-v.rec.kept())
	}
}

// Release gives up the view and the versions that only it needed. It may be
// called more than once.
func (v *View) Release() { v.release.Do(v.doRelease) }

func (v *View) doRelease() {
	db, vs := v.db, &v.db.views
	vs.Lock()
	active := slices.DeleteFunc(slices.Clone(*vs.active.Load()), func(other *View) bool { return other == v })
	vs.active.Store(&active)
	newest := uint64(0)
	for _, other := range active {
		newest = max(newest, other.revision)
	}
	vs.newest.Store(newest)
	vs.Unlock()

	if vs.versions.Load() == 0 {
		return
	}
	vs.trimming.Lock()
	defer vs.trimming.Unlock()
	// As long as others are open, it is done when there is as much again to look
	// at as was left before, so that a short view beside a long one is cheap.
	const slack = 1024
	if newest != 0 && vs.versions.Load() < 2*vs.left+slack {
		return
	}
	for space := range db.spaces {
		sp := &db.spaces[space]
		for i := range sp.table.shards {
			sp.trim(&sp.table.shards[i], vs)
		}
	}
	vs.left = vs.versions.Load()
}

// trim drops the versions of a shard that no open view shows. Writers of the
// shard come to their turn in between.
func (sp *keyspace) trim(sh *shard, vs *views) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	active := vs.settledActive(sh)
	if len(active) == 0 && sh.ghosts == 0 {
		old := sh.old
		sh.old = nil
		sh.mu.Unlock()
		for _, h := range old {
			vs.drop(h)
		}
		sh.mu.Lock()
		return
	}
	const atOnce = 16
	n := 0
	for key, h := range sh.old {
		// Mutual exclusion is all that a map asks for: writers may change it
		// between two steps of this loop.
		if n++; n%atOnce == 0 {
			sh.mu.Unlock()
			runtime.Gosched()
			sh.lock()
			active = vs.settledActive(sh)
			if h = sh.old[key]; h == nil {
				continue
			}
		}
		sp.trimKey(sh, vs, active, key, h)
	}
	if len(sh.old) == 0 {
		sh.old = nil
	}
}

// settledActive returns the open views, once none is being opened. The shard's
// lock is held, and given up in between. A view that is opened later shows no
// version that the shard keeps now: they have been superseded.
func (vs *views) settledActive(sh *shard) []*View {
	for vs.newest.Load() == opening {
		sh.mu.Unlock()
		runtime.Gosched()
		sh.mu.Lock()
	}
	return *vs.active.Load()
}

// trimKey drops the versions of one key that none of the views shows.
func (sp *keyspace) trimKey(sh *shard, vs *views, active []*View, key string, h *history) {
	t := sp.table
	l := locked{shard: sh, place: t.place(key)}
	l.probe(*sh.array.Load()) // a key with old versions is in the table
	if l.rec == nil || l.rec.key() != key {
		l.place = t.place(key)
		l.lookInstead(*sh.array.Load(), key)
	}

	until := l.rec.rev
	for link := &h.newest; *link != nil; {
		v := *link
		if isShown(active, v.rec.rev, until) {
			link = &v.older
		} else {
			*link = v.older
			vs.versions.Add(-1)
			vs.bytes.Add(-v.rec.kept())
		}
		until = v.rec.rev
	}
	if h.newest != nil {
		return
	}
	delete(sh.old, key)
	if l.rec.kind() == tombstone {
		sh.ghosts--
		sp.remove(&l, key)
	}
}

// isShown tells whether a view shows the version that was the newest from one
// revision until another.
func isShown(views []*View, from, until uint64) bool {
	for _, v := range views {
		if from <= v.revision && v.revision < until {
			return true
		}
	}
	return false
}
