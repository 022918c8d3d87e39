package maple

import (
	"slices"
	"sync"

	"dkv/internal/command"
)

// View is the state of a DB at one revision and one moment, however much is
// written meanwhile. It costs memory for what is superseded while it is open,
// until Release.
type View struct {
	db       *DB
	revision uint64
	now      int64

	// The epochs that were unsettled when the view was opened, nil in a DB with
	// a clock.
	open, settling *epoch

	release sync.Once
}

// View opens a view of the state as it is now, in constant time.
func (db *DB) View() *View {
	db.gate.Lock()
	defer db.gate.Unlock()
	v := &View{
		db:       db,
		revision: db.revision.Load(),
		now:      db.Now(),
		open:     db.open,
		settling: db.settling,
	}
	db.active = append(db.active, v)
	db.newest.Store(v.revision)
	return v
}

// Revision is that of the last change that the view shows.
func (v *View) Revision() uint64 { return v.revision }

// Get returns key as it was. The value is shared with the DB and not to be
// changed. Not to be called after Release.
func (v *View) Get(space command.Space, key string) (Entry, bool) {
	head, ok := v.db.spaces[space].Load(key)
	if !ok {
		return Entry{}, false
	}
	e := head.at(v.revision)
	if e == nil {
		return Entry{}, false
	}
	out, ok := e.read(v.now)
	if d := e.deadlines; ok && d != nil && d.epoch != nil && (d.epoch == v.open || d.epoch == v.settling) {
		// The epoch may have been settled since.
		out.DeleteIn = whole(d.delete)
		if !out.Expired {
			out.ExpireIn = whole(d.expire)
		}
	}
	return out, ok
}

// each calls f with every version that the view shows, in no particular order,
// until it returns false. Entries whose deadline had come but that had not been
// reaped are among them.
//
// The map's Range may show a bucket as it was when the map was last resized, or
// as it is now; both lead to the version the view needs, since what was the
// newest version at any moment after the view was opened has it behind itself.
func (v *View) each(f func(space command.Space, key string, e *entry) bool) {
	for space := range command.Spaces {
		done := false
		v.db.spaces[space].Range(func(key string, head *entry) bool {
			e := head.at(v.revision)
			if e == nil || e.kind == tombstone {
				return true
			}
			done = !f(space, key, e)
			return !done
		})
		if done {
			return
		}
	}
}

// at is the version among e and those behind it that was the newest at rev, or
// nil.
func (e *entry) at(rev uint64) *entry {
	for e != nil && e.rev > rev {
		e = e.prev.Load()
	}
	return e
}

// retain keeps old behind next, which supersedes it, if an open view shows it.
// The caller holds gate shared and the bucket's lock.
func (db *DB) retain(space command.Space, key string, old, next *entry) {
	newest := db.newest.Load()
	switch {
	case newest == 0:
		// What older views left behind old goes with it.
		if n := old.behind(); n > 0 {
			db.versions.Add(-n)
		}
		return
	case old.rev <= newest:
		next.prev.Store(old)
		db.versions.Add(1)
	default:
		next.prev.Store(old.prev.Load())
	}
	if next.prev.Load() != nil {
		db.retained.Lock()
		db.retained.keys[spaceKey{space, key}] = struct{}{}
		db.retained.Unlock()
	}
}

// behind counts the versions behind e.
func (e *entry) behind() (n int64) {
	for e = e.prev.Load(); e != nil; e = e.prev.Load() {
		n++
	}
	return n
}

// Release gives up the view and the versions that only it needed. It may be
// called more than once.
func (v *View) Release() { v.release.Do(v.doRelease) }

func (v *View) doRelease() {
	db := v.db
	db.gate.Lock()
	i := slices.Index(db.active, v)
	db.active = slices.Delete(db.active, i, i+1)
	newest := uint64(0)
	for _, other := range db.active {
		newest = max(newest, other.revision)
	}
	db.newest.Store(newest)
	db.gate.Unlock()

	db.retained.Lock()
	keys := db.retained.keys
	db.retained.keys = make(map[spaceKey]struct{})
	db.retained.Unlock()
	for k := range keys {
		db.trim(k)
	}
}

// trim drops the versions behind a key that no open view shows.
func (db *DB) trim(k spaceKey) {
	token := db.gate.RLock()
	defer db.gate.RUnlock(token)
	db.spaces[k.space].Compute(k.key, func(head *entry, loaded bool) (*entry, bool) {
		if !loaded {
			return head, true
		}
		kept, newer := head, head
		for e := head.prev.Load(); e != nil; newer, e = e, e.prev.Load() {
			if db.shown(e.rev, newer.rev) {
				kept.prev.Store(e)
				kept = e
			} else {
				db.versions.Add(-1)
			}
		}
		kept.prev.Store(nil)
		if head.prev.Load() != nil {
			db.retained.Lock()
			db.retained.keys[k] = struct{}{}
			db.retained.Unlock()
		}
		return head, head.gone()
	})
}

// shown tells whether an open view shows the version that was the newest from
// one revision until another.
func (db *DB) shown(from, until uint64) bool {
	for _, v := range db.active {
		if from <= v.revision && v.revision < until {
			return true
		}
	}
	return false
}
