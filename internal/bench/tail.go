package main

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Minute), 3)
}

// record adds a latency; one over the histogram's range counts as its greatest.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	if h.RecordValue(int64(d)) != nil {
		_ = h.RecordValue(h.HighestTrackableValue())
	}
}

func micros(ns int64) float64 { return float64(ns) / 1e3 }

// In the tail workloads, Set is called at fixed times, and each latency counts from the time at which
// the call was due, so that what a stall delays is counted and not only the one
// call that it hit. One worker less than there are processors leaves one to
// what runs beside it.
func setters() int { return max(1, procs()-1) }

// paced has workers call set at the interval until stop, and returns the
// latencies.
func paced(e engine, streams []stream, values values, interval time.Duration, stop *atomic.Bool) *hdrhistogram.Histogram {
	var wg sync.WaitGroup
	histograms := make([]*hdrhistogram.Histogram, setters())
	for w := range histograms {
		h := newHistogram()
		histograms[w] = h
		s := streams[w]
		wg.Go(func() {
			began := time.Now()
			due := time.Duration(0)
			for i := 0; !stop.Load(); {
				if time.Since(began) < due {
					continue // sleeping would wake up too late
				}
				e.Set(s.key(i%s.len()), values.at(i))
				record(h, time.Since(began)-due)
				due += interval
				i++
			}
		})
	}
	wg.Wait()
	for _, h := range histograms[1:] {
		histograms[0].Merge(h)
	}
	return histograms[0]
}

// pace finds the interval at which a worker is busy half of its time, but not
// less than 5 µs.
func pace(e engine, streams []stream, values values, d time.Duration) (time.Duration, error) {
	m, err := timed(d, streams[:setters()], func(key string, i int) bool {
		e.Set(key, values.at(i))
		return true
	})
	if err != nil {
		return 0, err
	}
	perWorker := m[nsPerOp] * float64(setters())
	return max(5*time.Microsecond, time.Duration(2*perWorker)), nil
}

// tail compares the latencies of Set with nothing beside it, with work that has
// nothing to do with the engine, with a Save and with a Scan over and over.
//
// Whatever keeps another processor busy shows in the latencies: the system and the
// garbage collector then have none for themselves. So what Save and Scan do to
// Set is what they do beyond that other work.
func tail(size int) group {
	const quiet, busy, beside = "tail-quiet", "tail-busy", "tail-"
	name := func(what string) string { return fmt.Sprintf("%s/%d", what, size) }
	return group{
		workloads: []string{name(quiet), name(busy), name(beside + "save"), name(beside + "scan")},
		keys:      runKeys,
		run: func(t *turn) error {
			values := newValues(size)
			e, err := t.open(false)
			if err != nil {
				return err
			}
			defer e.Close()
			if err := t.fill(e, values); err != nil {
				return err
			}
			streams := t.keys.streams["uniform"]
			interval, err := pace(e, streams, values, t.time/2)
			if err != nil {
				return err
			}
			window := 2 * t.time

			var stop atomic.Bool
			runtime.GC() // so that none, or as many, begin in either window
			time.AfterFunc(window, func() { stop.Store(true) })
			h := paced(e, streams, values, interval, &stop)
			m := latencies(h)
			m["interval µs"] = micros(int64(interval))
			if err := t.record(name(quiet), m, nil); err != nil {
				return err
			}
			calm := m["p99.9 µs"]

			// The others are compared with it, so it is measured with them.
			m, err = besides(e, streams, values, interval, window, func() error { return work(streams) })
			if err == nil {
				m["p99.9 × quiet"] = m["p99.9 µs"] / calm
			}
			if err := t.record(name(busy), m, err); err != nil {
				return err
			}
			other := m["p99.9 µs"]

			for _, load := range loads(e) {
				workload := name(beside + load.name)
				if !t.wants(workload) {
					continue
				}
				m, err := besides(e, streams, values, interval, window, load.run)
				if err == nil {
					m["p99.9 × quiet"] = m["p99.9 µs"] / calm
					m["p99.9 × busy"] = m["p99.9 µs"] / other
				}
				if err := t.record(workload, m, err); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// work reads a lot of memory that is not the engine's, here and there, and writes a
// little, for some tens of milliseconds.
func work(streams []stream) error {
	sum := 0
	for _, s := range streams {
		for i := range s.len() {
			sum += int(s.slab[i*7919%len(s.slab)])
		}
	}
	if sum == 0 {
		return errMissed // they are letters and digits
	}
	return nil
}

type load struct {
	name string
	run  func() error
}

// loads are what e can do beside writes.
func loads(e engine) (loads []load) {
	if s, ok := e.(saver); ok {
		loads = append(loads, load{"save", func() error { return s.Save(io.Discard) }})
	}
	if s, ok := e.(scanner); ok {
		loads = append(loads, load{"scan", func() error {
			s.Scan(func(string, []byte) bool { return true })
			return nil
		}})
	}
	return loads
}

// besides measures Set while run runs over and over, at least once and for at
// least as long as window.
func besides(e engine, streams []stream, values values, interval, window time.Duration, run func() error) (metrics, error) {
	var stop atomic.Bool
	var runs int
	var err error
	runtime.GC()
	go func() {
		defer stop.Store(true)
		for began := time.Now(); err == nil && time.Since(began) < window; runs++ {
			err = run()
		}
	}()
	h := paced(e, streams, values, interval, &stop)
	m := latencies(h)
	m["runs"] = float64(runs)
	return m, err
}

func latencies(h *hdrhistogram.Histogram) metrics {
	return metrics{
		"p50 µs":   micros(h.ValueAtQuantile(50)),
		"p99.9 µs": micros(h.ValueAtQuantile(99.9)),
		"max µs":   micros(h.Max()),
	}
}
