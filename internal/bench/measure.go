package main

import (
	"errors"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// metrics are figures by name; the name has the unit.
type metrics map[string]float64

// The metrics of an operation. ns/op is elapsed time by operations of all
// workers, as go test has it.
const (
	nsPerOp     = "ns/op"
	opsPerSec   = "ops/s"
	allocsPerOp = "allocs/op"
	bytesPerOp  = "B/op"
	bytesPerKey = "B/key"
)

// operation does one operation, the worker's ith, and tells whether it found what
// it must find.
type operation func(key string, i int) bool

var errMissed = errors.New("an operation did not find what must be there, or found what must not")

// timed has one worker per stream do op for d, after a collection of what others
// left.
func timed(d time.Duration, streams []stream, op operation) (metrics, error) {
	runtime.GC()
	return timedNoGC(d, streams, op)
}

// timedNoGC is timed without the collection.
func timedNoGC(d time.Duration, streams []stream, op operation) (metrics, error) {
	const batch = 128 // operations between two looks at the time
	var stop atomic.Bool
	return parallel(len(streams), func(w int) (ops, missed int) {
		if w == 0 {
			time.AfterFunc(d, func() { stop.Store(true) })
		}
		s := streams[w]
		at := 0
		for !stop.Load() {
			if at+batch > s.len() {
				at = 0
			}
			for i := range min(batch, s.len()) {
				if !op(s.key(at+i), ops+i) {
					missed++
				}
			}
			at += batch
			ops += min(batch, s.len())
		}
		return ops, missed
	})
}

// once has the workers do op once with each of n keys, each worker with its
// share of them.
func once(n int, key func(i int) string, op operation) (metrics, error) {
	workers := procs()
	runtime.GC()
	return parallel(workers, func(w int) (ops, missed int) {
		from, to := w*n/workers, (w+1)*n/workers
		for i := from; i < to; i++ {
			if !op(key(i), i) {
				missed++
			}
		}
		return to - from, missed
	})
}

// parallel measures what workers do together.
func parallel(workers int, work func(w int) (ops, missed int)) (metrics, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)

	var ops, missed atomic.Int64
	var rate struct {
		sync.Mutex
		sum float64
	}
	var wg sync.WaitGroup
	start := make(chan struct{})
	for w := range workers {
		wg.Go(func() {
			<-start
			began := time.Now()
			n, m := work(w)
			elapsed := time.Since(began)
			ops.Add(int64(n))
			missed.Add(int64(m))
			rate.Lock()
			rate.sum += float64(n) / elapsed.Seconds()
			rate.Unlock()
		})
	}
	close(start)
	wg.Wait()

	runtime.ReadMemStats(&after)
	if missed.Load() > 0 {
		return nil, errMissed
	}
	n := float64(max(1, ops.Load()))
	return metrics{
		nsPerOp:     1e9 / rate.sum,
		opsPerSec:   rate.sum,
		allocsPerOp: float64(after.Mallocs-before.Mallocs) / n,
		bytesPerOp:  float64(after.TotalAlloc-before.TotalAlloc) / n,
	}, nil
}

// heap is how many bytes are in use once all garbage is gone.
func heap() float64 {
	// The second collection takes what finalizers, cleanups and pools of the
	// first let go.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// settle makes every peer begin alike: with an empty heap whose pages the
// system has taken back.
func settle() { debug.FreeOSMemory() }

// overhead is what the harness itself adds to each operation.
func overhead(streams []stream, d time.Duration) float64 {
	m, _ := timed(d, streams, func(key string, _ int) bool { return len(key) == keySize })
	return m[nsPerOp]
}
