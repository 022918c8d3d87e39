package transport

import (
	"context"
	"slices"
	"sync"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
)

// Grouping is a Backend that takes less for requests that have come together than for
// each by itself.
type Grouping interface {
	Backend

	// Barrier waits until what GetShared and GetEntryStale return is what Get and
	// GetEntry would have returned at the time of the call.
	Barrier(ctx context.Context) error

	// GetEntryStale is GetEntry without a barrier.
	GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error)

	// DoTogether is DoOnce for each of the writes that has no error yet, in any order.
	// It returns when all are over, and keeps nothing of them.
	DoTogether(ctx context.Context, writes []ops.Write)
}

// group are requests that have come together, either reads of keys or writes. What is
// in requests is under served.mu once the group is on its way.
type group struct {
	requests          []grouped
	args              []byte      // of the last of them
	doing             []ops.Write // what they are, of writes
	shortest, longest time.Duration
	left              int // those that are not cancelled
	cancel            context.CancelFunc
}

type grouped struct {
	request
	cancelled bool // it is not to be answered; the slot of a read is free again, and only that
}

// groups are used again: those of many requests would be much to make each time.
var groups = sync.Pool{New: func() any { return new(group) }}

// release is called when nothing of the group is needed any longer.
func (g *group) release() {
	clear(g.requests)
	clear(g.doing)
	*g = group{requests: g.requests[:0], args: g.args[:0], doing: g.doing[:0]}
	groups.Put(g)
}

// Arguments of a group are in one piece of memory, or several.
const (
	minArgs = 512
	maxArgs = 64 << 10
)

// keep returns an argument in memory of the group.
func (g *group) keep(arg []byte) []byte {
	if cap(g.args)-len(g.args) < len(arg) {
		g.args = make([]byte, 0, max(len(arg), min(max(2*cap(g.args), minArgs), maxArgs)))
	}
	at := len(g.args)
	g.args = append(g.args, arg...)
	return slices.Clip(g.args[at:])
}

// takes tells whether a request with a timeout may belong to the group, which gives up
// after the longest: none has to wait for more than twice its own.
func (g *group) takes(timeout time.Duration) bool {
	return len(g.requests) == 0 || (timeout == 0) == (g.longest == 0) && timeout <= 2*g.shortest && g.longest <= 2*timeout
}

// gather adds a request, which has a slot, to those of its kind that are on their way
// next. own says that its argument may be kept.
func (c *served) gather(kind **group, req request, own bool) {
	if *kind != nil && (!(*kind).takes(req.timeout) || len((*kind).requests) == maxInFlight) {
		c.send(kind)
	}
	if *kind == nil {
		*kind = groups.Get().(*group)
		(*kind).shortest, (*kind).longest = req.timeout, req.timeout
	}
	g := *kind
	if !own {
		req.arg = g.keep(req.arg)
	}
	g.shortest, g.longest = min(g.shortest, req.timeout), max(g.longest, req.timeout)
	i := len(g.requests)
	reads := kind == &c.reads
	g.requests = append(g.requests, grouped{request: req})
	if req.timeout != 0 && req.timeout <= soon {
		return // it is soon over, without being cancelled
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaitLocked(req.id, func() {
		r := &g.requests[i]
		if r.cancelled {
			return
		}
		r.cancelled = true
		if reads {
			<-c.slots // nothing is done for it any longer; a write stays under way
		}
		if g.left--; g.left == 0 && g.cancel != nil {
			g.cancel()
		}
	})
}

// sendGathered has what was gathered be carried out.
func (c *served) sendGathered() {
	c.send(&c.reads)
	c.send(&c.writes)
}

// send has a group, if there is one, be carried out by one goroutine.
func (c *served) send(kind **group) {
	g := *kind
	if g == nil {
		return
	}
	*kind = nil
	var ctx context.Context
	c.mu.Lock()
	if g.longest > 0 {
		ctx, g.cancel = context.WithTimeout(c.ctx, g.longest)
	} else {
		ctx, g.cancel = context.WithCancel(c.ctx)
	}
	g.left = 0 // what was cancelled before is not counted
	for i := range g.requests {
		if !g.requests[i].cancelled {
			g.left++
		}
	}
	if g.left == 0 {
		g.cancel()
	}
	c.mu.Unlock()
	carryOut := c.readAll
	if kind == &c.writes {
		carryOut = c.writeAll
	}
	c.run(func() {
		carryOut(ctx, g)
		g.cancel()
		g.release()
		c.out.gather()
	})
}

// over takes a request off those that can be cancelled. It is false if it has been.
func (c *served) over(r *grouped) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, r.id)
	return !r.cancelled
}

// readAll carries out reads behind one barrier.
func (c *served) readAll(ctx context.Context, g *group) {
	err := c.grouping.Barrier(ctx)
	for i := range g.requests {
		r := &g.requests[i]
		if c.over(r) {
			c.readOne(ctx, r.request, err)
			<-c.slots
		}
		c.args.giveBack(len(r.arg))
	}
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
	c.copied <- struct{}{} // until those before have been written, or the connection ends
	defer func() { <-c.copied }()
	e, ok, err := c.grouping.GetEntryStale(ctx, key)
	switch {
	case err != nil:
		c.respond(failure(req.id, err))
	case req.method == methodHas || !ok:
		c.respond(response{id: req.id, method: req.method, result: appendFound(nil, ok)})
	default:
		c.respond(response{id: req.id, method: req.method, result: appendEntry(appendFound(nil, true), e)})
	}
}

// writeAll carries out writes together. None of them is answered before the last is over,
// and each has its slot until then, even if it was cancelled.
func (c *served) writeAll(ctx context.Context, g *group) {
	for i := range g.requests {
		op, id, err := decodeWrite(g.requests[i].arg)
		g.doing = append(g.doing, ops.Write{Op: op, ID: id, Err: err})
	}
	c.grouping.DoTogether(ctx, g.doing)
	var result []byte
	for i := range g.requests {
		r, w := &g.requests[i], &g.doing[i]
		if c.over(r) {
			if err := writeError(w.Result, w.Err); err != nil {
				c.respond(failure(r.id, err))
			} else {
				result = appendResult(result[:0], w.Result)
				c.respond(response{id: r.id, method: r.method, result: result})
			}
		}
		c.leave(r.request, c.slots)
	}
}

// decodeWrite reads the argument of a write.
func decodeWrite(arg []byte) (engine.Op, once.ID, error) {
	op, id, err := command.DecodeOp(arg)
	if err != nil || op.Kind == 0 {
		return engine.Op{}, once.ID{}, command.ErrMalformed
	}
	return op, id, nil
}

// writeError is the error that the client is told of a write.
func writeError(res engine.Result, err error) error {
	if res.Refusal == engine.Unkept {
		return nil // the result says it, and the client does not ask again
	}
	return err
}
