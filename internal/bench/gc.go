package main

import (
	"runtime"
	rtmetrics "runtime/metrics"
	"time"
)

const gcName = "gc/128"

// collection is what a great number of keys costs the garbage collector of the
// program they live in: while Set overwrites them, and for one collection at
// rest.
var collection = group{
	workloads: []string{gcName},
	rounds:    3, // they take long, and the counts hardly vary
	keys:      func(s *settings) *keyset { return s.keyset(0, s.gcKeys) },
	run: func(t *turn) error {
		values := newValues(128)
		e, err := t.open(false)
		if err != nil {
			return err
		}
		defer e.Close()
		if err := t.fill(e, values); err != nil {
			return err
		}
		runtime.GC()
		began := time.Now()
		runtime.GC()
		rest := time.Since(began)

		before := readGC()
		// Long enough for a few collections, but not for ever for a peer that
		// makes no garbage.
		var ns []float64
		const cycles, limit = 2, 15
		for i := 0; i < limit && readGC().cycles < before.cycles+cycles; i++ {
			m, err := timedNoGC(t.time, t.keys.streams["uniform"], func(key string, i int) bool {
				e.Set(key, values.at(i))
				return true
			})
			if err != nil {
				return err
			}
			ns = append(ns, m[nsPerOp])
		}
		after := readGC()
		set, _ := median(ns)
		m := metrics{
			"GC at rest ms": rest.Seconds() * 1e3,
			"GC cycles":     float64(after.cycles - before.cycles),
			"pause max µs":  pauseQuantile(before.pauses, after.pauses, 1) * 1e6,
			"pause p50 µs":  pauseQuantile(before.pauses, after.pauses, 0.5) * 1e6,
			"Set ns/op":     set,
		}
		// The processor's time is told at the end of each collection.
		if total := after.total - before.total; total > 0 {
			m["GC CPU %"] = 100 * (after.gc - before.gc) / total
		}
		return t.record(gcName, m, nil)
	},
}

type gcStats struct {
	cycles    uint64
	gc, total float64 // processor seconds until the last collection
	pauses    *rtmetrics.Float64Histogram
}

func readGC() gcStats {
	samples := []rtmetrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/sched/pauses/total/gc:seconds"},
	}
	rtmetrics.Read(samples)
	return gcStats{
		cycles: samples[0].Value.Uint64(),
		gc:     samples[1].Value.Float64(),
		total:  samples[2].Value.Float64(),
		pauses: samples[3].Value.Float64Histogram(),
	}
}

// pauseQuantile is the quantile q of the pauses between two readings: the upper
// edge of its bucket, or the lower one if that has none.
func pauseQuantile(before, after *rtmetrics.Float64Histogram, q float64) float64 {
	counts := make([]uint64, len(after.Counts))
	total := uint64(0)
	for i := range counts {
		counts[i] = after.Counts[i] - before.Counts[i]
		total += counts[i]
	}
	if total == 0 {
		return 0
	}
	rank, seen := uint64(q*float64(total-1))+1, uint64(0)
	for i, n := range counts {
		if seen += n; seen >= rank {
			if edge := after.Buckets[i+1]; edge < 1e9 {
				return edge
			}
			return after.Buckets[i]
		}
	}
	return 0
}
