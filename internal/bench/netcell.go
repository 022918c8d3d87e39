package main

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// allocsWithoutDeadline is allocsPerOp if the contexts of the callers never end.
const allocsWithoutDeadline = "allocs/op without a deadline"

// openIdlers opens connections that nobody uses, each of which has been answered once.
func (h *host) openIdlers(r request) error {
	chosen, err := named(netSystems, r.System, (*system).String)
	if err != nil {
		return err
	}
	s, endpoints := chosen[0], r.Members[0].Connect
	ctx, cancel := context.WithTimeout(context.Background(), readyPatience)
	defer cancel()
	h.idlers = make([]io.Closer, r.Count)
	const openers = 32
	var next atomic.Int64
	return atOnce(openers, func(int) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(h.idlers) {
				return nil
			}
			if s.dial != nil {
				c, err := s.dial(endpoints[0])
				if err != nil {
					return err
				}
				h.idlers[i] = c
				continue
			}
			m, err := s.connect(endpoints)
			if err != nil {
				return err
			}
			h.idlers[i] = m
			if err := m.Ready(ctx); err != nil {
				return err
			}
		}
	})
}

// countedGets has the callers of the cell make n reads twice, and counts what this
// process allocates meanwhile.
func (c *cell) countedGets(m member, n int) (metrics, error) {
	count := func(n int, patience time.Duration) (float64, error) {
		callers, contexts := make([]*caller, c.Callers), make([]context.Context, c.Callers)
		keys := c.Data.keys()
		for i := range callers {
			callers[i], contexts[i] = newCaller(i, keys, c.Data.Size), context.Background()
			if patience > 0 {
				ctx, cancel := context.WithTimeout(contexts[i], patience)
				defer cancel()
				contexts[i] = ctx
			}
		}
		var f failures
		var made atomic.Int64
		var wg sync.WaitGroup
		before := usageNow()
		for i, caller := range callers {
			wg.Go(func() {
				for made.Add(1) <= int64(n) && f.n.Load() == 0 {
					if err := caller.read(contexts[i], m.Get); err != nil {
						f.add(err) // which allocates, error or not
					}
				}
			})
		}
		wg.Wait()
		after := usageNow()
		return float64(after.mallocs-before.mallocs) / float64(n), f.err()
	}
	if _, err := count(n/warmUpShare, callPatience); err != nil {
		return nil, err
	}
	with, err := count(n, callPatience)
	if err != nil {
		return nil, err
	}
	without, err := count(n, 0)
	if err != nil {
		return nil, err
	}
	return metrics{allocsPerOp: with, allocsWithoutDeadline: without}, nil
}
