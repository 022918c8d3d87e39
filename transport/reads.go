package transport

import (
	"context"
	"time"

	"dkv/store"
)

// Barriered is a Backend whose reads stand behind a barrier that many can share.
type Barriered interface {
	Backend

	// Barrier waits until what GetShared and GetEntryStale return is what Get and
	// GetEntry would have returned at the time of the call.
	Barrier(ctx context.Context) error

	// GetEntryStale is GetEntry without a barrier.
	GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error)
}

// readGroup are reads of keys that have come together. What is in reads is under
// served.mu once the group is on its way.
type readGroup struct {
	reads  []groupedRead
	left   int // those that are not cancelled
	cancel context.CancelFunc
}

type groupedRead struct {
	request
	cancelled bool // its slot is free again, and it is not to be answered
}

// gather adds a read, which has a slot, to the group that is on its way next.
func (c *served) gather(req request) {
	if c.reads == nil {
		c.reads = new(readGroup)
	}
	g := c.reads
	i := len(g.reads)
	g.reads = append(g.reads, groupedRead{request: req})
	if req.timeout != 0 && req.timeout <= soon {
		return // it is soon over, without being cancelled
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaitLocked(req.id, func() {
		r := &g.reads[i]
		if r.cancelled {
			return
		}
		r.cancelled = true
		<-c.slots
		if g.left--; g.left == 0 && g.cancel != nil {
			g.cancel()
		}
	})
}

// readTogether has the reads that were gathered carried out, behind one barrier.
func (c *served) readTogether() {
	g := c.reads
	if g == nil {
		return
	}
	c.reads = nil
	timeout := time.Duration(0) // the longest; who has less hangs up by itself
	for i := range g.reads {
		if t := g.reads[i].timeout; t == 0 {
			timeout = 0
			break
		} else {
			timeout = max(timeout, t)
		}
	}
	var ctx context.Context
	c.mu.Lock()
	if timeout > 0 {
		ctx, g.cancel = context.WithTimeout(c.ctx, timeout)
	} else {
		ctx, g.cancel = context.WithCancel(c.ctx)
	}
	g.left = 0 // what was cancelled before is not counted
	for i := range g.reads {
		if !g.reads[i].cancelled {
			g.left++
		}
	}
	if g.left == 0 {
		g.cancel()
	}
	c.mu.Unlock()
	c.run(func() {
		defer g.cancel()
		err := c.behind.Barrier(ctx)
		for i := range g.reads {
			r := &g.reads[i]
			c.mu.Lock()
			delete(c.waiting, r.id)
			cancelled := r.cancelled
			c.mu.Unlock()
			if !cancelled {
				c.readOne(ctx, r.request, err)
				<-c.slots
			}
		}
		c.out.gather()
	})
}

// readOne carries out a read whose barrier has ended with err.
func (c *served) readOne(ctx context.Context, req request, err error) {
	if err != nil {
		c.respond(failure(req.id, err))
		return
	}
	key := string(req.arg)
	if req.method == methodGet {
		value, ok, err := c.backend.GetShared(ctx, key)
		c.value(req.id, value, ok, err)
		return
	}
	e, ok, err := c.behind.GetEntryStale(ctx, key)
	switch {
	case err != nil:
		c.respond(failure(req.id, err))
	case req.method == methodHas || !ok:
		c.respond(response{id: req.id, method: req.method, result: appendFound(nil, ok)})
	default:
		c.respond(response{id: req.id, method: req.method, result: appendEntry(appendFound(nil, true), e)})
	}
}
