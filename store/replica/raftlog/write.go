package raftlog

import (
	"errors"
	"fmt"
	"time"
)

// This file is the way of a record to the disk: the segment that has room, the wait
// for that, the write and the sync. writing is held meanwhile, but while the log is
// opened.

// roomLocked returns the segment to write to.
func (l *Log) roomLocked() (*segment, error) {
	if l.writing.closed {
		return nil, errClosed
	}
	if l.writing.failed != nil {
		return nil, l.writing.failed
	}
	s := l.active()
	if s.end < l.factory.SegmentSize {
		return s, nil
	}
	if err := l.rotate(); err != nil {
		l.writing.failed = err
		return nil, err
	}
	return l.active(), nil
}

func (l *Log) active() *segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mu.segments[len(l.mu.segments)-1]
}

// writeLocked puts a record on the disk. If that fails, nothing is written
// afterwards: of a page that could not be written, the operating system says so
// once, and then takes it for written.
func (l *Log) writeLocked(s *segment, record []byte) (at int64, err error) {
	if cap(record) <= 4<<20 {
		l.writing.records = record
	}
	if len(record)-headerSize > maxPayload {
		return 0, fmt.Errorf("a record of %d bytes is over the limit", len(record))
	}
	endRecord(record, s.number, s.synced)
	l.writing.since += int64(len(record))
	if at, err = l.put(s, record); err != nil {
		l.writing.failed = fmt.Errorf("%s: %w", segmentName(s.number), err)
	}
	return at, l.writing.failed
}

// put writes a record to a segment when there is room, and syncs it.
func (l *Log) put(s *segment, record []byte) (at int64, err error) {
	step := int64(smallStep)
	if len(record) > directMax {
		step = largeStep
	}
	step = min(step, l.factory.SegmentSize)
	if err := l.wait(func() error { return s.reserve(int64(len(record)), step) }); err != nil {
		return 0, err
	}
	if at, err = s.write(record); err != nil {
		return 0, err
	}
	return at, s.sync()
}

// Release gives back to the disk what is kept there for later, and tells whether
// there was any.
func (l *Log) Release() (some bool) {
	some, err := l.spares.release()
	return some && err == nil
}

// wait tries again while the disk is full, first without what is kept for later. The replica stands still meanwhile, as
// if it had failed, which the others can bear; it must not go on without what it
// was to write. Before there is a replica, there is nothing to wait for.
func (l *Log) wait(try func() error) error {
	for {
		err := try()
		if !isFull(err) {
			return err
		}
		if some, err := l.spares.release(); err != nil {
			return err
		} else if some {
			continue
		}
		if l.writing.bootstrap == nil {
			return err
		}
		if l.factory.Full != nil {
			l.factory.Full()
		}
		time.Sleep(fullRetry)
	}
}

// rotate begins the next segment.
func (l *Log) rotate() error {
	h := head{version: version, meta: l.writing.meta}
	h.cut = false
	number := uint64(1)
	if len(l.mu.segments) > 0 {
		s := l.active()
		h.prev, h.prevEnd, number = s.number, s.end, s.number+1
		if err := s.seal(); err != nil {
			return err
		}
	}
	var s *segment
	err := l.wait(func() (err error) {
		s, err = createSegment(l.fs, l.dir, number, l.spares.take())
		return err
	})
	if err != nil {
		return err
	}
	// The file's name must be the new one for certain before its contents are.
	if err := syncDir(l.fs, l.dir); err != nil {
		return errors.Join(err, s.close())
	}
	l.mu.Lock()
	l.mu.segments = append(l.mu.segments, s)
	l.mu.Unlock()
	record := h.append(beginRecord(nil, kindHead))
	endRecord(record, number, 0)
	_, err = l.put(s, record)
	return err
}
