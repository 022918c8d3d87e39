package replica

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"

	sm "github.com/lni/dragonboat/v4/statemachine"
	"github.com/lni/vfs"
)

// aborts is a file system on which a snapshot of this member's own is given up if the disk
// has no room for it, or the user no quota. Dragonboat ends the host program for any other
// error, but for what the state machine itself writes: and a small state gets to the file
// only when that is closed. The log is still there, and the snapshot is tried again,
// by the next entry at the latest.
type aborts struct {
	vfs.FS
	log *slog.Logger
}

// generating is part of the names of the directories that Dragonboat writes snapshots in.
const generating = ".generating"

// check returns what an error of a call about a file means to Dragonboat.
func (a aborts) check(name string, err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) || !strings.Contains(name, generating) {
		return err
	}
	a.log.Warn("snapshot given up", "err", err)
	return sm.ErrSnapshotAborted
}

// MkdirAll implements vfs.FS.
func (a aborts) MkdirAll(name string, mode os.FileMode) error {
	return a.check(name, a.FS.MkdirAll(name, mode))
}

// Create implements vfs.FS.
func (a aborts) Create(name string) (vfs.File, error) {
	f, err := a.FS.Create(name)
	if err != nil || !strings.Contains(name, generating) {
		return f, a.check(name, err)
	}
	return &abortedFile{File: f, fs: a, name: name}, nil
}

// Rename implements vfs.FS.
func (a aborts) Rename(from, to string) error { return a.check(from, a.FS.Rename(from, to)) }

// OpenDir implements vfs.FS: it is to be synced.
func (a aborts) OpenDir(name string) (vfs.File, error) {
	f, err := a.FS.OpenDir(name)
	if err != nil || !strings.Contains(name, generating) {
		return f, a.check(name, err)
	}
	return &abortedFile{File: f, fs: a, name: name}, nil
}

// abortedFile is a file of a snapshot. Once that is given up it is closed: Dragonboat does
// not always do so.
type abortedFile struct {
	vfs.File
	fs      aborts
	name    string
	aborted bool
}

func (f *abortedFile) try(do func() error) error {
	if f.aborted {
		return sm.ErrSnapshotAborted
	}
	err := f.fs.check(f.name, do())
	if errors.Is(err, sm.ErrSnapshotAborted) {
		f.aborted = true
		f.File.Close()
	}
	return err
}

// Write implements vfs.File.
func (f *abortedFile) Write(b []byte) (n int, err error) {
	err = f.try(func() (err error) { n, err = f.File.Write(b); return err })
	return n, err
}

// WriteAt implements vfs.File.
func (f *abortedFile) WriteAt(b []byte, at int64) (n int, err error) {
	err = f.try(func() (err error) { n, err = f.File.WriteAt(b, at); return err })
	return n, err
}

// Sync implements vfs.File.
func (f *abortedFile) Sync() error { return f.try(f.File.Sync) }

// Close implements vfs.File.
func (f *abortedFile) Close() error {
	if f.aborted {
		return nil
	}
	return f.fs.check(f.name, f.File.Close())
}
