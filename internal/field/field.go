// Package field reads the fields of a binary record one after the other. A record
// that is too short or malformed makes the reader bad, after which it yields
// zeros, so that its user needs to ask only once, at the end.
package field

import (
	"encoding/binary"
	"math"
)

// Reader takes fields off a slice.
type Reader struct {
	b   []byte
	bad bool
}

// NewReader returns a reader of b, which it does not copy.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Byte takes one byte.
func (r *Reader) Byte() byte {
	if len(r.b) == 0 {
		r.Fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// Uvarint takes a number as binary.AppendUvarint writes it, and in no longer
// form.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	// One that ends in a zero byte says with more bytes what fewer say.
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Varint takes a number as binary.AppendVarint writes it, and in no longer form.
func (r *Reader) Varint() int64 {
	u := r.Uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// Int63 takes a number as Uvarint does, one that is no greater than an int64 can be.
func (r *Reader) Int63() int64 {
	v := r.Uvarint()
	if v > math.MaxInt64 {
		r.Fail()
		return 0
	}
	return int64(v)
}

// Bytes takes a number, which is no greater than limit, and that many bytes. They
// are part of the slice that is read.
func (r *Reader) Bytes(limit uint64) []byte {
	n := r.Uvarint()
	if n > limit || n > uint64(len(r.b)) {
		r.Fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// Fail makes the reader bad, for a field that cannot be what it says.
func (r *Reader) Fail() { r.b, r.bad = nil, true }

// Bad tells whether something was amiss.
func (r *Reader) Bad() bool { return r.bad }

// Rest is what has not been read.
func (r *Reader) Rest() []byte { return r.b }

// Complete tells whether all was read and nothing was amiss.
func (r *Reader) Complete() bool { return !r.bad && len(r.b) == 0 }
