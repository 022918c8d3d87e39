package replica

import (
	"sync/atomic"
	"time"

	"dkv/store/engine"
	"dkv/store/replica/raftlog"
)

const (
	// spaceKept is how much of the disk is kept for what cannot be turned away:
	// what is under way, what other members write, the clock's ticks.
	spaceKept = 64 << 20

	// spaceEvery is how often at most the disk is asked how much is free.
	spaceEvery = 50 * time.Millisecond

	// spaceWait is how long after the log has waited for room there is taken to
	// be none, whatever the disk says: there are quotas, too.
	spaceWait = 500 * time.Millisecond
)

// space notices that the disk is about to be full. Writes are turned away then,
// while there still is room for a snapshot of the state: without one the log could
// never be cut short; while one is written, that may be so sooner. If others fill
// the disk up all the same, the log waits for room, see package raftlog.
type space struct {
	free func() (bytes int64, err error)
	size func() int64 // of the state
	log  atomic.Pointer[raftlog.Log]

	isLow   atomic.Bool
	began   time.Time
	checked atomic.Int64 // when, in nanoseconds since began
	waited  atomic.Int64 // when the log last waited for room, likewise
}

func (s *space) init(free func() (int64, error), size func() int64) {
	s.free, s.size, s.began = free, size, time.Now()
	s.waited.Store(int64(-spaceWait))
	s.check()
}

func (s *space) now() int64 { return int64(time.Since(s.began)) }

// low tells whether the disk is about to be full. It costs next to nothing while
// that is not so.
func (s *space) low() bool {
	if s.isLow.Load() {
		s.look()
	}
	return s.isLow.Load()
}

// look finds out how it is, unless that was done a moment ago.
func (s *space) look() {
	now, last := s.now(), s.checked.Load()
	if now-last >= int64(spaceEvery) && s.checked.CompareAndSwap(last, now) {
		s.check()
	}
}

func (s *space) check() {
	waited := s.now()-s.waited.Load() < int64(spaceWait)
	s.isLow.Store(waited || !s.has(spaceKept+s.size()))
}

// has tells whether so many bytes are free, if need be after the log has given back
// what it keeps for later. Where nobody knows, it says so, too.
func (s *space) has(bytes int64) bool {
	free, err := s.free()
	if err == nil && free < bytes {
		if l := s.log.Load(); l != nil && l.Release() {
			free, err = s.free()
		}
	}
	return err != nil || free >= bytes
}

// exhausted is called when the log waits for room, at least every spaceWait.
func (s *space) exhausted() {
	s.waited.Store(s.now())
	s.isLow.Store(true)
}

// forSnapshot tells whether a snapshot has room. Where nobody knows, it may try.
func (s *space) forSnapshot() bool { return s.has(spaceKept/4 + s.size()) }

// frees tells whether an operation needs no room but for a moment. It is let in
// even if there is little: it is how a user makes room.
func frees(op *engine.Op) bool {
	enrols := op.Kind == 0 // a client of the network mode, who may be about to
	return enrols || op.Kind.Frees()
}
