package raftlog

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// Name is the name of this kind of log in Dragonboat's directory.
const Name = "dkv"

const (
	directory = "log"

	defaultSegmentSize = 32 << 20

	// By how much a segment grows for a small record, and for a large one: the
	// first waits for all of it, the second is one of many.
	smallStep = 128 << 10
	largeStep = 1 << 20

	fullRetry = 100 * time.Millisecond
)

// Factory makes the log of a NodeHost that runs one replica.
type Factory struct {
	// SegmentSize is how large a file may be before the next one is begun.
	// Default: 32 MiB.
	SegmentSize int64

	// Full is called when there is no room on the disk for what must be
	// written, again and again while that is so. It must not block.
	Full func()

	// Opened is called with the log.
	Opened func(*Log)
}

var _ config.LogDBFactory = Factory{}

// Name implements config.LogDBFactory.
func (Factory) Name() string { return Name }

// Create implements config.LogDBFactory.
func (f Factory) Create(nhc config.NodeHostConfig, _ config.LogDBCallback, dirs, _ []string) (raftio.ILogDB, error) {
	fs := nhc.Expert.FS
	l, err := open(fs, fs.PathJoin(dirs[0], directory), f)
	if err != nil {
		return nil, err
	}
	if f.Opened != nil {
		f.Opened(l)
	}
	return l, nil
}

// Log is the log of one replica. Its methods are those of raftio.ILogDB, whose
// shardID and replicaID must be those of the one replica.
type Log struct {
	fs      vfs.FS
	dir     string
	factory Factory
	spares  *spares

	// writing is held by who appends, also while that is synced to the disk. It
	// is taken before mu.
	writing struct {
		sync.Mutex
		meta
		applied uint64 // index up to which the replica has applied the log, at least
		since   int64  // bytes in the log since it was cut short by Cut, at most
		failed  error  // of a write: what is on the disk is not certain any longer
		closed  bool
		records []byte // reused
	}

	// saved is the last entry that is on the disk, for those who wait for one.
	saved struct {
		sync.Mutex
		term, index uint64
		leaves      uint64        // the entry that removes this replica, which may be committed or not; 0 if there is none
		changed     chan struct{} // closed when they are; nil if nobody waits
		closed      bool
	}

	// mu guards what readers need. Files are closed under it.
	mu struct {
		sync.RWMutex
		index
		segments []*segment // in order; the last one is written to
	}
}

var _ raftio.ILogDB = (*Log)(nil)

var errClosed = errors.New("the log is closed")

func open(fs vfs.FS, dir string, f Factory) (*Log, error) {
	if f.SegmentSize == 0 {
		f.SegmentSize = defaultSegmentSize
	}
	l := &Log{fs: fs, dir: dir, factory: f}
	if err := makeDir(fs, dir); err != nil {
		return nil, err
	}
	l.spares = &spares{fs: fs, dir: dir, size: f.SegmentSize}
	if err := l.spares.find(); err != nil {
		return nil, err
	}
	rec, err := recoverSegments(fs, dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	l.writing.meta = rec.meta
	l.writing.snapshot.Filepath = l.now(rec.meta.snapshot.Filepath)
	l.writing.cut = false
	l.writing.since = rec.bytes
	l.saved.leaves = rec.leaves
	l.mu.index = rec.index
	l.mu.segments = rec.segments
	for _, name := range rec.left {
		if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
			return nil, errors.Join(err, l.closeFiles())
		}
	}
	if n := len(rec.segments); n > 0 {
		err = rec.segments[n-1].resume(fs, dir, rec.end)
		if err == nil {
			err = syncDir(fs, dir) // the segment's name may be new
		}
	} else {
		// What was spared may have been a segment with the number that is the
		// first one's now.
		if _, err = l.spares.release(); err == nil {
			err = l.rotate()
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	return l, nil
}

// now is the path that a snapshot's file has now. Its description has the whole path that it
// had when it was made, and Dragonboat, which sends it to others from there, ends the host
// program if it is not to be found. It is four names below the directory that the log's is
// in, which may be another one by now.
func (l *Log) now(path string) string {
	if path == "" { // a witness has none
		return ""
	}
	names := make([]string, 5)
	for i := len(names) - 1; i > 0; i-- {
		names[i], path = l.fs.PathBase(path), l.fs.PathDir(path)
	}
	names[0] = l.fs.PathDir(l.dir)
	return l.fs.PathJoin(names...)
}

// makeDir makes a directory whose entry in its parent is on the disk.
func makeDir(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(dir))
}

func syncDir(fs vfs.FS, path string) error {
	d, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Name implements raftio.ILogDB.
func (l *Log) Name() string { return Name }

// BinaryFormat implements raftio.ILogDB.
func (l *Log) BinaryFormat() uint32 { return raftio.PlainLogDBBinVersion }

// Close implements raftio.ILogDB.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.writing.closed {
		return nil
	}
	l.saveCommitLocked()
	l.writing.closed = true
	l.save(func() { l.saved.closed = true })
	return l.closeFiles()
}

// saveCommitLocked writes the index up to which the log is committed, if that is
// easily done: it spares the replica from being told when it starts.
func (l *Log) saveCommitLocked() {
	if l.writing.failed != nil || l.writing.bootstrap == nil {
		return
	}
	s := l.active()
	record := l.writing.meta.append(beginRecord(nil, kindMeta))
	if s.end+int64(len(record)) <= s.reserved {
		_, _ = l.writeLocked(s, record)
	}
}

func (l *Log) closeFiles() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, s := range l.mu.segments {
		err = errors.Join(err, s.close())
	}
	l.mu.segments = nil
	return err
}

// SaveRaftState implements raftio.ILogDB: when it returns, terms, votes, entries
// and snapshots are on the disk. An index up to which the log is committed is not
// worth an access to the disk: a replica that does not know it learns it from the
// others, so it goes along with what comes next.
func (l *Log) SaveRaftState(updates []pb.Update, _ uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for i := range updates {
		if err := l.saveLocked(&updates[i]); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) saveLocked(u *pb.Update) error {
	if err := l.mineLocked(u.ShardID, u.ReplicaID); err != nil {
		return err
	}
	m := l.writing.meta
	if !pb.IsEmptyState(u.State) {
		m.state = u.State
	}
	if u.LastApplied > l.writing.applied {
		l.writing.applied = u.LastApplied
		l.stays(u.LastApplied)
	}
	voted := m.state.Term != l.writing.state.Term || m.state.Vote != l.writing.state.Vote
	if !pb.IsEmptySnapshot(u.Snapshot) {
		// It takes the place of all the entries.
		// The commit index may be one of the entries' that come next.
		state := m.state
		m.state.Commit = min(m.state.Commit, u.Snapshot.Index)
		m.snapshot, m.cut, m.base = stored(u.Snapshot), true, u.Snapshot.Index
		if err := l.setMetaLocked(m); err != nil {
			return err
		}
		m, voted = l.writing.meta, false
		m.state = state
	}
	if voted || len(u.EntriesToSave) > 0 {
		if err := l.appendEntriesLocked(m.state, u.EntriesToSave); err != nil {
			return err
		}
	}
	l.writing.meta = m
	return nil
}

// stored is what is kept of a snapshot's description: not the count of its users.
func stored(s pb.Snapshot) (c pb.Snapshot) {
	pb.MustUnmarshal(&c, pb.MustMarshal(&s))
	return c
}

func (l *Log) appendEntriesLocked(st pb.State, entries []pb.Entry) error {
	s, err := l.roomLocked()
	if err != nil {
		return err
	}
	b, err := appendEntries(beginRecord(l.writing.records[:0], kindAppend), st, entries)
	if err != nil {
		return err
	}
	at, err := l.writeLocked(s, b)
	if err != nil || len(entries) == 0 {
		return err
	}
	l.savedEntries(entries)
	l.mu.Lock()
	defer l.mu.Unlock()
	p := place{first: entries[0].Index, segment: s.number, offset: at}
	if !l.mu.index.append(p, entries[len(entries)-1].Index) {
		return fmt.Errorf("entry %d was given to the log, which ends with %d", p.first, l.mu.last)
	}
	return nil
}

// setMetaLocked writes m and takes it for the log's.
func (l *Log) setMetaLocked(m meta) error {
	if err := l.appendMetaLocked(m); err != nil {
		return err
	}
	m.cut = false
	l.writing.meta = m
	return nil
}

func (l *Log) appendMetaLocked(m meta) error {
	s, err := l.roomLocked()
	if err != nil {
		return err
	}
	if _, err := l.writeLocked(s, m.append(beginRecord(l.writing.records[:0], kindMeta))); err != nil {
		return err
	}
	if m.cut {
		l.mu.Lock()
		l.mu.index.cut(m.base)
		l.mu.Unlock()
	}
	return nil
}

// mineLocked refuses a replica that is not the one that the log is for.
func (l *Log) mineLocked(shard, replica uint64) error {
	if l.writing.bootstrap == nil || shard != l.writing.shard || replica != l.writing.replica {
		return fmt.Errorf("the log is not that of replica %d of shard %d", replica, shard)
	}
	return nil
}

// ListNodeInfo implements raftio.ILogDB.
func (l *Log) ListNodeInfo() ([]raftio.NodeInfo, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.writing.bootstrap == nil {
		return nil, nil
	}
	return []raftio.NodeInfo{raftio.GetNodeInfo(l.writing.shard, l.writing.replica)}, nil
}

// SaveBootstrapInfo implements raftio.ILogDB. It makes the log that replica's.
func (l *Log) SaveBootstrapInfo(shardID, replicaID uint64, b pb.Bootstrap) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.writing.bootstrap != nil {
		if err := l.mineLocked(shardID, replicaID); err != nil {
			return err
		}
	}
	m := l.writing.meta
	m.shard, m.replica, m.bootstrap = shardID, replicaID, &b
	return l.setMetaLocked(m)
}

// GetBootstrapInfo implements raftio.ILogDB.
func (l *Log) GetBootstrapInfo(shardID, replicaID uint64) (pb.Bootstrap, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.mineLocked(shardID, replicaID) != nil {
		return pb.Bootstrap{}, raftio.ErrNoBootstrapInfo
	}
	return *l.writing.bootstrap, nil
}

// SaveSnapshots implements raftio.ILogDB: the snapshots' files are there, the
// entries before them may be dropped afterwards.
func (l *Log) SaveSnapshots(updates []pb.Update) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for i := range updates {
		u := &updates[i]
		if err := l.mineLocked(u.ShardID, u.ReplicaID); err != nil {
			return err
		}
		if u.Snapshot.Index <= l.writing.snapshot.Index {
			continue
		}
		m := l.writing.meta
		m.snapshot = stored(u.Snapshot)
		if err := l.setMetaLocked(m); err != nil {
			return err
		}
	}
	return nil
}

// GetSnapshot implements raftio.ILogDB.
func (l *Log) GetSnapshot(shardID, replicaID uint64) (pb.Snapshot, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.mineLocked(shardID, replicaID) != nil || pb.IsEmptySnapshot(l.writing.snapshot) {
		return pb.Snapshot{}, nil
	}
	return stored(l.writing.snapshot), nil
}

// ReadRaftState implements raftio.ILogDB. Dragonboat calls it when it starts the
// replica, with the index of the snapshot that it has loaded.
func (l *Log) ReadRaftState(shardID, replicaID, snapshot uint64) (raftio.RaftState, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.mineLocked(shardID, replicaID) != nil || pb.IsEmptyState(l.writing.state) {
		return raftio.RaftState{}, raftio.ErrNoSavedLog
	}
	rs := raftio.RaftState{State: l.writing.state, FirstIndex: snapshot + 1}
	// What is in a snapshot was committed, whether the state says so or not.
	rs.State.Commit = max(rs.State.Commit, snapshot)
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.mu.last > snapshot {
		if l.mu.first > rs.FirstIndex {
			return raftio.RaftState{}, fmt.Errorf("entries %d to %d are missing", rs.FirstIndex, l.mu.first-1)
		}
		rs.EntryCount = l.mu.last - snapshot
	}
	return rs, nil
}

// readAtOnce is how much of the log is read at once, in bytes. Dragonboat asks for 64 MiB
// for a member that is behind, all of which it reads, copies and sends before it does
// anything else: meanwhile other members would take the leader for dead.
const readAtOnce = 2 << 20

// IterateEntries implements raftio.ILogDB. It appends the entries from low to
// high-1 to ents, but none after that with which size is more than maxSize, or
// readAtOnce; the size that it returns is more than maxSize then.
func (l *Log) IterateEntries(ents []pb.Entry, size, _, _, low, high, maxSize uint64) ([]pb.Entry, uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.mu.segments) == 0 {
		return nil, 0, errClosed
	}
	if low < l.mu.first {
		return ents, size, nil
	}
	high = min(high, l.mu.last+1)
	limit := maxSize
	if maxSize != math.MaxUint64 { // which is for all that there are
		limit = min(maxSize, size+readAtOnce)
	}
	for low < high {
		n := l.mu.holding(low)
		full := false
		err := l.read(l.mu.records[n], min(high, l.mu.end(n)), func(e pb.Entry) bool {
			if e.Index == low {
				ents = append(ents, e)
				size += uint64(e.SizeUpperLimit())
				low++
				full = size > limit
			}
			return !full
		})
		if err != nil {
			return nil, 0, err
		}
		if full {
			return ents, max(size, maxSize+1), nil
		}
	}
	return ents, size, nil
}

// read calls each with the entries of a record up to end-1, all of which must be
// there, until it returns false. mu must be held, if only for reading.
func (l *Log) read(p place, end uint64, each func(pb.Entry) bool) error {
	s := l.mu.segments[p.segment-l.mu.segments[0].number]
	k, payload, err := s.read(p.offset)
	if err == nil && k != kindAppend {
		err = errRecord
	}
	r := &reader{b: payload}
	next := p.first
	if err == nil {
		decodeEntries(r, func(e pb.Entry) bool {
			if e.Index != next {
				r.fail()
				return false
			}
			next++
			return each(e) && next < end
		})
		err = r.err
	}
	if err != nil {
		return fmt.Errorf("%s: offset %d: %w", segmentName(s.number), p.offset, err)
	}
	return nil
}

// RemoveEntriesTo implements raftio.ILogDB. That is not recorded: after a restart
// the entries are there again, and not looked at, because a snapshot has them.
func (l *Log) RemoveEntriesTo(_, _, index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.drop(index)
	return nil
}

// CompactEntriesTo implements raftio.ILogDB: it removes the files in which there
// is nothing left.
func (l *Log) CompactEntriesTo(_, _, _ uint64) (<-chan struct{}, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	done := make(chan struct{})
	close(done)
	return done, l.removeSegments()
}

func (l *Log) removeSegments() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.mu.segments) > 1 {
		s := l.mu.segments[0]
		if len(l.mu.records) > 0 && l.mu.records[0].segment <= s.number {
			break
		}
		l.mu.segments = l.mu.segments[1:]
		if err := errors.Join(s.close(), l.spares.put(segmentName(s.number))); err != nil {
			return err
		}
	}
	return nil
}

// RemoveNodeData implements raftio.ILogDB.
func (l *Log) RemoveNodeData(shardID, replicaID uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.mineLocked(shardID, replicaID) != nil {
		return nil
	}
	if err := l.setMetaLocked(meta{cut: true}); err != nil {
		return err
	}
	err := l.removeSegments()
	_, errSpares := l.spares.release()
	return errors.Join(err, errSpares)
}

// ImportSnapshot implements raftio.ILogDB: the replica begins anew with the
// snapshot.
func (l *Log) ImportSnapshot(s pb.Snapshot, replicaID uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.setMetaLocked(meta{
		shard:     s.ShardID,
		replica:   replicaID,
		bootstrap: &pb.Bootstrap{Join: true, Type: s.Type},
		state:     pb.State{Term: s.Term, Commit: s.Index},
		snapshot:  stored(s),
		cut:       true,
		base:      s.Index,
	})
}
