package maple

import (
	"bytes"
	"sync/atomic"
	"time"

	"dkv/store/engine"
)

// Apply does one operation. It copies key and value. One that sets a value is not
// done if that makes the state larger than limit, unless limit is 0.
func (db *DB) Apply(op *engine.Op, limit int64) engine.Result {
	sp := &db.spaces[op.Space]
	var now int64
	if db.clock == nil || op.ExpireIn != 0 || op.DeleteIn != 0 {
		now = db.now()
	}
	var next *record
	switch op.Kind {
	case engine.SetIfUnset:
		// To find it set, which is what most that ask find, takes no lock.
		if r := sp.load(op.Key); r != nil && !r.isDeleted(db.reading(now, r)) {
			return engine.Result{}
		}
		fallthrough
	case engine.Set:
		var d deadlines
		next = newRecord(live, op.Key, op.Value, db.begin(&d, now, op.ExpireIn, op.DeleteIn), nil)
	case engine.Expire, engine.Delete, engine.CompareAndDelete:
	default:
		panic("maple: unknown kind of operation")
	}

	l := sp.table.lock(op.Key)
	defer l.unlock()
	old := l.rec
	there, hasValue := old != nil, old != nil
	if there {
		now = db.reading(now, old)
		there, hasValue = !old.isDeleted(now), !old.isExpired(now)
	}
	switch op.Kind {
	case engine.SetIfUnset:
		if there {
			return engine.Result{}
		}
	case engine.Expire:
		if !there || !hasValue {
			return engine.Result{}
		}
		next = old.afterExpire()
	case engine.Delete:
		if !there {
			return engine.Result{}
		}
	case engine.CompareAndDelete:
		if !there || !hasValue || !bytes.Equal(old.value(), op.Value) {
			return engine.Result{}
		}
	}
	if !db.resize(old, next, limit) {
		return engine.Result{Full: true}
	}
	return engine.Result{Done: true, Revision: db.replace(op.Space, &l, next)}
}

// reading is the time for a look at r: now if that has been read already. It
// reads no clock for a record without deadlines.
func (db *DB) reading(now int64, r *record) int64 {
	if now == 0 && r.deadlines() != nil {
		return db.now()
	}
	return now
}

// begin makes d the deadlines of a record written now, and returns nil if it has
// none.
func (db *DB) begin(d *deadlines, now int64, expireIn, deleteIn time.Duration) *deadlines {
	if expireIn == 0 && deleteIn == 0 {
		return nil
	}
	expire, delete := int64(never), int64(never)
	if deleteIn != 0 {
		delete = db.deadline(now, deleteIn)
	}
	if expireIn != 0 && (deleteIn == 0 || expireIn < deleteIn) {
		expire = db.deadline(now, expireIn)
	} else {
		expire = delete
	}
	if expire == never {
		return nil
	}
	d.expire.Store(expire)
	d.delete.Store(delete)
	return d
}

// endless is the least duration that counts as one without an end: 146 years. So
// no deadline is so late that it cannot be told, however much time has passed.
const endless = 1 << 62

// deadline is when a duration that begins now is over. Without a clock it counts
// from a moment that a later tick tells.
func (db *DB) deadline(now int64, d time.Duration) int64 {
	switch {
	case d >= endless:
		return never
	case db.clock == nil:
		return -int64(d)
	}
	return add(now, int64(d))
}

// afterExpire is the version that a call to Expire makes of r, which has a value.
func (r *record) afterExpire() *record {
	return r.withoutValue(past{since: r.since()})
}

// afterDeadline is the version that the passing of r's value makes of it.
func (r *record) afterDeadline() *record {
	return r.withoutValue(past{since: r.since(), written: r.written()})
}

func (r *record) withoutValue(p past) *record {
	d := r.deadlines()
	if d == nil || d.delete.Load() == never {
		return newRecord(expired, r.key(), nil, nil, &p)
	}
	var left deadlines
	left.expire.Store(d.delete.Load())
	left.delete.Store(d.delete.Load())
	return newRecord(expired, r.key(), nil, &left, &p)
}

// resize takes note of what becomes of the state's size when next supersedes old,
// either of which may be nil. It returns false, and nothing has happened, if a
// value that is set would take the size beyond limit.
func (db *DB) resize(old, next *record, limit int64) bool {
	growth := next.size() - old.size()
	if growth == 0 {
		return true
	}
	if limit == 0 || growth < 0 {
		db.size.Add(growth)
		return true
	}
	for {
		size := db.size.Load()
		if size+growth > limit {
			return false
		}
		if db.size.CompareAndSwap(size, size+growth) {
			return true
		}
	}
}

// replace makes next the newest version of the locked key, or removes the key if
// next is nil, and returns the change's revision.
//
// The version is put where readers find it, and then its revision is drawn; a
// reader who finds it before that waits. So no reader that sees the change, or no
// longer sees what was there before, returns before the revision is drawn: views
// that are opened after that show it. And a view that shows it was opened after it
// was put there: readers that come after that see it. All readers, of keys and of
// views, thus see changes in the order of their revisions, without a lock that
// writers share.
func (db *DB) replace(space engine.Space, l *locked, next *record) uint64 {
	sp := &db.spaces[space]
	old := l.rec
	var keys, bytes int64
	if old != nil && old.kind() != tombstone {
		keys, bytes = -1, -int64(old.keyLen()+old.valueLen())
	}
	if next != nil {
		keys, bytes = keys+1, bytes+int64(next.keyLen()+next.valueLen())
	}
	stale := moveReminder(old, next)

	goes := next == nil
	if goes {
		next = newRecord(tombstone, old.key(), nil, nil, nil)
	}
	l.put(next)
	if old == nil {
		sp.order.insert(next.key(), l.place)
	}
	rev := db.revision.Add(1)
	atomic.StoreUint64(&next.rev, rev)

	kept := old != nil && db.keep(l, old)
	if old != nil && old.kind() == tombstone {
		l.ghosts--
	}
	switch {
	case goes && kept:
		l.ghosts++
	case goes:
		sp.remove(l, next.key())
	}
	if stale {
		db.forget(l.place)
	}
	db.schedule(space, l.place, next)
	if keys != 0 {
		sp.keys.Add(keys)
	}
	if bytes != 0 && space == engine.Keys {
		db.bytes.Add(bytes)
	}
	return rev
}
