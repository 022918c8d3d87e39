package enginetest

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// state is all that an engine holds, with what each operation means. Each question
// is answered by a look at every key.
type state struct {
	ticking  bool          // only tick moves the time
	now      time.Duration // the reading of the clock
	revision uint64        // of the last change
	records  map[place]record

	// changed are the changes that have not been told of yet.
	changed []engine.Change
}

// tell notes what has become of a record.
func (s *state) tell(p place, typ store.EventType, byDeadline bool, value []byte) {
	s.changed = append(s.changed, engine.Change{
		Revision: s.revision, Space: p.space, Type: typ, ByDeadline: byDeadline, Key: p.key, Value: value,
	})
}

// place is where a record is found.
type place struct {
	space engine.Space
	key   string
}

// record is what is kept of a key. expire <= delete, unless the value has expired.
type record struct {
	value    []byte // nil if expired
	expired  bool   // the value has gone, by a call or by a deadline that was reaped
	revision uint64 // of the change that made the record, be it a deadline's
	written  uint64 // of the last call that changed the key

	// The deadlines are readings of the clock, or durations that begin to count
	// after so many ticks.
	expire, delete time.Duration
	waits          int
}

// never is a deadline that does not come.
const never = time.Duration(math.MaxInt64)

// What an entry counts for in Size, in bytes.
const (
	entrySize     = 100 // and the lengths of key and value
	deadlinesSize = 40  // if it has a deadline
)

func (s *state) clone() state {
	c := *s
	c.changed = slices.Clone(s.changed)
	c.records = maps.Clone(s.records)
	return c
}

// next is the deadline of r that comes first.
func (r record) next() time.Duration { return min(r.expire, r.delete) }

func (r record) hasDeadlines() bool { return r.next() != never }

func (r record) size(key string) int64 {
	size := int64(entrySize + len(key) + len(r.value))
	if r.hasDeadlines() {
		size += deadlinesSize
	}
	return size
}

// settle has the durations of r count from the reading base.
func (r *record) settle(base time.Duration) {
	r.waits = 0
	r.expire, r.delete = later(base, r.expire), later(base, r.delete)
}

// later is at + d, or never if there is no such reading or either of them is never.
func later(at, d time.Duration) time.Duration {
	if at == never || d == never || at > 0 && d > never-at {
		return never
	}
	return at + d
}

// passed tells whether a deadline of r has come.
func (s *state) passed(r record, deadline time.Duration) bool {
	return r.waits == 0 && deadline != never && deadline <= s.now
}

func (s *state) isDeleted(r record) bool { return s.passed(r, r.delete) }

func (s *state) isExpired(r record) bool { return r.expired || s.passed(r, r.expire) }

// left is what is left until a deadline of r, 0 if it never comes.
func (s *state) left(r record, deadline time.Duration) time.Duration {
	switch {
	case deadline == never:
		return 0
	case r.waits > 0:
		return deadline
	}
	return deadline - s.now
}

func (s *state) entry(p place) (store.Entry, bool) {
	r, ok := s.records[p]
	if !ok || s.isDeleted(r) {
		return store.Entry{}, false
	}
	e := store.Entry{Key: p.key, Revision: store.Revision(r.written), DeleteIn: s.left(r, r.delete)}
	if s.isExpired(r) {
		e.Expired = true
	} else {
		e.Value = r.value
		e.ExpireIn = s.left(r, r.expire)
	}
	return e, true
}

func (s *state) scan(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
	var keys []string
	for p := range s.records {
		if p.space == space && p.key >= from && (to == "" || p.key < to) {
			keys = append(keys, p.key)
		}
	}
	slices.Sort(keys)
	if reverse {
		slices.Reverse(keys)
	}
	for _, key := range keys {
		if e, ok := s.entry(place{space, key}); ok && !yield(e) {
			return
		}
	}
}

func (s *state) size() (size int64) {
	for p, r := range s.records {
		size += r.size(p.key)
	}
	return size
}

// write returns the record that op makes of its key now.
func (s *state) write(op *engine.Op) record {
	r := record{value: append([]byte{}, op.Value...), expire: never, delete: never}
	if op.ExpireIn != 0 {
		r.expire = op.ExpireIn
	}
	if op.DeleteIn != 0 {
		r.delete = op.DeleteIn
	}
	r.expire = min(r.expire, r.delete)
	switch {
	case !s.ticking:
		r.settle(s.now)
	case r.hasDeadlines():
		r.waits = 2
	}
	return r
}

func (s *state) apply(op *engine.Op, limit int64) engine.Result {
	if op.Kind == engine.Transact {
		return s.transact(op.Txn, limit)
	}
	p := place{op.Space, strings.Clone(op.Key)}
	old, held := s.records[p]
	there := held && !s.isDeleted(old)
	valid := there && !s.isExpired(old)
	at := uint64(0)
	if there {
		at = old.written
	}
	done := engine.Result{Done: true, Revision: s.revision + 1}

	var next record
	remove := false
	switch op.Kind {
	case engine.Set:
		next = s.write(op)
	case engine.SetIfUnset:
		if there {
			return engine.Result{}
		}
		next = s.write(op)
	case engine.SetIfRevision:
		if at != op.At {
			return engine.Result{Revision: at}
		}
		next = s.write(op)
	case engine.Expire:
		if !valid {
			return engine.Result{}
		}
		next = record{expired: true, expire: never, delete: old.delete}
		if next.hasDeadlines() {
			next.waits = old.waits
		}
	case engine.Delete:
		if !there {
			return engine.Result{}
		}
		remove = true
	case engine.DeleteIfValue:
		if !valid || !bytes.Equal(old.value, op.Value) {
			return engine.Result{}
		}
		remove = true
	case engine.DeleteIfRevision:
		if !there || at != op.At {
			return engine.Result{Revision: at}
		}
		remove = true
	case engine.RenewIfValue:
		if !valid || !bytes.Equal(old.value, op.Value) {
			return engine.Result{}
		}
		next = s.write(op)
		next.written = old.written
	case engine.Add:
		sum, why := engine.Sum(old.value, valid, op.Delta)
		if why != engine.NotRefused {
			return engine.Result{Refusal: why}
		}
		done.Number = sum
		next = record{value: fmt.Append(nil, sum), expire: never, delete: never}
		if there {
			next.expire, next.delete, next.waits = old.expire, old.delete, old.waits
			if !valid {
				next.expire = old.delete
			}
		}
		if !next.hasDeadlines() {
			next.waits = 0
		}
	default:
		panic("enginetest: unknown kind of operation")
	}

	if remove {
		s.revision++
		delete(s.records, p)
		s.tell(p, store.EventDeleted, false, nil)
		return done
	}
	grows := next.size(p.key)
	if held {
		grows -= old.size(p.key)
	}
	if limit > 0 && grows > 0 && s.size()+grows > limit {
		return engine.Result{Refusal: engine.Full}
	}
	s.revision++
	next.revision = s.revision
	if next.written == 0 {
		next.written = s.revision
	}
	s.records[p] = next
	if next.expired {
		s.tell(p, store.EventExpired, false, nil)
	} else {
		s.tell(p, store.EventSet, false, next.value)
	}
	return done
}

// transact does what a transaction says on a copy of the state, which then takes its
// place.
func (s *state) transact(t *engine.Txn, limit int64) engine.Result {
	res := &store.TxnResult{Held: true}
	for _, c := range t.If {
		e, there := s.entry(place{c.Space, c.Key})
		res.Held = res.Held && c.Holds(&e, there)
	}
	branch := t.Branch(res.Held)
	res.Results = make([]store.OpResult, len(branch))
	after, read := s.clone(), 0
	for i := range branch {
		op, result := &branch[i], &res.Results[i]
		if op.Kind != engine.Get {
			did := after.apply(op, 0)
			if did.Refusal != engine.NotRefused {
				return did
			}
			result.Done, result.Number = did.Done, did.Number
			if did.Done {
				result.Revision = store.Revision(did.Revision)
			}
			continue
		}
		e, there := s.entry(place{op.Space, op.Key})
		*result = store.OpResult{
			Done: there, Revision: e.Revision, Value: e.Value, Expired: e.Expired, ExpireIn: e.ExpireIn, DeleteIn: e.DeleteIn,
		}
		if read += len(e.Value); read > store.MaxTxnRead {
			return engine.Result{Refusal: engine.ReadsMuch}
		}
	}
	if size := after.size(); limit > 0 && size > s.size() && size > limit {
		return engine.Result{Refusal: engine.Full}
	}
	*s = after
	res.Revision = store.Revision(s.revision)
	return engine.Result{Done: true, Revision: s.revision, Txn: res}
}

func (s *state) tick(elapsed, lag time.Duration) {
	for p, r := range s.records {
		switch r.waits {
		case 2:
			r.waits = 1
		case 1:
			r.settle(later(s.now, lag))
		}
		s.records[p] = r
	}
	s.now = later(s.now, elapsed)
}

// first returns the record whose deadline is to be carried out before all others.
func (s *state) first() (first place, ok bool) {
	for p, r := range s.records {
		if r.waits > 0 || !r.hasDeadlines() {
			continue
		}
		f := s.records[first]
		if !ok || cmp.Or(cmp.Compare(r.next(), f.next()), cmp.Compare(r.revision, f.revision)) < 0 {
			first, ok = p, true
		}
	}
	return first, ok
}

func (s *state) reap(limit int) int {
	for n := range limit {
		p, ok := s.first()
		if !ok || !s.passed(s.records[p], s.records[p].next()) {
			return n
		}
		r := s.records[p]
		s.revision++
		if s.isDeleted(r) {
			delete(s.records, p)
			s.tell(p, store.EventDeleted, true, nil)
		} else {
			s.tell(p, store.EventExpired, true, nil)
			s.records[p] = record{expired: true, revision: s.revision, written: r.written, expire: never, delete: r.delete}
		}
	}
	return max(0, limit)
}

// unsettled tells of records that wait for two ticks, and of those that wait for
// one.
func (s *state) unsettled() (open bool, settling time.Duration, ok bool) {
	settling = never
	for _, r := range s.records {
		switch r.waits {
		case 2:
			open = true
		case 1:
			settling, ok = min(settling, r.next()), true
		}
	}
	if !ok {
		settling = 0
	}
	return open, settling, ok
}
