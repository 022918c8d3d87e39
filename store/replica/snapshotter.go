package replica

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// keepEntries is how many entries stay in the log behind a snapshot, so
	// that a member that was away for a moment need not be sent all of it.
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
	snapshot func(stopping <-chan struct{}) bool

	written  atomic.Int64 // bytes since the last snapshot
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

// applied is called by the state machine with the size of what it has applied.
func (s *snapshotter) applied(bytes int) {
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
		if s.snapshot(s.stopping) {
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
