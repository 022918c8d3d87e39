package replica

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"dkv/internal/command"
	"dkv/internal/lockqueue"
	"dkv/internal/ops"
	"dkv/lock"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
)

// writesOnly is a lock.Backend that nobody asks anything.
type writesOnly struct {
	ops.Writes
	reads
}

type reads struct{ lock.Backend }

// TestAcquireThatWasGivenUpNeverHoldsTheLockAfterARelease has the log keep back
// an acquisition whose caller gives up, as an old leader that is paused does. The
// caller releases the lock, and only then does the acquisition come.
func TestAcquireThatWasGivenUpNeverHoldsTheLockAfterARelease(t *testing.T) {
	sessions, db := make(sessions), maple.New(engine.Options{})
	locked := lockqueue.New(db)
	b := newTestBatcher(nil)
	apply := func(entry []byte) {
		var e command.Entry
		if err := command.Decode(entry, &e); err != nil {
			t.Error(err)
			return
		}
		results, ok := sessions.apply(&e.Batch, func(i int) engine.Result { return locked.Apply(&e.Batch.Ops[i], e.Batch.Limit) })
		b.applied(e.Batch.Slot, e.Batch.Seq, results, ok)
	}
	kept := make(chan []byte, 1)
	b.propose = func(entry []byte, settled <-chan struct{}) proposal {
		var e command.Entry
		if command.Decode(entry, &e) == nil && len(e.Batch.Ops) == 1 && e.Batch.Ops[0].Kind == engine.TryJoin {
			kept <- slices.Clone(entry)
			<-settled
			return proposalLost
		}
		apply(entry)
		return proposalApplied
	}
	b.start()
	defer func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		b.close(now.Done())
	}()

	locks := lock.New(writesOnly{Writes: ops.New(b.do)})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	owner, ok, err := locks.Acquire(ctx, "x", lock.Forever)
	if ok || !errors.Is(err, store.ErrUnknown) || owner == (lock.Owner{}) {
		t.Fatal(owner, ok, err)
	}
	if ok, err := locks.Release(context.Background(), "x", owner); ok || err != nil {
		t.Fatal("released what is not there yet:", ok, err)
	}
	apply(<-kept)
	if db.Has(engine.Locks, "x") {
		t.Fatal("the lock is held for ever, and nobody knows")
	}
}

// TestAcquireThatSharedItsBatchNeverHoldsTheLockAfterARelease is the same for one that
// has others in its batch, who go on waiting.
func TestAcquireThatSharedItsBatchNeverHoldsTheLockAfterARelease(t *testing.T) {
	for _, late := range []bool{true, false} {
		sessions, db := make(sessions), maple.New(engine.Options{})
		locked := lockqueue.New(db)
		b := newTestBatcher(nil)
		var applying sync.Mutex
		apply := func(entry []byte) {
			applying.Lock()
			defer applying.Unlock()
			var e command.Entry
			if err := command.Decode(entry, &e); err != nil {
				t.Error(err)
				return
			}
			results, ok := sessions.apply(&e.Batch, func(i int) engine.Result {
				if op := &e.Batch.Ops[i]; op.Kind.OnLock() {
					return locked.Apply(op, 0)
				}
				return db.Apply(&e.Batch.Ops[i], 0)
			})
			b.applied(e.Batch.Slot, e.Batch.Seq, results, ok)
		}
		kept, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		b.propose = func(entry []byte, settled <-chan struct{}) proposal {
			var e command.Entry
			if command.Decode(entry, &e) == nil && len(e.Batch.Ops) > 1 {
				if !late {
					apply(entry)
				}
				once.Do(func() { close(kept) })
				<-goOn // it may have been lost; somebody still waits for it
			}
			apply(entry)
			return proposalApplied
		}
		locks := lock.New(writesOnly{Writes: ops.New(b.do)})
		ctx, giveUp := context.WithCancel(context.Background())
		var callers sync.WaitGroup
		callers.Go(func() {
			if _, _, err := locks.Acquire(ctx, "x", lock.Forever); late && !errors.Is(err, store.ErrUnknown) {
				t.Error(err)
			}
		})
		callers.Go(func() {
			if err := ops.New(b.do).Set(context.Background(), "k", nil); err != nil {
				t.Error(err)
			}
		})
		for queued := 0; queued < 2; time.Sleep(time.Millisecond) { // both go into one batch
			b.mu.Lock()
			queued = b.mu.live
			b.mu.Unlock()
		}
		b.start()
		<-kept
		giveUp()
		if late {
			for {
				time.Sleep(time.Millisecond)
				b.mu.Lock()
				f := b.mu.flying[0]
				if g := b.mu.flying[1]; g != nil && len(g.calls) > 1 {
					f = g
				}
				given := f != nil && len(f.calls) > f.waiting
				b.mu.Unlock()
				if given {
					break
				}
			}
			// Any later write will do: the release of what was never there, as it
			// must seem.
			if _, err := locks.Release(context.Background(), "x", someOwner(t)); err != nil {
				t.Fatal(err)
			}
		}
		close(goOn)
		callers.Wait()
		if held := db.Has(engine.Locks, "x"); held == late {
			t.Errorf("late %v: the lock is held: %v", late, held)
		}
		if !db.Has(engine.Keys, "k") {
			t.Error("the other operation of the batch is lost")
		}
		now, cancel := context.WithCancel(context.Background())
		cancel()
		b.close(now.Done())
	}
}

func someOwner(t *testing.T) lock.Owner {
	o, err := lock.ParseOwner("0123456789abcdef-1")
	if err != nil {
		t.Fatal(err)
	}
	return o
}
