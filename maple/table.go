package maple

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"unsafe"
)

// table is a hash table of records by key. Readers take no lock. Writers lock one
// of its shards, each of which grows and shrinks by itself, so that no writer
// waits for more than a small part of the table to be copied.
//
// A shard is an array of buckets of one cache line. A record is in the bucket that
// its hash leads to or, if that is full, in one of the next, which its overflow
// mark tells. It never moves but to a new array, so a reader that goes on in an
// old one sees what was there when it began.
//
// The general map that was here before, xsync.MapOf with a pointer to an entry,
// took 162 bytes for a key of 17 and a value of 16, where this takes 83, and
// three allocations for a write, where this takes one; it was copied as a whole
// when it grew, while all writers waited.
type table struct {
	seed   maphash.Seed
	shards [shards]shard
}

const (
	shards  = 256
	perLine = 5 // records in a bucket

	// A shard grows by half when more than 4 of 5 places are taken, and shrinks
	// when fewer than 1 of 5 are.
	maxLoad, minLoad, ofLoad = 4, 1, 5
)

type shard struct {
	mu    sync.Mutex
	array atomic.Pointer[[]bucket] // nil while the shard is empty
	used  int                      // records; under mu
	_     [64 - 24]byte            // a cache line of its own
}

// bucket holds records and 32 bits of the hash of each. A reader trusts a hash
// only after it has compared the record's key.
type bucket struct {
	hash     [perLine]atomic.Uint32 // 0: no record
	overflow atomic.Uint32          // not 0: look into the next bucket too
	record   [perLine]unsafe.Pointer
}

func newTable() *table { return &table{seed: maphash.MakeSeed()} }

// place is where a key belongs: its shard, and the hash that buckets have of it,
// which is not 0.
func (t *table) place(key string) (*shard, uint32) {
	h := maphash.String(t.seed, key)
	return &t.shards[h>>56], uint32(h) | 1
}

// home is the index of the bucket that h leads to.
func home(array []bucket, h uint32) int {
	return int(uint64(h) * uint64(len(array)) >> 32)
}

func after(array []bucket, i int) int {
	if i++; i < len(array) {
		return i
	}
	return 0
}

func (b *bucket) load(i int) *record { return (*record)(atomic.LoadPointer(&b.record[i])) }

// set makes r visible to readers before its hash is.
func (b *bucket) set(i int, r *record, h uint32) {
	atomic.StorePointer(&b.record[i], unsafe.Pointer(r))
	b.hash[i].Store(h)
}

// load returns the record of key, nil if there is none.
func (t *table) load(key string) *record {
	sh, h := t.place(key)
	array := sh.array.Load()
	if array == nil {
		return nil
	}
	for i := home(*array, h); ; i = after(*array, i) {
		b := &(*array)[i]
		for j := range perLine {
			if b.hash[j].Load() == h {
				if r := b.load(j); r != nil && r.key() == key {
					return r
				}
			}
		}
		if b.overflow.Load() == 0 {
			return nil
		}
	}
}

// all calls f with each record until it returns false. A record that is put or
// removed meanwhile may be among them or not; each other one is, once.
func (t *table) all(f func(*record) bool) {
	for i := range t.shards {
		array := t.shards[i].array.Load()
		if array == nil {
			continue
		}
		for i := range *array {
			b := &(*array)[i]
			for j := range perLine {
				if b.hash[j].Load() == 0 {
					continue
				}
				if r := b.load(j); r != nil && !f(r) {
					return
				}
			}
		}
	}
}

// locked is a key whose shard is locked.
type locked struct {
	shard *shard
	hash  uint32
	old   *record // the key's, nil if there is none

	// Where old is, or else where a record can be put; nil if there is no
	// place for it yet.
	bucket *bucket
	i      int
}

// lock locks the shard of key.
func (t *table) lock(key string) locked {
	sh, h := t.place(key)
	sh.mu.Lock()
	l := locked{shard: sh, hash: h}
	array := sh.array.Load()
	if array == nil {
		return l
	}
	for i := home(*array, h); ; i = after(*array, i) {
		b := &(*array)[i]
		for j := range perLine {
			switch b.hash[j].Load() {
			case h:
				if r := b.load(j); r.key() == key {
					l.old, l.bucket, l.i = r, b, j
					return l
				}
			case 0:
				if l.bucket == nil {
					l.bucket, l.i = b, j
				}
			}
		}
		if b.overflow.Load() == 0 {
			return l
		}
	}
}

func (l *locked) unlock() { l.shard.mu.Unlock() }

// put makes r the key's record.
func (l *locked) put(r *record) {
	if l.old != nil {
		atomic.StorePointer(&l.bucket.record[l.i], unsafe.Pointer(r))
		return
	}
	sh := l.shard
	sh.used++
	array := sh.array.Load()
	if array == nil || sh.used*ofLoad > len(*array)*perLine*maxLoad {
		array = sh.resize(sh.used + sh.used/2)
	} else if l.bucket != nil {
		l.bucket.set(l.i, r, l.hash)
		return
	}
	insert(*array, r, l.hash)
}

// remove removes the key's record.
func (l *locked) remove() {
	sh := l.shard
	l.bucket.hash[l.i].Store(0)
	atomic.StorePointer(&l.bucket.record[l.i], nil)
	sh.used--
	switch array := sh.array.Load(); {
	case sh.used == 0:
		sh.array.Store(nil)
	case len(*array) > 1 && sh.used*ofLoad < len(*array)*perLine*minLoad:
		sh.resize(2 * sh.used)
	}
}

// resize copies the shard to a new array, with room for n records within the
// load that it may have.
func (sh *shard) resize(n int) *[]bucket {
	array := make([]bucket, n*ofLoad/(perLine*maxLoad)+1)
	if old := sh.array.Load(); old != nil {
		for i := range *old {
			b := &(*old)[i]
			for j := range perLine {
				if h := b.hash[j].Load(); h != 0 {
					insert(array, b.load(j), h)
				}
			}
		}
	}
	sh.array.Store(&array)
	return &array
}

// insert puts a record where there is room for it.
func insert(array []bucket, r *record, h uint32) {
	for i := home(array, h); ; i = after(array, i) {
		b := &array[i]
		for j := range perLine {
			if b.hash[j].Load() == 0 {
				b.set(j, r, h)
				return
			}
		}
		b.overflow.Store(1)
	}
}
