package maple

import (
	"bytes"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// TestViewsThatAreGivenUpAtOnceLeaveNothingAndHarmNoOther has so much kept for
// views that giving one up lets writers, and others who give one up, in between.
func TestViewsThatAreGivenUpAtOnceLeaveNothingAndHarmNoOther(t *testing.T) {
	db := New(engine.Options{Now: func() time.Duration { return 1 }})
	keys := 80 * shards
	rounds := 6
	if testing.Short() {
		keys, rounds = 40*shards, 2
	}
	key := func(i int) string { return fmt.Sprint("key", i) }
	for round := range rounds {
		for i := range keys {
			set(db, key(i), "old", 0, 0)
		}
		views := []*View{db.view(), db.view()}
		for i := range keys {
			set(db, key(i), "new", 0, 0)
		}
		views = append(views, db.view())
		var wg sync.WaitGroup
		for _, v := range views {
			wg.Go(v.Release)
		}
		wg.Go(func() {
			for i := range keys {
				if i%2 == round%2 {
					db.Apply(&engine.Op{Kind: engine.Delete, Key: key(i)}, 0)
				}
			}
		})
		// A view that is opened meanwhile goes on to show what it shows.
		wg.Go(func() {
			v := db.view()
			defer v.Release()
			sum := v.Checksum()
			for range 3 {
				if v.Checksum() != sum {
					t.Error("a view changed while others were given up")
				}
			}
		})
		wg.Wait()
		if err := db.CheckInvariants(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWindowOfKeysThatSlidesTakesNoMoreThanItHolds(t *testing.T) {
	db := New(engine.Options{})
	const window = 20_000
	n := 20 * window
	if testing.Short() {
		n = 4 * window
	}
	key := func(i int) string { return fmt.Sprintf("%010d", i) }
	for i := range n {
		set(db, key(i), "", 0, 0)
		if i >= window {
			db.Apply(&engine.Op{Kind: engine.Delete, Key: key(i - window)}, 0)
		}
	}
	if err := db.CheckInvariants(); err != nil {
		t.Fatal(err)
	}
	groups, pages := db.spaces[engine.Keys].order.root.Load().groups, 0
	for _, g := range groups {
		pages += len(g.pages)
	}
	if pages > 4*window/perPage || len(groups) > 4+4*window/perPage/perGroup {
		t.Errorf("%d pages in %d groups for %d keys", pages, len(groups), window)
	}
}

// TestLongDurationsSurviveSavingAtAnyMoment saves and loads between all steps of
// the life of keys with the longest durations: none may turn into another.
func TestLongDurationsSurviveSavingAtAnyMoment(t *testing.T) {
	db := New(engine.Options{})
	reload := func() {
		t.Helper()
		v := db.view()
		defer v.Release()
		again, err := Load(bytes.NewReader(save(t, v)), engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		// The old one goes on beside the new one, and has to stay its equal.
		for _, op := range []engine.Op{
			{Kind: engine.Expire, Key: "a"},
			{Kind: engine.Expire, Key: "b"},
			{Kind: engine.Set, Key: "d", Value: []byte("v"), ExpireIn: 1},
		} {
			if x, y := db.Apply(&op, 0), again.Apply(&op, 0); x != y {
				t.Fatalf("%+v comes to %+v, and once loaded to %+v", op, x, y)
			}
		}
		x, y := db.view(), again.view()
		defer x.Release()
		defer y.Release()
		if x.Checksum() != y.Checksum() || db.size.Load() != again.size.Load() {
			t.Fatalf("the states differ; sizes %d and %d", db.size.Load(), again.size.Load())
		}
		db = again
	}
	for _, d := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, endless, endless - 1} {
		for _, key := range []string{"a", "b", "c"} {
			set(db, key, "v", time.Hour, d)
		}
		set(db, "e", "v", d, d)
		reload()
		for range 3 {
			db.Tick(time.Second, time.Millisecond)
			reload()
		}
	}
}

// TestWriteThatFitsIsNeverTurnedAwayForOneThatDoesNot has a write that is far too
// large beside small ones, which always fit.
func TestWriteThatFitsIsNeverTurnedAwayForOneThatDoesNot(t *testing.T) {
	db := New(engine.Options{Now: func() time.Duration { return 1 }})
	const limit = 100_000
	var stop atomic.Bool
	var large sync.WaitGroup
	large.Go(func() {
		for !stop.Load() {
			op := engine.Op{Kind: engine.Set, Key: "large", Value: make([]byte, limit)}
			if res := db.Apply(&op, limit); res.Refusal != engine.Full {
				t.Error("a write that does not fit is done")
			}
		}
	})
	for i := range 20_000 {
		op := engine.Op{Kind: engine.Set, Key: fmt.Sprint(i % 100), Value: make([]byte, i%50)}
		if res := db.Apply(&op, limit); res.Refusal == engine.Full {
			t.Error("a write that fits is turned away")
			break
		}
	}
	stop.Store(true)
	large.Wait()
}

func TestRemindersOfKeysThatHaveGoneAreForgotten(t *testing.T) {
	db := New(engine.Options{Now: func() time.Duration { return 1 }})
	for i := range 50_000 {
		set(db, fmt.Sprint(i), "v", time.Hour, 2*time.Hour)
	}
	for i := range 50_000 {
		db.Apply(&engine.Op{Kind: engine.Delete, Key: fmt.Sprint(i)}, 0)
	}
	n := 0
	for i := range db.expiry.lanes {
		n += db.expiry.lanes[i].n
	}
	if n > lanes*20 {
		t.Errorf("%d reminders are left of no key", n)
	}
	var info store.Info
	if db.Info(&info); info.Size != 0 {
		t.Errorf("size %d of nothing", info.Size)
	}
}
