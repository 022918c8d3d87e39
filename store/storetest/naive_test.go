package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

// naive is the store that is obviously right: one mutex, one map, and every
// deadline carried out at the start of the next operation.
type naive struct {
	mu struct {
		sync.Mutex
		items    map[string]*item
		revision store.Revision
		next     time.Time // when to look for deadlines again; zero: there are none

		history     history
		locks       map[string]queue          // which are not empty
		lockChanges map[string]store.Revision // the last

		applied  uint64            // operations, reads among them
		progress map[string]uint64 // what applied was before each member's last one
	}
	nodes []string // names of the members if there are several
	views atomic.Int64
}

type item struct {
	value            []byte
	revision         store.Revision
	expired          bool
	expires, deletes time.Time // zero: never
}

// member is one way to a naive store, open until it is closed.
type member struct {
	*naive
	node    string
	watches atomic.Int64
	mu      struct {
		sync.RWMutex
		closed bool
	}
}

// newNaive returns n ways to a store.
func newNaive(n int) []*member {
	db := new(naive)
	db.mu.items = make(map[string]*item)
	db.mu.locks = make(map[string]queue)
	db.mu.lockChanges = make(map[string]store.Revision)
	db.mu.progress = make(map[string]uint64)
	members := make([]*member, n)
	for i := range members {
		members[i] = &member{naive: db}
		if n > 1 {
			members[i].node = fmt.Sprint("m", i)
			db.nodes = append(db.nodes, members[i].node)
		}
	}
	return members
}

// do runs f on the items of this moment.
func (m *member) do(ctx context.Context, bad error, f func(db *naive, now time.Time)) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	switch {
	case m.mu.closed:
		return store.ErrClosed
	case bad != nil:
		return bad
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
	m.naive.do(func(db *naive, now time.Time) {
		db.mu.progress[m.node] = db.mu.applied
		db.mu.applied++
		f(db, now)
	})
	return nil
}

func (db *naive) do(f func(db *naive, now time.Time)) {
	db.mu.Lock()
	defer db.mu.Unlock()
	now := time.Now()
	if passed(db.mu.next, now) {
		db.carryOut(now)
	}
	f(db, now)
}

// carryOut carries out the deadlines that have come. It is called only when one
// has, or checks with thousands of keys would take minutes.
func (db *naive) carryOut(now time.Time) {
	db.mu.next = time.Time{}
	for key, it := range db.mu.items {
		switch {
		case passed(it.deletes, now):
			db.drop(key, true)
		case passed(it.expires, now):
			db.lapse(key)
		default:
			db.await(it)
		}
	}
	for key := range db.mu.locks {
		db.vacate(key, now, func(p *place) bool { return passed(p.ends, now) })
		for _, p := range db.mu.locks[key] {
			db.soon(p.ends)
		}
	}
}

// await has the deadlines of it looked at in time.
func (db *naive) await(it *item) {
	db.soon(it.expires)
	db.soon(it.deletes)
}

func (db *naive) soon(deadline time.Time) {
	if !deadline.IsZero() && (db.mu.next.IsZero() || deadline.Before(db.mu.next)) {
		db.mu.next = deadline
	}
}

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

func (db *naive) put(key string, it *item) {
	db.mu.revision++
	it.revision = db.mu.revision
	db.mu.items[key] = it
	db.await(it)
	if it.expired {
		db.tell(store.EventExpired, key, nil, false)
	} else {
		db.tell(store.EventSet, key, it.value, false)
	}
}

func (db *naive) expire(key string) {
	if it := db.mu.items[key]; it != nil && !it.expired {
		db.put(key, &item{expired: true, deletes: it.deletes})
	}
}

// lapse is expire by a deadline.
func (db *naive) lapse(key string) {
	if it := db.mu.items[key]; !it.expired {
		db.mu.revision++
		it = &item{expired: true, deletes: it.deletes, revision: it.revision}
		db.mu.items[key] = it
		db.await(it)
		db.tell(store.EventExpired, key, nil, true)
	}
}

func (db *naive) remove(key string) { db.drop(key, false) }

func (db *naive) drop(key string, byDeadline bool) {
	if db.mu.items[key] != nil {
		db.mu.revision++
		delete(db.mu.items, key)
		db.tell(store.EventDeleted, key, nil, byDeadline)
	}
}

func newItem(value []byte, now time.Time, expireIn, deleteIn time.Duration) *item {
	it := &item{value: bytes.Clone(value)}
	if deleteIn > 0 {
		it.deletes = now.Add(min(deleteIn, math.MaxInt64/2))
		expireIn = min(expireIn, deleteIn)
	}
	if expireIn > 0 {
		it.expires = now.Add(min(expireIn, math.MaxInt64/2))
	}
	return it
}

func (it *item) entry(key string, now time.Time) store.Entry {
	e := store.Entry{Key: key, Value: append([]byte{}, it.value...), Revision: it.revision, Expired: it.expired}
	if !it.expires.IsZero() {
		e.ExpireIn = it.expires.Sub(now)
	}
	if !it.deletes.IsZero() {
		e.DeleteIn = it.deletes.Sub(now)
	}
	return e
}

func (m *member) GetEntry(ctx context.Context, key string) (e store.Entry, ok bool, err error) {
	err = m.do(ctx, store.CheckKey(key), func(db *naive, now time.Time) {
		var it *item
		if it, ok = db.mu.items[key]; ok {
			e = it.entry(key, now)
		}
	})
	return e, ok, err
}

func (m *member) Get(ctx context.Context, key string) ([]byte, bool, error) {
	e, ok, err := m.GetEntry(ctx, key)
	if !ok || e.Expired {
		return nil, false, err
	}
	return e.Value, true, nil
}

func (m *member) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	return m.Get(ctx, key)
}

func (m *member) Has(ctx context.Context, key string) (bool, error) {
	_, ok, err := m.GetEntry(ctx, key)
	return ok, err
}

func (m *member) Set(ctx context.Context, key string, value []byte) error {
	return m.SetE(ctx, key, value, 0, 0)
}

func (m *member) SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
	return m.do(ctx, store.CheckWrite(key, value, expireIn, deleteIn), func(db *naive, now time.Time) {
		db.put(key, newItem(value, now, expireIn, deleteIn))
	})
}

func (m *member) SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (set bool, err error) {
	err = m.do(ctx, store.CheckWrite(key, value, expireIn, deleteIn), func(db *naive, now time.Time) {
		if set = db.mu.items[key] == nil; set {
			db.put(key, newItem(value, now, expireIn, deleteIn))
		}
	})
	return set, err
}

func (m *member) CompareAndSet(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (at store.Revision, ok bool, err error) {
	err = m.do(ctx, store.CheckWrite(key, value, expireIn, deleteIn), func(db *naive, now time.Time) {
		if at = db.revisionOf(key); at == rev {
			db.put(key, newItem(value, now, expireIn, deleteIn))
			at, ok = db.mu.revision, true
		}
	})
	return at, ok, err
}

func (m *member) CompareAndDelete(ctx context.Context, key string, rev store.Revision) (at store.Revision, ok bool, err error) {
	err = m.do(ctx, store.CheckKey(key), func(db *naive, _ time.Time) {
		if at = db.revisionOf(key); at == rev && at != 0 {
			db.remove(key)
			at, ok = db.mu.revision, true
		}
	})
	return at, ok, err
}

func (m *member) Add(ctx context.Context, key string, delta int64) (sum int64, rev store.Revision, err error) {
	bad := m.do(ctx, store.CheckKey(key), func(db *naive, _ time.Time) {
		if sum, err = db.add(key, delta); err == nil {
			rev = db.mu.revision
		}
	})
	return sum, rev, cmp.Or(bad, err)
}

func (m *member) Txn(ctx context.Context, t store.Txn) (res store.TxnResult, err error) {
	bad := m.do(ctx, t.Check(), func(db *naive, now time.Time) { res, err = db.txn(t, now) })
	return res, cmp.Or(bad, err)
}

// revisionOf is 0 if the key is not there.
func (db *naive) revisionOf(key string) store.Revision {
	if it := db.mu.items[key]; it != nil {
		return it.revision
	}
	return 0
}

func (db *naive) add(key string, delta int64) (int64, error) {
	next, n := &item{}, new(big.Int)
	if it := db.mu.items[key]; it != nil {
		next.expires, next.deletes = it.expires, it.deletes
		if it.expired {
			next.expires = it.deletes
		} else if _, ok := n.SetString(string(it.value), 10); !ok || !n.IsInt64() {
			return 0, store.ErrNotNumber
		}
	}
	if n.Add(n, big.NewInt(delta)); !n.IsInt64() {
		return 0, store.ErrOutOfRange
	}
	next.value = []byte(n.String())
	db.put(key, next)
	return n.Int64(), nil
}

// txn carries a transaction out and, if that fails, puts everything back.
func (db *naive) txn(t store.Txn, now time.Time) (store.TxnResult, error) {
	before, revision, history := maps.Clone(db.mu.items), db.mu.revision, db.mu.history
	res := store.TxnResult{Held: true}
	for _, c := range t.If {
		it := before[c.Key]
		switch c.Kind {
		case store.CondRevision:
			res.Held = res.Held && db.revisionOf(c.Key) == c.Revision
		case store.CondExists:
			res.Held = res.Held && it != nil
		case store.CondValue:
			res.Held = res.Held && it != nil && !it.expired && bytes.Equal(it.value, c.Value)
		case store.CondLock:
			p := db.mu.locks[c.Key].alone()
			res.Held = res.Held && p != nil && p.token == c.Revision
		}
	}
	branch := t.Then
	if !res.Held {
		branch = t.Else
	}
	read := 0
	var err error
	for _, op := range branch {
		var r store.OpResult
		last := db.mu.revision
		switch op.Kind {
		case store.OpKindGet:
			if it := before[op.Key]; it != nil {
				e := it.entry(op.Key, now)
				r = store.OpResult{Done: true, Revision: e.Revision, Value: e.Value, Expired: e.Expired, ExpireIn: e.ExpireIn, DeleteIn: e.DeleteIn}
			}
			if read += len(r.Value); read > store.MaxTxnRead {
				err = store.ErrBadTxn
			}
		case store.OpKindSetIfUnset:
			if before[op.Key] == nil {
				db.put(op.Key, newItem(op.Value, now, op.ExpireIn, op.DeleteIn))
			}
		case store.OpKindSet:
			db.put(op.Key, newItem(op.Value, now, op.ExpireIn, op.DeleteIn))
		case store.OpKindExpire:
			db.expire(op.Key)
		case store.OpKindDelete:
			db.remove(op.Key)
		case store.OpKindAdd:
			r.Number, err = db.add(op.Key, op.Delta)
		}
		if err != nil {
			db.mu.items, db.mu.revision, db.mu.history = before, revision, history
			return store.TxnResult{}, err
		}
		if db.mu.revision > last {
			r.Done, r.Revision = true, db.mu.revision
		}
		res.Results = append(res.Results, r)
	}
	res.Revision = db.mu.revision
	return res, nil
}

func (m *member) Expire(ctx context.Context, key string) error {
	return m.do(ctx, store.CheckKey(key), func(db *naive, _ time.Time) { db.expire(key) })
}

func (m *member) Delete(ctx context.Context, key string) error {
	return m.do(ctx, store.CheckKey(key), func(db *naive, _ time.Time) { db.remove(key) })
}

func (m *member) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		m.views.Add(1)
		defer m.views.Add(-1)
		all, at, err := m.state(ctx, r)
		if err != nil {
			yield(store.Entry{}, err)
			return
		}
		if r.At != nil {
			*r.At = at
		}
		if r.Reverse {
			slices.Reverse(all)
		}
		if r.Limit > 0 {
			all = all[:min(r.Limit, len(all))]
		}
		for _, e := range all {
			if err := ctx.Err(); err != nil {
				yield(store.Entry{}, fmt.Errorf("%w: %w", store.ErrUnavailable, err))
				return
			}
			if r.KeysOnly {
				e.Value = nil
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// state returns what is in the range at this moment, in the order of keys
// whatever r.Reverse and r.Limit are, and the revision of the moment.
func (m *member) state(ctx context.Context, r store.Range) (all []store.Entry, at store.Revision, err error) {
	err = m.do(ctx, r.Check(), func(db *naive, now time.Time) {
		at = db.mu.revision
		for key, it := range db.mu.items {
			if within(r, key) {
				all = append(all, it.entry(key, now))
			}
		}
	})
	slices.SortFunc(all, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return all, at, err
}

func (m *member) Info(ctx context.Context) (info store.Info, err error) {
	err = m.do(ctx, nil, func(db *naive, _ time.Time) {
		info = store.Info{
			Mode:     "memory",
			Revision: db.mu.revision,
			Keys:     int64(len(db.mu.items)),
			Watches:  int(m.watches.Load()),
			Views:    int(db.views.Load()),
		}
		for key, it := range db.mu.items {
			info.Bytes += int64(len(key) + len(it.value))
		}
		if len(db.nodes) > 0 {
			info.Mode, info.Node, info.Members = "replicated", m.node, slices.Clone(db.nodes)
			info.Applied, info.Progress = db.mu.applied, maps.Clone(db.mu.progress)
			info.Progress[m.node] = info.Applied
		}
		info.Size = info.Bytes + 100*info.Keys
		for key, q := range db.mu.locks {
			info.Locks += q.holders()
			info.Waiters += int64(len(q)) - q.holders()
			for _, p := range q {
				info.Size += int64(len(key) + len(p.owner) + 100)
			}
		}
	})
	return info, err
}

func (m *member) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.closed = true
	return nil
}

var errBroken = errors.New("broken on purpose")
