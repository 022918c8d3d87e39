package raftlog

import (
	"fmt"
	"iter"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// Contents is what a log says that no replica has open. Reading it changes nothing:
// what a crash has left of a record stays where it is, and is not taken for one.
type Contents struct {
	// Shard and Replica are whose log it is. Both are 0 if it is nobody's yet.
	Shard, Replica uint64

	// State is what was saved last. Its Commit may be less than what was known to be
	// committed: it is written along with what comes next.
	State pb.State

	// Snapshot describes the last one, if there is any: it is empty otherwise.
	Snapshot pb.Snapshot

	// Last is the index of the last entry, that of the snapshot if none is behind it.
	Last uint64

	log *Log // only files to read from
}

// Read reads the log of a NodeHost whose files are in a directory.
func Read(fs vfs.FS, nodeHost string) (*Contents, error) {
	dir := fs.PathJoin(nodeHost, directory)
	rec, err := recoverSegments(fs, dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	l := &Log{fs: fs, dir: dir}
	l.mu.index = rec.index
	l.mu.segments = rec.segments
	c := &Contents{
		State:    rec.state,
		Snapshot: stored(rec.snapshot),
		Last:     max(rec.last, rec.snapshot.Index),
		log:      l,
	}
	if rec.bootstrap != nil {
		c.Shard, c.Replica = rec.shard, rec.replica
	}
	return c, nil
}

// Entries are those behind the snapshot, in order, up to Last. They are read as they
// are asked for, a few MiB at a time.
func (c *Contents) Entries() iter.Seq2[pb.Entry, error] {
	const atOnce = 4 << 20
	return func(yield func(pb.Entry, error) bool) {
		var entries []pb.Entry
		for next := c.Snapshot.Index + 1; next <= c.Last; {
			var err error
			entries, _, err = c.log.IterateEntries(entries[:0], 0, c.Shard, c.Replica, next, c.Last+1, atOnce)
			if err == nil && len(entries) == 0 {
				err = fmt.Errorf("%s: entry %d is missing", c.log.dir, next)
			}
			if err != nil {
				yield(pb.Entry{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			next += uint64(len(entries))
		}
	}
}

// Close closes the files.
func (c *Contents) Close() error { return c.log.closeFiles() }
