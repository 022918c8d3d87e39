package raftlog

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// recovery is what the segments in a directory hold, read one after the other.
type recovery struct {
	index
	meta
	segments []*segment
	end      int64    // of the last segment's records
	bytes    int64    // of all records
	leaves   uint64   // the entry that removes this replica, 0 if there is none
	left     []string // names of segments that are not part of the log: neither begun nor removed to the end
}

// recoverSegments reads the segments, the newest first as far as each says which came
// before it; older ones are left over from a removal that was not finished. It
// changes nothing.
func recoverSegments(fs vfs.FS, dir string) (_ *recovery, err error) {
	numbers, err := segments(fs, dir)
	if err != nil {
		return nil, err
	}
	rec := &recovery{}
	defer func() {
		if err != nil {
			for _, s := range rec.segments {
				s.close()
			}
		}
	}()
	var contents []*content
	for i, number := range slices.Backward(numbers) {
		s, err := openSegment(fs, dir, number)
		if err != nil {
			return nil, err
		}
		rec.segments = append(rec.segments, s)
		c, err := s.contents()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", segmentName(number), err)
		}
		if c == nil {
			if i < len(numbers)-1 {
				return nil, fmt.Errorf("%s has no head", segmentName(number))
			}
			// It was not finished when the program ended.
			rec.segments = rec.segments[:0]
			rec.left = append(rec.left, segmentName(number))
			if err := s.close(); err != nil {
				return nil, err
			}
			continue
		}
		if n := len(contents); n > 0 && contents[n-1].head.prevEnd != c.end {
			return nil, fmt.Errorf("%s is damaged at offset %d: it had %d bytes", segmentName(number), c.end, contents[n-1].head.prevEnd)
		}
		contents = append(contents, c)
		if i == 0 || c.head.prev != numbers[i-1] {
			for _, number := range numbers[:i] {
				rec.left = append(rec.left, segmentName(number))
			}
			break
		}
	}
	slices.Reverse(rec.segments)
	for i, c := range slices.Backward(contents) {
		s := rec.segments[len(contents)-1-i]
		if err := rec.replay(s, c); err != nil {
			return nil, fmt.Errorf("%s: %w", segmentName(s.number), err)
		}
		rec.end = c.end
		rec.bytes += c.end
	}
	return rec, rec.check()
}

// content is what was found in one segment.
type content struct {
	head    head
	records []int64 // offsets, the head's first
	end     int64
}

// contents looks for the segment's records. It returns nil if not even the head
// is there.
func (s *segment) contents() (*content, error) {
	info, err := s.r.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	in := bufio.NewReaderSize(io.NewSectionReader(s.r, 0, size), 256<<10)
	c := &content{}
	var record []byte
	for {
		h, payload, err := s.next(in, size-c.end, &record)
		if err != nil {
			return nil, err
		}
		if payload == nil {
			break
		}
		if c.end == 0 {
			if h.kind != kindHead {
				return nil, fmt.Errorf("offset 0: %w", errRecord)
			}
			r := &reader{b: payload}
			if c.head = decodeHead(r); r.err != nil {
				return nil, r.err
			}
		}
		c.records = append(c.records, c.end)
		c.end += headerSize + int64(h.size)
	}
	if err := s.checkTail(c.end, size); err != nil {
		return nil, err
	}
	if c.end == 0 {
		return nil, nil
	}
	return c, nil
}

// next reads the next record if there is a valid one; else it returns no payload.
func (s *segment) next(in *bufio.Reader, space int64, record *[]byte) (h header, payload []byte, err error) {
	if space < headerSize {
		return h, nil, nil
	}
	b, err := in.Peek(headerSize)
	if err != nil {
		return h, nil, err
	}
	if h = decodeHeader(b); !h.plausible(space) {
		return h, nil, nil
	}
	*record = slices.Grow((*record)[:0], headerSize+int(h.size))[:headerSize+int(h.size)]
	if _, err := io.ReadFull(in, *record); err != nil {
		return h, nil, err
	}
	if checksum(s.number, (*record)[4:]) != h.checksum {
		return h, nil, nil
	}
	return h, (*record)[headerSize:], nil
}

// checkTail tells a write that was cut short by a crash, which nobody has built
// on, from damage: behind damage there are records that were written when what is
// damaged was on the disk.
func (s *segment) checkTail(end, size int64) error {
	const window = 1 << 20
	tag := tagOf(s.number)
	var record []byte
	for from := end; from < size; from += window {
		b := make([]byte, min(size-from, window+headerSize))
		if err := readFull(s.r, b, from); err != nil {
			return err
		}
		for i := 0; ; i++ {
			next := bytes.Index(b[min(i+tagAt, len(b)):], tag[:])
			if i += next; next < 0 || i+headerSize > len(b) {
				break
			}
			at, h := from+int64(i), decodeHeader(b[i:])
			if int64(h.synced) <= end || !h.plausible(size-at) {
				continue
			}
			record = slices.Grow(record[:0], headerSize+int(h.size))[:headerSize+int(h.size)]
			if err := readFull(s.r, record, at); err != nil {
				return err
			}
			if checksum(s.number, record[4:]) == h.checksum {
				return fmt.Errorf("damaged at offset %d: a later record is at %d", end, at)
			}
		}
	}
	return nil
}

// replay carries out what a segment's records say.
func (rec *recovery) replay(s *segment, c *content) error {
	for _, at := range c.records {
		k, payload, err := s.read(at)
		if err == nil {
			r := &reader{b: payload}
			switch k {
			case kindHead:
				h := decodeHead(r)
				rec.setMeta(h.meta)
			case kindMeta:
				rec.setMeta(decodeMeta(r))
			case kindAppend:
				rec.replayAppend(r, place{segment: s.number, offset: at})
			}
			err = r.err
		}
		if err != nil {
			return fmt.Errorf("offset %d: %w", at, err)
		}
	}
	return nil
}

func (rec *recovery) setMeta(m meta) {
	rec.meta = m
	if m.cut {
		rec.index.cut(m.base)
	}
}

func (rec *recovery) replayAppend(r *reader, p place) {
	var last uint64
	var changes []pb.Entry // of the members
	rec.state = decodeEntries(r, func(e pb.Entry) bool {
		if e.Type == pb.ConfigChangeEntry {
			changes = append(changes, e)
		}
		if p.first == 0 {
			p.first = e.Index
		} else if e.Index != last+1 {
			r.fail()
		}
		last = e.Index
		return r.err == nil
	})
	if p.first != 0 && rec.leaves >= p.first { // it is overwritten
		rec.leaves = 0
	}
	for i := range changes {
		if removes(&changes[i], rec.replica) {
			rec.leaves = changes[i].Index
		}
	}
	if r.err == nil && p.first != 0 && !rec.index.append(p, last) {
		r.err = fmt.Errorf("entries %d to %d come after entry %d", p.first, last, rec.last)
	}
}

// check tells whether what was found can be the log of a replica.
func (rec *recovery) check() error {
	s := rec.snapshot.Index
	if rec.last > s && rec.first > s+1 {
		return fmt.Errorf("entries %d to %d are missing", s+1, rec.first-1)
	}
	if c := rec.state.Commit; c > max(rec.last, s) {
		return fmt.Errorf("entries %d to %d are missing", max(rec.last, s)+1, c)
	}
	return nil
}
