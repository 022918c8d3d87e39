package main

import (
	"context"
	"time"
)

// The metrics of stale reads beside Maple.
const (
	timesMaple     = "× Maple's Get"
	timesMapleCopy = "× Maple's Get and a copy"
)

// cores compares stale reads of m, which has all of d, with reads of the engine
// itself in the same process: one goroutine per core, the same keys in the same
// order. What the members do at rest is on top of both. It is nil if m has no stale
// reads.
func cores(m member, d data, each time.Duration) (metrics, error) {
	s, ok := m.(staler)
	if !ok {
		return nil, nil
	}
	e, err := maplePeer.open(config{keys: d.Keys})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	ks := newKeyset(d.First, d.Keys, procs())
	values := newValues(d.Size)
	for i := range ks.len() {
		e.Set(ks.key(i), values.at(i))
	}
	ctx := context.Background() // one that ends costs each system something else
	if err := m.Ready(ctx); err != nil {
		return nil, err
	}
	ops := []operation{
		func(key string, _ int) bool {
			v, ok, err := s.GetStale(ctx, key)
			return err == nil && ok && len(v) == d.Size
		},
		func(key string, _ int) bool {
			v, ok := e.Get(key)
			return ok && len(v) == d.Size
		},
		func(key string, _ int) bool {
			v, ok := e.GetCopy(key)
			return ok && len(v) == d.Size
		},
	}
	// In short turns: what else the machine does then meets all of them alike.
	const turns = 5
	ns := make([]float64, len(ops))
	for range turns {
		for i, op := range ops {
			r, err := timed(each/turns, ks.streams["uniform"], op)
			if err != nil {
				return nil, err
			}
			ns[i] += r[nsPerOp] / turns
		}
	}
	return metrics{
		opsPerSec:      1e9 / ns[0],
		nsPerOp:        ns[0],
		timesMaple:     ns[0] / ns[1],
		timesMapleCopy: ns[0] / ns[2],
	}, nil
}
