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
	"dkv/internal/field"
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
	v.each(func(space command.Space, r *record) bool {
		buf = v.appendRecord(buf, space, r)
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

func (v *View) appendRecord(b []byte, space command.Space, r *record) []byte {
	class := byte(noDeadlines)
	var expire, delete int64
	if d := r.deadlines(); d != nil {
		expire, delete = d.expire, d.delete
		switch {
		case !v.wasUnsettled(r):
			class = fromClock
			expire, delete = max(0, d.at(expire)), max(0, d.at(delete))
		case d.epoch == v.settling:
			class = fromLastTick
		default:
			class = fromNextTick
		}
	}
	flags := class
	if r.kind() == expired {
		flags |= expiredFlag
	}
	b = append(b, byte(space), flags)
	b = binary.AppendUvarint(b, r.rev)
	b = binary.AppendUvarint(b, r.rev-r.written())
	b = binary.AppendUvarint(b, uint64(r.keyLen()))
	b = append(b, r.key()...)
	b = binary.AppendUvarint(b, uint64(r.valueLen()))
	b = append(b, r.value()...)
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
	v.each(func(space command.Space, r *record) bool {
		b = v.appendRecord(b[:0], space, r)
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
	f := field.NewReader(b[len(magic):])
	version := f.Uvarint()
	if !f.Bad() && version != streamVersion {
		return fmt.Errorf("version %d is not known, %d is", version, streamVersion)
	}
	revision, now := f.Uvarint(), f.Uvarint()
	if !f.Complete() || now > math.MaxInt64 {
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
	f := field.NewReader(b)
	space := command.Space(f.Byte())
	flags := f.Byte()
	rev, since := f.Uvarint(), f.Uvarint()
	key := f.Bytes(store.MaxKeySize)
	value := f.Bytes(store.MaxValueSize)
	class := flags & deadlineClassBit
	var expire, delete uint64
	if class != noDeadlines {
		expire, delete = f.Uvarint(), f.Uvarint()
	}
	if f.Bad() || space >= command.Spaces || class >= deadlineClasses || len(key) == 0 ||
		rev == 0 || rev > l.db.revision.Load() || since >= rev ||
		expire > delete || delete > math.MaxInt64 {
		return nil, errMalformed
	}
	var d *deadlines
	if class != noDeadlines {
		d = l.deadlines(class, int64(expire), int64(delete))
		if since > 0 {
			d.written = rev - since
		}
	} else if since > 0 {
		return nil, errMalformed // only a deadline leaves the revision behind
	}
	k := live
	if flags&expiredFlag != 0 {
		if len(value) > 0 {
			return nil, errMalformed
		}
		k = expired
	}
	r := newRecord(k, string(key), value, d)
	r.rev = rev
	if !l.put(space, r) {
		return nil, errors.New("a key stands there twice")
	}
	return f.Rest(), nil
}

// put puts a record in the DB, unless there is one of the same key.
func (l *loader) put(space command.Space, r *record) bool {
	db := l.db
	place := db.spaces[space].lock(r.key())
	defer place.unlock()
	if place.old != nil {
		return false
	}
	place.put(r)
	l.count++
	db.keys[space].Add(1)
	if space == command.Keys {
		db.bytes.Add(int64(r.keyLen() + r.valueLen()))
	}
	db.schedule(space, r)
	return true
}

// deadlines restores deadlines to how they were, or, with a clock, to what was
// left of them.
func (l *loader) deadlines(class byte, expire, delete int64) *deadlines {
	d := &deadlines{expire: expire, delete: delete}
	switch {
	case class == fromClock && l.db.clock == nil:
		// Durations since the reading 0.
	case class == fromClock:
		// What is left is negative for a deadline that had come.
		d.base.Store(l.db.Now())
		for _, at := range []*int64{&d.expire, &d.delete} {
			if *at != never {
				*at -= l.saved
			}
		}
	case l.db.clock != nil:
		d.base.Store(l.db.Now())
	default:
		d.base.Store(unsettled)
		d.epoch = l.db.open.number
		if class == fromLastTick {
			d.epoch = l.db.settling.number
		}
	}
	return d
}
