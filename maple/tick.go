package maple

import (
	"sync/atomic"
	"time"

	"dkv/store/engine"
)

// epochs are those records written since the last two ticks, in a DB without a
// clock. They are replaced by each tick.
type epochs struct {
	settling *epoch // written between the last two ticks
	open     *epoch // written since the last one
}

// epoch is what records written between two ticks have in common: the reading
// from which their durations count, which is not known before the next tick but
// one.
type epoch struct {
	after uint64 // the revision before its first

	// base is the reading from which its durations count, -1 until that is
	// known.
	base atomic.Int64

	pending  [engine.Spaces][]*record // those with deadlines
	shortest int64                    // of their next deadlines, as durations
}

func newEpoch(after uint64) *epoch {
	e := &epoch{after: after, shortest: never}
	e.base.Store(-1)
	return e
}

// of is the epoch of the record's deadlines, nil if they have been settled.
func (es *epochs) of(r *record) *epoch {
	switch since := r.since(); {
	case since > es.open.after:
		return es.open
	case since > es.settling.after:
		return es.settling
	}
	return nil
}

// add has the epoch settle a record.
func (e *epoch) add(space engine.Space, r *record) {
	e.pending[space] = append(e.pending[space], r)
	e.shortest = min(e.shortest, -r.next())
}

func (e *epoch) isEmpty() bool {
	for _, records := range e.pending {
		if len(records) > 0 {
			return false
		}
	}
	return true
}

// duration is what a deadline of one of its records was before it was settled, if
// it has been.
func (e *epoch) duration(deadline int64) int64 {
	switch {
	case deadline == never:
		return never
	case deadline < 0:
		return -deadline
	}
	return deadline - e.base.Load()
}

// settle has the deadlines count from the reading base.
func (d *deadlines) settle(base int64) {
	for _, at := range []*atomic.Int64{&d.expire, &d.delete} {
		if v := at.Load(); v < 0 {
			at.Store(add(base, -v))
		}
	}
}

// Tick moves the time of a DB that has no clock by elapsed, and lets the deadlines
// of entries written between the last two ticks count from lag after the reading
// before this one; [engine.Engine] says why.
func (db *DB) Tick(elapsed, lag time.Duration) {
	now := db.ticked.Load()
	es := db.epochs.Load()
	base := add(now, int64(lag))
	db.ticked.Store(add(now, int64(elapsed))) // before what follows from it, see Entry
	es.settling.base.Store(base)
	for space, records := range es.settling.pending {
		t := db.spaces[space].table
		for _, r := range records {
			d := r.deadlines()
			d.settle(base)
			// A version that has been superseded is settled for views, and has
			// no reminder.
			if l := t.lock(r.key()); l.rec == r {
				db.remind(newReminder(r.next(), r, l.place, engine.Space(space)), d)
				l.unlock()
			} else {
				l.unlock()
			}
		}
	}
	es.settling.pending = [engine.Spaces][]*record{}
	db.epochs.Store(&epochs{settling: es.open, open: newEpoch(db.revision.Load())})
}

// Unsettled tells what ticks a DB without a clock waits for; [engine.Engine] says
// in which words.
func (db *DB) Unsettled() (open bool, settling time.Duration, ok bool) {
	if db.clock != nil {
		return false, 0, false
	}
	es := db.epochs.Load()
	return !es.open.isEmpty(), time.Duration(es.settling.shortest), !es.settling.isEmpty()
}
