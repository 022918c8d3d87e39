package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"dkv"
)

// backups are what a server makes of its replicated or durable shards, which are one
// store: files in a directory whose names are in the order of their revisions.
type backups struct {
	dir   string // "" for none
	every seconds
	keep  int
}

// backupTemp is the file that is being written. One that a crash has left is written
// over.
const backupTemp = "dkv.backup.tmp"

var backupNames = regexp.MustCompile(`^dkv-[0-9]{20}\.backup$`)

func backupName(r dkv.Revision) string { return fmt.Sprintf("dkv-%020d.backup", r) }

// prepare makes the directory.
func (b *backups) prepare() error {
	if b.dir == "" {
		return nil
	}
	return os.MkdirAll(b.dir, 0o700)
}

// make makes backups until ctx ends. The first is made when the last one of an earlier
// server is old enough, so that servers that start often make them, too. One that fails is
// tried again when the next is due.
func (b *backups) make(ctx context.Context, db *dkv.DB, log *slog.Logger) {
	due := time.NewTimer(b.untilFirst())
	defer due.Stop()
	for {
		select {
		case <-due.C:
		case <-ctx.Done():
			return
		}
		due.Reset(time.Duration(b.every))
		path, told, err := writeBackup(ctx, db, b.dir)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Error("backup failed", "dir", b.dir, "err", err)
			continue
		}
		log.Info("backup made", "file", path, "revision", told.Revision, "keys", told.Keys, "locks", told.Locks, "bytes", told.Bytes)
		if err := b.prune(); err != nil {
			log.Error("old backups not removed", "dir", b.dir, "err", err)
		}
	}
}

// untilFirst is how long it takes until the last backup is as old as the next is due.
func (b *backups) untilFirst() time.Duration {
	names, err := b.list()
	if err != nil || len(names) == 0 {
		return 0
	}
	info, err := os.Stat(filepath.Join(b.dir, names[len(names)-1]))
	if err != nil {
		return 0
	}
	return min(time.Until(info.ModTime().Add(time.Duration(b.every))), time.Duration(b.every))
}

// list has the names of the backups, the oldest first.
func (b *backups) list() ([]string, error) {
	files, err := os.ReadDir(b.dir) // in the order of their names
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if backupNames.MatchString(f.Name()) {
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// prune removes all but the last backups.
func (b *backups) prune() error {
	names, err := b.list()
	if err != nil {
		return err
	}
	for _, name := range names[:max(0, len(names)-b.keep)] {
		if err := os.Remove(filepath.Join(b.dir, name)); err != nil {
			return err
		}
	}
	return nil
}
