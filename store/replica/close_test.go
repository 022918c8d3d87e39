package replica_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store"
	"dkv/store/replica"
)

func TestCloseMayBeCalledOftenAndEverythingIsClosedThen(t *testing.T) {
	testcluster.Guard(t)
	s, err := replica.Open(replica.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var closers sync.WaitGroup
	for range 8 {
		closers.Go(func() {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	closers.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	ctx := context.Background()
	locks := lock.New(s)
	owner, _ := lock.ParseOwner("0123456789abcdef-1")
	for name, do := range map[string]func() error{
		"Get":         func() error { _, _, err := s.Get(ctx, "k"); return err },
		"GetStale":    func() error { _, _, err := s.GetStale(ctx, "k"); return err },
		"GetEntry":    func() error { _, _, err := s.GetEntry(ctx, "k"); return err },
		"Has":         func() error { _, err := s.Has(ctx, "k"); return err },
		"Set":         func() error { return s.Set(ctx, "k", nil) },
		"SetE":        func() error { return s.SetE(ctx, "k", nil, 1, 1) },
		"SetEIfUnset": func() error { _, err := s.SetEIfUnset(ctx, "k", nil, 1, 1); return err },
		"Expire":      func() error { return s.Expire(ctx, "k") },
		"Delete":      func() error { return s.Delete(ctx, "k") },
		"Info":        func() error { _, err := s.Info(ctx); return err },
		"Ready":       func() error { return s.Ready(ctx) },
		"Acquire":     func() error { _, _, err := locks.Acquire(ctx, "k", time.Hour); return err },
		"Release":     func() error { _, err := locks.Release(ctx, "k", owner); return err },
	} {
		if err := do(); !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if s.Leads() {
		t.Error("it leads, though it is closed")
	}
	s.Checksum() // needs nothing that is gone
}

func TestCloseEndsOperationsOfManyGoroutinesAndKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprint("of ", members), func(t *testing.T) {
			c := testcluster.New(t, testcluster.Options{Members: members})
			c.Ready()
			at := c.Leader()
			s := c.Store(at)
			var acked sync.Map
			var done atomic.Int64
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					for n := 0; ; n++ {
						// Without a deadline: only Close can end them.
						ctx := context.Background()
						key := fmt.Sprint(g, "-", n)
						var err error
						switch g % 4 {
						case 0, 1:
							if err = s.Set(ctx, key, []byte(key)); err == nil {
								acked.Store(key, true)
							}
						case 2:
							_, _, err = s.Get(ctx, key)
						case 3:
							_, _, err = lock.New(s).Acquire(ctx, key, time.Hour)
						}
						switch kind := store.KindOf(err); {
						case err == nil:
							done.Add(1)
							continue
						case kind == store.KindClosed || kind == store.KindUnknown || kind == store.KindNotApplied:
							return
						}
						t.Errorf("%v", err)
						return
					}
				})
			}
			eventually(t, 10*time.Second, "operations are under way", func() bool { return done.Load() > 100 })
			c.Stop(at)
			ended := make(chan struct{})
			go func() { wg.Wait(); close(ended) }()
			select {
			case <-ended:
			case <-time.After(time.Second):
				t.Fatal("operations go on after Close")
			}
			c.Start(at)
			c.Ready()
			ctx := within(t, 20*time.Second)
			acked.Range(func(key, _ any) bool {
				if v, ok, err := c.Store(at).Get(ctx, key.(string)); err != nil || !ok || string(v) != key {
					t.Errorf("acknowledged %s: %q, %t, %v", key, v, ok, err)
				}
				return true
			})
		})
	}
}

func TestCloseWithoutAQuorumEndsWhatWaits(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{Unequal: true})
	c.Ready()
	leader := c.Leader()
	c.Stop((leader + 1) % 3)
	c.Stop((leader + 2) % 3)
	s := c.Store(leader)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			var err error
			if g%2 == 0 {
				err = s.Set(context.Background(), fmt.Sprint(g), nil)
			} else {
				_, _, err = s.Get(context.Background(), fmt.Sprint(g))
			}
			if kind := store.KindOf(err); kind != store.KindClosed && kind != store.KindUnknown && kind != store.KindNotApplied {
				t.Errorf("%v", err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	c.Stop(leader) // looks that it takes no more than 5 s
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Second):
		t.Fatal("operations go on after Close")
	}
}

// TestOpenAndCloseAgainAndAgainGiveEverythingBack does 200 rounds, or as many as
// DKV_OPEN_ROUNDS says.
func TestOpenAndCloseAgainAndAgainGiveEverythingBack(t *testing.T) {
	testcluster.Guard(t)
	n := rounds(200, 20)
	if s := os.Getenv("DKV_OPEN_ROUNDS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	opts := replica.Options{Dir: filepath.Join(t.TempDir(), "data"), SnapshotBytes: 1 << 10}
	count := func() (goroutines, files int, heap uint64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		links, _ := filepath.Glob("/proc/self/fd/*")
		return runtime.NumGoroutine(), len(links), m.HeapAlloc
	}
	var goroutines, files int
	var heap uint64
	for round := range n {
		s, err := replica.Open(opts)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if round%50 == 0 {
			ctx := within(t, 10*time.Second)
			for k := range 20 {
				if err := s.SetE(ctx, fmt.Sprint(round, k), make([]byte, 100), time.Hour, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if round == 4 {
			time.Sleep(100 * time.Millisecond)
			goroutines, files, heap = count()
		}
	}
	var g, f int
	var h uint64
	eventually(t, 3*time.Second, "as much is left as after five rounds", func() bool {
		g, f, h = count()
		return g <= goroutines && f <= files
	})
	t.Logf("after 5 and %d rounds: %d and %d goroutines, %d and %d files, %d and %d KiB of heap",
		n, goroutines, g, files, f, heap>>10, h>>10)
	if h > heap+uint64(n)*64<<10 {
		t.Errorf("%d KiB of heap more per round", (h-heap)/uint64(n)>>10)
	}
}
