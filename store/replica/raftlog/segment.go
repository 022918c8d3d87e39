package raftlog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/lni/vfs"
)

// segment is one file of the log.
//
//	synced <= end <= reserved
type segment struct {
	number uint64
	r      vfs.File

	// Of the segment that is written to.
	w        vfs.File // syncs with fdatasync where there is one
	file     vfs.File // what w is made of, to be closed
	synced   int64    // how much is on the disk
	end      int64    // of the last record
	reserved int64    // how much the file system has given; zeros behind end
}

const suffix = ".log"

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, suffix) }

// segments returns the numbers of the segments in a directory, in order.
func segments(fs vfs.FS, dir string) ([]uint64, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, name := range names {
		hex, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(hex, 16, 64)
		if err != nil || n == 0 || segmentName(n) != name {
			return nil, fmt.Errorf("%s is not a segment of the log", name)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers, nil
}

// createSegment makes an empty segment.
func createSegment(fs vfs.FS, dir string, number uint64) (*segment, error) {
	path := fs.PathJoin(dir, segmentName(number))
	f, err := fs.Create(path)
	if err != nil {
		return nil, err
	}
	s := &segment{number: number}
	s.writeTo(f)
	if s.r, err = fs.Open(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// openSegment opens one for reading.
func openSegment(fs vfs.FS, dir string, number uint64) (*segment, error) {
	f, err := fs.Open(fs.PathJoin(dir, segmentName(number)))
	if err != nil {
		return nil, err
	}
	return &segment{number: number, r: f}, nil
}

func (s *segment) writeTo(f vfs.File) {
	s.file, s.w = f, vfs.NewSyncingFile(f, vfs.SyncingFileOptions{})
}

// resume makes a segment ready to be written to behind end. What stands there is
// what a crash has left of records; it must not be taken for one later, so it is
// wiped. What was read before may be in the operating system's memory alone:
// nobody may build on it until it is on the disk.
func (s *segment) resume(fs vfs.FS, dir string, end int64) error {
	info, err := s.r.Stat()
	if err != nil {
		return err
	}
	path := fs.PathJoin(dir, segmentName(s.number))
	f, err := fs.ReuseForWrite(path, path)
	if err != nil {
		return err
	}
	s.writeTo(f)
	s.end, s.reserved = end, info.Size()
	dirty, err := holdsData(s.r, end, s.reserved)
	if err != nil {
		return err
	}
	for at := end; dirty && at < s.reserved; at += int64(len(zeros)) {
		n := min(s.reserved-at, int64(len(zeros)))
		if _, err := s.w.WriteAt(zeros[:n], at); err != nil {
			return err
		}
	}
	return s.sync()
}

// holdsData tells whether there is anything but zeros in a part of a file.
func holdsData(r io.ReaderAt, from, to int64) (bool, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(r, from, to-from), 64<<10)
	for {
		switch b, err := in.ReadByte(); {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, err
		case b != 0:
			return true, nil
		}
	}
}

var zeros [64 << 10]byte

// reserve sees to it that the next size bytes have their place on the disk, so
// that syncing them need not write anything but them: that takes half the time.
// The file grows by step at a time.
func (s *segment) reserve(size, step int64) error {
	for s.reserved < s.end+size {
		to := s.reserved + step
		for s.reserved < to {
			n, err := s.w.WriteAt(zeros[:min(to-s.reserved, int64(len(zeros)))], s.reserved)
			s.reserved += int64(n)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// write appends records, for which there must be room.
func (s *segment) write(records []byte) (at int64, err error) {
	at = s.end
	if _, err := s.w.WriteAt(records, at); err != nil {
		return 0, err
	}
	s.end += int64(len(records))
	return at, nil
}

func (s *segment) sync() error {
	err := s.w.Sync()
	for errors.Is(err, syscall.EINTR) {
		err = s.w.Sync()
	}
	if err == nil {
		s.synced = s.end
	}
	return err
}

// seal ends the writing.
func (s *segment) seal() error {
	f := s.file
	s.file, s.w = nil, nil
	return f.Close()
}

func (s *segment) close() error {
	err := s.r.Close()
	if s.w != nil {
		err = errors.Join(err, s.seal())
	}
	return err
}

// read returns the payload of the record at an offset, checked.
func (s *segment) read(at int64) (kind, []byte, error) {
	var b [headerSize]byte
	if err := readFull(s.r, b[:], at); err != nil {
		return 0, nil, err
	}
	h := decodeHeader(b[:])
	if !h.plausible(headerSize + maxPayload) {
		return 0, nil, errRecord
	}
	record := make([]byte, headerSize+int64(h.size))
	copy(record, b[:])
	if err := readFull(s.r, record[headerSize:], at+headerSize); err != nil {
		return 0, nil, err
	}
	if checksum(s.number, record[4:]) != h.checksum {
		return 0, nil, errors.New("wrong checksum")
	}
	return h.kind, record[headerSize:], nil
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
