package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/engine/enginetest"
	"dkv/store/storetest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, storetest.Harness{Open: func(t *testing.T) []store.Store {
		s := Open(Options{})
		t.Cleanup(func() { s.Close() })
		return []store.Store{s}
	}})
}

// TestConformanceOnTheNaiveEngine shows that the store asks no more of an engine than
// package engine says.
func TestConformanceOnTheNaiveEngine(t *testing.T) {
	if testing.Short() {
		t.Skip("it is the engine's seam that is tested: the long run has it")
	}
	storetest.Run(t, storetest.Harness{Open: func(t *testing.T) []store.Store {
		s := Open(Options{Engine: enginetest.Naive})
		t.Cleanup(func() { s.Close() })
		return []store.Store{s}
	}})
}

func openFake(t *testing.T) (*Store, *clock.Fake) {
	c := new(clock.Fake)
	s := Open(Options{Clock: c})
	t.Cleanup(func() { s.Close() })
	return s, c
}

func keys(t *testing.T, s *Store) int64 {
	t.Helper()
	info, err := s.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return info.Keys
}

func TestNoTimerWhileNothingHasADeadline(t *testing.T) {
	s, c := openFake(t)
	ctx := context.Background()
	s.Set(ctx, "plain", nil)
	if n := c.Timers(); n != 0 {
		t.Fatalf("%d timers for a key without deadlines", n)
	}
	s.SetE(ctx, "k", nil, time.Second, time.Minute)
	if n := c.Timers(); n != 1 {
		t.Fatalf("%d timers for a key with deadlines", n)
	}
	c.Advance(time.Second)
	if n := c.Timers(); n != 1 {
		t.Fatalf("%d timers while the key is to be deleted", n)
	}
	c.Advance(time.Minute)
	if n := c.Timers(); n != 0 {
		t.Fatalf("%d timers when the last deadline has passed", n)
	}
	if n := keys(t, s); n != 1 {
		t.Fatalf("%d keys are left, not the plain one alone", n)
	}
}

func TestTimerIsSetForTheEarliestDeadline(t *testing.T) {
	s, c := openFake(t)
	ctx := context.Background()
	for i := range 100 {
		// Later ones first, so that the timer has to be set anew each time.
		s.SetE(ctx, fmt.Sprint(i), []byte("v"), 0, time.Duration(100-i)*time.Second)
	}
	for i := range 100 {
		if n := keys(t, s); n != int64(100-i) {
			t.Fatalf("%d keys after %d s", n, i)
		}
		c.Advance(time.Second)
	}
}

func TestMoreDeadlinesAtOnceThanOneReapingTakes(t *testing.T) {
	s, c := openFake(t)
	const n = 10*reapAtOnce + 1
	for i := range n {
		s.SetE(context.Background(), fmt.Sprint(i), []byte("v"), 0, time.Second)
	}
	c.Advance(time.Second)
	for deadline := time.Now().Add(10 * time.Second); keys(t, s) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d keys are left", keys(t, s))
		}
	}
	if info, _ := s.Info(context.Background()); info.Bytes != 0 || info.Revision != 2*n {
		t.Fatalf("%+v", info)
	}
}

func TestClosedStoreRefusesAndStopsItsTimer(t *testing.T) {
	s, c := openFake(t)
	ctx := context.Background()
	s.SetE(ctx, "k", nil, 0, time.Second)
	s.Close()
	s.Close()
	if n := c.Timers(); n != 0 {
		t.Fatalf("%d timers after Close", n)
	}
	if err := s.SetE(ctx, "k", nil, 0, time.Second); !errors.Is(err, store.ErrClosed) {
		t.Fatal(err)
	}
	if err := s.Ready(ctx); !errors.Is(err, store.ErrClosed) {
		t.Fatal(err)
	}
}

// TestPollsShareTheValue has many wait for one large value, which is in memory once.
func TestPollsShareTheValue(t *testing.T) {
	s := Open(Options{})
	defer s.Close()
	ctx := context.Background()
	if err := s.Set(ctx, "k", []byte("first")); err != nil {
		t.Fatal(err)
	}
	begin, err := s.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	what := store.Watch{Key: "k", From: begin.Revision + 1}
	var polls sync.WaitGroup
	var values [2][]byte
	for i := range values {
		polls.Go(func() {
			events, _, err := s.Poll(ctx, engine.Keys, what, 10*time.Second, 1)
			if err != nil || len(events) != 1 {
				t.Error(events, err)
				return
			}
			values[i] = events[0].Value
		})
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if i, err := s.Info(ctx); err != nil || time.Now().After(end) {
			t.Fatal("nobody waits", err)
		} else if i.Watches == len(values) {
			break
		}
	}
	if err := s.Set(ctx, "k", []byte("second")); err != nil {
		t.Fatal(err)
	}
	polls.Wait()
	if t.Failed() {
		return
	}
	if string(values[0]) != "second" || &values[0][0] != &values[1][0] {
		t.Errorf("%q at %p and %q at %p", values[0], values[0], values[1], values[1])
	}
}
