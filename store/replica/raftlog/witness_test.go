package raftlog

import (
	"testing"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

func newLog(t *testing.T, fs vfs.FS) *Log {
	t.Helper()
	l, err := openLog(fs, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// metadata are entries as a witness has them.
func metadata(first, last, term uint64) (entries []pb.Entry) {
	for i := first; i <= last; i++ {
		entries = append(entries, pb.Entry{Type: pb.MetadataEntry, Index: i, Term: term})
	}
	return entries
}

func save(t *testing.T, l *Log, applied uint64, st pb.State, entries []pb.Entry) {
	t.Helper()
	u := pb.Update{ShardID: shard, ReplicaID: replica, State: st, LastApplied: applied, EntriesToSave: entries}
	if err := l.SaveRaftState([]pb.Update{u}, 0); err != nil {
		t.Fatal(err)
	}
}

func TestLogOfAWitnessIsCutBehindWhatItHasApplied(t *testing.T) {
	fs := vfs.NewMem()
	l := newLog(t, fs)
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{Join: true, Type: pb.ConcurrentStateMachine}); err != nil {
		t.Fatal(err)
	}
	members := pb.Membership{
		ConfigChangeId: 40,
		Addresses:      map[uint64]string{1: "a", 3: "b"},
		Witnesses:      map[uint64]string{2: "w"},
		Removed:        map[uint64]bool{4: true},
	}
	for i := uint64(1); i <= 1000; i += 10 {
		save(t, l, i-1, pb.State{Term: 7, Vote: 1, Commit: i - 1}, metadata(i, i+9, 7))
	}
	if l.Written() == 0 {
		t.Error("nothing was written")
	}
	cut := func(index uint64, m pb.Membership, want bool) {
		t.Helper()
		if done, err := l.Cut(index, m); done != want || err != nil {
			t.Fatalf("cut at %d: %t, %v", index, done, err)
		}
	}
	cut(cutBehind, members, false)
	early := members
	early.ConfigChangeId = 800
	cut(1000, early, false)         // the members before that are not known
	cut(cutBehind+20, early, false) // likewise
	segments := len(l.mu.segments)
	cut(5000, members, true) // as far as it has been applied, up to entry 990
	if first, last := l.Range(); first != 990-cutBehind+1 || last != 1000 {
		t.Errorf("it has entries %d to %d", first, last)
	}
	if len(l.mu.segments) >= segments || l.Written() != 0 {
		t.Errorf("%d segments, %d before; %d bytes written", len(l.mu.segments), segments, l.Written())
	}
	cut(5000, members, false)
	save(t, l, 1000, pb.State{Term: 8, Vote: 3, Commit: 1000}, metadata(1001, 1020, 8))

	check := func(l *Log) {
		t.Helper()
		ss, err := l.GetSnapshot(shard, replica)
		if err != nil || ss.Index != 990-cutBehind || ss.Term != 7 || !ss.Witness || ss.Type != pb.ConcurrentStateMachine ||
			ss.Membership.ConfigChangeId != 40 || ss.Membership.Witnesses[2] != "w" || !ss.Membership.Removed[4] {
			t.Errorf("snapshot %+v, %v", ss, err)
		}
		rs, err := l.ReadRaftState(shard, replica, ss.Index)
		if err != nil || rs.State.Vote != 3 || rs.FirstIndex != ss.Index+1 || rs.FirstIndex+rs.EntryCount != 1021 {
			t.Errorf("state %+v, %v", rs, err)
		}
		entries, _, err := l.IterateEntries(nil, 0, shard, replica, rs.FirstIndex, 1021, 1<<20)
		if err != nil || uint64(len(entries)) != rs.EntryCount || entries[0].Index != rs.FirstIndex {
			t.Errorf("%d entries, %v", len(entries), err)
		}
	}
	check(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	check(newLog(t, fs))
}

func TestSavedIsAwaited(t *testing.T) {
	l := newLog(t, vfs.NewMem())
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{Join: true}); err != nil {
		t.Fatal(err)
	}
	if l.AwaitSaved(2, 1, time.Millisecond) {
		t.Error("an entry that there is not")
	}
	save(t, l, 0, pb.State{Term: 2, Vote: 2}, metadata(1, 5, 2))
	if !l.AwaitSaved(2, 5, 0) {
		t.Error("an entry that there is")
	}
	if l.AwaitSaved(1, 3, time.Hour) {
		t.Error("an entry of an earlier leader")
	}
	waits := make(chan bool)
	await := func(term, index uint64) {
		go func() { waits <- l.AwaitSaved(term, index, time.Hour) }()
		for {
			l.saved.Lock()
			waiting := l.saved.changed != nil
			l.saved.Unlock()
			if waiting {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	await(2, 6)
	save(t, l, 0, pb.State{Term: 2, Vote: 2}, metadata(6, 6, 2))
	if !<-waits {
		t.Error("the entry that it has waited for")
	}
	await(2, 9)
	save(t, l, 0, pb.State{Term: 3, Vote: 1}, metadata(7, 9, 3))
	if <-waits {
		t.Error("an entry that another leader has taken the place of")
	}
	await(4, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if <-waits || l.AwaitSaved(3, 9, time.Hour) {
		t.Error("a log that is closed")
	}
}

func TestReplicaLeavesWhenItsRemovalIsInTheLog(t *testing.T) {
	fs := vfs.NewMem()
	l := newLog(t, fs)
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{Join: true}); err != nil {
		t.Fatal(err)
	}
	st := pb.State{Term: 2, Vote: 2}
	with := func(first, last uint64, c pb.ConfigChange) []pb.Entry {
		entries := metadata(first, last, 2)
		entries[1] = pb.Entry{Type: pb.ConfigChangeEntry, Index: first + 1, Term: 2, Cmd: pb.MustMarshal(&c)}
		return entries
	}
	leaves := func(what string, want bool) {
		t.Helper()
		if got := l.Leaves(); got != want {
			t.Errorf("%s: %t", what, got)
		}
	}
	reopen := func() {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = newLog(t, fs)
	}
	save(t, l, 0, st, with(1, 5, pb.ConfigChange{Type: pb.RemoveNode, ReplicaID: replica + 1}))
	save(t, l, 0, st, with(6, 10, pb.ConfigChange{Type: pb.AddNode, ReplicaID: replica}))
	leaves("others", false)
	save(t, l, 0, st, with(11, 15, pb.ConfigChange{Type: pb.RemoveNode, ReplicaID: replica}))
	save(t, l, 11, st, metadata(16, 20, 2))
	leaves("not carried out", true)
	reopen()
	leaves("not carried out, after a restart", true)
	save(t, l, 12, st, metadata(21, 21, 2))
	leaves("refused", false)
	save(t, l, 12, st, with(22, 25, pb.ConfigChange{Type: pb.RemoveNode, ReplicaID: replica}))
	leaves("once more", true)
	save(t, l, 12, pb.State{Term: 3, Vote: 1}, metadata(23, 23, 3))
	leaves("overwritten", false)
	reopen()
	leaves("overwritten before a restart", false)
}

// TestLogOfAWitnessThatRestartsOftenIsCut has less be written between two starts than it is
// cut for.
func TestLogOfAWitnessThatRestartsOftenIsCut(t *testing.T) {
	fs := vfs.NewMem()
	l := newLog(t, fs)
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{Join: true}); err != nil {
		t.Fatal(err)
	}
	var written int64
	for i := uint64(1); i <= 1000; i += 100 {
		save(t, l, i-1, pb.State{Term: 7, Vote: 1, Commit: i - 1}, metadata(i, i+99, 7))
		if got := l.Written(); got <= written {
			t.Errorf("%d bytes are written after entry %d, %d before", got, i, written)
		}
		written = l.Written()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if l = newLog(t, fs); l.Written() < written {
			t.Errorf("%d bytes are written after a restart, %d before", l.Written(), written)
		}
	}
}
