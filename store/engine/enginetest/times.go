package enginetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"dkv/store/engine"

	"pgregory.net/rapid"
)

var timeChecks = []check{
	{"LongestDurationsDoNotOverflow", func(t rapid.TB, f engine.Factory) {
		now := time.Duration(1 << 62)
		byClock, byTicks := f.New(clockAt(&now)), f.New(engine.Options{})
		byTicks.Tick(1<<62, 0)
		for _, e := range []engine.Engine{byClock, byTicks} {
			set(e, "greatest", "v", math.MaxInt64, math.MaxInt64)
			set(e, "nearly", "v", math.MaxInt64-1, math.MaxInt64-1)
			set(e, "value", "v", math.MaxInt64-2, 0)
			set(e, "key", "v", 0, math.MaxInt64-2)
			set(e, "both", "v", 1<<62, math.MaxInt64)
		}
		now += time.Hour
		byTicks.Tick(time.Hour, time.Hour)
		byTicks.Tick(time.Hour, 0)
		look := func(what string, e engine.Engine) {
			for _, key := range []string{"greatest", "nearly", "value", "key", "both"} {
				e, ok := e.Entry(engine.Keys, key)
				if !ok || e.Expired || e.ExpireIn < 0 || e.DeleteIn < 0 {
					t.Errorf("%s: %s is %+v, %v", what, key, e, ok)
				}
			}
			if n := e.Reap(10); n != 0 {
				t.Errorf("%s: %d deadlines were carried out", what, n)
			}
			if at, ok := e.NextDeadline(); ok && at <= e.Now() {
				t.Errorf("%s: the next deadline is at %d, which has passed", what, at)
			}
		}
		look("by a clock", byClock)
		look("by ticks", byTicks)
		look("by a clock, loaded", loadedFrom(t, f, savedBy(t, byClock), clockAt(&now)))
		look("by ticks, loaded", loadedFrom(t, f, savedBy(t, byTicks), engine.Options{}))
	}},
	{"LoadWithAClockLeavesTheTimeThatWasLeft", func(t rapid.TB, f engine.Factory) {
		now := 100 * time.Hour
		old := f.New(clockAt(&now))
		set(old, "k", "v", time.Minute, time.Hour)
		set(old, "due", "v", time.Second, 0)
		set(old, "over", "v", 0, time.Second)
		now += 10 * time.Second
		b := savedBy(t, old)

		later := time.Second // another process, whose clock has just begun
		e := loadedFrom(t, f, b, clockAt(&later))
		if e, ok := e.Entry(engine.Keys, "k"); !ok || e.ExpireIn != 50*time.Second || e.DeleteIn != time.Hour-10*time.Second {
			t.Errorf("k is %+v, %v", e, ok)
		}
		if e, ok := e.Entry(engine.Keys, "due"); !ok || !e.Expired {
			t.Errorf("due is %+v, %v", e, ok)
		}
		if e, ok := e.Entry(engine.Keys, "over"); ok {
			t.Errorf("over is %+v", e)
		}
		if n := e.Reap(10); n != 2 {
			t.Errorf("%d deadlines were carried out, want those of due and over", n)
		}
		if at, ok := e.NextDeadline(); !ok || at > 51*time.Second || at <= later {
			t.Errorf("the next deadline is at %v, %v", at, ok)
		}
	}},
	{"DeadlinesOfManyKeysAreCarriedOutInOrder", func(t rapid.TB, f engine.Factory) {
		manyDeadlines(t, f, rounds(400, 200))
	}},
	{"RenewingOneKeyForEverTakesNoMemory", func(t rapid.TB, f engine.Factory) {
		const times, atMost = 200_000, 4 << 20
		byClock, byTicks := f.New(standing()), f.New(engine.Options{})
		before := heap()
		for n := range times {
			set(byClock, "session", "v", time.Hour, 2*time.Hour)
			set(byTicks, "session", "v", time.Hour, 2*time.Hour)
			if n%100 == 0 {
				byTicks.Tick(time.Second, 0)
			}
		}
		if after := heap(); after > before+atMost {
			t.Errorf("%d bytes more after a key was set %d times", after-before, times)
		}
		for _, e := range []engine.Engine{byClock, byTicks} {
			if info := infoOf(e); info.Keys != 1 || info.Revision != times {
				t.Errorf("one key was set %d times: %+v", times, info)
			}
			checkInvariants(t, e)
		}
	}},
}

// manyDeadlines tells by the bytes that are left which deadline was carried out:
// each key and value has its own length.
func manyDeadlines(t rapid.TB, f engine.Factory, keys int) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	got, want := f.New(engine.Options{}), Naive.New(engine.Options{})
	tick := func(elapsed, lag time.Duration) {
		got.Tick(elapsed, lag)
		want.Tick(elapsed, lag)
	}
	// Deadlines a few nanoseconds apart, in the same second and far apart.
	span := func() time.Duration {
		scale := []time.Duration{1, time.Millisecond, time.Hour}[random.IntN(3)]
		return scale * time.Duration(random.IntN(20))
	}
	for i := range keys {
		op := engine.Op{
			Kind: engine.Set, Key: strings.Repeat("k", 1+i/20) + fmt.Sprint(i%20), Value: make([]byte, 50*i),
			ExpireIn: span(), DeleteIn: span(),
		}
		got.Apply(&op, 0)
		want.Apply(&op, 0)
		if random.IntN(20) == 0 {
			elapsed := time.Duration(random.IntN(10)) * time.Millisecond
			tick(elapsed, elapsed/2)
		}
	}
	for _, elapsed := range []time.Duration{0, 0, time.Nanosecond, time.Second, time.Hour, 100 * time.Hour} {
		tick(elapsed, 0)
		for step := 0; ; step++ {
			n := got.Reap(1)
			if n != want.Reap(1) {
				t.Fatalf("seed %d, time %d, step %d: %d deadlines were carried out", seed, got.Now(), step, n)
			}
			if a, b := infoOf(got).Bytes, infoOf(want).Bytes; a != b {
				t.Fatalf("seed %d, time %d, step %d: %d bytes are left, want %d", seed, got.Now(), step, a, b)
			}
			if n == 0 {
				break
			}
		}
	}
	checkInvariants(t, got)
}

// heap is the memory that is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // for what finalizers and pools held
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
