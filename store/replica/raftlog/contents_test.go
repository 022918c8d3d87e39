package raftlog

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// filesOf are the files of a directory by name.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

// TestReadingALogTellsWhatIsThereAndChangesNothing has a log of many segments, whose last
// one ends in what a crash has left, one that was not begun to the end behind it, and
// one whose removal was not finished.
func TestReadingALogTellsWhatIsThereAndChangesNothing(t *testing.T) {
	host := t.TempDir()
	dir := filepath.Join(host, directory)
	l, err := open(vfs.Default, dir, Factory{SegmentSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	nobodys, err := Read(vfs.Default, host)
	if err != nil || nobodys.Shard != 0 || nobodys.Replica != 0 || nobodys.Last != 0 {
		t.Fatalf("%+v, %v", nobodys, err)
	}
	nobodys.Close()
	if err := l.SaveBootstrapInfo(shard, replica, pb.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	entry := func(i uint64) pb.Entry {
		return pb.Entry{Index: i, Term: 1 + i/50, Cmd: []byte(fmt.Sprintf("%0500d", i))}
	}
	save := func(u pb.Update) {
		t.Helper()
		u.ShardID, u.ReplicaID = shard, replica
		if err := l.SaveRaftState([]pb.Update{u}, 0); err != nil {
			t.Fatal(err)
		}
	}
	first := filesOf(t, dir)
	const last, snapshot = 150, 120
	for i := uint64(1); i <= last; i++ {
		save(pb.Update{State: pb.State{Term: 1 + i/50, Commit: i - 1}, EntriesToSave: []pb.Entry{entry(i)}})
	}
	if err := l.SaveSnapshots([]pb.Update{{ShardID: shard, ReplicaID: replica, Snapshot: pb.Snapshot{Index: snapshot, Term: 2}}}); err != nil {
		t.Fatal(err)
	}
	if err := l.RemoveEntriesTo(shard, replica, snapshot); err != nil {
		t.Fatal(err)
	}
	if _, err := l.CompactEntriesTo(shard, replica, snapshot); err != nil {
		t.Fatal(err)
	}
	active := l.active()
	end, number := active.end, active.number
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	if _, there := filesOf(t, dir)[segmentName(2)]; there {
		t.Fatal("the second segment is still in use")
	}
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(segmentName(1), first[segmentName(1)])
	put(segmentName(number+1), "")
	torn := []byte(filesOf(t, dir)[segmentName(number)])
	end = min(end+4<<10, int64(len(torn)))
	torn[end-1] = 1
	put(segmentName(number), string(torn))

	before := filesOf(t, dir)
	for range 2 {
		c, err := Read(vfs.Default, host)
		if err != nil {
			t.Fatal(err)
		}
		if c.Shard != shard || c.Replica != replica || c.Last != last || c.Snapshot.Index != snapshot || c.State.Term != 4 || c.State.Commit != last-1 {
			t.Errorf("%+v", c)
		}
		next := uint64(snapshot + 1)
		for e, err := range c.Entries() {
			if err != nil || !sameEntry(e, entry(next)) {
				t.Fatalf("entry %d: %+v, %v", next, e, err)
			}
			next++
		}
		if next != last+1 {
			t.Errorf("the last entry is %d", next-1)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	after := filesOf(t, dir)
	if len(after) != len(before) {
		t.Errorf("there were %d files, and are %d", len(before), len(after))
	}
	for name := range before {
		if before[name] != after[name] {
			t.Errorf("%s was changed", name)
		}
	}

	// Who opens it does away with all that.
	if l, err = open(vfs.Default, dir, Factory{SegmentSize: 16 << 10}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	after = filesOf(t, dir)
	for _, name := range []string{segmentName(1), segmentName(number + 1)} {
		if _, there := after[name]; there {
			t.Errorf("%s is still there", name)
		}
	}
}
