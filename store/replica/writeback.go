package replica

import (
	"strings"

	"github.com/lni/vfs"
)

// writeBackEvery is how much of a snapshot is written before the operating system is
// asked to bring it to the disk, in bytes.
const writeBackEvery = 4 << 20

// writeBack is a file system that has the files of snapshots be on their way to the disk
// as they are written. They are synced once, at their end; without it that is when all of
// a snapshot goes to the disk at once, and what is written to the log meanwhile, and has
// to be on the disk before it is acknowledged, waits for that.
type writeBack struct{ vfs.FS }

// Create implements vfs.FS.
func (w writeBack) Create(name string) (vfs.File, error) { return writtenBack(name)(w.FS.Create(name)) }

// OpenForAppend implements vfs.FS.
func (w writeBack) OpenForAppend(name string) (vfs.File, error) {
	return writtenBack(name)(w.FS.OpenForAppend(name))
}

// writtenBack has a file be written back if it is a snapshot's.
func writtenBack(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil || !strings.HasSuffix(name, ".gbsnap") {
			return f, err
		}
		return &writtenBackFile{File: f}, nil
	}
}

type writtenBackFile struct {
	vfs.File
	waits int // bytes
}

// Write implements vfs.File.
func (f *writtenBackFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	if f.waits += n; f.waits >= writeBackEvery {
		startWriteBack(f.File)
		f.waits = 0
	}
	return n, err
}

// Close implements vfs.File. What is received is appended by one file after the other.
func (f *writtenBackFile) Close() error {
	if f.waits > 0 {
		startWriteBack(f.File)
	}
	return f.File.Close()
}
