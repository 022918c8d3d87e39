package raftlog

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"dkv/internal/powerdisk"

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
	noise := rand.NewChaCha8([32]byte{})
	sizes := []int{0, 10, 500, 4096, 5000, 9000, directMax, 30_000, 300_000, 700_000}
	var direct, through, reused int
	for round := range 300 {
		e := pb.Entry{Index: m.last() + 1, Term: 1, Type: pb.EncodedEntry}
		size := sizes[rng.IntN(len(sizes)-round%3)] // large ones in a third of the rounds
		e.Cmd = make([]byte, size)
		noise.Read(e.Cmd)
		spares := len(l.spares.names)
		if err := l.SaveRaftState([]pb.Update{{ShardID: shard, ReplicaID: replica, State: m.state, EntriesToSave: []pb.Entry{e}}}, 1); err != nil {
			t.Fatal(err)
		}
		m.append([]pb.Entry{e})
		m.state.Commit = e.Index
		if len(l.spares.names) < spares {
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
	if through == 0 || reused == 0 || direct == 0 && !l.active().w.never {
		t.Errorf("%d records past the page cache, %d through it, %d files used again", direct, through, reused)
	}
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

// TestEntriesAreReadBesideWriting has the last entries read while more are written,
// past the page cache and through it.
func TestEntriesAreReadBesideWriting(t *testing.T) {
	t.Parallel()
	l, err := open(vfs.Default, filepath.Join(t.TempDir(), "log"), Factory{SegmentSize: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	size := func(index uint64) int { return []int{100, 2000, 30_000, 10}[index%4] }
	var written atomic.Uint64
	var reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			for last := uint64(0); last < 500; {
				last = written.Load()
				first := max(last, 8) - 7
				entries, _, err := l.IterateEntries(nil, 0, shard, replica, first, last+1, 1<<30)
				if err != nil || len(entries) != int(last+1-first) {
					t.Errorf("of entries %d to %d: %d, %v", first, last, len(entries), err)
					return
				}
				for i, e := range entries {
					if want := bytes.Repeat([]byte{byte(e.Index)}, size(e.Index)); e.Index != first+uint64(i) || !bytes.Equal(e.Cmd, want) {
						t.Errorf("entry %d is another", e.Index)
						return
					}
				}
			}
		})
	}
	for index := uint64(1); index <= 500; index++ {
		if err := l.SaveRaftState([]pb.Update{{
			ShardID: shard, ReplicaID: replica, State: pb.State{Term: 1},
			EntriesToSave: []pb.Entry{{Index: index, Term: 1, Cmd: bytes.Repeat([]byte{byte(index)}, size(index))}},
		}}, 1); err != nil {
			t.Error(err)
			break
		}
		written.Store(index)
	}
	written.Store(max(written.Load(), 500))
	reading.Wait()
}

func TestSparesAreGivenBack(t *testing.T) {
	disk := powerdisk.New()
	l, err := openLog(disk, 3000)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close() }()
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	compact := func() (spares int) {
		t.Helper()
		for range 100 {
			index++
			u := pb.Update{
				ShardID: shard, ReplicaID: replica, State: pb.State{Term: 1, Commit: index - 1},
				EntriesToSave: []pb.Entry{{Index: index, Term: 1, Cmd: make([]byte, 300)}},
			}
			if err := l.SaveRaftState([]pb.Update{u}, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.SaveSnapshots([]pb.Update{{ShardID: shard, ReplicaID: replica, Snapshot: snapshotAt(index-1, 1)}}); err != nil {
			t.Fatal(err)
		}
		if err := l.RemoveEntriesTo(shard, replica, index-1); err != nil {
			t.Fatal(err)
		}
		if _, err := l.CompactEntriesTo(shard, replica, index-1); err != nil {
			t.Fatal(err)
		}
		names, err := disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasPrefix(name, sparePrefix) {
				spares++
			}
		}
		return spares
	}
	if n := compact(); n != maxSpares {
		t.Errorf("%d spares", n)
	}
	if !l.Release() || l.Release() {
		t.Error("that there was something to give back is not told, or told twice")
	}
	disk.SetFree(spareRoom*3000 - 1)
	if n := compact(); n != 0 {
		t.Errorf("%d spares on a disk that has little room", n)
	}
	disk.SetFree(1 << 40)
	if n := compact(); n != maxSpares {
		t.Errorf("%d spares when there is room again", n)
	}

	// They are kept over a restart, and given back when the log waits for room.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	waits := make(chan struct{}, 1)
	if l, err = open(disk, dir, Factory{SegmentSize: 3000, Full: func() {
		select {
		case waits <- struct{}{}:
		default:
		}
	}}); err != nil {
		t.Fatal(err)
	}
	if len(l.spares.names) != maxSpares {
		t.Errorf("%d spares after a restart", len(l.spares.names))
	}
	disk.SetFull(true)
	large := pb.Entry{Index: index + 1, Term: 1, Cmd: make([]byte, 100_000)}
	done := make(chan error)
	go func() {
		done <- l.SaveRaftState([]pb.Update{{ShardID: shard, ReplicaID: replica, EntriesToSave: []pb.Entry{large}}}, 1)
	}()
	<-waits
	if l.Release() {
		t.Error("the log waits for room and keeps spares")
	}
	disk.SetFull(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestOnlyTheLastSegmentMayHaveNoHead damages the heads of the last two.
func TestOnlyTheLastSegmentMayHaveNoHead(t *testing.T) {
	disk := filled(t, 60, 1000)
	numbers, err := segments(disk, dir)
	if err != nil || len(numbers) < 4 {
		t.Fatal(numbers, err)
	}
	for i, number := range numbers[len(numbers)-2:] {
		path := disk.PathJoin(dir, segmentName(number))
		info, err := disk.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := disk.ReuseForWrite(path, path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if l, err := openLog(disk, 1000); err == nil {
			l.Close()
			t.Errorf("%d of the last two segments were wiped, and the log is opened", i+1)
		}
	}
}
