package replica

import (
	"sync"

	"dkv/store/engine"
)

// call is one operation that waits for its result.
type call struct {
	op       []byte        // encoded
	read     int           // what its results count for
	done     chan struct{} // receives when res and err are set, unless it is one of several
	together *together     // those, else nil
	res      engine.Result
	err      error

	// Under batcher.mu.
	flight  *flight // nil while it is queued
	givenUp bool    // nobody waits for it any longer
}

// flight is a batch under way. What can change is under batcher.mu.
type flight struct {
	seq     uint64
	calls   []*call       // by number of the operation
	waiting int           // calls that are not given up
	exposed bool          // an attempt may have had its effect, or have it yet
	over    bool          // the calls have their results, or nobody waits for them
	settled chan struct{} // closed when over
}

// together are calls that one goroutine waits for.
type together struct {
	left int           // that have no result yet; under batcher.mu
	done chan struct{} // receives when none are left
}

// finish tells who waits for c that res and err are set. It is called with batcher.mu
// held.
func (c *call) finish() {
	g := c.together
	if g == nil {
		c.done <- struct{}{}
	} else if g.left--; g.left == 0 {
		g.done <- struct{}{}
	}
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// result is what has come of a call that is over, and which is used again.
func (c *call) result() (engine.Result, error) {
	res, err := c.res, c.err
	*c = call{op: c.op, done: c.done}
	if cap(c.op) <= maxBatchBytes {
		calls.Put(c)
	}
	return res, err
}

// endLocked ends a flight, with batcher.mu held.
func (f *flight) endLocked() {
	f.over = true
	f.calls = nil
	close(f.settled)
}
