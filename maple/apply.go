package maple

import (
	"bytes"
	"strconv"
	"sync/atomic"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// Apply does one operation. It copies keys and values. One that makes the state
// larger than limit is not done, unless limit is 0.
func (db *DB) Apply(op *engine.Op, limit int64) engine.Result {
	if op.Kind == engine.Transact {
		return db.transact(op.Txn, limit)
	}
	sp := &db.spaces[op.Space]
	var now int64
	if db.clock == nil || op.ExpireIn != 0 || op.DeleteIn != 0 {
		now = db.now()
	}
	var fresh *record
	switch op.Kind {
	case engine.SetIfUnset, engine.SetIfRevision:
		// To find that it is not to be set, which is what most find who ask,
		// takes no lock.
		if done, res := db.condition(op, sp.load(op.Key), now); !done {
			return res
		}
		fallthrough
	case engine.Set:
		fresh = db.record(op, now)
	}
	l := sp.table.lock(op.Key)
	defer l.unlock()
	next, res := db.become(op, l.rec, fresh, now)
	switch {
	case !res.Done:
		return res
	case !db.resize(next.size()-l.rec.size(), limit):
		return engine.Result{Refusal: engine.Full}
	}
	res.Revision = db.replace(op.Space, &l, next, false)
	return res
}

// become returns the version that op makes of the version old of its key, nil if it
// removes the key, and what op has then done. For one that sets a value, it is
// fresh, if that is not nil.
func (db *DB) become(op *engine.Op, old, fresh *record, now int64) (next *record, res engine.Result) {
	if old != nil {
		now = db.reading(now, old)
	}
	done, res := db.condition(op, old, now)
	if !done {
		return nil, res
	}
	res.Done = true
	switch op.Kind {
	case engine.Set, engine.SetIfUnset, engine.SetIfRevision:
		if fresh == nil {
			fresh = db.record(op, now)
		}
		return fresh, res
	case engine.Expire:
		return old.afterExpire(), res
	case engine.RenewIfValue:
		var d deadlines
		p := past{written: old.written()}
		return newRecord(live, op.Key, op.Value, db.begin(&d, now, op.ExpireIn, op.DeleteIn), &p), res
	case engine.Add:
		var value []byte
		hasValue := old != nil && !old.isExpired(now)
		if hasValue {
			value = old.value()
		}
		sum, why := engine.Sum(value, hasValue, op.Delta)
		if why != engine.NotRefused {
			return nil, engine.Result{Refusal: why}
		}
		res.Number = sum
		return old.afterAdd(op.Key, strconv.AppendInt(nil, sum, 10), now), res
	}
	return nil, res
}

// condition tells whether op has something to do with the version old of its key,
// which may be nil, and if not, what it comes to.
func (db *DB) condition(op *engine.Op, old *record, now int64) (done bool, res engine.Result) {
	there, hasValue := old != nil, old != nil
	if there {
		now = db.reading(now, old)
		there, hasValue = !old.isDeleted(now), !old.isExpired(now)
	}
	switch op.Kind {
	case engine.Set, engine.Add:
		return true, res
	case engine.SetIfUnset:
		return !there, res
	case engine.Expire:
		return hasValue, res
	case engine.Delete:
		return there, res
	case engine.DeleteIfValue, engine.RenewIfValue:
		return hasValue && bytes.Equal(old.value(), op.Value), res
	case engine.SetIfRevision, engine.DeleteIfRevision:
		var rev uint64
		if there {
			rev = old.written()
		}
		if rev != op.At || op.Kind == engine.DeleteIfRevision && !there {
			return false, engine.Result{Revision: rev}
		}
		return true, res
	}
	panic("maple: unknown kind of operation")
}

// record makes the version that an operation sets.
func (db *DB) record(op *engine.Op, now int64) *record {
	var d deadlines
	return newRecord(live, op.Key, op.Value, db.begin(&d, now, op.ExpireIn, op.DeleteIn), nil)
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

// afterAdd is the version of r, which may be nil, that has the value instead. Of
// its deadlines it has those that have not come.
func (r *record) afterAdd(key string, value []byte, now int64) *record {
	if r == nil || r.deadlines() == nil || r.isDeleted(now) {
		return newRecord(live, key, value, nil, nil)
	}
	d := r.deadlines()
	expire, delete := d.expire.Load(), d.delete.Load()
	if r.isExpired(now) {
		expire = delete
	}
	if expire == never {
		return newRecord(live, key, value, nil, nil)
	}
	var left deadlines
	left.expire.Store(expire)
	left.delete.Store(delete)
	return newRecord(live, key, value, &left, &past{since: r.since()})
}

// resize takes note of what becomes of the state's size. It returns false, and
// nothing has happened, if it would grow beyond limit, unless limit is 0.
func (db *DB) resize(growth, limit int64) bool {
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
func (db *DB) replace(space engine.Space, l *locked, next *record, byDeadline bool) uint64 {
	c := db.put(space, l, next)
	c.byDeadline = byDeadline
	rev := db.revision.Add(1)
	atomic.StoreUint64(&c.next.rev, rev)
	db.finish(space, l, &c)
	return rev
}

// change is a version that takes the place of another, which may be nil.
type change struct {
	old, next   *record
	goes        bool // the key does: next is a tombstone
	stale       bool // so is old's reminder
	byDeadline  bool
	keys, bytes int64
}

// put puts next, or a tombstone if that is nil, in the place of the locked key's
// newest version. What remains to be done is finish, once next has its revision.
func (db *DB) put(space engine.Space, l *locked, next *record) change {
	old := l.rec
	c := change{old: old, next: next, goes: next == nil, stale: moveReminder(old, next)}
	if old != nil && old.kind() != tombstone {
		c.keys, c.bytes = -1, -int64(old.keyLen()+old.valueLen())
	}
	if c.goes {
		c.next = newRecord(tombstone, old.key(), nil, nil, nil)
	} else {
		c.keys, c.bytes = c.keys+1, c.bytes+int64(next.keyLen()+next.valueLen())
	}
	l.put(c.next)
	if old == nil {
		db.spaces[space].order.insert(c.next.key(), l.place)
	}
	return c
}

// finish does what a change is followed by.
func (db *DB) finish(space engine.Space, l *locked, c *change) {
	sp := &db.spaces[space]
	kept := c.old != nil && db.keep(l, c.old)
	if c.old != nil && c.old.kind() == tombstone {
		l.ghosts--
	}
	switch {
	case c.goes && kept:
		l.ghosts++
	case c.goes:
		sp.remove(l, c.next.key())
	}
	if c.stale {
		db.forget(l.place)
	}
	db.schedule(space, l.place, c.next)
	if c.keys != 0 {
		sp.keys.Add(c.keys)
	}
	if c.bytes != 0 && space == engine.Keys {
		db.bytes.Add(c.bytes)
	}
	if db.changed != nil {
		db.changed(c.event(space))
	}
}

// event is the change as others are told of it.
func (c *change) event(space engine.Space) engine.Change {
	e := engine.Change{Revision: c.next.rev, Space: space, ByDeadline: c.byDeadline, Key: c.next.key()}
	switch c.next.kind() {
	case live:
		e.Type, e.Value = store.EventSet, c.next.value()
	case expired:
		e.Type = store.EventExpired
	case tombstone:
		e.Type = store.EventDeleted
	}
	return e
}
