package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/replica"
)

// rising is a writer of numbers that only rise, to the key "rising".
type rising struct {
	stop func() int // returns the last number that was acknowledged
}

func startRising(t *testing.T, s store.Store) rising {
	ctx := within(t, 2*time.Minute)
	stopping := make(chan struct{})
	var writing sync.WaitGroup
	last := 0
	writing.Go(func() {
		for {
			select {
			case <-stopping:
				return
			default:
			}
			if err := s.Set(ctx, "rising", fmt.Append(nil, last+1)); err != nil {
				t.Errorf("write %d: %v", last+1, err)
				return
			}
			last++
		}
	})
	return rising{stop: sync.OnceValue(func() int {
		close(stopping)
		writing.Wait()
		return last
	})}
}

// staleReader reads what rising writes.
type staleReader struct {
	read func() (int, error)
	stop func() int // returns what was found last
}

func readRisen(ctx context.Context, s store.Store) (int, error) {
	v, ok, err := s.GetStale(ctx, "rising")
	if err != nil || !ok {
		return 0, err
	}
	return strconv.Atoi(string(v))
}

// watchStale has several goroutines read by GetStale, each of which must never find
// less than it has found, or than atLeast.
func watchStale(t *testing.T, s *replica.Store, atLeast int) staleReader {
	ctx := within(t, 2*time.Minute)
	r := staleReader{read: func() (int, error) { return readRisen(ctx, s) }}
	stopping := make(chan struct{})
	var reading sync.WaitGroup
	found := make([]int, 3)
	for i := range found {
		reading.Go(func() {
			for found[i] = atLeast; ; {
				n, err := r.read()
				if err != nil || n < found[i] {
					t.Errorf("a stale read finds write %d after %d: %v", n, found[i], err)
					return
				}
				found[i] = n
				select {
				case <-stopping:
					return
				case <-time.After(100 * time.Microsecond):
				}
			}
		})
	}
	r.stop = sync.OnceValue(func() int {
		close(stopping)
		reading.Wait()
		return min(found[0], found[1], found[2])
	})
	t.Cleanup(func() { r.stop() })
	return r
}

func TestStaleReadShowsNothingOlderThanBeforeARestart(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	c.Ready()
	at := c.Follower()
	writer := startRising(t, c.Store(c.Leader()))
	defer writer.stop()
	seen := 0
	for range rounds(6, 3) {
		stale := watchStale(t, c.Store(at), seen)
		time.Sleep(100 * time.Millisecond) // writes go on
		if seen = stale.stop(); t.Failed() {
			return
		}
		c.Restart(at)
	}
	watchStale(t, c.Store(at), seen).stop()
	if last := writer.stop(); seen == 0 || last == 0 {
		t.Errorf("%d writes, %d seen", last, seen)
	}
}

func TestStaleReadShowsNothingOlderThanBeforeAKill(t *testing.T) {
	t.Parallel()
	c := testcluster.NewProcesses(t, 3, 64<<10)
	c.Ready()
	leader := c.Leader()
	at := (leader + 1) % 3
	writer := startRising(t, c.Process(leader))
	defer writer.stop()
	ctx := within(t, 2*time.Minute)
	seen := 0
	for round := range rounds(8, 3) {
		if n, err := readRisen(ctx, c.Process(at)); err != nil || n < seen {
			t.Fatalf("the first stale read after %d kills finds write %d after %d: %v", round, n, seen, err)
		}
		for began := time.Now(); time.Since(began) < 100*time.Millisecond; {
			n, err := readRisen(ctx, c.Process(at))
			if err != nil || n < seen {
				t.Fatalf("a stale read finds write %d after %d: %v", n, seen, err)
			}
			seen = n
		}
		if !c.Process(at).Kill() {
			t.Fatal("it was not killed")
		}
		c.Start(at)
	}
	if writer.stop(); seen == 0 {
		t.Error("nothing was seen")
	}
}

func TestFirstStaleReadOfADurableStoreSeesAllThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{Members: 1})
	for n := range rounds(20, 5) {
		s := c.Store(0)
		key := fmt.Sprint(n)
		if err := s.Set(within(t, 20*time.Second), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		s = c.Restart(0)
		if v, ok, err := s.GetStale(within(t, 20*time.Second), key); err != nil || !ok || string(v) != key {
			t.Fatalf("%q, %t, %v of what was acknowledged before the restart", v, ok, err)
		}
	}
}

func TestStaleReadNeedsAQuorumOnlyAfterARestart(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	c.Ready()
	at := c.Leader()
	if err := c.Store(at).Set(within(t, 20*time.Second), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if i != at {
			c.Stop(i)
		}
	}
	s := c.Store(at)
	if v, ok, err := s.GetStale(within(t, time.Second), "k"); err != nil || !ok || string(v) != "v" {
		t.Fatalf("%q, %t, %v without a quorum, on a member that had one", v, ok, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := s.Get(short, "k"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a linearizable read without a quorum: %v", err)
	}

	s = c.Restart(at)
	short, cancel = context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if v, ok, err := s.GetStale(short, "k"); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %t, %v on a member that does not know what was committed", v, ok, err)
	}
	waited := make(chan error, 1)
	go func() {
		v, ok, err := s.GetStale(within(t, 20*time.Second), "k")
		if err == nil && (!ok || string(v) != "v") {
			err = fmt.Errorf("found %q, %t", v, ok)
		}
		waited <- err
	}()
	for i := range 3 {
		if i != at {
			c.Start(i)
		}
	}
	if err := <-waited; err != nil {
		t.Errorf("a stale read that waited for a quorum: %v", err)
	}
}

func TestCloseEndsAStaleReadThatWaits(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	for i := 1; i < 3; i++ {
		c.Stop(i)
	}
	s := c.Restart(0)
	waited := make(chan error, 1)
	go func() {
		_, _, err := s.GetStale(within(t, 20*time.Second), "k")
		waited <- err
	}()
	select {
	case err := <-waited:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	c.Stop(0)
	if err := <-waited; !errors.Is(err, store.ErrClosed) {
		t.Errorf("a stale read that Close ended: %v", err)
	}
}

// BenchmarkStaleRead compares a stale read with what is the least for one, Maple's
// Get and a copy.
func BenchmarkStaleRead(b *testing.B) {
	const keys = 1 << 16
	key := func(n int) string { return fmt.Sprintf("key-%013d", n%keys) }
	value := make([]byte, 128)
	var names [keys]string

	s, err := replica.Open(replica.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	db := maple.New(engine.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var loading sync.WaitGroup
	for w := range 64 {
		loading.Go(func() {
			for n := w; n < keys; n += 64 {
				names[n] = key(n)
				if err := s.Set(ctx, names[n], value); err != nil {
					b.Error(err)
				}
			}
		})
	}
	loading.Wait()
	for _, name := range names {
		db.Apply(&engine.Op{Kind: engine.Set, Key: name, Value: value}, 0)
	}

	// The two take turns, as a machine that does other things beside them is not
	// the same for long. They read different keys, so that neither finds in the
	// cache what the other has read.
	const turn = 1000
	var engineTook, storeTook time.Duration
	n := 0
	for b.Loop() {
		began := time.Now()
		for i := range turn {
			v, ok := db.Get(engine.Keys, names[(n+i)*7919%keys])
			if copied = bytes.Clone(v); !ok {
				b.Fatal("not found")
			}
		}
		between := time.Now()
		for i := range turn {
			var ok bool
			if copied, ok, err = s.GetStale(ctx, names[(n+i+keys/2)*7919%keys]); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
		engineTook += between.Sub(began)
		storeTook += time.Since(between)
		n += turn
	}
	b.ReportMetric(float64(engineTook.Nanoseconds())/float64(n), "maple-ns/read")
	b.ReportMetric(float64(storeTook.Nanoseconds())/float64(n), "stale-ns/read")
	b.ReportMetric(float64(storeTook)/float64(engineTook), "ratio")
}

var copied []byte
