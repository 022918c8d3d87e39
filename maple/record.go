package maple

import (
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"dkv/store"
)

// record is one version of a key: a header, its deadlines if it has any, the key
// and the value, in one piece of memory without pointers. So a write allocates
// once, a read finds key and value beside each other, and the garbage collector
// has nothing to look into.
//
// A record does not change once it is in the table, but for its revision, which is
// drawn then, its deadlines, which are settled once, and its reminder.
type record struct {
	rev  uint64 // of the change that made this version; 0 until that is drawn, see DB.replace
	meta uint64 // lengths, where the key begins, kind
}

// The bits of meta.
const (
	keyBits    = 13 // engine.MaxKeySize < 1 << 13
	valueBits  = 24 // store.MaxValueSize = 1 << 23
	offsetBits = 3  // of the key, in words

	offsetShift = keyBits + valueBits
	kindShift   = offsetShift + offsetBits
	timedBit    = 1 << (kindShift + 2)
	pastBit     = 1 << (kindShift + 3)
)

type kind uint64

const (
	live      kind = iota << kindShift // has a value, until it expires
	expired                            // its value has gone; has a past
	tombstone                          // deleted; in the table only while a view needs what it supersedes
	kindMask  = 3 << kindShift
)

const (
	headerSize = unsafe.Sizeof(record{})
	timedSize  = unsafe.Sizeof(deadlines{})
	pastSize   = unsafe.Sizeof(past{})
)

// deadlines say when an entry's value and key go: expire <= delete. A deadline is
// a reading of the clock; or never; or, as long as nobody knows from which reading
// it counts, the negative of its duration.
type deadlines struct {
	expire, delete atomic.Int64

	// remind is the reading for which the reminder stands that will look at the
	// key: remind <= the record's next deadline. 0: there is none, because the
	// deadline is not settled or never comes. It changes while the key's shard
	// is locked.
	remind atomic.Int64
}

// past is what a version that was made of the one before has kept of that: of a
// value that has expired, of deadlines that were left alone, of an entry whose
// revision was.
type past struct {
	// written is the revision of the last call that changed the key, 0 if it is
	// the record's own: a deadline makes a version with a new revision, but the
	// entry's stays.
	written uint64
	// since is the revision of the write that set the deadlines, 0 if it is the
	// record's own.
	since uint64
}

// never is a deadline that does not come.
const never = 1<<63 - 1

// newRecord makes a record; its rev is drawn later, see DB.replace. What is
// at d and p is copied, if they are not nil.
func newRecord(k kind, key string, value []byte, d *deadlines, p *past) *record {
	offset := headerSize
	meta := uint64(k) | uint64(len(value))<<keyBits | uint64(len(key))
	if d != nil {
		offset += timedSize
		meta |= timedBit
	}
	if p != nil {
		offset += pastSize
		meta |= pastBit
	}
	header := record{meta: meta | uint64(offset/8)<<offsetShift}

	// A Builder's memory is not cleared before it is filled. It is aligned
	// because it is no smaller than 16 bytes.
	var b strings.Builder
	b.Grow(int(offset) + len(key) + len(value))
	b.Write(unsafe.Slice((*byte)(unsafe.Pointer(&header)), headerSize))
	if d != nil {
		b.Write(unsafe.Slice((*byte)(unsafe.Pointer(d)), timedSize))
	}
	if p != nil {
		b.Write(unsafe.Slice((*byte)(unsafe.Pointer(p)), pastSize))
	}
	b.WriteString(key)
	b.Write(value)
	return (*record)(unsafe.Pointer(unsafe.StringData(b.String())))
}

// touch reads a word of the record without asking what it says.
func (r *record) touch() { atomic.LoadUint64(&r.meta) }

// touchValue does so with what is behind the record's first cache line, up to
// where the processor has seen for itself that it is read in a row.
func (r *record) touchValue() {
	const line, enough = 64, 4 * 64
	for at := line; at+4 <= min(r.length(), enough); at += line {
		atomic.LoadUint32((*uint32)(unsafe.Add(unsafe.Pointer(r), at)))
	}
}

// revision waits until the record's revision has been drawn, which is a matter of
// nanoseconds, or microseconds in a large transaction, unless its writer has been put
// aside.
func (r *record) revision() uint64 {
	if rev := atomic.LoadUint64(&r.rev); rev != 0 {
		return rev
	}
	return r.awaitRevision()
}

func (r *record) awaitRevision() uint64 {
	for {
		runtime.Gosched()
		if rev := atomic.LoadUint64(&r.rev); rev != 0 {
			return rev
		}
	}
}

func (r *record) kind() kind { return kind(r.meta & kindMask) }

// deadlines are those of r, nil if it has none.
func (r *record) deadlines() *deadlines {
	if r.meta&timedBit == 0 {
		return nil
	}
	return (*deadlines)(unsafe.Add(unsafe.Pointer(r), headerSize))
}

// past is that of r, nil if it has none.
func (r *record) past() *past {
	if r.meta&pastBit == 0 {
		return nil
	}
	return (*past)(unsafe.Add(unsafe.Pointer(r), r.offset()-pastSize))
}

func (r *record) offset() uintptr {
	return uintptr(r.meta>>offsetShift&(1<<offsetBits-1)) * 8
}

func (r *record) keyAt() unsafe.Pointer { return unsafe.Add(unsafe.Pointer(r), r.offset()) }

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
	if p := r.past(); p != nil && p.written != 0 {
		return p.written
	}
	return r.rev
}

// since is the revision of the write that set the deadlines.
func (r *record) since() uint64 {
	if p := r.past(); p != nil && p.since != 0 {
		return p.since
	}
	return r.rev
}

// next is the deadline of r that comes first: never if it has none.
func (r *record) next() int64 {
	d := r.deadlines()
	switch {
	case d == nil:
		return never
	case r.kind() == live:
		return d.expire.Load()
	}
	return d.delete.Load()
}

// isDeleted tells whether the key is gone at the reading now.
func (r *record) isDeleted(now int64) bool {
	if r.kind() == tombstone {
		return true
	}
	d := r.deadlines()
	return d != nil && hasCome(d.delete.Load(), now)
}

// isExpired tells whether the value is gone at the reading now.
func (r *record) isExpired(now int64) bool {
	if r.kind() != live {
		return true
	}
	d := r.deadlines()
	return d != nil && hasCome(d.expire.Load(), now)
}

func hasCome(deadline, now int64) bool { return 0 <= deadline && deadline <= now }

// entry shows r as it is at the reading now.
func (r *record) entry(now int64) (store.Entry, bool) {
	if r.isDeleted(now) {
		return store.Entry{}, false
	}
	e := store.Entry{Key: r.key(), Revision: store.Revision(r.written()), Expired: r.isExpired(now)}
	if !e.Expired {
		e.Value = r.value()
	}
	if d := r.deadlines(); d != nil {
		e.DeleteIn = left(d.delete.Load(), now)
		if !e.Expired {
			e.ExpireIn = left(d.expire.Load(), now)
		}
	}
	return e, true
}

// left is the time until a deadline, 0 if it never comes. What has not begun to
// count is left whole.
func left(deadline, now int64) time.Duration {
	switch {
	case deadline == never:
		return 0
	case deadline < 0:
		return time.Duration(-deadline)
	}
	return time.Duration(max(1, deadline-now))
}

// add is a + b, or never if that is later than can be told. a is not negative.
func add(a, b int64) int64 {
	if b > never-a {
		return never
	}
	return a + b
}
