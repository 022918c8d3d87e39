package maple

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"unsafe"
)

// table is a hash table of records by key. Readers take no lock. Writers lock one
// of its shards, each of which grows and shrinks by itself, so that no writer
// waits for more than a small part of the table to be copied.
//
// A shard is an array of buckets of one cache line. A record is in the bucket that
// its hash leads to or, if that was full, in one of the next: each bucket counts
// the records that have passed it by. A record never moves but to a new array, so
// a reader that goes on in an old one sees what was there when it began.
//
// The general map that was here before, xsync.MapOf with a pointer to an entry,
// took 162 bytes for a key of 17 and a value of 16, where this takes 83, and
// three allocations for a write, where this takes one; it was copied as a whole
// when it grew, while all writers waited.
type table struct {
	seed   maphash.Seed
	mask   uint64 // which bits of a key's hash are used; tests leave only a few
	shards [shards]shard
}

const (
	shards  = 256
	perLine = 5 // records in a bucket

	// A shard grows when more than 4 of 5 places are taken, and shrinks when
	// fewer than 1 of 5 are.
	maxLoad, minLoad, ofLoad = 4, 1, 5
	growth                   = 1.3
)

type shard struct {
	mu    sync.Mutex
	array atomic.Pointer[[]bucket] // nil while the shard is empty
	used  int                      // records; under mu

	// depth is how many hashes a key may have been given instead of its own,
	// because another key of the shard had that: 0 but by a rare chance. It
	// never falls while the shard is in use.
	depth atomic.Uint32

	old    map[string]*history // what is kept for views, by key; under mu
	ghosts int                 // tombstones among the records; under mu
	_      [64 - 48]byte       // a cache line of its own
}

// bucket holds records and 32 bits of the hash of each, which no other record of
// the shard has. A reader trusts a hash only after it has compared the record's
// key.
type bucket struct {
	hash   [perLine]atomic.Uint32 // 0: no record
	passed atomic.Uint32          // records behind that would be here if there had been room
	record [perLine]unsafe.Pointer
}

// place is where a key's record is in its table, in few bytes: while the record is
// there, no other has that place.
type place struct {
	hash  uint32
	shard uint8
}

func newTable() *table { return &table{seed: maphash.MakeSeed(), mask: math.MaxUint64} }

// reserve makes room in an empty table for n records, if they are spread evenly.
func (t *table) reserve(n int) {
	if n < shards {
		return
	}
	for i := range t.shards {
		t.shards[i].resize(uint8(i), n/shards)
	}
}

// place is where a key belongs: its shard, and the hash that it has there unless
// another key has that. Hashes are odd, so that none is 0.
func (t *table) place(key string) place {
	h := maphash.String(t.seed, key) & t.mask
	return place{uint32(h) | 1, uint8(h >> 56)}
}

// instead is the hash that a key has if others have the one before.
func instead(h uint32) uint32 { return h + 2 }

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

func (t *table) shard(key string) *shard { return &t.shards[t.place(key).shard] }

// load returns the record of key, nil if there is none.
func (t *table) load(key string) *record {
	p := t.place(key)
	sh := &t.shards[p.shard]
	array := sh.array.Load()
	if array == nil {
		return nil
	}
	for depth := uint32(0); ; depth++ {
		if r := find(*array, p.hash); r != nil && r.key() == key {
			return r
		}
		if depth >= sh.depth.Load() {
			return nil
		}
		p.hash = instead(p.hash)
	}
}

// at returns the record that has a place, nil if there is none.
func (t *table) at(p place) *record {
	array := t.shards[p.shard].array.Load()
	if array == nil {
		return nil
	}
	return find(*array, p.hash)
}

// touch reads a word of the bucket where a place is likely to be found, without
// asking what it says, which the processor can do for many at a time.
func (t *table) touch(p place) {
	if array := t.shards[p.shard].array.Load(); array != nil {
		(*array)[home(*array, p.hash)].passed.Load()
	}
}

// find returns the record with a hash, nil if there is none.
func find(array []bucket, h uint32) *record {
	first := home(array, h)
	for i := first; ; {
		b := &array[i]
		for j := range perLine {
			if b.hash[j].Load() == h {
				if r := b.load(j); r != nil {
					return r
				}
			}
		}
		if b.passed.Load() == 0 {
			return nil
		}
		if i = after(array, i); i == first {
			return nil
		}
	}
}

// all calls f with each record and its shard. A record that is put or removed
// meanwhile may be among them or not; each other one is, once.
func (t *table) all(f func(*shard, *record)) {
	for i := range t.shards {
		sh := &t.shards[i]
		array := sh.array.Load()
		if array == nil {
			continue
		}
		for i := range *array {
			b := &(*array)[i]
			for j := range perLine {
				if b.hash[j].Load() == 0 {
					continue
				}
				if r := b.load(j); r != nil {
					f(sh, r)
				}
			}
		}
	}
}

// lock locks the shard. It is held for a microsecond or two, so who finds it locked
// tries again for some more before it lets itself be put aside: to be woken takes
// a hundred, and sometimes, when the system wakes a thread where another runs,
// milliseconds.
func (sh *shard) lock() {
	const tries = 5000 // some 10 µs
	for range tries {
		if sh.mu.TryLock() {
			return
		}
	}
	sh.mu.Lock()
}

// locked is a key whose shard is locked.
type locked struct {
	*shard
	place place
	rec   *record // the key's, nil if there is none

	// Where rec is.
	bucket *bucket
	i      int
}

// lock locks the shard of key.
func (t *table) lock(key string) locked {
	p := t.place(key)
	sh := &t.shards[p.shard]
	sh.lock()
	return sh.locked(p, key)
}

// locked is what lock returns for who has locked the shard of key already. It holds
// until another key of the shard comes or goes.
func (sh *shard) locked(p place, key string) locked {
	l := locked{shard: sh, place: p}
	if array := l.array.Load(); array != nil {
		l.probe(*array)
		if l.rec == nil && l.depth.Load() > 0 || l.rec != nil && l.rec.key() != key {
			l.lookInstead(*array, key)
		}
	}
	return l
}

// lockAt locks the shard of a place.
func (t *table) lockAt(p place) locked {
	l := locked{shard: &t.shards[p.shard], place: p}
	l.lock()
	if array := l.array.Load(); array != nil {
		l.probe(*array)
	}
	return l
}

// probe looks for the record with the hash of l's place.
func (l *locked) probe(array []bucket) {
	h := l.place.hash
	first := home(array, h)
	for i := first; ; {
		b := &array[i]
		for j := range perLine {
			if b.hash[j].Load() == h {
				l.rec, l.bucket, l.i = b.load(j), b, j
				return
			}
		}
		if b.passed.Load() == 0 {
			break
		}
		if i = after(array, i); i == first {
			break
		}
	}
	l.rec = nil
}

// lookInstead looks for key under all hashes that it may have been given. If it is
// not there, its place is the first that no other key has.
func (l *locked) lookInstead(array []bucket, key string) {
	free, found := place{}, false
	for depth := uint32(0); ; depth++ {
		l.probe(array)
		if l.rec != nil && l.rec.key() == key {
			return
		}
		if l.rec == nil && !found {
			free, found = l.place, true
			if depth > l.depth.Load() {
				l.depth.Store(depth)
			}
		}
		if found && depth >= l.depth.Load() {
			l.place, l.rec = free, nil
			return
		}
		l.place.hash = instead(l.place.hash)
	}
}

func (l *locked) unlock() { l.mu.Unlock() }

// put makes r the key's record.
func (l *locked) put(r *record) {
	if l.rec != nil {
		atomic.StorePointer(&l.bucket.record[l.i], unsafe.Pointer(r))
		return
	}
	l.used++
	array := l.array.Load()
	if array == nil || l.used*ofLoad > len(*array)*perLine*maxLoad {
		array = l.resize(l.place.shard, l.used)
	}
	insert(*array, r, l.place.hash)
}

// remove removes the key's record.
func (l *locked) remove() {
	array := *l.array.Load()
	l.bucket.hash[l.i].Store(0)
	atomic.StorePointer(&l.bucket.record[l.i], nil)
	for i := home(array, l.place.hash); &array[i] != l.bucket; i = after(array, i) {
		array[i].passed.Add(^uint32(0))
	}
	l.used--
	switch {
	case l.used == 0:
		l.array.Store(nil)
		l.depth.Store(0)
	case len(array) > 1 && l.used*ofLoad < len(array)*perLine*minLoad:
		l.resize(l.place.shard, l.used)
	}
}

// resize copies the shard, which is number i, to a new array with room for at
// least n records.
func (sh *shard) resize(i uint8, n int) *[]bucket {
	array := make([]bucket, arrayLen(i, n))
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

// arrayLen is how many buckets shard number i has for n records: the next power
// of growth, times a factor between 1 and growth that is the shard's own. So the
// shards, which are filled alike, grow one after the other and not all at once,
// and the table as a whole is as densely filled at any size.
func arrayLen(i uint8, n int) int {
	least := float64(n) * ofLoad / (perLine * maxLoad)
	own := float64(i) / shards
	step := math.Ceil(math.Log(least)/math.Log(growth) - own)
	return max(1, int(math.Ceil(math.Pow(growth, step+own))), int(math.Ceil(least)))
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
		b.passed.Add(1)
	}
}
