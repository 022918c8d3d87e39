package replica

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"

	"github.com/lni/dragonboat/v4"
)

// ErrNotLive is returned by Live for a replica that runs no more and will not by
// itself. Its text says why.
var ErrNotLive = errors.New("dkv: the replica works no longer")

const (
	// stuckAfter is for how long one log entry has to be watched being applied
	// until that counts as stuck. It takes milliseconds if all is well.
	stuckAfter = time.Minute
	// maxGap is what the time between two looks counts at most: a process that
	// was stopped, or starved of the processor, has nothing stuck.
	maxGap = 10 * time.Second
)

// Live tells whether the replica works: nil while it does or waits, for peers, a
// leader or a slow disk, however long. It is for whoever restarts a process that
// has died inside, and says nothing about whether operations succeed: that is
// Ready's to say, and to restart a member for the want of a quorum would make
// matters worse.
//
// Errors: store.ErrClosed once Close has been called, with store.ErrRemoved if this member
// was removed; store.ErrBadOptions if the group does not take this node in; ErrNotLive if Dragonboat
// has stopped the replica, or if the engine has been at one log entry for a
// minute. To notice that takes seven calls at least, 10 s apart, as no more of
// the time between two calls counts: so a process that was stopped for an hour is
// not taken for a stuck one. Most that a replica cannot live with, such as a disk
// that fails, ends the process and needs no one to find out.
//
// It takes microseconds, waits for nothing and asks nobody.
func (s *Store) Live() error {
	if s.phase.Load() == phaseClosing {
		return s.ending.err()
	}
	if s.host.stopped() {
		return fmt.Errorf("%w: it was stopped by Dragonboat", ErrNotLive)
	}
	if entry, watched := s.applying.look(&s.machine.applying, s.ticker.clock); watched >= stuckAfter {
		return fmt.Errorf("%w: log entry %d is still being applied after %v", ErrNotLive, entry, watched)
	}
	return nil
}

// stopped tells whether Dragonboat runs the replica no more although it was not
// closed.
func (h *host) stopped() bool {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if !h.gate.open { // it is closed, or has not begun to run
		return false
	}
	_, _, _, err := h.nh.GetLeaderID(shard)
	return errors.Is(err, dragonboat.ErrShardNotFound)
}

// watch tells for how long one log entry was seen being applied.
type watch struct {
	mu struct {
		sync.Mutex
		entry   uint64        // that was being applied at the last look, 0 if none was
		at      time.Duration // of the last look
		watched time.Duration // the time between the looks at entry, of which maxGap counts at most
	}
}

// look notes which entry is being applied now, and returns it.
func (w *watch) look(applying *atomic.Uint64, clock store.Clock) (entry uint64, watched time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry, now := applying.Load(), clock.Now()
	if entry != 0 && entry == w.mu.entry { // an entry is applied once
		w.mu.watched += min(now-w.mu.at, maxGap)
	} else {
		w.mu.entry, w.mu.watched = entry, 0
	}
	w.mu.at = now
	return entry, w.mu.watched
}
