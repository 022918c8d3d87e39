package raftlog

import (
	"strings"

	"github.com/lni/vfs"
)

// A spare is a file that was a segment and will be one again. Its blocks have their
// place on the disk, so nothing has to be written to it but records. The zeros that
// a new file is made of are as much to write as the records themselves.
const (
	sparePrefix = "spare-"

	// maxSpares is how many are kept: about as many as there are segments between
	// two snapshots.
	maxSpares = 4

	// spareRoom is how many segments' room the disk must have left for a spare to
	// be kept.
	spareRoom = 16
)

// spares returns the spares in a directory.
func spares(fs vfs.FS, dir string) (spares []string, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, sparePrefix) {
			spares = append(spares, name)
		}
	}
	return spares, nil
}

// takeSpare returns the name of a spare, which is the caller's then, or "".
func (l *Log) takeSpare() (name string) {
	if n := len(l.writing.spares); n > 0 {
		name, l.writing.spares = l.writing.spares[n-1], l.writing.spares[:n-1]
	}
	return name
}

// dropFile makes a segment's file a spare, or removes it.
func (l *Log) dropFile(name string) error {
	path := l.fs.PathJoin(l.dir, name)
	usage, err := l.fs.GetDiskUsage(l.dir)
	if err != nil || int64(usage.AvailBytes) < spareRoom*l.factory.SegmentSize || len(l.writing.spares) >= maxSpares {
		return l.fs.Remove(path)
	}
	spare := sparePrefix + strings.TrimSuffix(name, suffix)
	if err := l.fs.Rename(path, l.fs.PathJoin(l.dir, spare)); err != nil {
		return err
	}
	l.writing.spares = append(l.writing.spares, spare)
	return nil
}
