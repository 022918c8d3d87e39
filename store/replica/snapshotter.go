package replica

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// keepEntries is how many entries at most stay in the log behind a
	// snapshot, so that a member that was away for a moment need not be sent
	// all of the state.
	keepEntries = 512

	snapshotTimeout = 10 * time.Minute
	snapshotRetry   = time.Second
)

// snapshotter has a snapshot written, and the log cut short, each time that more
// has been written to the log than every bytes and than the state is large. So
// the log is never much longer than the state, and writing snapshots costs no
// more than writing the log.
type snapshotter struct {
	every    int64
	size     func() int64 // of the state in bytes
	snapshot func(keep int, stopping <-chan struct{}) bool

	written  atomic.Int64 // bytes since the last snapshot
	recent   recentSizes
	wake     chan struct{}
	stopping chan struct{}
	worker   sync.WaitGroup
}

// init begins to count. Members begin at different values, so that not all of
// them write their snapshots at once.
func (s *snapshotter) init(every, headStart int64) {
	s.every = every
	s.written.Store(headStart)
	s.wake = make(chan struct{}, 1)
	s.stopping = make(chan struct{})
}

func (s *snapshotter) start() { s.worker.Go(s.work) }

func (s *snapshotter) close() {
	close(s.stopping)
	s.worker.Wait()
}

// applied is called by the state machine with the size of each entry.
func (s *snapshotter) applied(bytes int) {
	s.recent.add(bytes)
	if s.written.Add(int64(bytes)) >= s.every {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *snapshotter) work() {
	for {
		select {
		case <-s.wake:
		case <-s.stopping:
			return
		}
		written := s.written.Load()
		if written < max(s.every, s.size()) {
			continue
		}
		if s.snapshot(s.recent.fit(s.every), s.stopping) {
			s.written.Add(-written)
			continue
		}
		// One may be under way, or there may be nothing new to write; what is
		// written next tries again.
		select {
		case <-time.After(snapshotRetry):
		case <-s.stopping:
			return
		}
	}
}

// recentSizes are the sizes of the last keepEntries entries.
type recentSizes struct {
	mu    sync.Mutex
	sizes [keepEntries]int
	n     int // how many there have been
}

func (r *recentSizes) add(size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes[r.n%keepEntries] = size
	r.n++
}

// fit is how many of the last entries are no more than that many bytes together.
func (r *recentSizes) fit(bytes int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := 0
	for kept < min(r.n, keepEntries) {
		bytes -= int64(r.sizes[(r.n-1-kept)%keepEntries])
		if bytes < 0 {
			break
		}
		kept++
	}
	return kept
}
