package main

import (
	"encoding/json"
	"os"
	rtmetrics "runtime/metrics"
	"strings"
	"testing"
	"time"
)

func readDocument(path string) (d document, err error) {
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	return d, err
}

func TestKeysAreAllThereOnceAndAsLongAsSaid(t *testing.T) {
	const first, n = 1000, 5000
	ks := newKeyset(first, n, 2)
	seen := make(map[string]bool)
	inOrder := 0
	for i, key := range ks.keys() {
		if len(key) != keySize || !strings.HasPrefix(key, "key-000000000") {
			t.Fatalf("%q", key)
		}
		if i > 0 && key > ks.key(i-1) {
			inOrder++
		}
		seen[key] = true
	}
	if len(seen) != n {
		t.Fatalf("%d keys, not %d", len(seen), n)
	}
	if inOrder < n/3 || inOrder > 2*n/3 {
		t.Fatalf("%d of %d keys are greater than the one before", inOrder, n)
	}
	for i := range n {
		key := ks.deletes.key(i)
		if !seen[key] {
			t.Fatalf("%q is no key, or twice among those to delete", key)
		}
		delete(seen, key)
	}
}

func TestStreamsAreDistributedAsTheyAreNamed(t *testing.T) {
	const n = 10_000
	ks := newKeyset(0, n, 2)
	known := make(map[string]bool)
	for _, key := range ks.keys() {
		known[key] = true
	}
	most := make(map[string]float64) // the share of the key that comes most often
	for _, d := range distributions {
		if len(ks.streams[d]) != 2 {
			t.Fatalf("%d streams", len(ks.streams[d]))
		}
		s := ks.streams[d][1]
		counts := make(map[string]int)
		for i := range s.len() {
			counts[s.key(i)]++
		}
		for key, c := range counts {
			if !known[key] {
				t.Fatalf("%s: %q is no key", d, key)
			}
			most[d] = max(most[d], float64(c)/float64(s.len()))
		}
	}
	if most["uniform"] > 0.005 || most["zipf"] < 0.05 {
		t.Fatalf("the share of the most wanted key: %v", most)
	}
}

var sink []byte

func TestAllocationsAreCounted(t *testing.T) {
	ks := newKeyset(0, 1000, 1)
	for _, want := range []int{0, 1, 3} {
		m, err := timed(10*time.Millisecond, ks.streams["uniform"], func(string, int) bool {
			for range want {
				sink = make([]byte, 64)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := m[allocsPerOp] - float64(want); d < 0 || d > 0.01 {
			t.Errorf("%v allocations, want %d", m[allocsPerOp], want)
		}
		if d := m[bytesPerOp] - float64(64*want); d < 0 || d > 1 {
			t.Errorf("%v bytes, want %d", m[bytesPerOp], 64*want)
		}
	}
}

func TestTimeIsElapsedByOperationsOfAllWorkers(t *testing.T) {
	ks := newKeyset(0, 1000, 2)
	began := time.Now()
	m, err := timed(50*time.Millisecond, ks.streams["uniform"], func(string, int) bool {
		time.Sleep(100 * time.Microsecond)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if elapsed := time.Since(began); elapsed < 50*time.Millisecond {
		t.Errorf("it took %v", elapsed)
	}
	// Two workers, each at least 100 µs per operation.
	if m[nsPerOp] < 50_000 {
		t.Errorf("%v ns", m[nsPerOp])
	}
	if rate := m[nsPerOp] * m[opsPerSec]; rate < 0.99e9 || rate > 1.01e9 {
		t.Errorf("%v ns per operation at %v per second", m[nsPerOp], m[opsPerSec])
	}
}

func TestOnceDoesEachKeyOnceAndTellsOfMisses(t *testing.T) {
	counts := make([]int, 1001)
	key := func(i int) string { return "" }
	if _, err := once(len(counts), key, func(_ string, i int) bool { counts[i]++; return true }); err != nil {
		t.Fatal(err)
	}
	for i, c := range counts {
		if c != 1 {
			t.Fatalf("key %d came %d times", i, c)
		}
	}
	if _, err := once(10, key, func(_ string, i int) bool { return i != 7 }); err == nil {
		t.Fatal("a miss went unnoticed")
	}
}

func TestRatioIsTheMedianOfTheRounds(t *testing.T) {
	g := []group{{workloads: []string{"w"}}}
	ps := []*peer{{name: "a"}, {name: "b"}}
	var samples []sample
	// The second round ran on a machine ten times as slow.
	for round, values := range [][2]float64{{2, 1}, {20, 10}, {9, 3}} {
		samples = append(samples,
			sample{"w", "a", round, metrics{nsPerOp: values[0]}},
			sample{"w", "b", round, metrics{nsPerOp: values[1]}})
	}
	r := mapleResults(samples, g, ps)
	a, b := figure{"w", "a", nsPerOp}, figure{"w", "b", nsPerOp}
	if got, ok := r.ratio(a, b); !ok || got != 2 {
		t.Errorf("ratio %v", got)
	}
	if got, ok := r.median(a); !ok || got != 9 {
		t.Errorf("median %v", got)
	}
	if got := r.spread(b); got != 10 {
		t.Errorf("spread %v", got)
	}
	if _, ok := r.ratio(a, figure{"w", "c", nsPerOp}); ok {
		t.Error("a ratio to what was not measured")
	}
	if got, _ := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median %v", got)
	}
}

func TestVerdicts(t *testing.T) {
	most := bar{bar: 2, stretch: 1}
	least := bar{bar: 1, stretch: 2, least: true}
	for _, c := range []struct {
		bar
		v    float64
		want string
	}{
		{most, 3, "miss"}, {most, 2, "pass"}, {most, 1, "stretch"},
		{least, 0.5, "miss"}, {least, 1, "pass"}, {least, 2, "stretch"},
	} {
		if got := c.verdict(c.v, true); got != c.want {
			t.Errorf("%v: %s, want %s", c.v, got, c.want)
		}
	}
	if got := most.verdict(0, false); got != "not measured" {
		t.Error(got)
	}
}

func TestPauseQuantileIsOfWhatCameBetween(t *testing.T) {
	buckets := []float64{0, 1, 2, 3, 4}
	before := &rtmetrics.Float64Histogram{Counts: []uint64{5, 0, 0, 9}, Buckets: buckets}
	after := &rtmetrics.Float64Histogram{Counts: []uint64{5, 3, 1, 9}, Buckets: buckets}
	if got := pauseQuantile(before, after, 0.5); got != 2 {
		t.Errorf("the middle one: %v", got)
	}
	if got := pauseQuantile(before, after, 1); got != 3 {
		t.Errorf("the longest: %v", got)
	}
	if got := pauseQuantile(after, after, 1); got != 0 {
		t.Errorf("none: %v", got)
	}
}
