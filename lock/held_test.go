package lock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
)

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

// TestLockIsDoneBeforeAnotherCanHoldIt has a holder fail to renew its lock.
func TestLockIsDoneBeforeAnotherCanHoldIt(t *testing.T) {
	now, d, holder, other := withDeaf(t)
	s := d.Store
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
