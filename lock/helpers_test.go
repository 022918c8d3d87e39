package lock_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/lock"
	"dkv/store"
	"dkv/store/local"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// locked opens a store in memory and a locker over it, both on the system's clock.
func locked(t *testing.T) (*lock.Locker, *local.Store, context.Context) {
	t.Helper()
	s := local.Open(local.Options{})
	l := lock.New(s)
	t.Cleanup(func() { s.Close() })
	t.Cleanup(l.Close)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return l, s, ctx
}

func infoOf(t *testing.T, s *local.Store) store.Info {
	t.Helper()
	info, err := s.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still not:", what)
		}
	}
}

// first is the lock of a call that must not fail.
func first(h *lock.Lock, err error) *lock.Lock {
	if err != nil {
		panic(err)
	}
	return h
}

// deaf is a backend that does not renew locks.
type deaf struct {
	*local.Store
	isDeaf atomic.Bool
}

func (d *deaf) RenewLock(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
	if d.isDeaf.Load() {
		return store.LockPlace{}, store.ErrUnavailable
	}
	return d.Store.RenewLock(ctx, key, owner, number, ttl)
}

// withDeaf opens a store on a clock that the test moves, and two lockers over it, of
// which the locks of one are not renewed.
func withDeaf(t *testing.T) (now *clock.Fake, d *deaf, deafly, other *lock.Locker) {
	t.Helper()
	now = new(clock.Fake)
	d = &deaf{Store: local.Open(local.Options{Clock: now})}
	d.isDeaf.Store(true)
	deafly, other = lock.NewWithClock(d, now), lock.NewWithClock(d.Store, now)
	t.Cleanup(func() {
		deafly.Close()
		other.Close()
		d.Store.Close()
	})
	return now, d, deafly, other
}

// slow is a backend whose calls take a time, before and after they have their effect.
type slow struct {
	*deaf
	clock         *clock.Fake
	before, after time.Duration
}

func (s *slow) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
	s.clock.Advance(s.before)
	defer s.clock.Advance(s.after)
	return s.deaf.JoinLock(ctx, key, owner, limit, ttl, wait)
}

func (s *slow) RenewLock(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
	if s.isDeaf.Load() {
		return store.LockPlace{}, store.ErrUnavailable
	}
	s.clock.Advance(s.before)
	defer s.clock.Advance(s.after)
	return s.deaf.RenewLock(ctx, key, owner, number, ttl)
}
