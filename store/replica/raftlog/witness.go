package raftlog

import (
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// What a log has for the sake of witnesses: that of a witness is cut short without
// Dragonboat, which does that only as it writes a snapshot, and a witness writes none; and
// that of a leader tells when what a witness is to be sent is on the disk.

// cutBehind is how many entries that are applied stay in the log of a witness. A replica
// that runs looks at no applied entry but the last one, or so.
const cutBehind = 256

// Written is how many bytes have been written since the last Cut; after the log was opened,
// with all that was found in it.
func (l *Log) Written() int64 {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.writing.since
}

// Range is the indices of the first and the last entry that there are; first is one more than
// last if there are none behind the snapshot.
func (l *Log) Range() (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mu.first, l.mu.last
}

// Cut has a witness' log begin behind an entry that the replica has applied, the one with
// that index or an earlier one, and tells whether it could. The members are those after
// entry index, since the change that they name. A replica that starts finds there the
// snapshot that a leader would have sent it, which has no state either. Dragonboat, which
// knows nothing of this, asks for none of those entries while it runs.
func (l *Log) Cut(index uint64, members pb.Membership) (bool, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	index = min(index, l.writing.applied)
	index -= min(index, cutBehind)
	if index <= l.writing.snapshot.Index || index < members.ConfigChangeId || l.writing.bootstrap == nil {
		return false, nil
	}
	entries, _, err := l.IterateEntries(nil, 0, l.writing.shard, l.writing.replica, index, index+1, 0)
	if err != nil || len(entries) != 1 {
		return false, err
	}
	m := l.writing.meta
	m.snapshot = pb.Snapshot{
		ShardID:    m.shard,
		Index:      index,
		Term:       entries[0].Term,
		Membership: members,
		Type:       m.bootstrap.Type,
		Witness:    true,
	}
	m.snapshot = stored(m.snapshot)
	if err := l.setMetaLocked(m); err != nil {
		return false, err
	}
	l.writing.since = 0
	l.mu.Lock()
	l.mu.index.drop(index)
	l.mu.Unlock()
	return true, l.removeSegments()
}

// AwaitSaved waits until an entry that this replica has as the leader of a term is on the
// disk. It is false if that has not come to be within patience, or will not, since the
// replica has entries of a later term or the log is closed.
func (l *Log) AwaitSaved(term, index uint64, patience time.Duration) bool {
	var timeout <-chan time.Time
	for {
		l.saved.Lock()
		switch s := &l.saved; {
		case s.closed || s.term > term:
			l.saved.Unlock()
			return false
		case s.term == term && s.index >= index:
			l.saved.Unlock()
			return true
		case s.changed == nil:
			s.changed = make(chan struct{})
		}
		changed := l.saved.changed
		l.saved.Unlock()
		if timeout == nil {
			t := time.NewTimer(patience)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

// Leaves tells whether the removal of this replica is in the log and not carried out.
func (l *Log) Leaves() bool {
	l.saved.Lock()
	defer l.saved.Unlock()
	return l.saved.leaves != 0
}

// stays is called when the entries up to one are carried out. If one of them was the removal
// of this replica, which still runs, it was refused.
func (l *Log) stays(applied uint64) {
	l.saved.Lock()
	defer l.saved.Unlock()
	if l.saved.leaves <= applied {
		l.saved.leaves = 0
	}
}

// savedEntries notes that entries are on the disk.
func (l *Log) savedEntries(entries []pb.Entry) {
	l.save(func() {
		last := &entries[len(entries)-1]
		l.saved.term, l.saved.index = last.Term, last.Index
		if l.saved.leaves >= entries[0].Index { // it is overwritten
			l.saved.leaves = 0
		}
		for i := range entries {
			if removes(&entries[i], l.writing.replica) {
				l.saved.leaves = entries[i].Index
			}
		}
	})
}

// removes tells whether an entry is the removal of a replica.
func removes(e *pb.Entry, replica uint64) bool {
	if e.Type != pb.ConfigChangeEntry {
		return false
	}
	var c pb.ConfigChange
	return unmarshal(&c, e.Cmd) == nil && c.Type == pb.RemoveNode && c.ReplicaID == replica
}

// save sets what is on the disk, and wakes those who wait for it.
func (l *Log) save(set func()) {
	l.saved.Lock()
	defer l.saved.Unlock()
	set()
	if l.saved.changed != nil {
		close(l.saved.changed)
		l.saved.changed = nil
	}
}
