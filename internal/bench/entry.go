package main

import "time"

// entry is what the bare maps hold: the least that a store with revisions and
// deadlines needs. Nothing carries the deadlines out.
type entry struct {
	value          []byte
	rev            uint64
	expire, delete int64
}

// clone copies a value the way all peers do.
func clone(value []byte) []byte { return append(make([]byte, 0, len(value)), value...) }

func newEntry(value []byte) *entry { return &entry{value: clone(value), rev: 1} }

var started = time.Now()

func newEntryE(value []byte, expireIn, deleteIn time.Duration) *entry {
	now := int64(time.Since(started))
	return &entry{value: clone(value), rev: 1, expire: now + int64(expireIn), delete: now + int64(deleteIn)}
}
