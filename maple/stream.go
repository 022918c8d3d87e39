package maple

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"dkv/internal/block"
	"dkv/internal/command"
	"dkv/store"

	"github.com/cespare/xxhash/v2"
)

// A saved state is a stream of blocks: a header, any number of blocks of
// entries, and an end that counts the entries. The first byte of a block's
// payload is its type.
const (
	blockHeader  = 'H'
	blockEntries = 'E'
	blockEnd     = 'Z'

	magic         = "dkv maple"
	streamVersion = 1

	blockTarget = 128 << 10 // a block of entries is written when it is that long
)

// When the deadlines of a saved entry count from.
const (
	noDeadlines      = iota
	fromClock        // they are readings of the clock
	fromLastTick     // they are durations in the settling epoch
	fromNextTick     // they are durations in the open epoch
	deadlineClasses  // how many there are
	expiredFlag      = 1 << 7
	deadlineClassBit = 0x7f
)

// Save writes the state that the view shows. It takes memory for one block, not
// for the state.
func (v *View) Save(w io.Writer) error {
	bw := bufio.NewWriterSize(w, blockTarget)
	blocks := block.NewWriter(bw)

	buf := append([]byte{blockHeader}, magic...)
	buf = binary.AppendUvarint(buf, streamVersion)
	buf = binary.AppendUvarint(buf, v.revision)
	buf = binary.AppendUvarint(buf, uint64(v.now))
	if err := blocks.Write(buf); err != nil {
		return err
	}

	var count uint64
	var err error
	buf = append(buf[:0], blockEntries)
	v.each(func(space command.Space, key string, e *entry) bool {
		buf = v.appendEntry(buf, space, key, e)
		count++
		if len(buf) >= blockTarget {
			err = blocks.Write(buf)
			buf = append(buf[:0], blockEntries)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	if len(buf) > 1 {
		if err := blocks.Write(buf); err != nil {
			return err
		}
	}

	buf = binary.AppendUvarint(append(buf[:0], blockEnd), count)
	if err := blocks.Write(buf); err != nil {
		return err
	}
	return bw.Flush()
}

func (v *View) appendEntry(b []byte, space command.Space, key string, e *entry) []byte {
	class := byte(noDeadlines)
	var expire, delete int64
	if d := e.deadlines; d != nil {
		expire, delete = d.expire, d.delete
		switch {
		case d.epoch == nil:
			class = fromClock
		case d.epoch == v.settling:
			class = fromLastTick
		case d.epoch == v.open:
			class = fromNextTick
		default:
			class = fromClock
			expire, delete = d.at(expire), d.at(delete)
		}
	}
	flags := class
	if e.kind == expired {
		flags |= expiredFlag
	}
	b = append(b, byte(space), flags)
	b = binary.AppendUvarint(b, e.rev)
	b = binary.AppendUvarint(b, e.rev-e.written)
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(e.value)))
	b = append(b, e.value...)
	if class != noDeadlines {
		b = binary.AppendUvarint(b, uint64(expire))
		b = binary.AppendUvarint(b, uint64(delete))
	}
	return b
}

// Checksum returns a hash of what the view shows: keys, values, revisions,
// deadlines and time. Equal states have equal checksums, on every replica.
func (v *View) Checksum() uint64 {
	var b []byte
	b = binary.LittleEndian.AppendUint64(b, v.revision)
	b = binary.LittleEndian.AppendUint64(b, uint64(v.now))
	sum := xxhash.Sum64(b)
	v.each(func(space command.Space, key string, e *entry) bool {
		b = v.appendEntry(b[:0], space, key, e)
		sum += xxhash.Sum64(b) // a sum, because the order is no part of the state
		return true
	})
	return sum
}

// ErrCorrupt is returned for a stream that is not one that Save wrote, whole and
// unharmed.
var ErrCorrupt = block.ErrCorrupt

// Load returns a DB with the state that Save wrote. With a clock, what time was
// left to each entry when it was saved is left to it now.
func Load(r io.Reader, opts Options) (*DB, error) {
	blocks := block.NewReader(bufio.NewReaderSize(r, blockTarget))
	l := loader{db: New(opts)}
	for {
		offset := blocks.Offset()
		payload, err := blocks.Next()
		if err == io.EOF {
			err = fmt.Errorf("%w: no end at offset %d", ErrCorrupt, offset)
		}
		if err != nil {
			return nil, fmt.Errorf("maple: load: %w", err)
		}
		if err := l.block(payload); err != nil {
			return nil, fmt.Errorf("maple: load: %w: block at offset %d: %w", ErrCorrupt, offset, err)
		}
		if l.ended {
			return l.db, nil
		}
	}
}

type loader struct {
	db      *DB
	started bool
	ended   bool
	count   uint64
	saved   int64 // the reading of the clock when the state was saved
}

var (
	errForeign   = errors.New("not a saved state")
	errMalformed = errors.New("malformed")
)

func (l *loader) block(b []byte) error {
	if len(b) == 0 {
		return errMalformed
	}
	kind, b := b[0], b[1:]
	switch {
	case !l.started && kind == blockHeader:
		l.started = true
		return l.header(b)
	case !l.started:
		return errForeign
	case kind == blockEntries:
		for len(b) > 0 {
			var err error
			if b, err = l.entry(b); err != nil {
				return err
			}
		}
		return nil
	case kind == blockEnd:
		count, n := binary.Uvarint(b)
		if n <= 0 || n != len(b) || count != l.count {
			return fmt.Errorf("%d entries read, %d were written", l.count, count)
		}
		l.ended = true
		return nil
	}
	return errMalformed
}

func (l *loader) header(b []byte) error {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return errForeign
	}
	f := fields{b: b[len(magic):]}
	version := f.uvarint()
	if !f.bad && version != streamVersion {
		return fmt.Errorf("version %d is not known, %d is", version, streamVersion)
	}
	revision, now := f.uvarint(), f.uvarint()
	if f.bad || len(f.b) != 0 || now > math.MaxInt64 {
		return errMalformed
	}
	l.db.revision.Store(revision)
	l.saved = int64(now)
	if l.db.clock == nil {
		l.db.ticked.Store(l.saved)
	}
	return nil
}

func (l *loader) entry(b []byte) (rest []byte, err error) {
	f := fields{b: b}
	space := command.Space(f.byte())
	flags := f.byte()
	rev, since := f.uvarint(), f.uvarint()
	key := f.bytes(store.MaxKeySize)
	value := f.bytes(store.MaxValueSize)
	class := flags & deadlineClassBit
	var expire, delete uint64
	if class != noDeadlines {
		expire, delete = f.uvarint(), f.uvarint()
	}
	if f.bad || space >= command.Spaces || class >= deadlineClasses || len(key) == 0 ||
		rev == 0 || rev > l.db.revision.Load() || since >= rev ||
		expire > delete || delete > math.MaxInt64 {
		return nil, errMalformed
	}
	e := &entry{rev: rev, written: rev - since}
	if flags&expiredFlag != 0 {
		if len(value) > 0 {
			return nil, errMalformed
		}
		e.kind = expired
	} else {
		e.value = append(make([]byte, 0, len(value)), value...)
	}
	if class != noDeadlines {
		e.deadlines = l.deadlines(class, int64(expire), int64(delete))
	}
	k := string(key)
	if _, twice := l.db.spaces[space].LoadOrStore(k, e); twice {
		return nil, errors.New("a key stands there twice")
	}
	l.count++
	l.db.keys[space].Add(1)
	if space == command.Keys {
		l.db.bytes.Add(int64(len(k) + len(e.value)))
	}
	l.db.schedule(space, k, e)
	return f.b, nil
}

// deadlines restores deadlines to how they were, or, with a clock, to what was
// left of them.
func (l *loader) deadlines(class byte, expire, delete int64) *deadlines {
	d := &deadlines{expire: expire, delete: delete}
	if l.db.clock == nil {
		switch class {
		case fromLastTick:
			d.epoch = l.db.settling
		case fromNextTick:
			d.epoch = l.db.open
		}
		return d
	}
	began := l.saved
	if class != fromClock {
		began = 0
	}
	now := l.db.Now()
	for _, at := range []*int64{&d.expire, &d.delete} {
		if *at != never {
			*at = add(now, *at-began)
		}
	}
	return d
}

// fields takes what a record is made of off b; once bad, it yields zeros.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) byte() byte {
	if len(f.b) == 0 {
		f.bad = true
		return 0
	}
	c := f.b[0]
	f.b = f.b[1:]
	return c
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) bytes(limit uint64) []byte {
	n := f.uvarint()
	if n > limit || n > uint64(len(f.b)) {
		f.bad, f.b = true, nil
		return nil
	}
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}
