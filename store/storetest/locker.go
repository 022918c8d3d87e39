package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dkv/lock"
	"dkv/store"
)

// lockers calls f with a locker over each member, closes them, and ends the check
// unless nobody holds a lock or waits for one then.
func (s *session) lockers(f func(all []*lock.Locker)) {
	s.Helper()
	var all []*lock.Locker
	defer func() {
		for _, l := range all {
			l.Close()
		}
	}()
	for _, st := range s.stores {
		backend, ok := st.(lock.Backend)
		if !ok {
			s.Logf("a %T has no locks", st)
			return
		}
		all = append(all, lock.New(backend))
	}
	s.queues(0, 0)
	f(all)
	s.queues(0, 0)
}

// queues ends the check unless each member soon shows so many who hold locks and
// who wait for them.
func (s *session) queues(locks, waiters int64) {
	s.Helper()
	for i := range s.stores {
		s.eventually(fmt.Sprintf("Info of member %d shows %d locks and %d waiters", i, locks, waiters), func() bool {
			info := s.on(i).info()
			return info.Locks == locks && info.Waiters == waiters
		})
	}
}

// A taker is one who takes a lock in a goroutine of its own.
type taker struct {
	s     *session
	what  string
	taken chan struct{} // closed when the lock is taken, or is not
	held  *lock.Lock
	err   error
}

type take func(ctx context.Context, opts ...lock.Option) (*lock.Lock, error)

// by is the Lock of a locker for one key.
func by(l *lock.Locker, key string) take {
	return func(ctx context.Context, opts ...lock.Option) (*lock.Lock, error) { return l.Lock(ctx, key, opts...) }
}

// joins has somebody take a lock that others hold, and returns when all members show
// that so many wait.
func (s *session) joins(ctx context.Context, what string, f take, waiters int64, opts ...lock.Option) *taker {
	s.Helper()
	t := &taker{s: s, what: what, taken: make(chan struct{})}
	go func() {
		defer close(t.taken)
		t.held, t.err = f(ctx, opts...)
	}()
	for i := range s.stores {
		s.eventually(what+" waits", func() bool {
			if !t.waits() {
				s.Fatalf("%s waits no longer, with %v, though others hold the lock or came before", t.what, t.err)
			}
			return s.on(i).info().Waiters == waiters
		})
	}
	return t
}

func (t *taker) waits() bool {
	select {
	case <-t.taken:
		return false
	default:
		return true
	}
}

// gets waits until the taker has the lock.
func (t *taker) gets() *lock.Lock {
	t.s.Helper()
	t.s.eventually(t.what+" gets the lock", func() bool { return !t.waits() })
	if t.err != nil {
		t.s.Fatalf("%s: %v", t.what, t.err)
	}
	return t.held
}

// takes is f by one who need not wait.
func (s *session) takes(what string, f take, opts ...lock.Option) *lock.Lock {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, s.late)
	defer cancel()
	h, err := f(ctx, opts...)
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
	return h
}

func (s *session) unlock(h *lock.Lock) {
	s.Helper()
	if err := h.Unlock(s.ctx); err != nil {
		s.Fatalf("Unlock: %v", err)
	}
}

// free tells whether one who does not wait gets the lock, which is given up then.
func (s *session) free(l *lock.Locker, key string) bool {
	s.Helper()
	owner, ok, err := l.Acquire(s.ctx, key, time.Hour)
	s.must(err)
	if ok {
		if left, err := l.Release(s.ctx, key, owner); !left || err != nil {
			s.Fatalf("Release of a lock that was acquired: %v, %v", left, err)
		}
	}
	h, tried, err := l.TryLock(s.ctx, key)
	s.must(err)
	if tried {
		s.unlock(h)
	}
	if tried != ok {
		s.Fatalf("Acquire(%s): %v, TryLock: %v", show(key), ok, tried)
	}
	return ok
}

func (s *session) wantErr(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("%s: %v (kind: %v); want %v", what, err, store.KindOf(err), want)
	}
}

// workers is together, with a context that ends when one fails: the others may wait
// for a lock that it holds.
func (s *session) workers(n int, f func(ctx context.Context, i int) error) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.together(n, func(i int) error {
		err := f(ctx, i)
		if err != nil {
			cancel()
		}
		return err
	})
}
