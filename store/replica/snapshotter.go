package replica

import (
	"context"
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

	// freshFor is longer than a node that joins takes to ask again.
	freshFor = 30 * time.Second
)

// snapshotter has a snapshot written, and the log cut short, each time that more has
// been written to the log than every bytes and than the last snapshot has. So the log is
// never much longer than the state, and while a state grows, writing snapshots costs no
// more than twice what writing the log does, but for those that nodes that join are in
// need of. Where the state has become smaller, it is the state that the log is compared
// with.
type snapshotter struct {
	every    int64
	first    atomic.Bool  // there is none yet, and is to be one whatever was written, which keeps no entries
	size     func() int64 // of the state in bytes
	snapshot func(keep int, stopping <-chan struct{}) bool

	written  atomic.Int64 // bytes since the last snapshot
	ahead    atomic.Int64 // bytes that the first one comes sooner
	last     atomic.Int64 // size of the state then, or when it was recovered
	made     time.Time    // when the last one was that was asked for; belongs to the worker
	recent   recentSizes
	wake     chan struct{}
	asked    chan chan struct{} // closed when there is a fresh one, or cannot be
	stopping chan struct{}
	worker   sync.WaitGroup
}

// init begins to count. Members begin at different values, so that not all of
// them write their snapshots at once.
func (s *snapshotter) init(every, headStart int64) {
	s.every = every
	s.ahead.Store(headStart)
	s.wake = make(chan struct{}, 1)
	s.asked = make(chan chan struct{})
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
	if s.written.Add(int64(bytes))+s.ahead.Load() >= s.every || s.first.Load() {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// due tells whether so much was written that there is to be a snapshot.
func (s *snapshotter) due() bool {
	return s.first.Load() || s.written.Load()+s.ahead.Load() >= max(s.every, min(s.last.Load(), s.size()))
}

// stale tells whether a node that needs all of the state would be sent so much of the log
// after the last snapshot that a new one, of all, is sooner there. One that was asked for
// and made just now is not, however much was written meanwhile: else a node would wait for
// ever.
func (s *snapshotter) stale() bool {
	return s.first.Load() || time.Since(s.made) > freshFor && s.written.Load() >= max(s.every/4, s.size()/16)
}

// refresh has a snapshot be made if the last one is stale, and waits until it is, or
// cannot be. It is false if ctx ends before.
func (s *snapshotter) refresh(ctx context.Context) bool {
	done := make(chan struct{})
	select {
	case s.asked <- done:
	case <-ctx.Done():
		return false
	case <-s.stopping:
		return false
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *snapshotter) work() {
	for {
		select {
		case done := <-s.asked:
			if s.stale() && s.write() {
				s.made = time.Now()
			}
			close(done)
			continue
		case <-s.wake:
		case <-s.stopping:
			return
		}
		if !s.due() || s.write() {
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

// write has a snapshot be written, and tells whether it was.
func (s *snapshotter) write() bool {
	written, first, size := s.written.Load(), s.first.Load(), s.size()
	keep := s.recent.fit(s.every)
	if first {
		keep = 0
	}
	if !s.snapshot(keep, s.stopping) {
		return false
	}
	s.written.Add(-written)
	s.ahead.Store(0)
	s.last.Store(size)
	s.first.Store(false)
	return true
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
