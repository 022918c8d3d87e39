package lock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"dkv/lock"
	"dkv/store"
)

func TestLockIsGrantedInTheOrderOfArrival(t *testing.T) {
	l, s, ctx := locked(t)
	held := first(l.Lock(ctx, "x"))
	const waiters = 20
	order := make(chan int, waiters)
	var all sync.WaitGroup
	tokens := []store.Revision{held.Token()}
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
	if err := held.Unlock(ctx); err != nil {
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
	held := first(l.Lock(ctx, "x"))
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

// TestWaiterThatWasCutOffIsNotGrantedAndJoinsAgain re-enacts etcd's issue 11456: the
// lease of one who waits ends, and then the lock is released.
func TestWaiterThatWasCutOffIsNotGrantedAndJoinsAgain(t *testing.T) {
	now, d, cutOff, holder := withDeaf(t)
	s := d.Store
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
