package raftlog

import (
	"errors"
	"strings"
	"sync"

	"github.com/lni/vfs"
)

// spares are files that were segments and will be again. Their blocks have their
// place on the disk, so nothing has to be written to them but records. The zeros
// that a new file is made of are as much to write as the records themselves.
type spares struct {
	fs   vfs.FS
	dir  string
	size int64 // of a segment

	mu    sync.Mutex
	names []string
}

const (
	sparePrefix = "spare-"

	// maxSpares is how many are kept: about as many as there are segments between
	// two snapshots.
	maxSpares = 4

	// spareRoom is how many segments' room the disk must have left for one to be
	// kept, and spareSize how many segments long it may be.
	spareRoom = 16
	spareSize = 2
)

// find looks for what an earlier process has kept.
func (s *spares) find() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, sparePrefix) {
			s.names = append(s.names, name)
		}
	}
	return nil
}

// take returns the path of a spare, which is the caller's then, or "".
func (s *spares) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.names)
	if n == 0 {
		return ""
	}
	name := s.names[n-1]
	s.names = s.names[:n-1]
	return s.fs.PathJoin(s.dir, name)
}

// put keeps the file of a segment, or removes it.
func (s *spares) put(segment string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.fs.PathJoin(s.dir, segment)
	info, err := s.fs.Stat(path)
	if err != nil {
		return err
	}
	usage, err := s.fs.GetDiskUsage(s.dir)
	if err != nil || int64(usage.AvailBytes) < spareRoom*s.size ||
		info.Size() > spareSize*s.size || len(s.names) >= maxSpares {
		return s.fs.Remove(path)
	}
	name := sparePrefix + strings.TrimSuffix(segment, suffix)
	if err := s.fs.Rename(path, s.fs.PathJoin(s.dir, name)); err != nil {
		return err
	}
	s.names = append(s.names, name)
	return nil
}

// release removes all of them and tells whether there were any.
func (s *spares) release() (some bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.names {
		err = errors.Join(err, s.fs.Remove(s.fs.PathJoin(s.dir, name)))
	}
	some = len(s.names) > 0
	s.names = nil
	return some, err
}
