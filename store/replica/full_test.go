package replica_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"
)

// TestFullStoreTurnsTheSameWritesAwayOnEveryMember has members with different
// limits fill a store from several goroutines, and replaces one of the members
// meanwhile. That all agree on what was turned away, their checksums tell, which
// the cluster compares in the end.
func TestFullStoreTurnsTheSameWritesAwayOnEveryMember(t *testing.T) {
	t.Parallel()
	limits := []int64{40_000, 60_000, 80_000}
	c := testcluster.New(t, testcluster.Options{Change: func(i int, o *replica.Options) {
		o.MaxBytes = limits[i]
		o.SnapshotBytes = 64 << 10
	}})
	c.Ready()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	var refused, done [3]atomic.Int64
	var writing sync.WaitGroup
	for w := range 6 {
		member := w % 3
		s := c.Store(member)
		writing.Go(func() {
			for i := range 400 {
				key := fmt.Sprint(w, " ", i)
				err := s.Set(ctx, key, make([]byte, 100+i%50))
				switch {
				case err == nil:
					done[member].Add(1)
				case errors.Is(err, store.ErrFull) && store.KindOf(err) == store.KindFinal:
					refused[member].Add(1)
				default:
					t.Errorf("member %d: %v", member, err)
					return
				}
				if i%7 == 0 {
					if err := s.Delete(ctx, key); err != nil {
						t.Errorf("member %d: delete when the store may be full: %v", member, err)
						return
					}
				}
			}
		})
	}
	writing.Wait()
	c.Stop(2)
	c.Start(2)
	c.Ready()

	for i := range limits {
		info, err := c.Store(i).Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size > limits[2] || info.Size < limits[1] {
			t.Errorf("member %d shows a size of %d; the greatest limits are %d and %d", i, info.Size, limits[1], limits[2])
		}
		if refused[i].Load() == 0 || done[i].Load() == 0 {
			t.Errorf("of member %d's writes %d were done and %d turned away", i, done[i].Load(), refused[i].Load())
		}
	}
	// What frees memory, or needs no more, is done whatever the size.
	s := c.Store(0)
	key, old := "", store.Entry{}
	for e, err := range s.Scan(ctx, store.Range{Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		key, old = e.Key, e
	}
	if err := s.Set(ctx, key, old.Value); err != nil {
		t.Errorf("a value of the same length: %v", err)
	}
	if err := s.Set(ctx, key, make([]byte, 10_000)); !errors.Is(err, store.ErrFull) {
		t.Errorf("a longer value: %v", err)
	}
	if v, ok, err := s.Get(ctx, key); err != nil || !ok || string(v) != string(old.Value) {
		t.Errorf("after a write that was turned away the value is another: %v, %v", ok, err)
	}
	if err := s.Expire(ctx, key); err != nil {
		t.Errorf("expire: %v", err)
	}
}
