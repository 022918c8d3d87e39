package storetest

import (
	"context"
	"time"

	"dkv/store"
)

// broken is a member of a naive store some of whose operations are replaced.
type broken struct {
	*member
	get         func(ctx context.Context, key string) ([]byte, bool, error)
	entry       func(ctx context.Context, key string) (store.Entry, bool, error)
	has         func(ctx context.Context, key string) (bool, error)
	set         func(ctx context.Context, key string, value []byte) error
	setE        func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error
	setEIfUnset func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error)
	expire      func(ctx context.Context, key string) error
	delete      func(ctx context.Context, key string) error
	info        func(ctx context.Context) (store.Info, error)
	close       func() error
}

// newBroken returns a broken member that is not broken yet.
func newBroken(m *member) *broken {
	return &broken{
		member: m, get: m.Get, entry: m.GetEntry, has: m.Has, set: m.Set, setE: m.SetE, setEIfUnset: m.SetEIfUnset,
		expire: m.Expire, delete: m.Delete, info: m.Info, close: m.Close,
	}
}

func (b *broken) Get(ctx context.Context, key string) ([]byte, bool, error) { return b.get(ctx, key) }

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

func (b *broken) Expire(ctx context.Context, key string) error { return b.expire(ctx, key) }

func (b *broken) Delete(ctx context.Context, key string) error { return b.delete(ctx, key) }

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

// onKey has f change the key of every operation.
func (b *broken) onKey(f func(key string) string) {
	m := b.member
	b.onPut(func(key *string, _ *[]byte, _, _ *time.Duration) { *key = f(*key) })
	b.get = func(ctx context.Context, key string) ([]byte, bool, error) { return m.Get(ctx, f(key)) }
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
}

// update carries out f on one item, nil if there is none, as an operation does.
func (b *broken) update(ctx context.Context, key string, f func(db *naive, now time.Time, it *item)) error {
	return b.do(ctx, store.CheckKey(key), func(db *naive, now time.Time) { f(db, now, db.mu.items[key]) })
}
