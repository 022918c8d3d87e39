package maple

import (
	"time"
	"unsafe"

	"dkv/internal/field"
	"dkv/store"
	"dkv/store/engine"
)

// parser makes the records of one block of entries.
type parser struct {
	header *header
	clock  func() time.Duration // of the DB that gets them; nil if it has none
	now    int64                // what it reads

	b   []byte // what is left
	key []byte // of the entry before; reused
}

// next takes the next entry off the block. It takes no other form than the one
// that Save writes.
func (p *parser) next() (engine.Space, *record, error) {
	f := field.NewReader(p.b)
	flags := f.Byte()
	space := engine.Space(flags >> spaceShift)
	class := flags & deadlineClassBit
	rev := f.Uvarint()
	before := past{written: rev, since: rev}
	hasExpired, hasPast := flags&expiredFlag != 0, flags&pastFlag != 0
	if hasPast {
		before.written -= f.Uvarint()
		before.since -= f.Uvarint()
	}
	shared := f.Uvarint()
	suffix := f.Bytes(engine.MaxKeySize)
	value := f.Bytes(store.MaxValueSize)
	var expire, delete uint64
	if class != noDeadlines {
		expire, delete = f.Uvarint(), f.Uvarint()
	}
	if f.Bad() || space >= engine.Spaces || len(suffix) == 0 ||
		shared > uint64(len(p.key)) || shared+uint64(len(suffix)) > engine.MaxKeySize ||
		shared < uint64(len(p.key)) && suffix[0] == p.key[shared] ||
		before.since == 0 || before.since > rev || before.written == 0 || before.written > rev || rev > p.header.revision ||
		hasExpired && (!hasPast || before.since == rev) ||
		hasPast && !hasExpired && (before.since == rev) == (before.written == rev) ||
		class != noDeadlines && (class != p.header.class(before.since) || expire == 0 || expire > delete || delete > never) ||
		class > settled && (expire >= endless || delete >= endless && delete != never) ||
		hasExpired && (len(value) > 0 || expire != delete) {
		return 0, nil, errMalformed
	}
	p.b = f.Rest()
	p.key = append(p.key[:shared], suffix...)
	key := unsafe.String(unsafe.SliceData(p.key), len(p.key)) // newRecord copies it

	var d *deadlines
	if class != noDeadlines {
		d = new(deadlines)
		d.expire.Store(p.deadline(class, int64(expire)))
		d.delete.Store(p.deadline(class, int64(delete)))
	}
	var kept *past
	if hasPast {
		kept = &before
		if kept.written == rev {
			kept.written = 0
		}
		if kept.since == rev {
			kept.since = 0
		}
	}
	kind := live
	if hasExpired {
		kind = expired
	}
	r := newRecord(kind, key, value, d, kept)
	r.rev = rev
	return space, r, nil
}

// class is that of deadlines set by the write with a revision.
func (h *header) class(since uint64) byte {
	switch {
	case since > h.open:
		return fromNextTick
	case since > h.settling:
		return fromLastTick
	}
	return settled
}

// deadline restores a deadline to how it was, or, with a clock, to what was left
// of it.
func (p *parser) deadline(class byte, at int64) int64 {
	switch {
	case at == never:
		return never
	case class != settled && p.clock == nil:
		return -at
	case class != settled:
		return add(p.now, at)
	case p.clock == nil:
		return at
	}
	// What is left is negative for a deadline that had come.
	return max(1, add(p.now, at-p.header.now))
}
