package replica_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store"
	"dkv/store/replica"
)

// traffic is every kind of write on few keys, from several goroutines, by way of
// the members that to returns, until stop is called.
type traffic struct {
	writes, conditional, released atomic.Int64

	stopping chan struct{}
	stop     func() // may be called more than once
	wg       sync.WaitGroup
}

func startTraffic(t *testing.T, to func() *replica.Store) *traffic {
	tr := &traffic{stopping: make(chan struct{})}
	tr.stop = sync.OnceFunc(func() { close(tr.stopping); tr.wg.Wait() })
	for w := range 6 {
		tr.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-tr.stopping:
					return
				default:
				}
				s := to()
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				err := tr.one(ctx, s, w, n)
				cancel()
				if kind := store.KindOf(err); err != nil && kind != store.KindUnknown && kind != store.KindClosed && kind != store.KindNotApplied {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	return tr
}

func (tr *traffic) one(ctx context.Context, s *replica.Store, w, n int) (err error) {
	key := fmt.Sprint("key", rand.IntN(60))
	value := []byte(fmt.Sprintf("%d of writer %d, and some more for the size of it: %0200d", n, w, n))
	switch rand.IntN(8) {
	case 0, 1:
		err = s.Set(ctx, key, value)
	case 2:
		err = s.SetE(ctx, key, value, time.Duration(1+rand.IntN(500))*time.Millisecond, time.Duration(1+rand.IntN(900))*time.Millisecond)
	case 3, 4:
		var set bool
		if set, err = s.SetEIfUnset(ctx, key, value, 0, time.Duration(rand.IntN(700))*time.Millisecond); set {
			tr.conditional.Add(1)
		}
	case 5:
		err = s.Delete(ctx, key)
	case 6:
		err = s.Expire(ctx, key)
	case 7:
		locks := lock.New(s)
		var owner lock.Owner
		var ok bool
		if owner, ok, err = locks.Acquire(ctx, key, time.Duration(1+rand.IntN(1000))*time.Millisecond); ok && rand.IntN(4) > 0 {
			if ok, err = locks.Release(ctx, key, owner); ok {
				tr.released.Add(1)
			}
		}
	}
	if err == nil {
		tr.writes.Add(1)
	}
	return err
}

func TestMemberBehindTheLogComesBackByASnapshotUnderConcurrentWrites(t *testing.T) {
	t.Parallel()
	var behind, recovered atomic.Int64
	behind.Store(-1)
	c := testcluster.New(t, testcluster.Options{Change: func(i int, o *replica.Options) {
		o.SnapshotBytes = 64 << 10
		if int64(i) == behind.Load() {
			// It makes none itself: any that it has was sent to it.
			o.SnapshotBytes = 1 << 40
			o.Logger = slog.New(countRecoveries{slog.DiscardHandler, &recovered})
		}
	}})
	c.Ready()
	at := c.Follower()
	behind.Store(int64(at))
	applied := c.Store(at).Checksum().Index
	c.Stop(at)
	others := c.Running()
	tr := startTraffic(t, func() *replica.Store { return c.Store(others[rand.IntN(2)]) })
	defer tr.stop()

	// The others have to write snapshots, and let go of the log that the
	// stopped member has not seen: 512 entries stay behind a snapshot.
	eventually(t, 30*time.Second, "the log is cut short", func() bool {
		for _, i := range others {
			if newest := newestSnapshot(t, c.Dir(i)); newest < applied+512+200 {
				return false
			}
		}
		return true
	})
	before := testcluster.Snapshots(t, c.Dir(at))
	rising := startRising(t, c.Store(others[0]))
	s := c.Start(at)
	stale := watchStale(t, s, 0)
	// Small snapshots come one after another meanwhile: it may be sent several.
	if err := s.Ready(within(t, 20*time.Second)); err != nil {
		t.Fatalf("the member that was behind: %v", err)
	}
	after := testcluster.Snapshots(t, c.Dir(at))
	if len(before) > 0 || len(after) == 0 || recovered.Load() == 0 {
		t.Errorf("the member that was behind has recovered from %d snapshots; it had %v, and has %v", recovered.Load(), before, after)
	}
	time.Sleep(200 * time.Millisecond) // writes go on after it has returned
	tr.stop()
	last := rising.stop()
	sum := c.WaitEqual()
	if v, err := stale.read(); err != nil || v != last {
		t.Errorf("a stale read of the member that was behind finds %d, when it has caught up with write %d: %v", v, last, err)
	}
	stale.stop()
	for _, i := range c.Running() {
		// A snapshot may still be written.
		eventually(t, 10*time.Second, fmt.Sprintf("member %d keeps no views and no old versions", i), func() bool {
			info, err := c.Store(i).Info(within(t, 10*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			return info.Views == 0 && info.Retained == 0
		})
	}
	if tr.conditional.Load() == 0 || tr.released.Load() == 0 {
		t.Errorf("%d conditional writes, %d releases", tr.conditional.Load(), tr.released.Load())
	}
	t.Logf("%d writes, %d conditional ones, %d releases; %v", tr.writes.Load(), tr.conditional.Load(), tr.released.Load(), sum)

	// From their own snapshots and what is in the log behind them.
	snapshots := testcluster.Snapshots(t, c.Dir(others[0]))
	if len(snapshots) == 0 {
		t.Error("a member has no snapshot of its own to restart from")
	}
	for i := range 3 {
		c.Restart(i)
	}
	c.Ready()
	c.WaitEqual()
}

func TestDurableStoreRestartsFromItsOwnSnapshotAndTheLogBehindIt(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{Members: 1, Change: func(_ int, o *replica.Options) { o.SnapshotBytes = 16 << 10 }})
	want := make(map[string]string)
	ctx := within(t, time.Minute)
	for round := range 4 {
		s := c.Store(0)
		snapshots := newestSnapshot(t, c.Dir(0))
		for n := 0; ; n++ {
			key := fmt.Sprint(round, "-", n%50)
			value := fmt.Sprintf("%0100d", n)
			if err := s.Set(ctx, key, []byte(value)); err != nil {
				t.Fatal(err)
			}
			want[key] = value
			// Some writes come after the last snapshot.
			if n%100 == 90 && newestSnapshot(t, c.Dir(0)) > snapshots {
				break
			}
		}
		before, _ := s.Info(ctx)
		s = c.Restart(0)
		if err := s.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		after, err := s.Info(ctx)
		if err != nil || after.Revision != before.Revision || after.Keys != before.Keys || after.Bytes != before.Bytes || after.Applied < before.Applied {
			t.Errorf("%+v before the restart, %+v after it: %v", before, after, err)
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if v, ok, err := s.Get(ctx, key); err != nil || !ok || string(v) != want[key] {
				t.Fatalf("%s: %q, %t, %v", key, v, ok, err)
			}
		}
	}
}

func TestRevisionsGoOnAfterRestarts(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{Members: 1, Change: func(_ int, o *replica.Options) { o.SnapshotBytes = 4 << 10 }})
	ctx := within(t, time.Minute)
	var last store.Revision
	for range 4 {
		for range 40 {
			owner, ok, err := c.Locker(0).Acquire(ctx, "lock", lock.Forever)
			if err != nil || !ok || owner.Token() <= last {
				t.Fatalf("token %d after %d, %t, %v", owner.Token(), last, ok, err)
			}
			last = owner.Token()
			if ok, err := c.Locker(0).Release(ctx, "lock", owner); err != nil || !ok {
				t.Fatalf("%t, %v", ok, err)
			}
			if ok, err := c.Locker(0).Release(ctx, "lock", owner); err != nil || ok {
				t.Fatalf("a repeated release: %t, %v", ok, err)
			}
		}
		c.Restart(0)
	}
	if _, err := c.Locker(0).Release(ctx, "lock", lock.Owner{}); !errors.Is(err, store.ErrBadOwner) {
		t.Error(err)
	}
}

// countRecoveries counts what a store logs when a snapshot replaces its state.
type countRecoveries struct {
	slog.Handler
	n *atomic.Int64
}

func (countRecoveries) Enabled(context.Context, slog.Level) bool { return true }

func (c countRecoveries) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "recovered from a snapshot") {
		c.n.Add(1)
	}
	return nil
}

// newestSnapshot is the index of the newest snapshot in a member's directory, 0
// if there is none.
func newestSnapshot(t *testing.T, dir string) (newest uint64) {
	for _, name := range testcluster.Snapshots(t, dir) {
		var index uint64
		if _, err := fmt.Sscanf(name, "snapshot-%X", &index); err != nil {
			t.Fatal(err)
		}
		newest = max(newest, index)
	}
	return newest
}
