package raftlog

import (
	"bytes"
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
	w        *pageWriter
	synced   int64 // how much is on the disk
	end      int64 // of the last record
	reserved int64 // how much the file system has given, in whole pages
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

// createSegment makes an empty segment, of a spare if there is one.
func createSegment(fs vfs.FS, dir string, number uint64, spare string) (s *segment, err error) {
	path := fs.PathJoin(dir, segmentName(number))
	var f vfs.File
	if spare == "" {
		f, err = fs.Create(path)
	} else if f, err = fs.ReuseForWrite(spare, path); err != nil {
		_ = fs.Remove(spare)
	}
	if err != nil {
		return nil, err
	}
	s = &segment{number: number}
	if s.r, err = fs.Open(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if s.w, err = newPageWriter(f, s.r, 0); err != nil {
		return nil, errors.Join(err, s.close(), f.Close())
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.reserved = pageFloor(info.Size())
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

// resume makes a segment ready to be written to behind end. What stands there may
// be what a crash has left of records; it must not be taken for one later, so it is
// wiped, with what the file held when it was another segment. What was read before may be in the operating system's memory alone:
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
	w, err := newPageWriter(f, s.r, end)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.w, s.end = w, end
	s.reserved = max(pageFloor(info.Size()), pageCeil(end))
	dirty, err := lastByte(s.r, end, info.Size())
	if err != nil {
		return err
	}
	if dirty > end {
		if err := w.append(nil); err != nil { // the rest of the last page
			return err
		}
		if _, err := w.zero(pageCeil(end), pageCeil(dirty)); err != nil {
			return err
		}
	}
	return s.sync()
}

// lastByte returns the end of what is not zero in a part of a file, from if there
// is nothing.
func lastByte(r io.ReaderAt, from, to int64) (end int64, err error) {
	b := make([]byte, len(zeros))
	end = from
	for at := from; at < to; at += int64(len(b)) {
		b = b[:min(to-at, int64(len(b)))]
		if err := readFull(r, b, at); err != nil {
			return 0, err
		}
		if !bytes.Equal(b, zeros[:len(b)]) {
			end = at + int64(len(bytes.TrimRight(b, "\x00")))
		}
	}
	return end, nil
}

// reserve sees to it that the next size bytes have their place on the disk, so
// that syncing them need not write anything but them: that takes half the time.
// The file grows by step at a time.
func (s *segment) reserve(size, step int64) (err error) {
	for err == nil && s.reserved < s.end+size {
		s.reserved, err = s.w.zero(s.reserved, s.reserved+pageCeil(step))
	}
	return err
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// write appends records, for which there must be room.
func (s *segment) write(records []byte) (at int64, err error) {
	at = s.end
	if err := s.w.append(records); err != nil {
		return 0, err
	}
	s.end += int64(len(records))
	return at, nil
}

func (s *segment) sync() error {
	err := s.w.sync()
	if err == nil {
		s.synced = s.end
	}
	return err
}

// seal ends the writing.
func (s *segment) seal() error {
	w := s.w
	s.w = nil
	return w.close()
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
