package local

import (
	"sync"
	"sync/atomic"

	"dkv/internal/lockqueue"
	"dkv/store"
	"dkv/store/engine"
)

// reapAtOnce bounds how many deadlines are carried out in one go, so that no
// writer that sets an earlier deadline than all before waits long for the reaper.
const reapAtOnce = 256

// reaper has the DB's deadlines carried out when they come. It is a timer that
// exists only while there is a deadline, set for the next one.
type reaper struct {
	db    engine.Engine
	locks *lockqueue.Queues
	clock store.Clock

	// armed is the reading of the clock for which the timer is set, plus one;
	// 0 if it is not. It changes under mu.
	armed atomic.Int64

	mu struct {
		sync.Mutex // also held while deadlines are carried out
		stop       func() bool
		closed     bool
	}
}

// arm sees to it that the timer is set for the next deadline or earlier.
func (r *reaper) arm() {
	at, ok := r.db.NextDeadline()
	if !ok {
		return
	}
	if armed := r.armed.Load(); armed != 0 && armed-1 <= int64(at) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armLocked()
}

func (r *reaper) armLocked() {
	if r.mu.closed {
		return
	}
	at, ok := r.db.NextDeadline()
	if armed := r.armed.Load(); armed != 0 {
		if ok && armed-1 <= int64(at) {
			return
		}
		r.mu.stop()
		r.armed.Store(0)
	}
	if ok {
		r.armed.Store(int64(at) + 1)
		r.mu.stop = r.clock.AfterFunc(max(0, at-r.clock.Now()), r.fire)
	}
}

func (r *reaper) fire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return
	}
	r.armed.Store(0)
	r.db.Reap(reapAtOnce)
	r.locks.Settle()
	r.armLocked()
}

// close stops the timer and waits for a reaping under way.
func (r *reaper) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.closed = true
	if r.armed.Load() != 0 {
		r.mu.stop()
	}
}
