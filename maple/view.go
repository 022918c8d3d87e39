package maple

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"dkv/internal/command"

	"github.com/puzpuzpuz/xsync/v3"
)

// View is the state of a DB at one revision and one moment, however much is
// written meanwhile. It costs memory for what is superseded while it is open,
// until Release.
type View struct {
	db       *DB
	revision uint64
	now      int64

	// The numbers of the epochs that were unsettled when the view was opened, 0
	// in a DB with a clock.
	open, settling uint64

	release sync.Once
}

// views are a DB's open views and the versions that are kept for them.
type views struct {
	sync.Mutex                         // held while a view is opened or given up
	active     atomic.Pointer[[]*View] // those that are open; replaced under the mutex

	// newest is the greatest revision of a view, 0 if there is none, or opening
	// while that is not known. A write keeps what it supersedes if its revision
	// is no greater.
	newest atomic.Uint64

	// behind leads from a record to the next older version of its key that a
	// view may need. It changes while the key's shard is locked. unlinked counts
	// the removals: a reader that finds nothing looks again if there was one,
	// or another record is the newest by then.
	behind   *xsync.MapOf[*record, *record]
	unlinked atomic.Uint64

	// retained are the keys that may have older versions.
	retained struct {
		sync.Mutex
		keys map[spaceKey]struct{}
	}
}

type spaceKey struct {
	space command.Space
	key   string
}

const opening = math.MaxUint64

func (vs *views) init() {
	vs.active.Store(new([]*View))
	vs.behind = xsync.NewMapOf[*record, *record]()
	vs.retained.keys = make(map[spaceKey]struct{})
}

// View opens a view of the state as it is now. It takes constant time, and no
// longer in a DB of millions of keys than in an empty one.
func (db *DB) View() *View {
	db.views.Lock()
	defer db.views.Unlock()
	v := &View{db: db}
	// From here on, writes keep whatever they supersede.
	db.views.newest.Store(opening)
	v.revision = db.revision.Load()
	v.now = db.Now()
	active := append(slices.Clone(*db.views.active.Load()), v)
	db.views.active.Store(&active)
	if db.clock == nil {
		v.open, v.settling = db.open.number, db.settling.number
	} else {
		// Writes that have drawn a revision that the view shows are done once
		// they have let go of their shards.
		for _, t := range db.spaces {
			t.settle()
		}
	}
	db.views.newest.Store(v.revision)
	return v
}

// settle waits until each writer that holds a shard now has let go of it.
func (t *table) settle() {
	for i := range t.shards {
		t.shards[i].mu.Lock()
		t.shards[i].mu.Unlock() //lint:ignore SA2001 having had the lock is the point
	}
}

// Revision is that of the last change that the view shows.
func (v *View) Revision() uint64 { return v.revision }

// Get returns key as it was. The value is shared with the DB and not to be
// changed. Not to be called after Release.
func (v *View) Get(space command.Space, key string) (Entry, bool) {
	r := v.at(space, v.db.spaces[space].load(key))
	if r == nil {
		return Entry{}, false
	}
	out, ok := r.read(v.now)
	if ok && v.wasUnsettled(r) {
		// It may have been settled since.
		d := r.deadlines()
		out.DeleteIn = whole(d.delete)
		if !out.Expired {
			out.ExpireIn = whole(d.expire)
		}
	}
	return out, ok
}

// wasUnsettled tells whether r's deadlines had not begun to count when the view
// was opened.
func (v *View) wasUnsettled(r *record) bool {
	d := r.deadlines()
	return d != nil && d.epoch != 0 && (d.epoch == v.open || d.epoch == v.settling)
}

// each calls f with every record that the view shows, in no particular order,
// until it returns false. Records whose deadline had come but that had not been
// reaped are among them.
//
// The table may show a shard as it was when it was last resized, or as it is now;
// both lead to the version the view needs, since what was the newest version at
// any moment after the view was opened has it behind itself.
func (v *View) each(f func(space command.Space, r *record) bool) {
	for space := range command.Spaces {
		done := false
		v.db.spaces[space].all(func(head *record) bool {
			r := v.at(space, head)
			if r == nil || r.kind() == tombstone {
				return true
			}
			done = !f(space, r)
			return !done
		})
		if done {
			return
		}
	}
}

// at is the version that the view shows of the key that r is, or was, the newest
// version of; nil if it shows none.
func (v *View) at(space command.Space, r *record) *record {
	vs := &v.db.views
	for r != nil && r.rev > v.revision {
		head := r
		unlinked := vs.unlinked.Load()
		for r != nil && r.rev > v.revision {
			r, _ = vs.behind.Load(r)
		}
		if r != nil {
			break
		}
		// What is behind head may have been linked to another record since.
		r = v.db.spaces[space].load(head.key())
		if r == head && vs.unlinked.Load() == unlinked {
			return nil
		}
	}
	return r
}

// retain keeps old behind next, which supersedes it, if an open view shows it. It
// tells whether there is anything behind next, and whether that was behind old
// before: then it is to be unlinked from there when next is in the table. The
// caller holds the shard's lock.
func (db *DB) retain(space command.Space, old, next *record) (kept, moved bool) {
	vs := &db.views
	newest := vs.newest.Load()
	if newest == 0 {
		// What views left behind old that have been given up since goes with it.
		if db.versions.Load() != 0 {
			db.drop(old)
		}
		return false, false
	}
	behind := old
	if old.rev > newest {
		if behind, moved = vs.behind.Load(old); !moved {
			return false, false
		}
	} else {
		db.versions.Add(1)
	}
	vs.behind.Store(next, behind)
	db.retainKey(spaceKey{space, next.key()})
	return true, moved
}

// drop removes all versions behind r, when no view is open.
func (db *DB) drop(r *record) {
	for {
		next, ok := db.views.behind.LoadAndDelete(r)
		if !ok {
			return
		}
		db.versions.Add(-1)
		r = next
	}
}

func (db *DB) retainKey(k spaceKey) {
	db.views.retained.Lock()
	defer db.views.retained.Unlock()
	db.views.retained.keys[k] = struct{}{}
}

// unlink removes the link from r to what is behind it.
func (vs *views) unlink(r *record) {
	vs.unlinked.Add(1)
	vs.behind.Delete(r)
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

	vs.retained.Lock()
	keys := vs.retained.keys
	vs.retained.keys = make(map[spaceKey]struct{})
	vs.retained.Unlock()
	for k := range keys {
		db.trim(k)
	}
}

// trim drops the versions behind a key that no open view shows.
func (db *DB) trim(k spaceKey) {
	vs := &db.views
	l := db.spaces[k.space].lock(k.key)
	defer l.unlock()
	head := l.old
	if head == nil {
		return
	}
	if vs.newest.Load() == opening {
		db.retainKey(k) // what the view that is being opened shows is not known
		return
	}
	// First the versions that are kept are linked past those that are not, then
	// the other links go.
	var loose []*record
	kept, newer := head, head
	for {
		r, ok := vs.behind.Load(newer)
		if !ok {
			break
		}
		if db.shown(r.rev, newer.rev) {
			if kept != newer {
				vs.behind.Store(kept, r)
				loose = append(loose, newer)
			}
			kept = r
		} else {
			db.versions.Add(-1)
			if kept != newer {
				loose = append(loose, newer)
			}
		}
		newer = r
	}
	if kept != newer {
		loose = append(loose, kept)
	}
	vs.unlinked.Add(1)
	for _, r := range loose {
		vs.behind.Delete(r)
	}
	if _, ok := vs.behind.Load(head); ok {
		db.retainKey(k)
	} else if head.kind() == tombstone {
		l.remove()
	}
}

// shown tells whether an open view shows the version that was the newest from
// one revision until another.
func (db *DB) shown(from, until uint64) bool {
	for _, v := range *db.views.active.Load() {
		if from <= v.revision && v.revision < until {
			return true
		}
	}
	return false
}
