package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// place is that of one who holds a lock or waits for it.
type place struct {
	owner  []byte
	limit  int64 // of holders; 0: the owner has it alone
	number uint64
	held   bool
	token  store.Revision
	ttl    time.Duration
	ends   time.Time // zero: never
}

// queue is all who hold a lock or wait for it, in the order in which they came.
type queue []*place

func (p *place) show(at store.Revision) store.LockPlace {
	switch {
	case p == nil:
		return store.LockPlace{}
	case !p.held:
		return store.LockPlace{Waiting: true, Number: p.number, At: at}
	case p.limit > 0:
		return store.LockPlace{Held: true, Token: p.token, Number: p.number}
	}
	return store.LockPlace{Held: true, Token: p.token}
}

// find returns the place of an owner, nil if it has none.
func (q queue) find(owner []byte) *place {
	for _, p := range q {
		if len(owner) >= 8 && bytes.Equal(p.owner[:8], owner[:8]) {
			return p
		}
	}
	return nil
}

// alone returns who holds the lock alone, nil if nobody does.
func (q queue) alone() *place {
	for _, p := range q {
		if p.held && p.limit == 0 {
			return p
		}
	}
	return nil
}

func (q queue) holders() (n int64) {
	for _, p := range q {
		if p.held {
			n++
		}
	}
	return n
}

// extend has the time to live of a place begin.
func (db *naive) extend(p *place, ttl time.Duration, now time.Time) {
	if p.ttl, p.ends = ttl, (time.Time{}); ttl > 0 {
		p.ends = now.Add(ttl)
		db.soon(p.ends)
	}
}

// settle lets those in who may hold the lock: the first who waits and, if that one
// shares it, those behind.
func (db *naive) settle(key string, now time.Time) {
	q := db.mu.locks[key]
	for _, p := range q {
		switch {
		case p.held:
			continue
		case q.alone() != nil, q.holders() >= max(p.limit, 1):
			return
		}
		db.mu.revision++
		p.held, p.token = true, db.mu.revision
		db.extend(p, p.ttl, now)
		db.mu.lockChanges[key] = db.mu.revision
	}
}

// vacate removes places and lets others in.
func (db *naive) vacate(key string, now time.Time, gone func(p *place) bool) {
	left := slices.DeleteFunc(slices.Clone(db.mu.locks[key]), gone)
	if len(left) == len(db.mu.locks[key]) {
		return
	}
	db.mu.revision++
	db.mu.lockChanges[key] = db.mu.revision
	if db.mu.locks[key] = left; len(left) == 0 {
		delete(db.mu.locks, key)
	}
	db.settle(key, now)
}

func (m *member) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (at store.LockPlace, err error) {
	err = m.do(ctx, store.CheckWrite(key, owner, 0, ttl), func(db *naive, now time.Time) {
		q := db.mu.locks[key]
		p := q.find(owner)
		if p == nil {
			// It gets in at once, or has to wait, as those do who came before.
			p = &place{owner: bytes.Clone(owner), limit: limit}
			db.mu.locks[key] = append(slices.Clip(q), p)
			db.extend(p, ttl, now)
			if db.settle(key, now); !p.held && !wait {
				if db.mu.locks[key] = q; len(q) == 0 {
					delete(db.mu.locks, key)
				}
				return
			}
			if !p.held {
				db.mu.revision++
			}
			p.number = uint64(db.mu.revision)
		}
		at = p.show(db.mu.revision)
	})
	return at, err
}

func (m *member) RenewLock(ctx context.Context, key string, owner []byte, _ uint64, ttl time.Duration) (at store.LockPlace, err error) {
	err = m.do(ctx, store.CheckWrite(key, owner, 0, ttl), func(db *naive, now time.Time) {
		p := db.mu.locks[key].find(owner)
		if p != nil {
			db.mu.revision++
			db.extend(p, ttl, now)
		}
		at = p.show(db.mu.revision)
	})
	return at, err
}

func (m *member) LeaveLock(ctx context.Context, key string, owner []byte, _ uint64) (left bool, err error) {
	err = m.do(ctx, store.CheckWrite(key, owner, 0, 0), func(db *naive, now time.Time) {
		p := db.mu.locks[key].find(owner)
		left = p != nil
		db.vacate(key, now, func(other *place) bool { return other == p })
	})
	return left, err
}

// AwaitLock looks again and again.
func (m *member) AwaitLock(ctx context.Context, key string, owner []byte, _ store.LockPlace, wait time.Duration) (at store.LockPlace, err error) {
	err = m.poll(ctx, store.CheckKey(key), wait, func(db *naive) bool {
		at = db.mu.locks[key].find(owner).show(db.mu.revision)
		return !at.Waiting
	})
	return at, err
}

func (m *member) LockHolder(ctx context.Context, key string) (h store.LockHolder, ok bool, err error) {
	err = m.do(ctx, store.CheckKey(key), func(db *naive, _ time.Time) {
		if p := db.mu.locks[key].alone(); p != nil {
			h, ok = store.LockHolder{Owner: bytes.Clone(p.owner), Token: p.token}, true
		}
	})
	return h, ok, err
}

// Poll tells of the last change of one lock, which is all that an election asks for.
func (m *member) Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, _ int64) (events []store.Event, next store.Revision, err error) {
	if space != engine.Locks || what.Key == "" {
		return nil, 0, fmt.Errorf("a poll of %+v in space %d", what, space)
	}
	err = m.poll(ctx, store.CheckKey(what.Key), wait, func(db *naive) bool {
		next = db.mu.revision + 1
		if rev := db.mu.lockChanges[what.Key]; what.From != 0 && rev >= what.From {
			events = []store.Event{{Type: store.EventSet, Key: what.Key, Revision: rev}}
		}
		return what.From == 0 || len(events) > 0
	})
	return events, next, err
}

// poll looks until done, but no longer than wait.
func (m *member) poll(ctx context.Context, bad error, wait time.Duration, done func(db *naive) bool) error {
	for begin := time.Now(); ; {
		over := time.Since(begin) >= wait
		err := m.do(ctx, bad, func(db *naive, _ time.Time) { over = done(db) || over })
		if err != nil || over {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
