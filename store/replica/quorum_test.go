package replica_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store"
)

func TestTwoOfThreeGoOnAndOneOfThreeFailsWithinItsContext(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	c.Ready()
	ctx := within(t, time.Minute)

	// Two of three, be the third the leader or not.
	for _, i := range []int{c.Leader(), c.Follower()} {
		c.Stop(i)
		for _, j := range c.Running() {
			key := fmt.Sprintf("without %d by %d", i, j)
			if err := c.Store(j).Set(ctx, key, []byte(key)); err != nil {
				t.Fatalf("write without member %d: %v", i, err)
			}
			for _, k := range c.Running() {
				if v, ok, err := c.Store(k).Get(ctx, key); err != nil || !ok || string(v) != key {
					t.Fatalf("read without member %d: %q, %t, %v", i, v, ok, err)
				}
			}
		}
		c.Start(i)
		c.Ready()
	}

	leader := c.Leader()
	for i := range 3 {
		if i != leader {
			c.Stop(i)
		}
	}
	alone := c.Store(leader)
	deadlines := []time.Duration{0, time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond, 1500 * time.Millisecond}
	var wg sync.WaitGroup
	for n, limit := range deadlines {
		for name, do := range map[string]func(ctx context.Context) error{
			"Set":    func(ctx context.Context) error { return alone.Set(ctx, fmt.Sprint("alone", n), nil) },
			"SetE":   func(ctx context.Context) error { return alone.SetE(ctx, "alone e", nil, time.Hour, time.Hour) },
			"Delete": func(ctx context.Context) error { return alone.Delete(ctx, "nothing") },
			"Expire": func(ctx context.Context) error { return alone.Expire(ctx, "nothing") },
			"Acquire": func(ctx context.Context) error {
				_, _, err := lock.New(alone).Acquire(ctx, "lock", time.Hour)
				return err
			},
			"Get":   func(ctx context.Context) error { _, _, err := alone.Get(ctx, "without"); return err },
			"Has":   func(ctx context.Context) error { _, err := alone.Has(ctx, "without"); return err },
			"Ready": alone.Ready,
		} {
			wg.Go(func() {
				inTime(t, name, limit, 200*time.Millisecond, func() {
					ctx, cancel := context.WithTimeout(context.Background(), limit)
					defer cancel()
					err := do(ctx)
					if kind := store.KindOf(err); kind != store.KindNotApplied && kind != store.KindUnknown {
						t.Errorf("%s of one of three: %v", name, err)
					}
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s does not say that its context ended: %v", name, err)
					}
				})
			})
		}
	}
	// What is given up by cancel ends as well, and at once.
	wg.Go(func() {
		inTime(t, "a Set that is cancelled", 100*time.Millisecond, 200*time.Millisecond, func() {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(100*time.Millisecond, cancel)
			if err := alone.Set(ctx, "cancelled", nil); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	})
	wg.Wait()

	// An operation that waits is done when a second member returns.
	waited := make(chan error, 2)
	go func() { waited <- alone.Set(ctx, "waited", []byte("yes")) }()
	go func() { _, _, err := alone.Get(ctx, "waited"); waited <- err }()
	time.Sleep(50 * time.Millisecond)
	back := (leader + 1) % 3
	c.Start(back)
	for range 2 {
		if err := <-waited; err != nil {
			t.Errorf("an operation that waited for the second member: %v", err)
		}
	}
	if v, ok, err := c.Store(back).Get(ctx, "waited"); err != nil || !ok || string(v) != "yes" {
		t.Errorf("%q, %t, %v", v, ok, err)
	}
	c.Start((leader + 2) % 3)
	c.Ready()
}
