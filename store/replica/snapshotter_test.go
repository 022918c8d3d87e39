package replica

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// snapshots is a snapshotter of a state that has a size, and counts what it makes.
type snapshots struct {
	snapshotter
	state atomic.Int64
	made  []int64 // the size of each
	fails bool
	takes time.Duration

	meanwhile int // bytes that are written while one is made
}

func newSnapshots(t *testing.T, every int64) *snapshots {
	s := new(snapshots)
	s.init(every, 0)
	s.size = s.state.Load
	s.snapshotter.snapshot = func(int, <-chan struct{}) bool {
		time.Sleep(s.takes)
		s.applied(s.meanwhile)
		if !s.fails {
			s.made = append(s.made, s.state.Load())
		}
		return !s.fails
	}
	s.start()
	t.Cleanup(s.close)
	return s
}

// write writes so many bytes, of which the state grows by some, and waits for what comes
// of it.
func (s *snapshots) write(bytes, grows int64) {
	s.state.Add(grows)
	s.applied(int(bytes))
	synctest.Wait()
}

func TestSnapshotsOfAStateThatGrowsCostNoMoreThanTwiceItsLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSnapshots(t, 100)
		var log, sum int64
		for range 10_000 {
			s.write(10, 10)
			log += 10
		}
		for _, size := range s.made {
			sum += size
		}
		// Each is made when as much as the one before has was written: 100, 200, 400 ...
		if n := len(s.made); n != 10 || sum > 2*log || s.made[n-1] < log/2 {
			t.Errorf("%d bytes written, snapshots of %v", log, s.made)
		}
	})
}

func TestSnapshotsOfAStateThatStaysAreMadeWhenAsMuchWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSnapshots(t, 100)
		s.last.Store(1000) // it was recovered
		s.state.Store(1000)
		for range 300 {
			s.write(10, 0)
		}
		if len(s.made) != 3 {
			t.Errorf("3000 bytes written to a state of 1000, %d snapshots", len(s.made))
		}
		s.state.Store(50) // all was deleted
		s.write(100, 0)
		if len(s.made) != 4 {
			t.Errorf("100 bytes written to a state of 50, %d snapshots, not one more", len(s.made))
		}
	})
}

func TestSnapshotIsRefreshedIfItIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSnapshots(t, 1000)
		s.ahead.Store(500) // nothing that was written
		ctx := t.Context()
		s.write(249, 249)
		if ok := s.refresh(ctx); !ok || len(s.made) != 0 {
			t.Errorf("of 249 bytes, which are few: %v, %d snapshots", ok, len(s.made))
		}
		s.write(1, 1)
		if ok := s.refresh(ctx); !ok || len(s.made) != 1 {
			t.Errorf("of 250 bytes: %v, %d snapshots", ok, len(s.made))
		}
		if ok := s.refresh(ctx); !ok || len(s.made) != 1 {
			t.Errorf("again: %v, %d snapshots", ok, len(s.made))
		}

		time.Sleep(freshFor + 1)
		s.write(500, 500)
		s.takes, s.meanwhile = time.Minute, 500
		brief, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if s.refresh(brief) {
			t.Error("it has waited for a snapshot longer than it was to")
		}
		if ok := s.refresh(ctx); !ok || len(s.made) != 2 {
			t.Errorf("while one is made: %v, %d snapshots", ok, len(s.made))
		}

		s.takes = 0
		if ok := s.refresh(ctx); !ok || len(s.made) != 2 {
			t.Errorf("of much that was written while it was made: %v, %d snapshots", ok, len(s.made))
		}
		time.Sleep(freshFor + 1)
		s.fails = true
		if ok := s.refresh(ctx); !ok || len(s.made) != 2 {
			t.Errorf("if it fails: %v, %d snapshots", ok, len(s.made))
		}
	})
}

func TestLogIsKeptByBytesAndNoMoreThanSoManyEntries(t *testing.T) {
	var r recentSizes
	if n := r.fit(1000); n != 0 {
		t.Errorf("%d of no entries fit", n)
	}
	for size := range 5 {
		r.add(size * 100) // 0, 100, 200, 300, 400
	}
	for _, test := range []struct {
		bytes int64
		want  int
	}{{0, 0}, {399, 0}, {400, 1}, {699, 1}, {700, 2}, {1000, 5}, {5000, 5}} {
		if n := r.fit(test.bytes); n != test.want {
			t.Errorf("%d entries fit into %d bytes, want %d", n, test.bytes, test.want)
		}
	}
	for range 3 * keepEntries {
		r.add(1)
	}
	if n := r.fit(1 << 40); n != keepEntries {
		t.Errorf("%d entries are kept, want %d", n, keepEntries)
	}
}
