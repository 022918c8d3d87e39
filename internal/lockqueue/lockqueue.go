// Package lockqueue says what the operations on locks mean: those that take a lock,
// wait for it, renew it and give it up. It makes them of operations on keys, so that
// an engine needs to know nothing of them, and all that counts is in the engine's
// state: a lock that one has alone is a key in [engine.Locks], the revision of which
// is its fencing token; one that several share has a key for each holder in
// [engine.Shared]; and who waits has one in [engine.Waiters]. Each has the deadline
// of its holder.
//
// Who waits gets the lock in the order of arrival: by the very change that gives it
// up, or, if the deadline of a holder comes, by the one that follows the carrying
// out of that. Who comes while others wait never overtakes them, and who waits and
// does not renew in time is gone like a holder who does not. A lock that is granted
// has its whole time to live from then on.
//
// A lock is shared by up to so many holders as the one who joins says, which all do
// alike: one for a semaphore with one permit, many for the readers of a lock whose
// writers take it alone. A writer who waits is not overtaken by readers either.
package lockqueue

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"time"

	"dkv/internal/field"
	"dkv/store"
	"dkv/store/engine"
)

// Queues are the locks of one engine. Its methods may be called concurrently, but
// replicas that are to be equal call Apply and Settle one at a time, as a log gives
// them.
type Queues struct {
	mu    sync.Mutex // held by each method but Changed
	db    engine.Engine
	lines map[string]*line // of locks that are shared or waited for

	passed struct {
		sync.Mutex
		places []place // of holders and waiters whose deadline has been carried out
	}
}

// line is what is known of one lock besides its exclusive holder. It is found in the
// state as well, by a look at all there is. Some may be gone already; what is in the
// state counts.
type line struct {
	// Numbers, as their keys have them, rising.
	shared, waiters []uint64
}

type place struct {
	space engine.Space
	key   string
}

// New returns the locks of an engine, which may hold some.
func New(db engine.Engine) *Queues {
	q := &Queues{db: db, lines: make(map[string]*line)}
	view := db.View()
	defer view.Release()
	for _, space := range []engine.Space{engine.Shared, engine.Waiters} {
		view.Scan(space, "", "", false, func(e store.Entry) bool {
			name, number := split(e.Key)
			l := q.line(name)
			if space == engine.Shared {
				l.shared = append(l.shared, number)
			} else {
				l.waiters = append(l.waiters, number)
			}
			return true
		})
	}
	for _, l := range q.lines {
		slices.Sort(l.shared)
		slices.Sort(l.waiters)
	}
	return q
}

func (q *Queues) line(name string) *line {
	l := q.lines[name]
	if l == nil {
		l = new(line)
		q.lines[strings.Clone(name)] = l // which may be part of a record
	}
	return l
}

// tidy forgets a lock of which there is nothing to know.
func (q *Queues) tidy(name string) {
	if l := q.lines[name]; l != nil && len(l.shared)+len(l.waiters) == 0 {
		delete(q.lines, name)
	}
}

const numberSize = 8

// Key is the key of a holder or waiter with a number.
func Key(name string, number uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(name), number))
}

// split is the reverse of Key.
func split(key string) (name string, number uint64) {
	n := len(key) - numberSize
	if n < 0 {
		return key, 0 // of nobody: Queues make no such keys
	}
	return key[:n], binary.BigEndian.Uint64([]byte(key[n:]))
}

// Changed takes note of a change of the engine. That is for [engine.Options].
func (q *Queues) Changed(c engine.Change) {
	if !c.ByDeadline || c.Space == engine.Keys || c.Type != store.EventDeleted {
		return
	}
	q.passed.Lock()
	defer q.passed.Unlock()
	q.passed.places = append(q.passed.places, place{c.Space, c.Key})
}

// Settle grants what has become free since deadlines were carried out.
func (q *Queues) Settle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settle()
}

func (q *Queues) settle() {
	q.passed.Lock()
	places := q.passed.places
	q.passed.places = nil
	q.passed.Unlock()
	for _, p := range places {
		name := p.key
		if p.space != engine.Locks {
			var number uint64
			name, number = split(p.key)
			l := q.line(name)
			if p.space == engine.Shared {
				l.shared = without(l.shared, number)
			} else {
				l.waiters = without(l.waiters, number)
			}
		}
		q.pass(name, nil)
		q.tidy(name)
	}
}

func without(numbers []uint64, number uint64) []uint64 {
	if i, ok := slices.BinarySearch(numbers, number); ok {
		return slices.Delete(numbers, i, i+1)
	}
	return numbers
}

// Apply does an operation on a lock. Its result says, of a holder, Done, with the
// lock's token as the Revision, and its number as the Number, 0 for one that has
// the lock alone; of who waits, only the Number, and as the Revision that of the
// last change; of who is neither, nothing. A Leave is Done if the lock was held or
// waited for.
func (q *Queues) Apply(op *engine.Op, limit int64) engine.Result {
	if store.CheckOwner(op.Value) != nil || op.Delta < 0 {
		return engine.Result{} // of a member that is not as it should be
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.tidy(op.Key)
	q.settle()
	switch op.Kind {
	case engine.Join, engine.TryJoin:
		return q.join(op, limit)
	case engine.Renew:
		return q.renew(op)
	case engine.Leave:
		return q.leave(op)
	}
	panic("lockqueue: not an operation on a lock")
}

func (q *Queues) join(op *engine.Op, limit int64) engine.Result {
	// What a deadline has ended that is not carried out yet goes to who waits.
	q.pass(op.Key, nil)
	if e, ok := q.db.Entry(engine.Locks, op.Key); ok && isOf(e.Value, op.Value) {
		return held(e.Revision, 0)
	}
	l := q.lines[op.Key]
	if l == nil || len(l.waiters) == 0 {
		if q.admits(op.Key, op.Delta, nil, 0) {
			return q.hold(op, limit)
		}
	}
	if op.Kind == engine.TryJoin {
		return engine.Result{}
	}
	number := q.db.Revision() + 1
	res := q.db.Apply(&engine.Op{
		Kind: engine.Set, Space: engine.Waiters, Key: Key(op.Key, number), Value: request{op.Delta, op.DeleteIn, op.Value}.append(nil), DeleteIn: op.DeleteIn,
	}, limit)
	if !res.Done {
		return res
	}
	l = q.line(op.Key)
	l.waiters = append(l.waiters, number)
	return engine.Result{Number: int64(number), Revision: res.Revision}
}

// hold gives op's owner the lock, which is free.
func (q *Queues) hold(op *engine.Op, limit int64) engine.Result {
	set := engine.Op{Kind: engine.Set, Space: engine.Locks, Key: op.Key, Value: op.Value, DeleteIn: op.DeleteIn}
	number := uint64(0)
	if op.Delta > 0 {
		number = q.db.Revision() + 1
		set.Space, set.Key = engine.Shared, Key(op.Key, number)
	}
	res := q.db.Apply(&set, limit)
	if !res.Done {
		return res
	}
	if number > 0 {
		l := q.line(op.Key)
		l.shared = append(l.shared, number)
	}
	return held(store.Revision(res.Revision), number)
}

func held(token store.Revision, number uint64) engine.Result {
	return engine.Result{Done: true, Revision: uint64(token), Number: int64(number)}
}

// admits tells whether somebody may have the lock besides those who have it. Of
// these, leaving is as good as gone; more are about to join them.
func (q *Queues) admits(name string, limit int64, leaving *place, more int64) bool {
	there := func(p place) bool { return (leaving == nil || *leaving != p) && q.db.Has(p.space, p.key) }
	limit = max(limit, 1)
	if more >= limit || there(place{engine.Locks, name}) {
		return false
	}
	l := q.lines[name]
	if l == nil || more+int64(len(l.shared)) < limit {
		return true
	}
	for _, number := range l.shared {
		if there(place{engine.Shared, Key(name, number)}) {
			if more++; more >= limit {
				return false
			}
		}
	}
	return true
}

// grant is who gets a lock next.
type grant struct {
	waiter uint64
	request
}

// next returns those who get the lock, if leaving, unless that is nil, gives it up:
// the first who waits and, if that one shares it, those behind who do.
func (q *Queues) next(name string, leaving *place) (all []grant) {
	l := q.lines[name]
	for l != nil && len(all) < len(l.waiters) {
		number := l.waiters[len(all)]
		p := place{engine.Waiters, Key(name, number)}
		e, ok := q.db.Entry(p.space, p.key)
		if !ok || leaving != nil && *leaving == p {
			l.waiters = without(l.waiters, number)
			continue
		}
		r := parseRequest(e.Value)
		if len(all) > 0 && r.limit == 0 || !q.admits(name, r.limit, leaving, int64(len(all))) {
			break
		}
		all = append(all, grant{number, r})
		if r.limit == 0 {
			break
		}
	}
	return all
}

// pass has somebody leave, unless that is nil, and those get the lock who may, in
// one step of the engine. It returns what that has come to.
func (q *Queues) pass(name string, leaving *place) engine.Result {
	all := q.next(name, leaving)
	if leaving == nil && len(all) == 0 {
		return engine.Result{}
	}
	l := q.lines[name]
	var t engine.Txn
	replaced := false
	if len(all) > 0 { // they are the first
		l.waiters = slices.Delete(l.waiters, 0, len(all))
	}
	for _, g := range all {
		set := engine.Op{Kind: engine.Set, Space: engine.Locks, Key: name, Value: g.owner, DeleteIn: g.ttl}
		if g.limit > 0 { // under the number that it has waited with
			set.Space, set.Key = engine.Shared, Key(name, g.waiter)
			i, _ := slices.BinarySearch(l.shared, g.waiter)
			l.shared = slices.Insert(l.shared, i, g.waiter)
		}
		replaced = replaced || leaving != nil && *leaving == place{set.Space, set.Key}
		t.Then = append(t.Then, set, engine.Op{Kind: engine.Delete, Space: engine.Waiters, Key: Key(name, g.waiter)})
	}
	if leaving != nil && !replaced {
		t.Then = append(t.Then, engine.Op{Kind: engine.Delete, Space: leaving.space, Key: leaving.key})
		switch leaving.space {
		case engine.Shared:
			_, number := split(leaving.key)
			l.shared = without(l.shared, number)
		case engine.Waiters:
			_, number := split(leaving.key)
			l.waiters = without(l.waiters, number)
		}
	}
	if len(t.Then) == 1 { // nobody waits, which is what most who leave find
		return q.db.Apply(&t.Then[0], 0)
	}
	res := q.db.Apply(&engine.Op{Kind: engine.Transact, Txn: &t}, 0)
	return engine.Result{Done: res.Done, Revision: res.Revision}
}

// find returns where op's owner holds the lock or waits for it.
func (q *Queues) find(op *engine.Op) (p place, e store.Entry, ok bool) {
	look := func(space engine.Space, key string) bool {
		p = place{space, key}
		e, ok = q.db.Entry(space, key)
		value := e.Value
		if space == engine.Waiters && ok {
			value = parseRequest(value).owner
		}
		ok = ok && isOf(value, op.Value)
		return ok
	}
	if look(engine.Locks, op.Key) {
		return p, e, true
	}
	l := q.lines[op.Key]
	if l == nil {
		return place{}, store.Entry{}, false
	}
	if op.At != 0 && (look(engine.Waiters, Key(op.Key, op.At)) || look(engine.Shared, Key(op.Key, op.At))) {
		return p, e, true
	}
	if op.At == 0 { // what came of joining is not known
		for _, number := range l.shared {
			if look(engine.Shared, Key(op.Key, number)) {
				return p, e, true
			}
		}
		for _, number := range l.waiters {
			if look(engine.Waiters, Key(op.Key, number)) {
				return p, e, true
			}
		}
	}
	return place{}, store.Entry{}, false
}

// isOf tells whether a holder's value is of the owner of another.
func isOf(value, owner []byte) bool {
	const n = store.OwnerSize
	return len(value) >= n && len(owner) >= n && bytes.Equal(value[:n], owner[:n])
}

func (q *Queues) renew(op *engine.Op) engine.Result {
	p, e, ok := q.find(op)
	if !ok {
		return engine.Result{}
	}
	res := q.db.Apply(&engine.Op{Kind: engine.RenewIfValue, Space: p.space, Key: p.key, Value: e.Value, DeleteIn: op.DeleteIn}, 0)
	if !res.Done {
		return engine.Result{} // a clock has ended it just now
	}
	if p.space == engine.Locks {
		return held(e.Revision, 0)
	}
	_, number := split(p.key)
	if p.space == engine.Shared {
		return held(e.Revision, number)
	}
	return engine.Result{Number: int64(number), Revision: res.Revision}
}

func (q *Queues) leave(op *engine.Op) engine.Result {
	p, _, ok := q.find(op)
	if !ok {
		return engine.Result{}
	}
	return q.pass(op.Key, &p)
}

// request is what a waiter asks for, and what its key has as its value.
type request struct {
	limit int64
	ttl   time.Duration
	owner []byte
}

func (r request) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(r.limit))
	b = binary.AppendUvarint(b, uint64(r.ttl))
	return append(b, r.owner...)
}

func parseRequest(b []byte) request {
	f := field.NewReader(b)
	r := request{limit: f.Int63(), ttl: time.Duration(f.Int63())}
	r.owner = f.Rest()
	return r
}
