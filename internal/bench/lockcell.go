package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// The metrics of locks and transactions beside what they are compared with.
const (
	loneP50Micros = "p50 µs of a lone write"
	setsP50Micros = "p50 µs of 10 writes at once"
)

// stints are how often the two sides of a comparison take turns within a cell: what
// else the machine does then meets both alike.
const stints = 4

// measure measures the cell on m, be it callers that do the same over and over or
// something else.
func (c *cell) measure(m member) outcome {
	var f failures
	var figures metrics
	switch c.Workload {
	case handoverWorkload:
		if l, ok := m.(locker); ok {
			figures = c.handover(m, l, &f)
		}
	case txnWorkload:
		if t, ok := m.(transactor); ok {
			figures = c.txn(m, t, &f)
		}
	case watchWorkload:
		if w, ok := m.(watcher); ok {
			figures = c.watch(m, w, &f)
		}
	case watchedWorkload:
		if w, ok := m.(watcher); ok {
			figures = c.watched(m, w, &f)
		}
	case watchersWorkload:
		if w, ok := m.(watcher); ok {
			figures = c.watchers(w, &f)
		}
	default:
		return c.run(m)
	}
	return outcome{Metrics: figures, Failed: int(f.n.Load()), Error: f.text()}
}

// lock takes the caller's own lock and gives it up.
func (c *caller) lock(ctx context.Context) error {
	c.wrote = true
	unlock, err := c.locks.Lock(ctx, c.keys[c.number%len(c.keys)])
	if err != nil {
		return err
	}
	return unlock(ctx)
}

// openLocks returns the ways of n callers to the locks of a member, and what closes
// them. Nothing that is measured has begun before all are there.
func openLocks(l locker, n int) (all []locks, closeAll func() error, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), opPatience)
	defer cancel()
	all = make([]locks, n)
	closeAll = func() error {
		return atOnce(n, func(i int) error {
			if all[i] == nil {
				return nil
			}
			return all[i].Close()
		})
	}
	err = atOnce(n, func(i int) (err error) {
		all[i], err = l.Locks(ctx)
		return err
	})
	if err != nil {
		return nil, nil, errors.Join(err, closeAll())
	}
	return all, closeAll, nil
}

// part is the cell of one of the stints, if what is done in it is the workload.
func (c *cell) part(workload string, callers int) *cell {
	return &cell{Workload: workload, Callers: callers, Data: c.Data, Time: c.Time / stints}
}

// median is that of a metric of a cell that is part of this one, over its stints.
func (c *cell) median(parts []outcome, metric string, f *failures) float64 {
	var values []float64
	for _, o := range parts {
		if o.Failed > 0 {
			f.add(errors.New(o.Error))
		}
		if v, ok := o.Metrics[metric]; ok {
			values = append(values, v)
		}
	}
	v, _ := median(values)
	return v
}

// handover has callers wait for one lock, each of which gives it up at once and
// waits again. What is measured is the time from when a holder begins to give it up
// until the next one knows that it holds it.
func (c *cell) handover(m member, l locker, f *failures) metrics {
	all, closeAll, err := openLocks(l, c.Callers)
	if err != nil {
		f.add(err)
		return metrics{}
	}
	defer func() { f.add(closeAll()) }()
	var took durations
	var counted time.Duration
	var lone []outcome
	for range stints {
		lone = append(lone, c.part("write", 1).run(m))
		counted += c.queue(all, &took, f)
	}
	figures := metrics{}
	if v := c.median(lone, p50Micros, f); v > 0 {
		figures[loneP50Micros] = v
	}
	if took.total() > 0 {
		figures[opsPerSec] = float64(took.total()) / counted.Seconds()
		figures[p50Micros] = micros(int64(took.quantile(0.50)))
		figures[p99Micros] = micros(int64(took.quantile(0.99)))
	}
	return figures
}

// queue is one stint of handover. It returns how long it counted.
func (c *cell) queue(all []locks, took *durations, f *failures) time.Duration {
	const name = "waited-for"
	var (
		began          = time.Now()
		counting, stop atomic.Bool
		givenUp        atomic.Int64 // when the last holder began to, since began
		holders        atomic.Int64 // how many there have been
		wg             sync.WaitGroup
	)
	each := c.Time / stints
	patience := each + opPatience
	for _, mine := range all {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			defer cancel()
			for !stop.Load() {
				unlock, err := mine.Lock(ctx, name)
				now := time.Since(began)
				if err != nil {
					f.add(err)
					time.Sleep(failurePause)
					continue
				}
				if before := givenUp.Load(); before > 0 && counting.Load() {
					took.record(now - time.Duration(before))
				}
				holders.Add(1)
				givenUp.Store(int64(time.Since(began)))
				f.add(unlock(ctx))
			}
		})
	}
	// When so many have held it, all have come to wait.
	for holders.Load() < int64(len(all)) && time.Since(began) < patience {
		time.Sleep(time.Millisecond)
	}
	from := time.Now()
	counting.Store(true)
	time.Sleep(each)
	counting.Store(false)
	counted := time.Since(from)
	stop.Store(true)
	wg.Wait()
	return counted
}

// txn makes some writes as one transaction and then as many at once, and so on.
func (c *cell) txn(m member, t transactor, f *failures) metrics {
	ctx, cancel := context.WithTimeout(context.Background(), c.Time+opPatience)
	defer cancel()
	keys := c.Data.keys()
	one := newCaller(0, keys, c.Data.Size)
	var together, atTheSameTime durations
	warm := time.Now().Add(c.Time / warmUpShare)
	for end := warm.Add(c.Time); time.Now().Before(end); {
		from := one.rng.IntN(len(keys) - txnSets + 1)
		some := keys[from : from+txnSets]
		values := one.allOf(some)

		began := time.Now()
		err := t.SetInTxn(ctx, some, values)
		middle := time.Now()
		if err == nil {
			err = atOnce(txnSets, func(i int) error { return m.Set(ctx, some[i], values[i]) })
		}
		switch {
		case err != nil:
			f.add(err)
			time.Sleep(failurePause)
		case began.After(warm):
			together.record(middle.Sub(began))
			atTheSameTime.record(time.Since(middle))
		}
	}
	figures := metrics{}
	if together.total() > 0 {
		figures[p50Micros] = micros(int64(together.quantile(0.50)))
		figures[p99Micros] = micros(int64(together.quantile(0.99)))
		figures[setsP50Micros] = micros(int64(atTheSameTime.quantile(0.50)))
	}
	return figures
}
