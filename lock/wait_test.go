package lock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

func must(t *testing.T, h *lock.Lock, err error) *lock.Lock {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLockIsGrantedInTheOrderOfArrival(t *testing.T) {
	l, s, ctx := locked(t)
	first, err := l.Lock(ctx, "x")
	must(t, first, err)
	const waiters = 20
	order := make(chan int, waiters)
	var all sync.WaitGroup
	tokens := []store.Revision{first.Token()}
	for i := range waiters {
		all.Go(func() {
			h, err := l.Lock(ctx, "x")
			if err != nil {
				t.Error(err)
				return
			}
			order <- i
			tokens = append(tokens, h.Token()) // which the lock guards
			if err := h.Unlock(ctx); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the next waits", func() bool { return infoOf(t, s).Waiters == int64(i+1) })
	}
	before := infoOf(t, s).Revision
	if err := first.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	for i := range waiters {
		if got := <-order; got != i {
			t.Fatalf("number %d was served as number %d", got, i)
		}
	}
	for i := 1; i < len(tokens); i++ {
		if tokens[i] <= tokens[i-1] {
			t.Fatalf("tokens %v", tokens)
		}
	}
	// Each is one change that releases, or grants in its place, and one that
	// takes the waiter out of the queue.
	if info := infoOf(t, s); info.Locks != 0 || info.Waiters != 0 || info.Revision != before+2*waiters+1 {
		t.Errorf("%+v, before %d", info, before)
	}
}

func TestWaiterWhoseContextEndsLeavesTheQueue(t *testing.T) {
	l, s, ctx := locked(t)
	held := must(t, first(l.Lock(ctx, "x")), nil)
	impatient, cancel := context.WithCancel(ctx)
	failed := make(chan error)
	go func() {
		_, err := l.Lock(impatient, "x")
		failed <- err
	}()
	eventually(t, "it waits", func() bool { return infoOf(t, s).Waiters == 1 })
	cancel()
	if err := <-failed; !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	eventually(t, "it has left", func() bool { return infoOf(t, s).Waiters == 0 })
	if err := held.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if info := infoOf(t, s); info.Locks != 0 {
		t.Fatal("the lock went to who has left")
	}
}

func first(h *lock.Lock, err error) *lock.Lock {
	if err != nil {
		panic(err)
	}
	return h
}

func TestUnlockingTwiceIsAnErrorAndHarmsNobody(t *testing.T) {
	l, _, ctx := locked(t)
	one := first(l.Lock(ctx, "x"))
	if one.Err() != nil {
		t.Fatal(one.Err())
	}
	if err := one.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-one.Done():
	default:
		t.Error("not done after Unlock")
	}
	if !errors.Is(one.Err(), store.ErrNotHeld) {
		t.Error(one.Err())
	}
	two := first(l.Lock(ctx, "x"))
	if err := one.Unlock(ctx); !errors.Is(err, store.ErrNotHeld) {
		t.Fatal(err)
	}
	if _, ok, err := l.TryLock(ctx, "x"); ok || err != nil || two.Err() != nil {
		t.Fatal(ok, err, two.Err())
	}
	if err := two.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestLockIsRenewedUntilItIsUnlocked(t *testing.T) {
	now := new(clock.Fake)
	s := local.Open(local.Options{Clock: now})
	defer s.Close()
	l := lock.NewWithClock(s, now)
	defer l.Close()
	const ttl = time.Minute
	ctx := context.Background()
	h := first(l.Lock(ctx, "x", lock.TTL(ttl)))
	for i := range 20 {
		eventually(t, "it sleeps until it is to be renewed", func() bool { return now.Timers() == 2 })
		now.Advance(ttl / 3)
		eventually(t, "it is renewed", func() bool { return infoOf(t, s).Revision == store.Revision(i+2) })
		if h.Err() != nil || infoOf(t, s).Locks != 1 {
			t.Fatal("the lock has ended while it is renewed", h.Err())
		}
	}
	if err := h.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no timer is left but the store's", func() bool { return now.Timers() <= 1 })
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

// TestLockIsDoneBeforeAnotherCanHoldIt has a holder fail to renew its lock.
func TestLockIsDoneBeforeAnotherCanHoldIt(t *testing.T) {
	now := new(clock.Fake)
	s := local.Open(local.Options{Clock: now})
	defer s.Close()
	d := &deaf{Store: s}
	d.isDeaf.Store(true)
	holder, other := lock.NewWithClock(d, now), lock.NewWithClock(s, now)
	defer holder.Close()
	defer other.Close()
	ctx := context.Background()
	now.Advance(time.Hour)
	h := first(holder.Lock(ctx, "x", lock.TTL(time.Minute)))
	if _, ok, _ := other.TryLock(ctx, "x"); ok {
		t.Fatal("two hold it")
	}
	now.Advance(time.Minute - 1)
	if h.Err() != nil {
		t.Fatal("lost too early:", h.Err())
	}
	now.Advance(1)
	select {
	case <-h.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("not done when its time is over")
	}
	if !errors.Is(h.Err(), store.ErrLockLost) || !errors.Is(context.Cause(h.Context()), store.ErrLockLost) {
		t.Fatal(h.Err(), context.Cause(h.Context()))
	}
	again, ok, err := other.TryLock(ctx, "x")
	if !ok || err != nil || again.Token() <= h.Token() {
		t.Fatal(ok, err)
	}
	if err := h.Unlock(ctx); !errors.Is(err, store.ErrNotHeld) {
		t.Fatal("who has lost it unlocks it:", err)
	}
	if again.Err() != nil || infoOf(t, s).Locks != 1 {
		t.Fatal("the former holder has ended its successor's lock")
	}
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

// TestTrustCountsFromBeforeTheCall: how long a call has been on its way is not known,
// so a lock is trusted as if it had been taken, or renewed, when the call began.
func TestTrustCountsFromBeforeTheCall(t *testing.T) {
	const ttl, before, after = time.Minute, 5 * time.Second, 3 * time.Second
	for _, renewals := range []int{0, 1, 2} {
		now := new(clock.Fake)
		s := local.Open(local.Options{Clock: now})
		d := &slow{&deaf{Store: s}, now, before, after}
		l := lock.NewWithClock(d, now)
		now.Advance(time.Hour)
		began := now.Now()
		h := first(l.Lock(context.Background(), "x", lock.TTL(ttl)))
		for range renewals {
			began += ttl / 3
			now.Advance(began - now.Now()) // which runs the renewal
		}
		d.isDeaf.Store(true)
		now.Advance(began + ttl - 1 - now.Now())
		if h.Err() != nil || h.Context().Err() != nil {
			t.Fatalf("after %d renewals: lost too early: %v", renewals, h.Err())
		}
		now.Advance(1)
		select {
		case <-h.Done(): // and nobody has asked for Err
		case <-time.After(10 * time.Second):
			t.Fatalf("after %d renewals: trusted too long", renewals)
		}
		l.Close()
		s.Close()
	}
}

func TestUnlockGivesTheLockUpEvenIfItsContextHasEnded(t *testing.T) {
	l, s, ctx := locked(t)
	h := first(l.Lock(ctx, "x"))
	if err := h.Unlock(h.Context()); err != nil { // which ends with the lock
		t.Fatal(err)
	}
	if info := infoOf(t, s); info.Locks != 0 {
		t.Fatal("still held")
	}
	h = first(l.Lock(ctx, "x"))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := h.Unlock(ended); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	eventually(t, "the lock is given up in the background", func() bool { return infoOf(t, s).Locks == 0 })
}

// TestLockWhoseTimeIsOverBeforeItIsHeardOfIsNotGivenOut, and the next gets it.
func TestLockWhoseTimeIsOverBeforeItIsHeardOfIsNotGivenOut(t *testing.T) {
	now := new(clock.Fake)
	s := local.Open(local.Options{Clock: now})
	defer s.Close()
	l := lock.NewWithClock(&slow{&deaf{Store: s}, now, time.Second, time.Second}, now)
	defer l.Close()
	if h, err := l.Lock(context.Background(), "x", lock.TTL(2*time.Second)); h != nil || !errors.Is(err, store.ErrLockLost) {
		t.Fatal(h, err)
	}
	eventually(t, "nobody holds it", func() bool { return infoOf(t, s).Locks == 0 })
}

// TestWaiterThatWasCutOffIsNotGrantedAndJoinsAgain re-enacts etcd's issue 11456: the
// lease of one who waits ends, and then the lock is released.
func TestWaiterThatWasCutOffIsNotGrantedAndJoinsAgain(t *testing.T) {
	now := new(clock.Fake)
	s := local.Open(local.Options{Clock: now})
	defer s.Close()
	d := &deaf{Store: s}
	d.isDeaf.Store(true)
	holder, cutOff := lock.NewWithClock(s, now), lock.NewWithClock(d, now)
	defer holder.Close()
	defer cutOff.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h := first(holder.Lock(ctx, "x", lock.TTL(time.Hour)))
	granted := make(chan *lock.Lock)
	go func() {
		w, err := cutOff.Lock(ctx, "x", lock.TTL(time.Minute))
		if err != nil {
			t.Error(err)
		}
		granted <- w
	}()
	eventually(t, "it waits", func() bool { return infoOf(t, s).Waiters == 1 })
	joined := infoOf(t, s).Revision
	now.Advance(time.Minute)
	// Its first place has ended; it has found out, and is in the queue again.
	eventually(t, "it waits again", func() bool { return infoOf(t, s).Waiters == 1 && infoOf(t, s).Revision > joined })
	d.isDeaf.Store(false)
	if err := h.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	w := <-granted
	if w.Err() != nil || w.Token() <= h.Token() {
		t.Fatal(w.Err(), w.Token())
	}
	if err := w.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestReentrancyIsRefused(t *testing.T) {
	l, _, ctx := locked(t)
	h := first(l.Lock(ctx, "x"))
	if _, err := l.Lock(h.Context(), "x"); !errors.Is(err, store.ErrReentrant) {
		t.Fatal(err)
	}
	if _, _, err := l.TryLock(h.Context(), "x"); !errors.Is(err, store.ErrReentrant) {
		t.Fatal(err)
	}
	inner := first(l.Lock(h.Context(), "y"))
	if _, err := l.Lock(inner.Context(), "x"); !errors.Is(err, store.ErrReentrant) {
		t.Fatal(err)
	}
	if err := errors.Join(inner.Unlock(ctx), h.Unlock(ctx)); err != nil {
		t.Fatal(err)
	}
	again, ok, err := l.TryLock(context.WithoutCancel(h.Context()), "x")
	if !ok || err != nil {
		t.Fatal("a lock that has been given up counts as held:", ok, err)
	}
	again.Unlock(ctx)
}

func TestBadInputIsRefusedAndChangesNothing(t *testing.T) {
	l, s, ctx := locked(t)
	for name, c := range map[string]struct {
		do   func() error
		want error
	}{
		"no time":        {func() error { _, err := l.Lock(ctx, "x", lock.TTL(0)); return err }, store.ErrBadDuration},
		"negative time":  {func() error { _, err := l.Lock(ctx, "x", lock.TTL(-1)); return err }, store.ErrBadDuration},
		"for ever":       {func() error { _, err := l.Lock(ctx, "x", lock.TTL(lock.Forever)); return err }, store.ErrBadDuration},
		"no key":         {func() error { _, err := l.Lock(ctx, ""); return err }, store.ErrEmptyKey},
		"try no key":     {func() error { _, _, err := l.TryLock(ctx, ""); return err }, store.ErrEmptyKey},
		"long key":       {func() error { _, err := l.Lock(ctx, string(make([]byte, store.MaxKeySize+1))); return err }, store.ErrKeyTooLarge},
		"long value":     {func() error { _, err := l.Lock(ctx, "x", lock.Value(make([]byte, lock.MaxHolderValue+1))); return err }, store.ErrValueTooLarge},
		"acquire":        {func() error { _, _, err := l.Acquire(ctx, "x", 0); return err }, store.ErrBadDuration},
		"release nobody": {func() error { _, err := l.Release(ctx, "x", lock.Owner{}); return err }, store.ErrBadOwner},
	} {
		if err := c.do(); !errors.Is(err, c.want) || store.KindOf(err) != store.KindFinal {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if info := infoOf(t, s); info.Revision != 0 {
		t.Errorf("%+v", info)
	}
	longest := string(make([]byte, store.MaxKeySize))
	h := first(l.Lock(ctx, longest, lock.Value(make([]byte, lock.MaxHolderValue))))
	waiting, cancel := context.WithCancel(ctx)
	failed := make(chan error)
	go func() { _, err := l.Lock(waiting, longest); failed <- err }()
	eventually(t, "the key of a waiter is longer still", func() bool { return infoOf(t, s).Waiters == 1 })
	cancel()
	<-failed
	if err := h.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestClosedLockerHasItsLocksDoneAndGivesOutNoMore(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	l := lock.New(s)
	ctx := context.Background()
	h := first(l.Lock(ctx, "x"))
	failed := make(chan error)
	go func() { _, err := l.Lock(ctx, "x"); failed <- err }()
	eventually(t, "it waits", func() bool { return infoOf(t, s).Waiters == 1 })
	l.WithPrefix("p").Close() // is not what closes
	if h.Err() != nil {
		t.Fatal(h.Err())
	}
	l.Close()
	l.Close()
	if !errors.Is(h.Err(), store.ErrClosed) {
		t.Error(h.Err())
	}
	if err := <-failed; !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
	if info := infoOf(t, s); info.Locks != 0 || info.Waiters != 0 {
		t.Errorf("%+v", info)
	}
	if _, err := l.Lock(ctx, "y"); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
}

func TestManyLockersCountUnderOneLock(t *testing.T) {
	_, s, ctx := locked(t)
	const lockers, rounds = 8, 50
	count := 0
	var all sync.WaitGroup
	for range lockers {
		l := lock.New(s)
		defer l.Close()
		all.Go(func() {
			for range rounds {
				h, err := l.Lock(ctx, "x")
				if err != nil {
					t.Error(err)
					return
				}
				count++
				if err := h.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if count != lockers*rounds {
		t.Errorf("%d", count)
	}
}

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
