package maple

import (
	"container/heap"
	"sync"
	"time"

	"dkv/internal/command"
)

// epoch is what records written between two ticks have in common: the reading
// from which their durations count, which is not known before the next tick but
// one.
type epoch struct {
	number   uint64
	pending  []item // at is a duration
	shortest int64  // of pending
}

const unsettled = -1

func newEpoch(number uint64) *epoch { return &epoch{number: number, shortest: never} }

// at is the reading of the clock at which the duration v of d is over.
func (d *deadlines) at(v int64) int64 {
	base := d.base.Load()
	if v == never || base == unsettled {
		return never
	}
	return add(base, v)
}

// left is what is left of the duration v of d, 0 if it never ends. What has not
// begun to count is left whole.
func (d *deadlines) left(v, now int64) time.Duration {
	if v == never || d.base.Load() == unsettled {
		return whole(v)
	}
	return time.Duration(max(1, d.at(v)-now))
}

// whole is a duration none of which has passed.
func whole(v int64) time.Duration {
	if v == never {
		return 0
	}
	return time.Duration(v)
}

// deleteOnly is what is left of d when the value has expired.
func (d *deadlines) deleteOnly() *deadlines {
	if d == nil || d.delete == never {
		return nil
	}
	only := &deadlines{expire: d.delete, delete: d.delete, epoch: d.epoch}
	only.base.Store(d.base.Load())
	return only
}

// next is the duration of r that is over first.
func (r *record) next() int64 {
	d := r.deadlines()
	if r.kind() == live {
		return d.expire
	}
	return d.delete
}

// item reminds of one deadline of one record.
type item struct {
	at     int64
	record *record
	space  command.Space
}

// expiry holds a reminder of the next deadline of each record that has one, and
// of some that have been superseded: stale of them, less those that are still
// in an epoch. They are dropped when they outnumber the others.
type expiry struct {
	mu    sync.Mutex
	heap  itemHeap
	stale int
}

type itemHeap []item

func (h itemHeap) Len() int { return len(h) }
func (h itemHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].record.rev < h[j].record.rev
}
func (h itemHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *itemHeap) Push(x any)   { *h = append(*h, x.(item)) }
func (h *itemHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = item{}
	*h = old[:len(old)-1]
	return it
}

// schedule sees to it that r is reaped when its next deadline comes. It is called
// once r is in the table: a reminder of a record that is not there counts as
// stale and may be dropped.
func (db *DB) schedule(space command.Space, r *record) {
	d := r.deadlines()
	if d == nil {
		return
	}
	it := item{at: r.next(), record: r, space: space}
	if it.at == never {
		return
	}
	if base := d.base.Load(); base != unsettled {
		it.at = add(base, it.at)
		db.expiry.mu.Lock()
		heap.Push(&db.expiry.heap, it)
		db.expiry.mu.Unlock()
		return
	}
	epoch := db.open
	if d.epoch == db.settling.number {
		epoch = db.settling
	}
	epoch.pending = append(epoch.pending, it)
	epoch.shortest = min(epoch.shortest, it.at)
}

// superseded counts a reminder as stale and drops all stale ones once they are
// the greater part, so that a key that is renewed for ever costs no more than
// one that is set once.
func (x *expiry) superseded(db *DB) {
	const slack = 1024
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stale++
	if x.stale < len(x.heap)/2+slack {
		return
	}
	x.stale = 0
	kept := x.heap[:0]
	for _, it := range x.heap {
		if it.isCurrent(db) {
			kept = append(kept, it)
		}
	}
	clear(x.heap[len(kept):])
	x.heap = kept
	heap.Init(&x.heap)
}

func (it item) isCurrent(db *DB) bool {
	return db.spaces[it.space].load(it.record.key()) == it.record
}

// Reap carries out deadlines that have come, the earliest first, but no more
// than limit of them, and returns how many it did: if that is limit, there may
// be more. Readers see the effect of a deadline the moment it comes; reaping
// gives the memory back and the change its revision.
func (db *DB) Reap(limit int) int {
	n := 0
	for now := db.Now(); n < limit; {
		it, ok := db.expiry.popDue(now)
		if !ok {
			break
		}
		if db.reap(it, now) {
			n++
		}
	}
	return n
}

func (x *expiry) popDue(now int64) (item, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.heap) == 0 || x.heap[0].at > now {
		return item{}, false
	}
	return heap.Pop(&x.heap).(item), true
}

// reap carries out one deadline, unless its record has been superseded.
func (db *DB) reap(it item, now int64) (done bool) {
	l := db.spaces[it.space].lock(it.record.key())
	defer l.unlock()
	old := it.record
	if l.old != old {
		return false
	}
	var next *record
	if old.isDeleted(now) {
		next = newRecord(tombstone, old.key(), nil, nil)
	} else {
		d := old.deadlines()
		next = newRecord(expired, old.key(), nil, &deadlines{
			expire: d.delete, delete: d.delete, epoch: d.epoch, written: old.written(),
		})
		next.deadlines().base.Store(d.base.Load())
	}
	db.replace(it.space, &l, next)
	return true
}

// NextDeadline returns the reading of the clock at which Reap has something to
// do; ok is false if there is no such reading yet.
func (db *DB) NextDeadline() (at time.Duration, ok bool) {
	x := &db.expiry
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.heap) > 0 {
		if x.heap[0].isCurrent(db) {
			return time.Duration(x.heap[0].at), true
		}
		heap.Pop(&x.heap)
	}
	return 0, false
}

// Tick moves the time of a DB that has no clock by elapsed, and lets the
// deadlines of entries written between the last two ticks count from lag after
// the reading before this one: lag <= elapsed.
//
// An entry's durations cannot count from the moment it is applied, because no
// reading belongs to that moment: it lies between two ticks. They count from a
// moment that lies after it for certain, the arrival of the tick that follows
// it; what the clock would have read then is told by the tick after that.
// store/replica proves that no deadline comes early this way.
func (db *DB) Tick(elapsed, lag time.Duration) {
	now := db.ticked.Load()
	settled := db.settling
	base := add(now, int64(lag))
	db.expiry.mu.Lock()
	for _, it := range settled.pending {
		it.record.deadlines().base.Store(base)
		it.at = add(base, it.at)
		heap.Push(&db.expiry.heap, it)
	}
	db.expiry.mu.Unlock()
	db.settling, db.open = db.open, newEpoch(db.open.number+1)
	db.ticked.Store(add(now, int64(elapsed)))
}

// Unsettled tells what ticks a DB without a clock waits for: open, whether
// entries with deadlines were written since the last tick; settling, the
// shortest duration of an entry that counts from the last tick's arrival, if ok.
func (db *DB) Unsettled() (open bool, settling time.Duration, ok bool) {
	return len(db.open.pending) > 0,
		time.Duration(db.settling.shortest),
		len(db.settling.pending) > 0
}
