package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"dkv/internal/powerdisk"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
	"pgregory.net/rapid"
)

const (
	shard   = 1
	replica = 2
	dir     = "/data/log"
)

// twin is what a log must hold.
type twin struct {
	bootstrapped bool
	state        pb.State
	snapshot     uint64
	first        uint64 // of the entries
	entries      []pb.Entry
}

func (m twin) last() uint64 { return m.first + uint64(len(m.entries)) - 1 }

func (m twin) with(change func(*twin)) twin {
	m.entries = slices.Clone(m.entries)
	change(&m)
	return m
}

func (m *twin) append(entries []pb.Entry) {
	m.entries = append(m.entries[:entries[0].Index-m.first], entries...)
}

func openLog(fs vfs.FS, size int64) (*Log, error) {
	if err := fs.MkdirAll("/data", 0o700); err != nil {
		return nil, err
	}
	root, err := fs.OpenDir("/")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(root.Sync(), root.Close()); err != nil {
		return nil, err
	}
	return open(fs, dir, Factory{SegmentSize: size})
}

// difference says in what a log is not as its twin.
func (m twin) difference(l *Log) error {
	info, err := l.ListNodeInfo()
	if err != nil || (len(info) == 1) != m.bootstrapped {
		return fmt.Errorf("replicas %v, %v", info, err)
	}
	ss, err := l.GetSnapshot(shard, replica)
	if err != nil || ss.Index != m.snapshot || m.snapshot > 0 && !bytes.Equal(ss.Checksum, sum(m.snapshot)) {
		return fmt.Errorf("snapshot %d, %v, not %d", ss.Index, err, m.snapshot)
	}
	rs, err := l.ReadRaftState(shard, replica, m.snapshot)
	if pb.IsEmptyState(m.state) {
		if errors.Is(err, raftio.ErrNoSavedLog) {
			return nil
		}
		return fmt.Errorf("a state: %v, %v", rs, err)
	}
	if err != nil {
		return err
	}
	if rs.State.Term != m.state.Term || rs.State.Vote != m.state.Vote {
		return fmt.Errorf("state %v, not %v", rs.State, m.state)
	}
	if c := rs.State.Commit; c < m.snapshot || c > max(m.state.Commit, m.snapshot) {
		return fmt.Errorf("commit index %d, not from %d to %d", c, m.snapshot, m.state.Commit)
	}
	if last := max(m.last(), m.snapshot); rs.EntryCount != last-m.snapshot {
		return fmt.Errorf("%d entries behind snapshot %d, not %d", rs.EntryCount, m.snapshot, last-m.snapshot)
	}
	for from := m.snapshot + 1; from <= m.last(); from += 3 {
		if err := m.differenceIn(l, from, m.last()+1); err != nil {
			return err
		}
	}
	return nil
}

func (m twin) differenceIn(l *Log, low, high uint64) error {
	for _, limit := range []uint64{math.MaxUint64, 1 << 40, 200, 0} {
		got, size, err := l.IterateEntries(nil, 0, shard, replica, low, high, limit)
		if err != nil {
			return err
		}
		want, total := []pb.Entry(nil), uint64(0)
		for _, e := range m.entries[low-m.first : high-m.first] {
			want = append(want, e)
			if total += uint64(e.SizeUpperLimit()); total > limit || total > readAtOnce && limit != math.MaxUint64 {
				total = max(total, limit+1)
				break
			}
		}
		if size != total || !slices.EqualFunc(got, want, sameEntry) {
			return fmt.Errorf("entries %d to %d, at most %d bytes: %d of %d bytes, not %d of %d", low, high, limit, len(got), size, len(want), total)
		}
	}
	return nil
}

func sameEntry(a, b pb.Entry) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Cmd, b.Cmd)
}

func sum(index uint64) []byte { return fmt.Appendf(nil, "sum %d", index) }

func snapshotAt(index, term uint64) pb.Snapshot {
	return pb.Snapshot{
		Index: index, Term: term, ShardID: shard, Filepath: "/somewhere", Checksum: sum(index),
		Membership: pb.Membership{Addresses: map[uint64]string{1: "a", 2: "b"}},
		Type:       pb.ConcurrentStateMachine,
	}
}

// TestLogHoldsWhatWasSavedWhateverFails walks at random through what Dragonboat
// does with a log, on a disk whose power fails, and compares it with a twin.
func TestLogHoldsWhatWasSavedWhateverFails(t *testing.T) {
	t.Parallel()
	var cuts, torn, rotations, installs, reused int
	walk := func(t *rapid.T) {
		disk := powerdisk.New()
		size := rapid.SampledFrom([]int64{600, 3000, 20_000}).Draw(t, "segment size")
		l, err := openLog(disk, size)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { l.Close() }()
		spares := 0
		m := twin{first: 1}
		// do has the log changed; the power may fail meanwhile, and then it
		// holds one of the states on the way from m to to.
		do := func(t *rapid.T, call func() error, to ...twin) {
			if rapid.IntRange(0, 5).Draw(t, "luck") == 0 {
				disk.FailAfter(rapid.IntRange(1, 8).Draw(t, "operations"))
			}
			if err := call(); err == nil {
				m = to[len(to)-1]
				disk.FailAfter(0)
				return
			} else if !errors.Is(err, powerdisk.ErrPower) {
				t.Fatal(err)
			}
			cuts++
			if err := call(); err == nil {
				t.Fatal("it went on after a failure")
			}
			l.Close()
			kept := 0
			if rapid.Bool().Draw(t, "killed") {
				disk.Revive()
			} else {
				disk.Restore(func() bool {
					if rapid.Bool().Draw(t, "kept") {
						kept++
						return true
					}
					return false
				})
			}
			if l, err = openLog(disk, size); err != nil {
				t.Fatalf("open: %v", err)
			}
			states := append([]twin{m}, to...)
			var errs []error
			for i, s := range slices.Backward(states) {
				if err := s.difference(l); err != nil {
					errs = append(errs, err)
					continue
				}
				if i < len(to) && kept > 0 {
					torn++
				}
				m = s
				return
			}
			t.Fatalf("after a power cut it is in none of %d states: %v", len(states), errors.Join(errs...))
		}
		save := func(u pb.Update) func() error {
			u.ShardID, u.ReplicaID = shard, replica
			return func() error { return l.SaveRaftState([]pb.Update{u}, 1) }
		}
		entries := func(t *rapid.T, first, term uint64) (es []pb.Entry) {
			for i := range rapid.IntRange(1, 5).Draw(t, "entries") {
				es = append(es, pb.Entry{
					Index: first + uint64(i), Term: term, Type: pb.EncodedEntry,
					Cmd: bytes.Repeat([]byte{byte(first), byte(i), 1}, rapid.IntRange(0, 300).Draw(t, "bytes")),
				})
			}
			return es
		}
		t.Repeat(map[string]func(*rapid.T){
			"bootstrap": func(t *rapid.T) {
				if m.bootstrapped {
					t.Skip()
				}
				b := pb.Bootstrap{Addresses: map[uint64]string{1: "a", 2: "b"}, Type: pb.ConcurrentStateMachine}
				do(t, func() error { return l.SaveBootstrapInfo(shard, replica, b) }, m.with(func(m *twin) { m.bootstrapped = true }))
				if m.bootstrapped {
					if got, err := l.GetBootstrapInfo(shard, replica); err != nil || got.Addresses[2] != "b" || got.Type != b.Type {
						t.Fatal(got, err)
					}
				}
			},
			"append": func(t *rapid.T) {
				if !m.bootstrapped {
					t.Skip()
				}
				first := m.last() + 1 - rapid.Uint64Range(0, min(3, uint64(len(m.entries)))).Draw(t, "overwritten")
				if first <= max(m.state.Commit, m.snapshot) {
					first = m.last() + 1
				}
				st := m.state
				if first <= m.last() || rapid.IntRange(0, 9).Draw(t, "new term") == 0 {
					st.Term++
					st.Vote = rapid.Uint64Range(0, 3).Draw(t, "vote")
				}
				st.Term = max(st.Term, 1)
				es := entries(t, first, st.Term)
				st.Commit = rapid.Uint64Range(max(st.Commit, m.snapshot), max(st.Commit, es[len(es)-1].Index)).Draw(t, "commit")
				u := pb.Update{EntriesToSave: es}
				if st != m.state || rapid.Bool().Draw(t, "state") {
					u.State = st
				}
				do(t, save(u), m.with(func(m *twin) { m.state = st; m.append(es) }))
			},
			"commit or vote": func(t *rapid.T) {
				if !m.bootstrapped {
					t.Skip()
				}
				st := m.state
				if rapid.Bool().Draw(t, "voted") {
					st.Term++
					st.Vote = rapid.Uint64Range(0, 3).Draw(t, "vote")
				} else {
					st.Commit = max(m.last(), m.snapshot)
				}
				if pb.IsEmptyState(st) {
					t.Skip()
				}
				do(t, save(pb.Update{State: st}), m.with(func(m *twin) { m.state = st }))
			},
			"snapshot": func(t *rapid.T) {
				at := max(m.state.Commit, m.snapshot)
				if at == m.snapshot || at > m.last() {
					t.Skip()
				}
				u := []pb.Update{{ShardID: shard, ReplicaID: replica, Snapshot: snapshotAt(at, m.state.Term)}}
				do(t, func() error { return l.SaveSnapshots(u) }, m.with(func(m *twin) { m.snapshot = at }))
				keep := rapid.Uint64Range(0, 5).Draw(t, "kept")
				if m.snapshot != at || at <= keep {
					return
				}
				if err := l.RemoveEntriesTo(shard, replica, at-keep); err != nil {
					t.Fatal(err)
				}
				do(t, func() error {
					_, err := l.CompactEntriesTo(shard, replica, at-keep)
					if err == nil && disk.Failed() {
						err = powerdisk.ErrPower
					}
					return err
				}, m)
			},
			"install": func(t *rapid.T) {
				if !m.bootstrapped {
					t.Skip()
				}
				at := max(m.last(), m.snapshot) + rapid.Uint64Range(1, 20).Draw(t, "ahead")
				st := pb.State{Term: m.state.Term + 1, Commit: at}
				u := pb.Update{State: st, Snapshot: snapshotAt(at, st.Term)}
				installed := m.with(func(m *twin) { m.state, m.snapshot, m.first, m.entries = st, at, at+1, nil })
				if rapid.Bool().Draw(t, "with entries") {
					u.EntriesToSave = entries(t, at+1, st.Term)
					u.State.Commit = rapid.Uint64Range(at, at+uint64(len(u.EntriesToSave))).Draw(t, "commit")
					do(t, save(u), installed, installed.with(func(m *twin) {
						m.state = u.State
						m.append(u.EntriesToSave)
					}))
				} else {
					do(t, save(u), installed)
				}
				installs++
			},
			"restart": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "closed") {
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				} else {
					if err := l.closeFiles(); err != nil { // it is killed
						t.Fatal(err)
					}
				}
				if l, err = openLog(disk, size); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				if err := m.difference(l); err != nil {
					t.Fatal(err)
				}
				rotations = max(rotations, len(l.mu.segments))
				if len(l.spares.names) < spares {
					reused++
				}
				spares = len(l.spares.names)
			},
		})
	}
	// In short form the walks are few: more of them, until they have met everything.
	met := func() bool { return cuts > 0 && torn > 0 && rotations > 1 && installs > 0 && reused > 0 }
	for range 30 {
		if rapid.Check(t, walk); met() || t.Failed() {
			break
		}
	}
	if !met() {
		t.Errorf("%d power cuts, %d with something half written, %d segments, %d made of an old one, %d snapshots installed: not what was to be tested",
			cuts, torn, rotations, reused, installs)
	}
}

// filled returns a disk with a log of n entries, in records of one each.
func filled(t *testing.T, n int, size int64) *powerdisk.Disk {
	t.Helper()
	disk := powerdisk.New()
	l, err := openLog(disk, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(n) {
		if err := l.SaveRaftState([]pb.Update{{
			ShardID: shard, ReplicaID: replica,
			State:         pb.State{Term: 1, Commit: i},
			EntriesToSave: []pb.Entry{{Index: i + 1, Term: 1, Cmd: make([]byte, 100)}},
		}}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

// flip changes one byte of a file.
func flip(t *testing.T, fs vfs.FS, path string, at int64) {
	t.Helper()
	f, err := fs.ReuseForWrite(path, path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if err := readFull(f, b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestDamageIsNotTakenForTheEnd flips each byte of a log in turn. Only in what
// nobody can have built on, the last record, may that go by as a write that was
// cut short.
func TestDamageIsNotTakenForTheEnd(t *testing.T) {
	t.Parallel()
	disk := filled(t, 20, 1000)
	whole, err := recoverSegments(disk.MemFS, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.segments) < 3 {
		t.Fatalf("%d segments", len(whole.segments))
	}
	refused, lost := 0, 0
	for i, s := range whole.segments {
		c, err := s.contents()
		if err != nil {
			t.Fatal(err)
		}
		last := i == len(whole.segments)-1
		for at := range c.end {
			flip(t, disk.MemFS, disk.PathJoin(dir, segmentName(s.number)), at)
			rec, err := recoverSegments(disk.MemFS, dir)
			switch {
			case err != nil:
				refused++
				if !strings.Contains(err.Error(), segmentName(s.number)) {
					t.Errorf("segment %d, offset %d: %v", s.number, at, err)
				}
			case last && at >= c.records[len(c.records)-1]:
				lost++
			default:
				t.Fatalf("segment %d, offset %d of %d: no error, entries %d to %d", s.number, at, c.end, rec.first, rec.last)
			}
			if rec != nil {
				for _, s := range rec.segments {
					s.close()
				}
			}
			flip(t, disk.MemFS, disk.PathJoin(dir, segmentName(s.number)), at)
		}
	}
	if refused == 0 || lost == 0 {
		t.Errorf("refused %d, taken for cut short %d", refused, lost)
	}
}

func TestLogOfAnotherReplicaIsRefused(t *testing.T) {
	t.Parallel()
	l, err := openLog(filled(t, 3, 1000), 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SaveBootstrapInfo(shard, replica+1, pb.Bootstrap{}); err == nil {
		t.Error("it can be bootstrapped for another replica")
	}
	if _, err := l.GetBootstrapInfo(shard, replica+1); !errors.Is(err, raftio.ErrNoBootstrapInfo) {
		t.Error(err)
	}
	if _, err := l.ReadRaftState(shard+1, replica, 0); !errors.Is(err, raftio.ErrNoSavedLog) {
		t.Error(err)
	}
	if err := l.RemoveNodeData(shard, replica); err != nil {
		t.Error(err)
	}
	if info, err := l.ListNodeInfo(); err != nil || len(info) != 0 {
		t.Error(info, err)
	}
	if err := l.ImportSnapshot(snapshotAt(7, 3), replica+1); err != nil {
		t.Error(err)
	}
	rs, err := l.ReadRaftState(shard, replica+1, 7)
	if err != nil || rs.State != (pb.State{Term: 3, Commit: 7}) || rs.EntryCount != 0 {
		t.Error(rs, err)
	}
}

// TestFullDiskIsWaitedFor has the disk fill up under a log, and later get room.
func TestFullDiskIsWaitedFor(t *testing.T) {
	t.Parallel()
	disk := filled(t, 3, 1000)
	told := make(chan struct{}, 1)
	l, err := open(disk, dir, Factory{SegmentSize: 1000, Full: func() {
		select {
		case told <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	disk.SetFull(true)
	saved := make(chan error, 1)
	go func() {
		for i := range uint64(50) {
			if err := l.SaveRaftState([]pb.Update{{
				ShardID: shard, ReplicaID: replica,
				EntriesToSave: []pb.Entry{{Index: i + 4, Term: 1, Cmd: make([]byte, 100)}},
			}}, 1); err != nil {
				saved <- err
				return
			}
		}
		saved <- nil
	}()
	<-told
	select {
	case err := <-saved:
		t.Fatal("it did not wait: ", err)
	case <-time.After(2 * fullRetry):
	}
	disk.SetFull(false)
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = openLog(disk, 1000); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if rs, err := l.ReadRaftState(shard, replica, 0); err != nil || rs.EntryCount != 53 {
		t.Error(rs, err)
	}
}

// FuzzRecover opens a log with a segment of any bytes.
func FuzzRecover(f *testing.F) {
	disk := powerdisk.New()
	l, err := openLog(disk, 4000)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(
		l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{}),
		l.SaveRaftState([]pb.Update{{ShardID: shard, ReplicaID: replica, State: pb.State{Term: 1}, EntriesToSave: []pb.Entry{{Index: 1, Term: 1}}}}, 1),
		l.SaveSnapshots([]pb.Update{{ShardID: shard, ReplicaID: replica, Snapshot: snapshotAt(1, 1)}}),
	); err != nil {
		f.Fatal(err)
	}
	s := l.active()
	whole := make([]byte, s.end)
	if err := readFull(s.r, whole, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(whole, true)
	f.Add(whole[:len(whole)-1], true)
	f.Add([]byte(nil), false)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend { // the checksums, so that what is behind them is reached
			b = slices.Clone(b)
			for at := 0; len(b)-at >= headerSize; {
				h := decodeHeader(b[at:])
				if !h.plausible(int64(len(b) - at)) {
					break
				}
				record := b[at : at+headerSize+int(h.size)]
				endRecord(record, 1, int64(h.synced))
				at += len(record)
			}
		}
		fs := vfs.NewMem()
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(fs.PathJoin(dir, segmentName(1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		l, err := openLog(fs, 4000)
		if err != nil {
			return
		}
		rs, err := l.ReadRaftState(l.writing.shard, l.writing.replica, l.writing.snapshot.Index)
		if err == nil && rs.EntryCount > 0 {
			es, _, err := l.IterateEntries(nil, 0, shard, replica, rs.FirstIndex, rs.FirstIndex+rs.EntryCount, math.MaxUint64)
			if err != nil || uint64(len(es)) != rs.EntryCount {
				t.Errorf("%d of %d entries, %v", len(es), rs.EntryCount, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
