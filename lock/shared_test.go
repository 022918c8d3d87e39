package lock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/lock"
	"dkv/store"
)

func TestSemaphoreHasAsManyHoldersAsPermits(t *testing.T) {
	l, s, ctx := locked(t)
	const permits, callers, rounds = 3, 10, 20
	sem := l.Semaphore("x", permits)
	var inside, most atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range rounds {
				h, err := sem.Acquire(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				n := inside.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(50 * time.Microsecond)
				inside.Add(-1)
				if err := h.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if most.Load() != permits {
		t.Errorf("up to %d held one of %d permits", most.Load(), permits)
	}
	var held []*lock.Lock
	for range permits {
		held = append(held, first(sem.Acquire(ctx)))
	}
	if _, ok, err := sem.TryAcquire(ctx); ok || err != nil {
		t.Error("one too many:", ok, err)
	}
	held[1].Unlock(ctx)
	again, ok, err := sem.TryAcquire(held[0].Context())
	if !ok || err != nil {
		t.Error("a permit is free:", ok, err)
	}
	for _, h := range []*lock.Lock{held[0], held[2], again} {
		if err := h.Unlock(ctx); err != nil {
			t.Error(err)
		}
	}
	if info := infoOf(t, s); info.Locks != 0 || info.Waiters != 0 {
		t.Errorf("%+v", info)
	}
}

func TestWriterWaitsForReadersAndIsNotOvertaken(t *testing.T) {
	l, s, ctx := locked(t)
	rw := l.RWLock("x")
	one, two := first(rw.RLock(ctx)), first(rw.RLock(ctx))
	if _, err := rw.RLock(one.Context()); !errors.Is(err, store.ErrReentrant) {
		t.Error(err)
	}
	var order []string
	var all sync.WaitGroup
	for i, name := range []string{"writer", "reader"} {
		all.Go(func() {
			take := rw.Lock
			if name == "reader" {
				take = rw.RLock
			}
			h, err := take(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, name) // the reader comes when the writer has gone
			h.Unlock(ctx)
		})
		eventually(t, name+" waits", func() bool { return infoOf(t, s).Waiters == int64(i+1) })
	}
	one.Unlock(ctx)
	if info := infoOf(t, s); info.Waiters != 2 || info.Locks != 1 {
		t.Errorf("%+v", info)
	}
	two.Unlock(ctx)
	all.Wait()
	if fmt.Sprint(order) != "[writer reader]" {
		t.Error(order)
	}
}

func TestElectionHasOneLeaderWhomAllObserve(t *testing.T) {
	l, _, ctx := locked(t)
	e := l.Election("x")
	if _, ok, err := e.Leader(ctx); ok || err != nil {
		t.Fatal(ok, err)
	}
	observing, stop := context.WithCancel(ctx)
	seen := make(chan lock.Leader, 10)
	var all sync.WaitGroup
	all.Go(func() {
		var last error
		for leader, err := range e.Observe(observing) {
			if last = err; err == nil {
				seen <- leader
			}
		}
		if !errors.Is(last, context.Canceled) {
			t.Error(last)
		}
	})
	var token store.Revision
	for i := range 3 {
		value := fmt.Sprint("leader ", i)
		h := first(e.Campaign(ctx, []byte(value), lock.TTL(time.Minute)))
		leader, ok, err := e.Leader(ctx)
		if !ok || err != nil || string(leader.Value) != value || leader.Token != h.Token() || h.Token() <= token {
			t.Fatalf("%+v, %v, %v", leader, ok, err)
		}
		token = h.Token()
		if observed := <-seen; string(observed.Value) != value || observed.Token != token {
			t.Errorf("%+v", observed)
		}
		if err := h.Unlock(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	all.Wait()
}
