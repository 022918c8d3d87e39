package maple

import (
	"fmt"
	"math/rand"
	"runtime"
	"testing"
	"time"

	"dkv/store/engine"
)

// heapAfter is how many bytes are in use once all garbage is gone.
func heapAfter() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSizeIsWithinFivePercentOfHeapGrowth fills DBs with entries of all sorts: as
// the sizes differ, and the order in which keys come, so does what an entry takes
// beyond its record.
func TestSizeIsWithinFivePercentOfHeapGrowth(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	key := func(format string) func(i, n int) string {
		return func(i, n int) string { return fmt.Sprintf(format, i) }
	}
	shuffled := func(f func(i, n int) string) func(i, n int) string {
		return func(i, n int) string { return f(i*7919%n, n) }
	}
	bytes := func(size int) func(i, n int) string {
		return func(i, n int) string {
			b := make([]byte, size)
			random.Read(b)
			return string(b)
		}
	}
	for _, c := range []struct {
		name  string
		n     int
		key   func(i, n int) string
		value int
		ttl   time.Duration
	}{
		{"digits, 16 B", 400_000, shuffled(key("key-%013d")), 16, 0},
		{"digits in order, 16 B", 400_000, key("key-%013d"), 16, 0},
		{"random, 16 B", 300_000, bytes(17), 16, 0},
		{"random of 8, none", 500_000, bytes(8), 0, 0},
		{"digits, 128 B", 200_000, shuffled(key("key-%013d")), 128, 0},
		{"random of 100, none", 200_000, bytes(100), 0, 0},
		{"random of 1000, 10 B", 50_000, bytes(1000), 10, 0},
		{"digits, 4 KiB", 20_000, shuffled(key("key-%013d")), 4096, 0},
		{"digits, 100 KB", 1_500, shuffled(key("key-%013d")), 100_000, 0},
		{"digits, 16 B, deadline", 400_000, shuffled(key("key-%013d")), 16, time.Hour},
		{"digits, 128 B, deadline", 200_000, shuffled(key("key-%013d")), 128, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() {
				t.SkipNow() // under the race detector memory is another
			}
			empty := heapAfter()
			db := New(engine.Options{Now: func() time.Duration { return 1 }})
			value := make([]byte, c.value)
			for i := range c.n {
				ttl := c.ttl
				if ttl > 0 {
					ttl += time.Duration(random.Int63n(int64(c.ttl)))
				}
				db.Apply(&engine.Op{Kind: engine.Set, Key: c.key(i, c.n), Value: value, DeleteIn: ttl}, 0)
			}
			heap := heapAfter() - empty
			size := db.size.Load()
			off := float64(size)/float64(heap) - 1
			t.Logf("%d B/key, reckoned %d: %+.1f %%", heap/int64(c.n), size/int64(c.n), 100*off)
			if off < -0.05 || off > 0.05 {
				t.Errorf("the size is %d, the heap has grown by %d: %+.1f %%", size, heap, 100*off)
			}
			runtime.KeepAlive(db)
		})
	}
}

func TestAllocatedIsWhatTheAllocatorTakes(t *testing.T) {
	if testing.Short() {
		t.SkipNow() // under the race detector memory is another
	}
	var before, after runtime.MemStats
	for _, n := range []int{1, 24, 25, 49, 65, 500, 513, 1000, 1024, 1025, 2000, 5000, 20_000, 32_768, 32_769, 40_000, 100_000, 1 << 20} {
		const times = 200
		var keep [times][]byte
		runtime.ReadMemStats(&before)
		for i := range keep {
			keep[i] = make([]byte, n)
		}
		runtime.ReadMemStats(&after)
		got := float64(after.TotalAlloc-before.TotalAlloc) / times
		if want := float64(allocated(n)); got > 1.02*want || got < 0.98*want && n >= 24 {
			t.Errorf("%d bytes take %.0f, not %.0f", n, got, want)
		}
		runtime.KeepAlive(keep)
	}
}
