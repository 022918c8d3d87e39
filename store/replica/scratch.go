package replica

import (
	"os"
	"strings"

	"github.com/lni/vfs"
)

// scratch is a file system for Dragonboat. For each snapshot that a witness is sent it makes
// a file of some hundred bytes in the system's directory for temporary ones, reads it and
// leaves it there. Here that is in memory, and gone when it has been read: there may be no
// such directory, and nothing is to be left in it.
type scratch struct {
	vfs.FS
	memory vfs.FS
}

func newScratch(fs vfs.FS) scratch { return scratch{fs, vfs.NewMem()} }

const scratchPrefix = "dragonboat-witness-snapshot"

// place returns where a file is.
func (s scratch) place(path string) (fs vfs.FS, at string) {
	if name := s.PathBase(path); strings.HasPrefix(name, scratchPrefix) {
		return s.memory, name
	}
	return s.FS, path
}

// MkdirAll implements vfs.FS.
func (s scratch) MkdirAll(path string, mode os.FileMode) error {
	if path == os.TempDir() { // nothing is written there
		return nil
	}
	return s.FS.MkdirAll(path, mode)
}

// OpenDir implements vfs.FS: it is to be synced.
func (s scratch) OpenDir(path string) (vfs.File, error) {
	d, err := s.FS.OpenDir(path)
	if err != nil && path == os.TempDir() {
		return s.memory.OpenDir("/")
	}
	return d, err
}

// Create implements vfs.FS.
func (s scratch) Create(path string) (vfs.File, error) {
	fs, at := s.place(path)
	return fs.Create(at)
}

// Open implements vfs.FS.
func (s scratch) Open(path string, opts ...vfs.OpenOption) (vfs.File, error) {
	fs, at := s.place(path)
	f, err := fs.Open(at, opts...)
	if err != nil || fs != s.memory {
		return f, err
	}
	return readOnce{f, fs, at}, nil
}

// readOnce is a file that is removed when it is closed.
type readOnce struct {
	vfs.File
	fs   vfs.FS
	path string
}

func (f readOnce) Close() error {
	err := f.File.Close()
	f.fs.Remove(f.path)
	return err
}
