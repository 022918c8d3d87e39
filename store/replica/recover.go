package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"

	"dkv/internal/backup"
	"dkv/internal/clock"
	"dkv/internal/ops"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/replica/raftlog"

	"github.com/lni/dragonboat/v4/raftpb"
	sm "github.com/lni/dragonboat/v4/statemachine"
	"github.com/lni/vfs"
)

// Loss says how much a backup that Recover has written may have lost, or have too
// much. What it cannot say is how much was acknowledged behind Index: that is in no
// file of this member.
type Loss struct {
	// Index and Term are those of the last log entry that was taken. Of several
	// members' logs the one with the greatest Term, and of those the one with the
	// greatest Index, has all that any of them has of what was acknowledged.
	Index, Term uint64

	// Uncommitted is how many entries, the last ones, this member did not know to be
	// committed. What they hold may have been acknowledged, and may have had an
	// unknown outcome; it is taken, so it has its effect now. CommittedRevision is
	// that of the last change before them: all later ones are theirs.
	Uncommitted       uint64
	CommittedRevision store.Revision

	// Revision is that of the last change that was taken.
	Revision store.Revision
}

// Recover writes a backup of what one member's data directory holds, for a group that
// has lost its majority for good. A new group begins with it, by Options.Restore. The
// directory must not be in use, and nothing in it is changed; no network is used. What
// is written to w when an error is returned is no backup.
//
// It takes the last snapshot and all of the log behind it. The log may end with entries
// that this member does not know to be committed. They are taken, too: a member learns
// what is committed later than the one who has it acknowledged, so without them an
// acknowledged write could be lost that is there. So a write whose outcome was
// unknown may have its effect by this. What the other members had acknowledged without
// this one is lost; see Loss for which member to choose if there are several.
//
// Errors: store.ErrBadOptions if dir is not the data directory of a member that has
// been started, is in use or damaged; store.ErrUnavailable when ctx ends first; and
// those of w.
func Recover(ctx context.Context, dir string, w io.Writer) (store.Backup, Loss, error) {
	return recoverDir(ctx, vfs.Default, dir, maple.Factory, w)
}

// recoverDir is Recover of a member on a file system, whose state an engine holds.
func recoverDir(ctx context.Context, fs vfs.FS, path string, f engine.Factory, w io.Writer) (store.Backup, Loss, error) {
	if err := ops.CheckContext(ctx); err != nil {
		return store.Backup{}, Loss{}, err
	}
	dir, err := openSurvivor(fs, path)
	if err != nil {
		return store.Backup{}, Loss{}, badDir(path, err)
	}
	defer dir.close()
	s := stateOf(dir, f)
	loss, err := s.replay(ctx)
	if ended := ops.CheckContext(ctx); err != nil && ended != nil {
		return store.Backup{}, Loss{}, ended
	}
	if err != nil {
		return store.Backup{}, Loss{}, badDir(path, err)
	}
	view := s.machine.view()
	defer view.Release()
	b, err := backup.Write(ctx, w, view)
	if err != nil {
		return store.Backup{}, Loss{}, err
	}
	return b, loss, nil
}

// openSurvivor takes a data directory for this process without changing what is in it.
func openSurvivor(files vfs.FS, path string) (*directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	d := newDirectory(files, path)
	if _, err := files.Stat(d.join(identityFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("it is not the data directory of a member: %s is missing", identityFile)
	}
	if err := d.take(); err != nil {
		return nil, err
	}
	err = d.readIdentity()
	if err == nil {
		err = d.identity.checkFormat()
	}
	if err == nil && d.identity.Witness {
		err = errors.New("it is a witness', which has no data")
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// stateOf returns a store that is never started: it has a state machine and what that
// calls, proposes nothing and answers nobody.
func stateOf(dir *directory, f engine.Factory) *Store {
	s := &Store{log: slog.New(slog.DiscardHandler), dir: dir}
	s.machine = newMachine(s, f)
	s.ticker.init(clock.System{})
	s.snapshotter.init(math.MaxInt64, 0)
	return s
}

// replay has the state machine do what the directory's snapshot and log say.
func (s *Store) replay(ctx context.Context) (Loss, error) {
	host := s.dir.join(filepath.Join(raftDir, "data", fmt.Sprintf("%020d", s.dir.identity.Group)))
	log, err := raftlog.Read(s.dir.fs, host)
	if errors.Is(err, fs.ErrNotExist) {
		return Loss{}, fmt.Errorf("it has no log: %w", err)
	}
	if err != nil {
		return Loss{}, err
	}
	defer log.Close()
	switch id := &s.dir.identity; {
	case log.Shard != shard:
		return Loss{}, errors.New("its log is empty: the member has never been part of its group")
	case !raftpb.IsEmptySnapshot(log.Snapshot):
		name := fmt.Sprintf("snapshot-%016X", log.Snapshot.Index)
		file := filepath.Join(host, "snapshot-part-1", fmt.Sprintf("snapshot-%d-%d", shard, log.Replica), name, name+".gbsnap")
		if err := s.recoverFrom(ctx, file); err != nil {
			return Loss{}, fmt.Errorf("%s: %w", file, err)
		}
	case id.BackupNeeded:
		if err := s.beginWithBackup(); err != nil {
			return Loss{}, err
		}
	case id.Backup != "":
		return Loss{}, errors.New("the snapshot is missing that has what it began with")
	}
	return s.replayEntries(ctx, log)
}

// recoverFrom has the state machine begin with the snapshot in a file.
func (s *Store) recoverFrom(ctx context.Context, path string) error {
	file, err := openSnapshotFile(s.dir.fs, path)
	if err != nil {
		return err
	}
	defer file.close()
	return s.machine.RecoverFromSnapshot(file, nil, ctx.Done())
}

// replayEntries applies the entries behind the snapshot, all that there are.
func (s *Store) replayEntries(ctx context.Context, log *raftlog.Contents) (Loss, error) {
	revision := func() store.Revision { return store.Revision(s.machine.db.Load().Revision()) }
	loss := Loss{Index: log.Snapshot.Index, Term: log.Snapshot.Term, CommittedRevision: revision()}
	committed := max(log.State.Commit, log.Snapshot.Index)
	var behind []store.Revision // with which each entry behind committed leaves the state
	for e, err := range log.Entries() {
		if err == nil {
			err = ops.CheckContext(ctx)
		}
		if err != nil {
			return Loss{}, err
		}
		if err := s.replayEntry(e); err != nil {
			return Loss{}, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		loss.Index, loss.Term = e.Index, e.Term
		if e.Index <= committed {
			loss.CommittedRevision = revision()
			continue
		}
		behind = append(behind, revision())
		// What some member had applied when it proposed this was committed.
		if told := min(s.machine.progress.greatest(), e.Index); told > committed {
			n := told - committed
			committed, loss.CommittedRevision, behind = told, behind[n-1], behind[n:]
		}
	}
	loss.Uncommitted = uint64(len(behind))
	loss.Revision = revision()
	return loss, nil
}

// replayEntry applies one entry, if it is one for the state machine.
func (s *Store) replayEntry(e raftpb.Entry) error {
	cmd := e.Cmd
	switch e.Type {
	case raftpb.ConfigChangeEntry, raftpb.MetadataEntry:
		return nil
	case raftpb.EncodedEntry:
		// The first byte says how the rest is encoded; 0 is not at all.
		if len(cmd) == 0 || cmd[0] != 0 {
			return errors.New("it is encoded in a way that this version of dkv does not write")
		}
		cmd = cmd[1:]
	}
	if len(cmd) == 0 {
		return nil // of a new leader
	}
	_, err := s.machine.Update([]sm.Entry{{Index: e.Index, Cmd: cmd}})
	return err
}
