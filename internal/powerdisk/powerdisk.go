// Package powerdisk is a disk in memory that a test can cut the power of, or fill
// up. Behind it is the strict file system of lni/vfs, which forgets what was not
// synced; this adds that some of it has got to the disk all the same, sector by
// sector, in any order, as real disks have it.
package powerdisk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lni/vfs"
)

// Sector is what a disk writes whole or not at all, in bytes.
const Sector = 512

// ErrPower is what operations fail with after the power has gone.
var ErrPower = errors.New("powerdisk: no power")

// ErrFull is what a write fails with that would have a file grow on a full disk.
var ErrFull = fmt.Errorf("powerdisk: %w", syscall.ENOSPC)

// Disk is a file system.
type Disk struct {
	*vfs.MemFS

	// SyncTime is how long it takes to sync a file. What was written is at the
	// mercy of a power cut meanwhile.
	SyncTime time.Duration

	mu      sync.Mutex
	left    int // operations until the power goes, if positive
	failing bool
	cut     bool
	full    bool
	free    uint64
	pending map[string][]write // by path: what was not synced
}

type write struct {
	at int64
	b  []byte
}

var _ vfs.FS = (*Disk)(nil)

// New returns an empty disk.
func New() *Disk {
	return &Disk{MemFS: vfs.NewStrictMem(), free: 1 << 40, pending: make(map[string][]write)}
}

// FailAfter has the power go with the nth operation from now, which fails, as all
// do after it until Restore. With 0 it stays on, if it is.
func (d *Disk) FailAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
}

// Failed tells whether operations fail.
func (d *Disk) Failed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failing
}

// Cut has nothing get to the disk any longer, without a word to who writes, so
// that a program can be ended that would not bear failures.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut = true
	d.SetIgnoreSyncs(true)
}

// Unsynced tells whether a power cut would lose something that was written.
func (d *Disk) Unsynced() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending) > 0
}

// SetFull has files not grow any longer, or again.
func (d *Disk) SetFull(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// SetFree sets how many bytes the disk says that it has left.
func (d *Disk) SetFree(bytes uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = bytes
}

// GetDiskUsage implements vfs.FS.
func (d *Disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: d.free, TotalBytes: 1 << 40, UsedBytes: 1<<40 - d.free}, nil
}

// Restore brings the power back. Nobody may have a file open. keep says which of
// the sectors that were not synced got to the disk, in no order that matters.
func (d *Disk) Restore(keep func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.SetIgnoreSyncs(false)
	d.ResetToSyncedState()
	for _, path := range slices.Sorted(maps.Keys(d.pending)) {
		f, err := d.MemFS.ReuseForWrite(path, path)
		if err != nil {
			continue // its creation was not synced
		}
		for _, w := range d.pending[path] {
			for len(w.b) > 0 {
				n := min(len(w.b), Sector-int(w.at%Sector))
				if keep() {
					put(f, w.b[:n], w.at)
				}
				w.at, w.b = w.at+int64(n), w.b[n:]
			}
		}
		must(errors.Join(f.Sync(), f.Close()))
	}
	clear(d.pending)
	d.left, d.failing, d.cut = 0, false, false
}

// Revive has operations succeed again after the failure that FailAfter set, as if
// only the program had ended: nothing is lost, but what was not synced yet may be
// lost later.
func (d *Disk) Revive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.failing = 0, false
}

// put writes b, behind zeros if the file is too short.
func put(f vfs.File, b []byte, at int64) {
	info, err := f.Stat()
	must(err)
	if gap := at - info.Size(); gap > 0 {
		_, err := f.WriteAt(make([]byte, gap), info.Size())
		must(err)
	}
	_, err = f.WriteAt(b, at)
	must(err)
}

// must panics if memory fails as disks do.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// operate fails if there is no power, or it goes now.
func (d *Disk) operate() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left > 0 {
		if d.left--; d.left == 0 {
			d.failing = true
		}
	}
	if d.failing {
		return ErrPower
	}
	return nil
}

// Create implements vfs.FS.
func (d *Disk) Create(name string) (vfs.File, error) {
	if err := d.operate(); err != nil {
		return nil, err
	}
	f, err := d.MemFS.Create(name)
	return d.wrap(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (d *Disk) ReuseForWrite(old, name string) (vfs.File, error) {
	if err := d.operate(); err != nil {
		return nil, err
	}
	f, err := d.MemFS.ReuseForWrite(old, name)
	return d.wrap(name, f, err)
}

// OpenForAppend implements vfs.FS.
func (d *Disk) OpenForAppend(name string) (vfs.File, error) {
	if err := d.operate(); err != nil {
		return nil, err
	}
	f, err := d.MemFS.OpenForAppend(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	return &file{File: f, disk: d, name: name, at: info.Size()}, err
}

// OpenDir implements vfs.FS.
func (d *Disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.MemFS.OpenDir(name)
	return d.wrap(name, f, err)
}

// Rename implements vfs.FS.
func (d *Disk) Rename(old, name string) error {
	if err := d.operate(); err != nil {
		return err
	}
	d.mu.Lock()
	if w, ok := d.pending[old]; ok {
		d.pending[name] = w
		delete(d.pending, old)
	}
	d.mu.Unlock()
	return d.MemFS.Rename(old, name)
}

// Remove implements vfs.FS.
func (d *Disk) Remove(name string) error {
	if err := d.operate(); err != nil {
		return err
	}
	d.mu.Lock()
	delete(d.pending, name)
	d.mu.Unlock()
	return d.MemFS.Remove(name)
}

func (d *Disk) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{File: f, disk: d, name: name}, nil
}

type file struct {
	vfs.File
	disk *Disk
	name string
	at   int64 // of Write
}

// Write implements io.Writer.
func (f *file) Write(b []byte) (int, error) {
	if err := f.prepare(b, f.at); err != nil {
		return 0, err
	}
	n, err := f.File.Write(b)
	f.at += int64(n)
	return n, err
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(b []byte, at int64) (int, error) {
	if err := f.prepare(b, at); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, at)
}

func (f *file) prepare(b []byte, at int64) error {
	if err := f.disk.operate(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.full && at+int64(len(b)) > info.Size() {
		return ErrFull
	}
	if !f.disk.cut {
		f.disk.pending[f.name] = append(f.disk.pending[f.name], write{at: at, b: slices.Clone(b)})
	}
	return nil
}

// Sync implements vfs.File.
func (f *file) Sync() error {
	if err := f.disk.operate(); err != nil {
		return err
	}
	time.Sleep(f.disk.SyncTime)
	f.disk.mu.Lock()
	if !f.disk.cut {
		delete(f.disk.pending, f.name)
	}
	f.disk.mu.Unlock()
	return f.File.Sync()
}

var _ io.WriterAt = (*file)(nil)
