package maple

import (
	"strings"
	"sync/atomic"
	"unsafe"
)

// record is one version of a key: a header, its deadlines if it has any, the key
// and the value, in one piece of memory without pointers. So a write allocates
// once, a read finds key and value beside each other, and the garbage collector
// has nothing to look into.
//
// A record does not change once it is in the table, but for the base of its
// deadlines, which is settled once.
type record struct {
	rev  uint64 // of the change that made this version
	meta uint64 // lengths, kind, whether there are deadlines
}

// The bits of meta.
const (
	keyBits   = 13 // store.MaxKeySize = 1 << 12
	valueBits = 25 // store.MaxValueSize = 1 << 23

	kindShift = keyBits + valueBits
	timedBit  = 1 << (kindShift + 2)
)

type kind uint64

const (
	live      kind = iota << kindShift // has a value, until it expires
	expired                            // its value has gone
	tombstone                          // deleted; in the table only while a view needs what it supersedes
	kindMask  = 3 << kindShift
)

const (
	headerSize = unsafe.Sizeof(record{})
	timedSize  = headerSize + unsafe.Sizeof(deadlines{})
)

// newRecord makes a record; its rev is set before it is put in the table. The
// deadlines are those of d unless that is nil.
func newRecord(k kind, key string, value []byte, d *deadlines) *record {
	header := record{meta: uint64(k) | uint64(len(value))<<keyBits | uint64(len(key))}
	size := headerSize
	if d != nil {
		header.meta |= timedBit
		size = timedSize
	}
	// A Builder's memory is not cleared before it is filled. It is aligned
	// because it is no smaller than 16 bytes.
	var b strings.Builder
	b.Grow(int(size) + len(key) + len(value))
	b.Write(unsafe.Slice((*byte)(unsafe.Pointer(&header)), headerSize))
	if d != nil {
		b.Write(unsafe.Slice((*byte)(unsafe.Pointer(d)), unsafe.Sizeof(*d)))
	}
	b.WriteString(key)
	b.Write(value)
	return (*record)(unsafe.Pointer(unsafe.StringData(b.String())))
}

func (r *record) kind() kind { return kind(r.meta & kindMask) }

// deadlines are those of r, nil if it has none.
func (r *record) deadlines() *deadlines {
	if r.meta&timedBit == 0 {
		return nil
	}
	return (*deadlines)(unsafe.Add(unsafe.Pointer(r), headerSize))
}

func (r *record) keyAt() unsafe.Pointer {
	if r.meta&timedBit == 0 {
		return unsafe.Add(unsafe.Pointer(r), headerSize)
	}
	return unsafe.Add(unsafe.Pointer(r), timedSize)
}

func (r *record) keyLen() int   { return int(r.meta & (1<<keyBits - 1)) }
func (r *record) valueLen() int { return int(r.meta >> keyBits & (1<<valueBits - 1)) }

// key shares r's memory.
func (r *record) key() string { return unsafe.String((*byte)(r.keyAt()), r.keyLen()) }

// value shares r's memory.
func (r *record) value() []byte {
	n := r.valueLen()
	if n == 0 {
		return []byte{} // it would begin where the record's memory has ended
	}
	return unsafe.Slice((*byte)(unsafe.Add(r.keyAt(), r.keyLen())), n)[:n:n]
}

// written is the revision of the last call that changed the key.
func (r *record) written() uint64 {
	if d := r.deadlines(); d != nil && d.written != 0 {
		return d.written
	}
	return r.rev
}

// deadlines say when an entry's value and key go, as durations from base:
// expire <= delete.
type deadlines struct {
	expire, delete int64
	base           atomic.Int64 // a reading of the clock, or unsettled
	epoch          uint64       // the number of the epoch that settles base, 0 if none

	// written is the revision that the entry had before its value expired by a
	// deadline, 0 if it has not.
	written uint64
}
