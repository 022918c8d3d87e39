package raftlog

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// TestLogOnADisk writes records small and large to real files, past the page cache
// and through it, to files that are new and to such as are used again.
func TestLogOnADisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	reopen := func(l *Log) *Log {
		if l != nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		l, err := open(vfs.Default, path, Factory{SegmentSize: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := reopen(nil)
	defer func() { l.Close() }()
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	m := twin{bootstrapped: true, first: 1, state: pb.State{Term: 1}}
	rng := rand.New(rand.NewPCG(1, 2))
	sizes := []int{0, 10, 500, 4096, 5000, 9000, directMax, 30_000, 300_000, 700_000}
	var direct, through, reused int
	for round := range 300 {
		e := pb.Entry{Index: m.last() + 1, Term: 1, Type: pb.EncodedEntry}
		size := sizes[rng.IntN(len(sizes)-round%3)] // large ones in a third of the rounds
		for range size {
			e.Cmd = append(e.Cmd, byte(rng.Uint32()))
		}
		spares := len(l.writing.spares)
		if err := l.SaveRaftState([]pb.Update{{ShardID: shard, ReplicaID: replica, State: m.state, EntriesToSave: []pb.Entry{e}}}, 1); err != nil {
			t.Fatal(err)
		}
		m.append([]pb.Entry{e})
		m.state.Commit = e.Index
		if len(l.writing.spares) < spares {
			reused++
		}
		if l.active().w.direct {
			direct++
		} else {
			through++
		}
		switch {
		case round%20 == 19:
			u := []pb.Update{{ShardID: shard, ReplicaID: replica, Snapshot: snapshotAt(e.Index-5, 1)}}
			if err := l.SaveSnapshots(u); err != nil {
				t.Fatal(err)
			}
			if err := l.RemoveEntriesTo(shard, replica, e.Index-5); err != nil {
				t.Fatal(err)
			}
			if _, err := l.CompactEntriesTo(shard, replica, e.Index-5); err != nil {
				t.Fatal(err)
			}
			m.snapshot = e.Index - 5
			m.entries = m.entries[m.snapshot+1-m.first:]
			m.first = m.snapshot + 1
		case round%7 == 6:
			l = reopen(l)
		}
		if err := m.difference(l); err != nil {
			t.Fatalf("round %d, %d bytes: %v", round, size, err)
		}
	}
	if through == 0 || reused == 0 {
		t.Errorf("%d records through the page cache, %d files used again", through, reused)
	}
	t.Logf("%d records past the page cache, %d through it, %d files used again", direct, through, reused)
}

func TestPagesAreAligned(t *testing.T) {
	for range 20 {
		b := align(make([]byte, 5*pageSize))
		if len(b) < 4*pageSize || len(b)%pageSize != 0 {
			t.Fatal(len(b))
		}
		again := align(b)
		if len(again) != len(b) || &again[0] != &b[0] {
			t.Fatalf("of %d aligned bytes %d are", len(b), len(again))
		}
	}
	if !bytes.Equal(zeros[:], make([]byte, len(zeros))) {
		t.Error("somebody has written to the zeros")
	}
}
