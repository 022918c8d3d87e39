package storetest

import (
	"context"
	"iter"
	"slices"
	"time"

	"dkv/store"
)

// broken is a member of a naive store some of whose operations are replaced.
type broken struct {
	*member
	get         func(ctx context.Context, key string) ([]byte, bool, error)
	stale       func(ctx context.Context, key string) ([]byte, bool, error)
	entry       func(ctx context.Context, key string) (store.Entry, bool, error)
	has         func(ctx context.Context, key string) (bool, error)
	set         func(ctx context.Context, key string, value []byte) error
	setE        func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error
	setEIfUnset func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error)
	cas         func(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error)
	cad         func(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error)
	add         func(ctx context.Context, key string, delta int64) (int64, store.Revision, error)
	txn         func(ctx context.Context, t store.Txn) (store.TxnResult, error)
	expire      func(ctx context.Context, key string) error
	delete      func(ctx context.Context, key string) error
	scan        func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error]
	watch       func(ctx context.Context, w store.Watch) (iter.Seq2[store.Event, error], error)
	join        func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error)
	renew       func(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error)
	leave       func(ctx context.Context, key string, owner []byte, number uint64) (bool, error)
	holder      func(ctx context.Context, key string) (store.LockHolder, bool, error)
	info        func(ctx context.Context) (store.Info, error)
	close       func() error
}

// newBroken returns a broken member that is not broken yet.
func newBroken(m *member) *broken {
	return &broken{
		member: m, get: m.Get, stale: m.GetStale, entry: m.GetEntry, has: m.Has, set: m.Set, setE: m.SetE, setEIfUnset: m.SetEIfUnset,
		cas: m.CompareAndSet, cad: m.CompareAndDelete, add: m.Add, txn: m.Txn, expire: m.Expire, delete: m.Delete, scan: m.Scan, info: m.Info, close: m.Close,
		watch: m.Watch, join: m.JoinLock, renew: m.RenewLock, leave: m.LeaveLock, holder: m.LockHolder,
	}
}

func (b *broken) Get(ctx context.Context, key string) ([]byte, bool, error) { return b.get(ctx, key) }

func (b *broken) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	return b.stale(ctx, key)
}

func (b *broken) GetEntry(ctx context.Context, key string) (store.Entry, bool, error) {
	return b.entry(ctx, key)
}

func (b *broken) Has(ctx context.Context, key string) (bool, error) { return b.has(ctx, key) }

func (b *broken) Set(ctx context.Context, key string, value []byte) error {
	return b.set(ctx, key, value)
}

func (b *broken) SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
	return b.setE(ctx, key, value, expireIn, deleteIn)
}

func (b *broken) SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
	return b.setEIfUnset(ctx, key, value, expireIn, deleteIn)
}

func (b *broken) CompareAndSet(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
	return b.cas(ctx, key, rev, value, expireIn, deleteIn)
}

func (b *broken) CompareAndDelete(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
	return b.cad(ctx, key, rev)
}

func (b *broken) Add(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
	return b.add(ctx, key, delta)
}

func (b *broken) Txn(ctx context.Context, t store.Txn) (store.TxnResult, error) { return b.txn(ctx, t) }

func (b *broken) Expire(ctx context.Context, key string) error { return b.expire(ctx, key) }

func (b *broken) Delete(ctx context.Context, key string) error { return b.delete(ctx, key) }

func (b *broken) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	return b.scan(ctx, r)
}

func (b *broken) Watch(ctx context.Context, w store.Watch) (iter.Seq2[store.Event, error], error) {
	return b.watch(ctx, w)
}

func (b *broken) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
	return b.join(ctx, key, owner, limit, ttl, wait)
}

func (b *broken) RenewLock(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
	return b.renew(ctx, key, owner, number, ttl)
}

func (b *broken) LeaveLock(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
	return b.leave(ctx, key, owner, number)
}

func (b *broken) LockHolder(ctx context.Context, key string) (store.LockHolder, bool, error) {
	return b.holder(ctx, key)
}

func (b *broken) Info(ctx context.Context) (store.Info, error) { return b.info(ctx) }

func (b *broken) Close() error { return b.close() }

// onPut has f change the arguments of every write of a value.
func (b *broken) onPut(f func(key *string, value *[]byte, expireIn, deleteIn *time.Duration)) {
	m := b.member
	b.set = func(ctx context.Context, key string, value []byte) error {
		var expireIn, deleteIn time.Duration
		f(&key, &value, &expireIn, &deleteIn)
		return m.SetE(ctx, key, value, expireIn, deleteIn)
	}
	b.setE = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
		f(&key, &value, &expireIn, &deleteIn)
		return m.SetE(ctx, key, value, expireIn, deleteIn)
	}
	b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
		f(&key, &value, &expireIn, &deleteIn)
		return m.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
	}
}

// onCompare has f take the place of CompareAndSet with arguments that are not
// bad. It is called with what the key is, nil if it is not there.
func (b *broken) onCompare(f func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool)) {
	b.cas = func(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (now store.Revision, ok bool, err error) {
		err = b.do(ctx, store.CheckWrite(key, value, expireIn, deleteIn), func(db *naive, at time.Time) {
			now, ok = f(db, key, db.mu.items[key], newItem(value, at, expireIn, deleteIn), rev)
		})
		return now, ok, err
	}
}

// onTxn has f change every transaction, once it has been checked.
func (b *broken) onTxn(f func(t *store.Txn)) {
	m := b.member
	b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
		if err := t.Check(); err == nil {
			t.If, t.Then, t.Else = slices.Clone(t.If), slices.Clone(t.Then), slices.Clone(t.Else)
			f(&t)
		}
		return m.Txn(ctx, t)
	}
}

// onConds has f change every condition of a transaction.
func (b *broken) onConds(f func(c *store.Cond)) {
	b.onTxn(func(t *store.Txn) {
		for i := range t.If {
			f(&t.If[i])
		}
	})
}

// onResult has f change what every transaction returns.
func (b *broken) onResult(f func(branch []store.Op, res *store.TxnResult)) {
	m := b.member
	b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
		res, err := m.Txn(ctx, t)
		if err == nil {
			branch := t.Else
			if res.Held {
				branch = t.Then
			}
			f(branch, &res)
		}
		return res, err
	}
}

// onProgress has f change what Info says of how far members are.
func (b *broken) onProgress(f func(info *store.Info)) {
	m := b.member
	b.info = func(ctx context.Context) (store.Info, error) {
		info, err := m.Info(ctx)
		if err == nil {
			f(&info)
		}
		return info, err
	}
}

// onRange has f change the range of every scan.
func (b *broken) onRange(f func(r *store.Range)) {
	m := b.member
	b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
		f(&r)
		return m.Scan(ctx, r)
	}
}

// onEntries has f change what every scan is about to yield, or what At says.
func (b *broken) onEntries(f func(r store.Range, all []store.Entry) []store.Entry) {
	m := b.member
	b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
		return func(yield func(store.Entry, error) bool) {
			var all []store.Entry
			for e, err := range m.Scan(ctx, r) {
				if err != nil {
					yield(store.Entry{}, err)
					return
				}
				all = append(all, e)
			}
			for _, e := range f(r, all) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// onEntry has what begin returns at the beginning of every scan change each
// entry when its turn comes, or leave it out.
func (b *broken) onEntry(begin func(r store.Range) func(e *store.Entry) (keep bool)) {
	m := b.member
	b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
		return func(yield func(store.Entry, error) bool) {
			f := begin(r)
			for e, err := range m.Scan(ctx, r) {
				if (err != nil || f(&e)) && !yield(e, err) {
					return
				}
			}
		}
	}
}

// inPages has every scan made of pages that have states of their own.
func (b *broken) inPages(size int) {
	m := b.member
	b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
		return func(yield func(store.Entry, error) bool) {
			page, left := r, r.Limit
			page.Limit = size
			var first store.Revision
			for at := &first; ; at = new(store.Revision) {
				n := 0
				page.At = at
				for e, err := range m.Scan(ctx, page) {
					if r.At != nil {
						*r.At = first
					}
					e.Revision = min(e.Revision, first) // not to be caught by that alone
					left--
					if !yield(e, err) || left == 0 {
						return
					}
					n++
					page.After = e.Key
				}
				if r.At != nil {
					*r.At = first
				}
				if n < size {
					return
				}
			}
		}
	}
}

// onKey has f change the key of every operation. A scan is taken for one that
// looks for the key that is its prefix.
func (b *broken) onKey(f func(key string) string) {
	m := b.member
	b.onPut(func(key *string, _ *[]byte, _, _ *time.Duration) { *key = f(*key) })
	b.get = func(ctx context.Context, key string) ([]byte, bool, error) { return m.Get(ctx, f(key)) }
	b.stale = func(ctx context.Context, key string) ([]byte, bool, error) { return m.GetStale(ctx, f(key)) }
	b.entry = func(ctx context.Context, key string) (store.Entry, bool, error) {
		e, ok, err := m.GetEntry(ctx, f(key))
		if ok {
			e.Key = key
		}
		return e, ok, err
	}
	b.has = func(ctx context.Context, key string) (bool, error) { return m.Has(ctx, f(key)) }
	b.expire = func(ctx context.Context, key string) error { return m.Expire(ctx, f(key)) }
	b.delete = func(ctx context.Context, key string) error { return m.Delete(ctx, f(key)) }
	b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
		return func(yield func(store.Entry, error) bool) {
			key := r.Prefix
			r.Prefix = f(key)
			for e, err := range m.Scan(ctx, r) {
				if e.Key == r.Prefix {
					e.Key = key
				}
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// update carries out f on one item, nil if there is none, as an operation does.
func (b *broken) update(ctx context.Context, key string, f func(db *naive, now time.Time, it *item)) error {
	return b.do(ctx, store.CheckKey(key), func(db *naive, now time.Time) { f(db, now, db.mu.items[key]) })
}
