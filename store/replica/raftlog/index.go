package raftlog

import "sort"

// index finds the record that an entry stands in.
//
//	first <= last+1; entries first to last can be read
//	records[i].first < records[i+1].first
type index struct {
	first, last uint64
	records     []place
}

// place is where a record stands. It holds the entries from first to the one
// before the next record's first; if it holds more, they have been overwritten.
type place struct {
	first   uint64
	segment uint64
	offset  int64
}

// cut drops all entries; the next one will be base+1.
func (x *index) cut(base uint64) { *x = index{first: base + 1, last: base} }

// append notes a record with the entries from first to last, which take the place
// of those from first on. It returns false if there is a gap before them.
func (x *index) append(p place, last uint64) bool {
	if x.last == 0 && len(x.records) == 0 {
		x.first = p.first
	} else if p.first > x.last+1 {
		return false
	}
	x.records = append(x.records[:x.find(p.first)], p)
	x.first = min(x.first, p.first)
	x.last = last
	return true
}

// find returns the position of the first record whose entries all are entry i or
// later.
func (x *index) find(i uint64) int {
	return sort.Search(len(x.records), func(n int) bool { return x.records[n].first >= i })
}

// holding returns the position of the record that holds entry i, which must be
// between first and last.
func (x *index) holding(i uint64) int {
	return sort.Search(len(x.records), func(n int) bool { return x.records[n].first > i }) - 1
}

// end is the entry after the last one of record n.
func (x *index) end(n int) uint64 {
	if n+1 < len(x.records) {
		return x.records[n+1].first
	}
	return x.last + 1
}

// drop forgets the entries up to and including i.
func (x *index) drop(i uint64) {
	if i < x.first {
		return
	}
	x.first = min(i, x.last) + 1
	n := 0
	for n < len(x.records) && x.end(n) <= x.first {
		n++
	}
	if n > 0 {
		x.records = append([]place(nil), x.records[n:]...)
	}
}
