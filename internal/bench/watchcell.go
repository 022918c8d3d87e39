package main

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"
)

// The metrics of watches.
const (
	lateP50Micros   = "p50 µs after Set returned (0: before)"
	lateP99Micros   = "p99 µs after Set returned (0: before)"
	earlyPercent    = "% of events before Set returned"
	opsUnwatched    = "ops/s without watchers"
	heapPerWatcher  = "heap B/watcher"
	stackPerWatcher = "stack B/watcher"
	cpuUnwatched    = "CPU ms/s without watchers"
)

const (
	watchedFirst  = 2_000_000_000 // number of the first key of those that are watched and not written
	watchesAtOnce = 64            // watches that are being opened at once
)

// watch sets a key that is watched by way of the same member, and waits for the
// event, over and over.
func (c *cell) watch(m member, w watcher, f *failures) metrics {
	ctx, cancel := context.WithTimeout(context.Background(), c.Time+opPatience)
	defer cancel()
	watches := w.Watches()
	one := newCaller(0, c.Data.keys(), c.Data.Size)
	key := one.keys[0]
	opened := make(chan struct{})
	events := make(chan time.Time, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- watches.Watch(key, func() { close(opened) }, func() {
			select {
			case events <- time.Now():
			case <-ctx.Done():
			}
		})
	}()
	var late durations
	early := 0
	once := func(warm time.Time) (err error) {
		if err := m.Set(ctx, key, one.of(key)); err != nil {
			return err
		}
		returned := time.Now()
		select {
		case at := <-events:
			if returned.After(warm) {
				if at.Before(returned) {
					early++
				}
				late.record(at.Sub(returned)) // which counts less than 0 as 0
			}
			return nil
		case err := <-ended:
			return errors.Join(errors.New("the watch has ended"), err)
		case <-ctx.Done():
			return errors.New("the event has not come")
		}
	}
	select {
	case <-opened:
	case err := <-ended:
		f.add(errors.Join(errors.New("the watch has ended"), err))
		return metrics{}
	}
	defer func() {
		cancel()
		f.add(watches.Close())
	}()
	warm := time.Now().Add(c.Time / warmUpShare)
	for end := warm.Add(c.Time); time.Now().Before(end); {
		if err := once(warm); err != nil {
			// An event may be on its way still, and would be taken for the next.
			f.add(err)
			return metrics{}
		}
	}
	figures := metrics{}
	if n := late.total(); n > 0 {
		figures[lateP50Micros] = micros(int64(late.quantile(0.50)))
		figures[lateP99Micros] = micros(int64(late.quantile(0.99)))
		figures[earlyPercent] = 100 * float64(early) / float64(n)
	}
	return figures
}

// watched compares writes beside watchers of other keys with writes beside none.
func (c *cell) watched(m member, w watcher, f *failures) metrics {
	keys := data{First: watchedFirst, Keys: c.Watchers}.keys()
	var with, without []outcome
	beside := func() {
		stop := watchAll(w, keys, f)
		with = append(with, c.part("write", c.Callers).run(m))
		stop()
	}
	alone := func() { without = append(without, c.part("write", c.Callers).run(m)) }
	for i := range stints {
		// Neither is always the one that comes after the other.
		if i%2 == 0 {
			alone()
			beside()
		} else {
			beside()
			alone()
		}
	}
	return metrics{
		opsPerSec:    c.median(with, opsPerSec, f),
		opsUnwatched: c.median(without, opsPerSec, f),
	}
}

// watchers tells what watchers take of memory and processors when nothing happens.
// One watcher is there before: what the first one has a store begin is not of each.
func (c *cell) watchers(w watcher, f *failures) metrics {
	keys := data{First: watchedFirst, Keys: c.Watchers + 1}.keys()
	stopOne := watchAll(w, keys[:1], f)
	idleBefore := idleMetrics(c.Time)
	heapBefore, stackBefore := heap(), stack()
	stop := watchAll(w, keys[1:], f)
	heapAfter, stackAfter := heap(), stack()
	idle := idleMetrics(c.Time)
	stop()
	stopOne()
	runtime.KeepAlive(keys)
	n := float64(c.Watchers)
	return metrics{
		heapPerWatcher:  (heapAfter - heapBefore) / n,
		stackPerWatcher: (stackAfter - stackBefore) / n,
		cpuAtRest:       idle[cpuAtRest],
		cpuUnwatched:    idleBefore[cpuAtRest],
	}
}

// stack is what the stacks of all goroutines take. It is called after heap, which
// has collected those that have ended.
func stack() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.StackInuse)
}

// watchAll has a goroutine each watch one of the keys, and returns when all watches
// have been opened, or have failed. stop ends them.
func watchAll(w watcher, keys []string, f *failures) (stop func()) {
	watches := w.Watches()
	opening := make(chan struct{}, watchesAtOnce)
	var wg sync.WaitGroup
	ignore := func() {}
	for _, key := range keys {
		opening <- struct{}{}
		wg.Go(func() {
			opened := false
			err := watches.Watch(key, func() { opened = true; <-opening }, ignore)
			if !opened {
				<-opening
			}
			f.add(err)
		})
	}
	for range watchesAtOnce {
		opening <- struct{}{}
	}
	return func() {
		f.add(watches.Close())
		wg.Wait()
	}
}
