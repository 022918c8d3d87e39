package replica

import (
	"context"
	"errors"
	"slices"
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
