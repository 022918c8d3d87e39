package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"dkv/internal/backup"
	"dkv/store"
	"dkv/store/engine"
)

// Backup writes a backup of the state, with all that was acknowledged before the
// call; writes go on meanwhile.
func (s *Store) Backup(ctx context.Context, w io.Writer) (store.Backup, error) {
	if err := s.Barrier(ctx); err != nil {
		return store.Backup{}, err
	}
	view := s.machine.view()
	defer view.Release()
	return backup.Write(ctx, w, view)
}

// A member that begins with a backup has a copy of it in its directory, as the state
// before the first log entry: as long as there is no snapshot, each Open begins with
// that and applies the log anew. The identity says that there has to be one, so that
// the log is never applied to an empty state instead. The first snapshot is made as
// soon as there is an entry, and keeps none of them, so that who has no backup gets
// the state from it; the copy goes then.

// takeBackup has a directory that is new begin with the backup at path, or without
// if that is "". It returns the backup's checksum. Once it has returned, the copy is
// on the disk.
func (d *directory) takeBackup(path string) (checksum string, err error) {
	name := d.join(backupFile)
	if path == "" {
		// An Open that did not come to its end may have left one.
		if err := d.fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		return "", nil
	}
	from, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("field Restore: %w", err)
	}
	defer from.Close()
	tmp := name + ".tmp"
	to, err := d.fs.Create(tmp)
	if err != nil {
		return "", err
	}
	b, err := backup.Verify(io.TeeReader(from, to))
	if err != nil {
		err = fmt.Errorf("field Restore %q: %w", path, err)
	}
	if err := errors.Join(err, to.Sync(), to.Close()); err != nil {
		d.fs.Remove(tmp)
		return "", err
	}
	if err := d.fs.Rename(tmp, name); err != nil {
		return "", err
	}
	return b.Checksum, syncDir(d.fs, d.path)
}

// checkRestore tells what is wrong with Options.Restore for a directory that is not
// new. Which backup it names is not looked at: it may be gone.
func (id identity) checkRestore(path string) error {
	if path != "" && id.Backup == "" {
		return errors.New("it did not begin with a backup, as Restore has it; only a new directory can")
	}
	return nil
}

// restore has the state machine begin with the backup that the directory has, if
// there is no snapshot yet.
func (s *Store) restore() error {
	id := s.dir.id()
	if !id.BackupNeeded {
		if id.Backup != "" {
			s.dir.fs.Remove(s.dir.join(backupFile)) // if a crash has left it; it does no harm
		}
		return nil
	}
	if err := s.beginWithBackup(); err != nil {
		return err
	}
	s.snapshotter.first.Store(true)
	return nil
}

// beginWithBackup makes the backup that the directory has the state.
func (s *Store) beginWithBackup() error {
	f, err := s.dir.fs.Open(s.dir.join(backupFile))
	if err != nil {
		return err
	}
	defer f.Close()
	db, b, err := backup.Restore(f, s.machine.factory, s.machine.options())
	if err != nil {
		return fmt.Errorf("%s: %w", backupFile, err)
	}
	if b.Checksum != s.dir.identity.Backup {
		return fmt.Errorf("%s: %w: it is not the one that the directory began with", backupFile, store.ErrBackupDamaged)
	}
	s.machine.begin(db)
	s.log.Info("state restored from a backup", "revision", b.Revision, "keys", b.Keys, "locks", b.Locks)
	return nil
}

// begin makes db the state before the first log entry.
func (m *machine) begin(db engine.Engine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.take(db)
	m.feed.Reset(db.Revision())
	m.store.ticker.recovered(m)
}

// dropBackup removes the copy of the backup, now that a snapshot has what was in it.
func (d *directory) dropBackup() error {
	if d.id().Backup == "" {
		return nil
	}
	if err := d.change(func(id *identity) { id.BackupNeeded = false }); err != nil {
		return err
	}
	if err := d.fs.Remove(d.join(backupFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
