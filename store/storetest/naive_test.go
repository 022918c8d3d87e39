package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
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
	}
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
	mu struct {
		sync.RWMutex
		closed bool
	}
}

// newNaive returns n ways to a store.
func newNaive(n int) []*member {
	db := new(naive)
	db.mu.items = make(map[string]*item)
	members := make([]*member, n)
	for i := range members {
		members[i] = &member{naive: db}
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
	m.naive.do(f)
	return nil
}

func (db *naive) do(f func(db *naive, now time.Time)) {
	db.mu.Lock()
	defer db.mu.Unlock()
	now := time.Now()
	for key, it := range db.mu.items {
		switch {
		case passed(it.deletes, now):
			db.remove(key)
		case passed(it.expires, now):
			db.lapse(key)
		}
	}
	f(db, now)
}

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

func (db *naive) put(key string, it *item) {
	db.mu.revision++
	it.revision = db.mu.revision
	db.mu.items[key] = it
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
		db.mu.items[key] = &item{expired: true, deletes: it.deletes, revision: it.revision}
	}
}

func (db *naive) remove(key string) {
	if db.mu.items[key] != nil {
		db.mu.revision++
		delete(db.mu.items, key)
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

func (m *member) GetEntry(ctx context.Context, key string) (e store.Entry, ok bool, err error) {
	err = m.do(ctx, store.CheckKey(key), func(db *naive, now time.Time) {
		it := db.mu.items[key]
		if ok = it != nil; !ok {
			return
		}
		e = store.Entry{Key: key, Value: append([]byte{}, it.value...), Revision: it.revision, Expired: it.expired}
		if !it.expires.IsZero() {
			e.ExpireIn = it.expires.Sub(now)
		}
		if !it.deletes.IsZero() {
			e.DeleteIn = it.deletes.Sub(now)
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

func (m *member) Expire(ctx context.Context, key string) error {
	return m.do(ctx, store.CheckKey(key), func(db *naive, _ time.Time) { db.expire(key) })
}

func (m *member) Delete(ctx context.Context, key string) error {
	return m.do(ctx, store.CheckKey(key), func(db *naive, _ time.Time) { db.remove(key) })
}

func (m *member) Info(ctx context.Context) (info store.Info, err error) {
	err = m.do(ctx, nil, func(db *naive, _ time.Time) {
		info = store.Info{Mode: "memory", Revision: db.mu.revision, Keys: int64(len(db.mu.items))}
		for key, it := range db.mu.items {
			info.Bytes += int64(len(key) + len(it.value))
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
