package main

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const stallName = "expire-at-once/128"

var errLate = errors.New("the keys were not all set before they had to expire")

// stall is what a Set suffers when all keys but those it sets expire in the
// same instant.
var stall = group{
	workloads: []string{stallName},
	keys:      runKeys,
	run: func(t *turn) error {
		// How long setting all keys takes is a guess made from some of them; if
		// it was too short, a longer one is tried.
		for slack := 2; ; slack *= 2 {
			m, err := t.expireAtOnce(slack)
			if errors.Is(err, errLate) && slack < 16 {
				continue
			}
			if m == nil && err == nil {
				return nil // it cannot expire
			}
			return t.record(stallName, m, err)
		}
	},
}

func (t *turn) expireAtOnce(slack int) (metrics, error) {
	e, err := t.open(true)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	r, ok := e.(reaper)
	if !ok {
		return nil, nil
	}
	values := newValues(128)

	// The keys that stay are others than those that go.
	stay := t.keyset(t.keys.len(), max(1, t.keys.len()/16))
	if err := stay.fill(e, values); err != nil {
		return nil, err
	}
	few := max(1, t.keys.len()/20)
	lasting := func(lifetime func() time.Duration) operation {
		return func(key string, i int) bool {
			d := lifetime()
			r.SetE(key, values.at(i), d, d)
			return d > 0
		}
	}
	began := time.Now()
	if _, err := once(few, t.keys.key, lasting(func() time.Duration { return time.Hour })); err != nil {
		return nil, err
	}
	at := time.Now().Add(time.Duration(slack*t.keys.len()/few)*time.Since(began) + 2*t.time)
	if _, err := once(t.keys.len(), t.keys.key, lasting(func() time.Duration { return time.Until(at) })); err != nil {
		return nil, errLate
	}
	if time.Until(at) < t.time {
		return nil, errLate
	}

	calm, storm := newHistogram(), newHistogram()
	var stop atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range setters() {
		wg.Go(func() {
			c, s := overwrite(e, stay.streams["uniform"][w], values, at, &stop)
			mu.Lock()
			defer mu.Unlock()
			calm.Merge(c)
			storm.Merge(s)
		})
	}
	const patience = time.Minute
	time.Sleep(time.Until(at))
	for r.Len() > stay.len() && time.Since(at) < patience {
		time.Sleep(time.Millisecond)
	}
	drained := time.Since(at)
	stop.Store(true)
	wg.Wait()
	if r.Len() > stay.len() {
		return nil, errors.New("the keys did not expire")
	}

	// What the longest Set is when another processor is as long busy with
	// something else: the machine's part in it.
	var enough atomic.Bool
	go func() {
		defer enough.Store(true)
		for began := time.Now(); time.Since(began) < min(drained, 10*time.Second); {
			_ = work(stay.streams["uniform"])
		}
	}()
	busy, _ := overwrite(e, stay.streams["uniform"][0], values, time.Now().Add(time.Hour), &enough)
	return metrics{
		"max ms":       micros(storm.Max()) / 1e3,
		"p99.9 µs":     micros(storm.ValueAtQuantile(99.9)),
		"max ms quiet": micros(calm.Max()) / 1e3,
		"max ms busy":  micros(busy.Max()) / 1e3,
		"drained ms":   drained.Seconds() * 1e3,
	}, nil
}

// overwrite sets keys until stop, one right after the other, and returns how
// long each took, apart for those that ended before the moment at and after it.
func overwrite(e engine, s stream, values values, at time.Time, stop *atomic.Bool) (before, after *hdrhistogram.Histogram) {
	before, after = newHistogram(), newHistogram()
	h := before
	last := time.Now()
	for i := 0; !stop.Load(); i++ {
		e.Set(s.key(i%s.len()), values.at(i))
		now := time.Now()
		if h == before && now.After(at) {
			h = after
		}
		record(h, now.Sub(last))
		last = now
	}
	return before, after
}

func (ks *keyset) fill(e engine, values values) error {
	_, err := once(ks.len(), ks.key, func(key string, i int) bool {
		e.Set(key, values.at(i))
		return true
	})
	return err
}
