package replica

import (
	"context"
	"runtime"
	"sync"
	"time"

	"dkv/internal/ops"
	"dkv/store"
)

// maxBarriers is how many read barriers are under way at a time.
const maxBarriers = 4

// barriers make reads linearizable. All reads that wait when a barrier is issued
// share it: once it is through, this member has applied every write that had
// been acknowledged anywhere before.
type barriers struct {
	// issue tries once to get a barrier through and tells whether it did.
	// It returns at the latest when over or stopping is closed.
	issue func(over <-chan struct{}) bool

	ending   *ending // why they are closed
	refusal  error   // of every read, or nil
	stopping chan struct{}
	workers  sync.WaitGroup

	mu struct {
		sync.Mutex
		next   *round        // what new reads join; nil if none waits
		filled chan struct{} // closed and replaced when next is set or the store closes
		closed bool
	}
}

// round is the reads that share a barrier.
type round struct {
	done    chan struct{} // closed when err is set and the reads may go on
	err     error
	over    chan struct{} // closed when nobody waits any longer
	waiting int           // under barriers.mu
}

func (b *barriers) init() {
	b.stopping = make(chan struct{})
	b.mu.filled = make(chan struct{})
}

func (b *barriers) start() {
	for range maxBarriers {
		b.workers.Go(b.work)
	}
}

// wait returns once a barrier that was issued after the call is through.
func (b *barriers) wait(ctx context.Context) error {
	b.mu.Lock()
	if b.mu.closed {
		b.mu.Unlock()
		return b.ending.err()
	}
	if b.refusal != nil {
		b.mu.Unlock()
		return b.refusal
	}
	r := b.mu.next
	if r == nil {
		r = &round{done: make(chan struct{}), over: make(chan struct{})}
		b.mu.next = r
		b.wakeLocked()
	}
	r.waiting++
	b.mu.Unlock()

	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()
		if r.waiting--; r.waiting == 0 {
			close(r.over)
			if b.mu.next == r {
				b.mu.next = nil
			}
		}
		return ops.Ended(store.ErrUnavailable, ctx)
	}
}

func (b *barriers) wakeLocked() {
	close(b.mu.filled)
	b.mu.filled = make(chan struct{})
}

func (b *barriers) work() {
	for {
		r := b.take()
		if r == nil {
			return
		}
		r.err = b.pass(r)
		close(r.done)
	}
}

// take waits for reads and closes their round to further ones. It returns nil when
// the store closes.
func (b *barriers) take() *round {
	for b.await() {
		// The callers of the round before are let go all at once, and most come
		// back with their next read. The first of them must not have a barrier
		// to itself that the others wait behind, so those that can run do first.
		// It more than doubles what a thousand callers get.
		runtime.Gosched()
		b.mu.Lock()
		r := b.mu.next
		b.mu.next = nil
		b.mu.Unlock()
		if r != nil {
			return r
		}
	}
	return nil
}

// await waits until there are reads. It returns false if there are none and the
// store closes.
func (b *barriers) await() bool {
	for {
		b.mu.Lock()
		waiting, closed, filled := b.mu.next != nil, b.mu.closed, b.mu.filled
		b.mu.Unlock()
		if waiting || closed {
			return waiting
		}
		<-filled
	}
}

// pass issues barriers until one is through, nobody waits for it any longer, or
// the store stops.
func (b *barriers) pass(r *round) error {
	const pause = 5 * time.Millisecond
	for !b.issue(r.over) {
		select {
		case <-r.over:
			return store.ErrUnavailable
		case <-b.stopping:
			return b.ending.err()
		case <-time.After(pause):
		}
	}
	return nil
}

// close keeps new reads out, waits until those that it has let in are done or
// patience is closed, and stops.
func (b *barriers) close(patience <-chan struct{}) {
	b.mu.Lock()
	b.mu.closed = true
	b.wakeLocked()
	b.mu.Unlock()

	drained := done(&b.workers)
	select {
	case <-drained:
	case <-patience:
	}
	close(b.stopping)
	<-drained
}

// done returns a channel that is closed when the workers have returned.
func done(workers *sync.WaitGroup) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		workers.Wait()
		close(c)
	}()
	return c
}
