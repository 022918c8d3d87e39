package replica

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lni/vfs"
)

// patientFS waits while the process, or the machine, has as many files open as it may: by
// connections of strangers, for one. Dragonboat would take that for a fault of the disk and
// end the host program. It waits for as long as it takes, as the log does for room on a
// full disk; but before the replica runs, it does not: a start fails instead.
type patientFS struct {
	vfs.FS
	runs atomic.Bool
}

// raftFiles is the file system that Dragonboat gets. What has files be written back is next to
// the files themselves: it needs their descriptors.
func raftFiles(files *patientFS, log *slog.Logger) vfs.FS {
	return newScratch(aborts{writeBack{files}, log})
}

// filesPause is how long it is until a file is tried to be opened again.
const filesPause = 5 * time.Millisecond

func isOutOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func wait[T any](p *patientFS, open func() (T, error)) (T, error) {
	for {
		f, err := open()
		if !isOutOfFiles(err) || !p.runs.Load() {
			return f, err
		}
		time.Sleep(filesPause)
	}
}

// Create implements vfs.FS.
func (p *patientFS) Create(name string) (vfs.File, error) {
	return wait(p, func() (vfs.File, error) { return p.FS.Create(name) })
}

// Open implements vfs.FS.
func (p *patientFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return wait(p, func() (vfs.File, error) { return p.FS.Open(name, opts...) })
}

// OpenDir implements vfs.FS.
func (p *patientFS) OpenDir(name string) (vfs.File, error) {
	return wait(p, func() (vfs.File, error) { return p.FS.OpenDir(name) })
}

// OpenForAppend implements vfs.FS.
func (p *patientFS) OpenForAppend(name string) (vfs.File, error) {
	return wait(p, func() (vfs.File, error) { return p.FS.OpenForAppend(name) })
}

// ReuseForWrite implements vfs.FS. The file has its new name before it is opened.
func (p *patientFS) ReuseForWrite(oldname, newname string) (vfs.File, error) {
	return wait(p, func() (vfs.File, error) {
		f, err := p.FS.ReuseForWrite(oldname, newname)
		if isOutOfFiles(err) {
			oldname = newname
		}
		return f, err
	})
}

// RemoveAll implements vfs.FS.
func (p *patientFS) RemoveAll(name string) error {
	_, err := wait(p, func() (struct{}, error) { return struct{}{}, p.FS.RemoveAll(name) })
	return err
}

// List implements vfs.FS.
func (p *patientFS) List(dir string) ([]string, error) {
	return wait(p, func() ([]string, error) { return p.FS.List(dir) })
}

var _ vfs.FS = (*patientFS)(nil)
