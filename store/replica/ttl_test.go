package replica_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store"
	"dkv/store/replica"
)

// hardLimit is how late a deadline may be under the race detector, on top of an
// election. Without it, what is promised holds: 100 ms + 1%.
const hardLimit = 3 * time.Second

// lifetime is one deadline that is watched.
type lifetime struct {
	what            string
	ttl             time.Duration
	began, returned time.Time // of the call that set it

	// excuse is what may come on top of the bound, for an election for example.
	excuse time.Duration
}

// set calls f, which sets a deadline.
func set(t *testing.T, what string, ttl time.Duration, f func() error) *lifetime {
	t.Helper()
	l := &lifetime{what: what, ttl: ttl, began: time.Now()}
	if err := f(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	l.returned = time.Now()
	return l
}

// watch asks until what has the deadline is gone: that must not be early, nor
// too late. Errors are for faults; it asks again.
func (l *lifetime) watch(t *testing.T, there func(ctx context.Context) (bool, error)) {
	bound := 100*time.Millisecond + l.ttl/100 + l.excuse
	stalls := measureStalls()
	defer stalls.stop()
	late := time.Duration(0)
	for {
		asked := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		is, err := there(ctx)
		cancel()
		answered := time.Now()
		over := asked.Sub(l.returned.Add(l.ttl))
		switch {
		case err != nil:
			if over > hardLimit+l.excuse {
				t.Errorf("%s: no answer long after its end: %v", l.what, err)
				return
			}
		case !is:
			if early := l.began.Add(l.ttl).Sub(answered); early > 0 {
				t.Errorf("%s: gone %v early", l.what, early)
			}
			// A machine that is busy with others keeps the test waiting, too.
			switch bound += 3 * stalls.stop(); {
			case late > bound && raceDetector:
				t.Logf("%s: gone %v late, bound %v", l.what, late, bound)
			case late > bound:
				t.Errorf("%s: gone %v late, bound %v", l.what, late, bound)
			}
			return
		case over > hardLimit+l.excuse:
			t.Errorf("%s: still there %v after its end", l.what, over)
			return
		default:
			late = max(late, over)
		}
		time.Sleep(time.Duration(1+rand.IntN(4)) * time.Millisecond)
	}
}

// inTime fails if f takes longer than a limit and a grace. A machine that is busy with others
// keeps the test waiting, too.
func inTime(t testing.TB, what string, limit, grace time.Duration, f func()) {
	t.Helper()
	stalls := measureStalls()
	began := time.Now()
	f()
	took := time.Since(began)
	if stall := stalls.stop(); took > limit+grace+3*stall {
		t.Errorf("%s took %v of %v, on a machine that stalls for %v", what, took, limit, stall)
	}
}

// stalls is how late goroutines of this process woke up at worst.
type stalls struct {
	worst time.Duration
	quit  chan struct{}
	over  chan struct{}
	once  sync.Once
}

func measureStalls() *stalls {
	s := &stalls{quit: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(s.over)
		const nap = 5 * time.Millisecond
		for {
			began := time.Now()
			select {
			case <-s.quit:
				return
			case <-time.After(nap):
			}
			s.worst = max(s.worst, time.Since(began)-nap)
		}
	}()
	return s
}

// stop ends the measurement and returns what came of it.
func (s *stalls) stop() time.Duration {
	s.once.Do(func() { close(s.quit) })
	<-s.over
	return s.worst
}

func getting(s func() store.Store, key string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) { _, ok, err := s().Get(ctx, key); return ok, err }
}

func having(s func() store.Store, key string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) { return s().Has(ctx, key) }
}

func TestDeadlines(t *testing.T) {
	t.Run("ComeInTimeOnAnIdleCluster", func(t *testing.T) {
		t.Parallel()
		c := testcluster.New(t, testcluster.Options{})
		c.Ready()
		ctx := within(t, time.Minute)
		leader, follower := c.Leader(), c.Follower()
		var wg sync.WaitGroup
		for _, by := range []int{leader, follower} {
			s := c.Store(by)
			member := func() store.Store { return s }
			key := fmt.Sprint("key", by)
			const expireIn, deleteIn = 600 * time.Millisecond, 1400 * time.Millisecond
			value := set(t, "value", expireIn, func() error { return s.SetE(ctx, key, []byte("v"), expireIn, deleteIn) })
			whole := *value
			whole.what, whole.ttl = "key", deleteIn
			wg.Go(func() {
				value.watch(t, getting(member, key))
				// Expired, not deleted: SetEIfUnset finds it set.
				if has, err := s.Has(ctx, key); err != nil || has && time.Since(value.began) >= deleteIn {
					t.Errorf("%t, %v", has, err)
				} else if has {
					if set, err := s.SetEIfUnset(ctx, key, nil, 0, time.Millisecond); err != nil || set && time.Since(value.began) < deleteIn {
						t.Errorf("an expired key was found unset: %v", err)
					}
				}
			})
			wg.Go(func() { whole.watch(t, having(member, key)) })

			// A lock: somebody else gets it when it ends, not before.
			locks := lock.New(s)
			name := fmt.Sprint("lock", by)
			held := set(t, "lock", time.Second, func() error {
				_, ok, err := locks.Acquire(ctx, name, time.Second)
				if !ok && err == nil {
					return store.ErrBusy
				}
				return err
			})
			wg.Go(func() {
				held.watch(t, func(ctx context.Context) (bool, error) {
					_, ok, err := locks.Acquire(ctx, name, lock.Forever)
					return !ok, err
				})
			})
		}
		wg.Wait()

		// Without deadlines nothing is written any more.
		sum := c.WaitEqual()
		time.Sleep(200 * time.Millisecond)
		if again := c.WaitEqual(); again != sum {
			t.Errorf("an idle group writes: %v, then %v", sum, again)
		}
	})

	t.Run("OfManyKeysComeInTimeAndInOrder", func(t *testing.T) {
		t.Parallel()
		c := testcluster.New(t, testcluster.Options{})
		c.Ready()
		ctx := within(t, time.Minute)
		s := c.Store(c.Follower())
		member := func() store.Store { return s }
		var wg sync.WaitGroup
		for n := range rounds(200, 60) {
			wg.Go(func() {
				time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
				key := fmt.Sprint("key", n)
				ttl := time.Duration(1+rand.IntN(1600)) * time.Millisecond
				l := set(t, fmt.Sprintf("%s of %v", key, ttl), ttl, func() error { return s.SetE(ctx, key, []byte("v"), 0, ttl) })
				// Not all ask all the time: that would be a test of reads.
				time.Sleep(max(0, ttl-50*time.Millisecond))
				l.watch(t, having(member, key))
			})
		}
		wg.Wait()
	})

	t.Run("ComeInTimeWhenLeadershipIsHandedOver", func(t *testing.T) {
		t.Parallel()
		c := testcluster.New(t, testcluster.Options{})
		c.Ready()
		ctx := within(t, time.Minute)
		leader := c.Leader()
		s := c.Store((leader + 1) % 3)
		const ttl = 1500 * time.Millisecond
		l := set(t, "value across a handover", ttl, func() error { return s.SetE(ctx, "key", []byte("v"), ttl, 0) })
		l.excuse = time.Second // the new leader may have to be elected
		var wg sync.WaitGroup
		wg.Go(func() { l.watch(t, getting(func() store.Store { return s }, "key")) })
		time.Sleep(ttl / 2)
		c.Stop(leader)
		if c.Leader() == leader {
			t.Error("nobody else leads")
		}
		wg.Wait()
		c.Start(leader)
	})

	t.Run("AreNotEarlyWhenAllRestartOneByOne", func(t *testing.T) {
		t.Parallel()
		c := testcluster.New(t, testcluster.Options{})
		c.Ready()
		ctx := within(t, time.Minute)
		// A member is asked that is not being restarted.
		var asked atomic.Pointer[replica.Store]
		asked.Store(c.Store(0))
		const ttl = 2 * time.Second
		l := set(t, "value across restarts", ttl, func() error { return c.Store(0).SetE(ctx, "key", []byte("v"), ttl, 0) })
		// A member that leads before it has seen a tick since its restart does
		// not know what had passed before. It may lead that soon here, because
		// the next restart follows at once: all the time may be lost.
		l.excuse = ttl
		var wg sync.WaitGroup
		wg.Go(func() { l.watch(t, getting(func() store.Store { return asked.Load() }, "key")) })
		changes := 0
		for time.Since(l.began) < ttl {
			leader := c.Leader()
			asked.Store(c.Store((leader + 1) % 3))
			c.Restart(leader)
			changes++
		}
		wg.Wait()
		if changes < 2 {
			t.Error("hardly anybody handed leadership over")
		}
		t.Logf("%d leaders restarted", changes)
	})

	t.Run("HoldWhenTheLeaderIsKilled", func(t *testing.T) {
		t.Parallel()
		c := testcluster.NewProcesses(t, 3, 0)
		c.Ready()
		ctx := within(t, time.Minute)
		leader := c.Leader()
		p := c.Process((leader + 1) % 3)
		member := func() store.Store { return p }
		const ttl = 2 * time.Second
		value := set(t, "value", ttl, func() error { return p.SetE(ctx, "key", []byte("v"), ttl, 0) })
		held := set(t, "lock", ttl, func() error { _, _, err := p.Acquire(ctx, "lock", ttl); return err })
		// An election, and the time that the new leader did not measure.
		value.excuse, held.excuse = 2*time.Second, 2*time.Second
		var wg sync.WaitGroup
		wg.Go(func() { value.watch(t, getting(member, "key")) })
		wg.Go(func() {
			held.watch(t, func(ctx context.Context) (bool, error) {
				_, ok, err := p.Acquire(ctx, "lock", lock.Forever)
				// A try that was not heard of may have taken it.
				return !ok, err
			})
		})
		time.Sleep(time.Second)
		if !c.Process(leader).Kill() {
			t.Error("the leader did not die from SIGKILL")
		}
		wg.Wait()
		c.Start(leader)
		c.Ready()
		c.WaitEqual()
	})

	t.Run("HoldWhenADurableStoreIsRestarted", func(t *testing.T) {
		t.Parallel()
		c := testcluster.New(t, testcluster.Options{Members: 1})
		ctx := within(t, time.Minute)
		const ttl = 1500 * time.Millisecond
		member := func() store.Store { return c.Store(0) }
		l := set(t, "value across restarts", ttl, func() error { return c.Store(0).SetE(ctx, "key", []byte("v"), ttl, 0) })
		for range 2 {
			time.Sleep(400 * time.Millisecond)
			c.Restart(0)
		}
		// What passed before the last start may not count.
		l.excuse = time.Since(l.began) + time.Second
		l.watch(t, getting(member, "key"))
	})
}
