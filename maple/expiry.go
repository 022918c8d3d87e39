package maple

import (
	"sync"
	"sync/atomic"
	"time"

	"dkv/store/engine"
)

// expiry has the reminders of all keys with deadlines. Each such key has one, for
// its next deadline or for an earlier time, from when it was written before: a
// write that puts a deadline off leaves the reminder alone, and who is reminded
// too early sets it anew. So to renew a key that has a deadline costs no more than
// to overwrite it.
//
// A reminder says where in the table its key is, and does not point to the record,
// so that it keeps no superseded one in memory. It counts only if the record there
// has it noted down; see deadlines.remind. Others are stale, and are dropped when
// there are too many of them.
type expiry struct {
	reaping sync.Mutex // held by Reap, before any shard's lock

	// lanes are as many heaps, which shards have their reminders in, so that
	// writers seldom wait for one another. firsts[i] is the earliest reminder of
	// lane i, never if it has none.
	lanes  [lanes]lane
	firsts [lanes]atomic.Int64
}

const lanes = 64

// lane is a heap of reminders in which each has four below it. It lies in chunks,
// so that nobody waits while it is copied to grow. Lock order: a shard's lock, then
// mu.
type lane struct {
	mu     sync.Mutex
	n      int
	chunks []*[perChunk]reminder
	stale  int // reminders that do not count any longer, more or less
	_      [64 - 48]byte
}

const perChunk = 64

// reminder has Reap look at the key at a place when the clock reads at.
type reminder struct {
	at    int64
	rev   uint64 // of the record for which it was set
	hash  uint32 // its place, field by field, which takes less memory
	shard uint8
	space engine.Space
}

func newReminder(at int64, r *record, where place, space engine.Space) reminder {
	return reminder{at: at, rev: r.rev, hash: where.hash, shard: where.shard, space: space}
}

func (r reminder) place() place { return place{r.hash, r.shard} }

func (r reminder) before(other reminder) bool {
	return r.at < other.at || r.at == other.at && r.rev < other.rev
}

func (x *expiry) init() {
	for i := range x.firsts {
		x.firsts[i].Store(never)
	}
}

func laneOf(at place) int { return int(at.shard) % lanes }

// moveReminder hands the reminder of old, if there is one, over to next, and tells
// whether it has become stale instead, because next has no use for it. Either may
// be nil. The key's shard is locked.
func moveReminder(old, next *record) (stale bool) {
	if old == nil || old.deadlines() == nil {
		return false
	}
	stands := old.deadlines().remind.Load()
	if stands == 0 {
		return false
	}
	if next == nil || next.deadlines() == nil {
		return true
	}
	next.deadlines().remind.Store(stands)
	return false
}

// forget counts a reminder as stale, whose record has been superseded.
func (db *DB) forget(at place) {
	i := laneOf(at)
	l := &db.expiry.lanes[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stale++
	l.sweepIfStale(db)
	db.expiry.firsts[i].Store(l.first())
}

// schedule sees to it that r, which is in the table by now, is reaped when its
// next deadline comes. The key's shard is locked.
func (db *DB) schedule(space engine.Space, at place, r *record) {
	d := r.deadlines()
	if d == nil {
		return
	}
	next := r.next()
	if next < 0 {
		db.epochs.Load().of(r).add(space, r)
		return
	}
	db.remind(newReminder(next, r, at, space), d)
}

// remind sets a reminder for a record with the deadlines d, unless one stands that
// is no later. The key's shard is locked, or nobody else writes.
func (db *DB) remind(r reminder, d *deadlines) {
	stands := d.remind.Load()
	switch {
	case r.at == never:
		if stands != 0 {
			d.remind.Store(0)
			db.forget(r.place())
		}
		return
	case stands != 0 && stands <= r.at:
		return
	}
	d.remind.Store(r.at)
	i := laneOf(r.place())
	l := &db.expiry.lanes[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	if stands != 0 {
		l.stale++
		l.sweepIfStale(db)
	}
	l.push(r)
	db.expiry.firsts[i].Store(l.first())
}

// sweepIfStale drops the stale reminders if they are many, so that a key that is
// set and deleted for ever costs no more than one that is set once. The lane is
// locked.
func (l *lane) sweepIfStale(db *DB) {
	const slack = 16
	if l.stale <= l.n/2+slack {
		return
	}
	l.stale = 0
	n := 0
	for i := range l.n {
		r := *l.at(i)
		if rec := db.spaces[r.space].table.at(r.place()); rec != nil && rec.deadlines() != nil && rec.deadlines().remind.Load() == r.at {
			*l.at(n) = r
			n++
		}
	}
	l.n = n
	l.shrink()
	for i := (n - 2) / 4; i >= 0 && n > 1; i-- {
		l.down(i)
	}
}

func (l *lane) at(i int) *reminder { return &l.chunks[i/perChunk][i%perChunk] }

// first is when the earliest reminder is due, never if there is none.
func (l *lane) first() int64 {
	if l.n == 0 {
		return never
	}
	return l.at(0).at
}

// shrink gives memory back that is not needed any longer, but for one chunk.
func (l *lane) shrink() {
	for need := (l.n + perChunk - 1) / perChunk; len(l.chunks) > need+1; {
		last := len(l.chunks) - 1
		l.chunks[last] = nil
		l.chunks = l.chunks[:last]
	}
	if l.n == 0 {
		l.chunks = nil
	}
}

func (l *lane) push(r reminder) {
	if l.n == len(l.chunks)*perChunk {
		l.chunks = append(l.chunks, new([perChunk]reminder))
	}
	i := l.n
	l.n++
	for i > 0 {
		up := l.at((i - 1) / 4)
		if !r.before(*up) {
			break
		}
		*l.at(i) = *up
		i = (i - 1) / 4
	}
	*l.at(i) = r
}

// pop takes the first reminder.
func (l *lane) pop() reminder {
	first := *l.at(0)
	l.n--
	*l.at(0) = *l.at(l.n)
	if l.n > 0 {
		l.down(0)
	}
	l.shrink()
	return first
}

// down moves the reminder at i to its place among those below it.
func (l *lane) down(i int) {
	r := *l.at(i)
	for {
		least, at := r, i
		for j := 4*i + 1; j <= 4*i+4 && j < l.n; j++ {
			if below := *l.at(j); below.before(least) {
				least, at = below, j
			}
		}
		if at == i {
			break
		}
		*l.at(i) = least
		i = at
	}
	*l.at(i) = r
}

// Reap carries out deadlines that have come, in the order of the deadlines and,
// where those are equal, of the revisions of the entries, but no more than limit
// of them, and returns how many it did: if that is limit, there may be more.
// Readers see the effect of a deadline the moment it comes; reaping gives the
// memory back and the change its revision.
//
// Reminders that only need to be set anew do not count. A DB with a clock leaves
// off after a number of those as well, and NextDeadline tells that there is more to
// do. Without a clock it cannot, because reminders are no part of the state: that
// many keys that were written in one instant have been renewed since is then felt,
// by some 300 ns for each.
func (db *DB) Reap(limit int) int {
	x := &db.expiry
	x.reaping.Lock()
	defer x.reaping.Unlock()
	now := db.now()
	var due tops
	for i := range x.lanes {
		due.look(x, i, now)
	}
	n, looks := 0, 0
	const slack = 1024
	for n < limit && due.n > 0 {
		if looks++; db.clock != nil && looks > limit+slack {
			break
		}
		i := due.first()
		r, ok := x.pop(due.lane[i], now)
		if ok && db.reap(r, now) {
			n++
		}
		// What this has set anew is in the same lane.
		due.again(x, i, now)
	}
	return n
}

// tops are the first reminders of those lanes in which one is due.
type tops struct {
	n    int
	lane [lanes]int
	top  [lanes]reminder
}

// look adds lane i if its first reminder is due.
func (t *tops) look(x *expiry, i int, now int64) {
	if x.firsts[i].Load() > now {
		return
	}
	l := &x.lanes[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first() <= now {
		t.lane[t.n], t.top[t.n] = i, *l.at(0)
		t.n++
	}
}

// first is which of them is the earliest.
func (t *tops) first() int {
	first := 0
	for i := 1; i < t.n; i++ {
		if t.top[i].before(t.top[first]) {
			first = i
		}
	}
	return first
}

// again looks at the lane of entry i once more.
func (t *tops) again(x *expiry, i int, now int64) {
	lane := t.lane[i]
	t.n--
	t.lane[i], t.top[i] = t.lane[t.n], t.top[t.n]
	t.look(x, lane, now)
}

// pop takes the first reminder of lane i, if its time has come.
func (x *expiry) pop(i int, now int64) (reminder, bool) {
	l := &x.lanes[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first() > now {
		return reminder{}, false
	}
	r := l.pop()
	x.firsts[i].Store(l.first())
	return r, true
}

// reap looks at the key of a reminder whose time has come, and carries out the
// deadline for which it was set, and with it a later one that has come by now. If
// the key has been written since, it sets the reminder anew.
func (db *DB) reap(r reminder, now int64) (done bool) {
	l := db.spaces[r.space].table.lockAt(r.place())
	defer l.unlock()
	old := l.rec
	if old == nil || old.deadlines() == nil || old.deadlines().remind.Load() != r.at {
		l := &db.expiry.lanes[laneOf(r.place())]
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stale = max(0, l.stale-1) // a sweep may have been here
		return false
	}
	d := old.deadlines()
	d.remind.Store(0)
	next := old.next()
	if next != r.at || old.rev != r.rev {
		if next >= 0 { // else it is set when the deadline is settled
			db.remind(newReminder(next, old, r.place(), r.space), d)
		}
		return false
	}
	var after *record
	if !old.isDeleted(now) {
		after = old.afterDeadline()
	}
	db.resize(after.size()-old.size(), 0)
	db.replace(r.space, &l, after, true)
	return true
}

// NextDeadline returns a reading of the clock before which Reap has nothing to do;
// ok is false if there is none.
func (db *DB) NextDeadline() (at time.Duration, ok bool) {
	first := int64(never)
	for i := range db.expiry.firsts {
		first = min(first, db.expiry.firsts[i].Load())
	}
	return time.Duration(first), first != never
}
