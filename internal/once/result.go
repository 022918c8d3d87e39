package once

import (
	"bytes"
	"encoding/binary"
	"time"

	"dkv/internal/field"
	"dkv/store"
	"dkv/store/engine"
)

// What a result has beside a refusal, which is in the bits from refusalShift.
const (
	hasRevision = 1 << iota
	hasNumber
	hasTxn
	isDone
	refusalShift = iota
)

// AppendResult appends a result, in a form that is part of snapshots and of the
// network protocol.
func AppendResult(b []byte, r engine.Result) []byte {
	flags := byte(r.Refusal) << refusalShift
	at := len(b)
	b = append(b, 0)
	if r.Done {
		flags |= isDone
	}
	if r.Revision != 0 {
		flags |= hasRevision
		b = binary.AppendUvarint(b, r.Revision)
	}
	if r.Number != 0 {
		flags |= hasNumber
		b = binary.AppendVarint(b, r.Number)
	}
	if r.Txn != nil {
		flags |= hasTxn
		b = appendTxn(b, r.Txn)
	}
	b[at] = flags
	return b
}

// Weight is what a result counts for where results are kept: more or less a part in 64
// of the bytes that it takes.
func Weight(r engine.Result) int {
	const share, opBytes = 64, 24
	bytes := 0
	if r.Txn != nil {
		for i := range r.Txn.Results {
			bytes += opBytes + len(r.Txn.Results[i].Value)
		}
	}
	return 1 + bytes/share
}

// ReadResult reads what AppendResult has appended.
func ReadResult(f *field.Reader) (r engine.Result) {
	flags := f.Byte()
	r.Refusal = engine.Refusal(flags >> refusalShift)
	r.Done = flags&isDone != 0
	if flags&hasRevision != 0 {
		r.Revision = nonzero(f, f.Uvarint())
	}
	if flags&hasNumber != 0 {
		r.Number = int64(nonzero(f, uint64(f.Varint())))
	}
	if flags&hasTxn != 0 {
		r.Txn = readTxn(f)
	}
	if r.Refusal >= engine.Refusals {
		f.Fail()
	}
	return r
}

// nonzero has what would not have been written fail.
func nonzero(f *field.Reader, n uint64) uint64 {
	if n == 0 {
		f.Fail()
	}
	return n
}

// The result of an operation of a transaction has one more bit, instead of hasTxn.
const (
	hasEntry  = hasTxn // value and times left
	isExpired = 1 << refusalShift
)

func appendTxn(b []byte, t *store.TxnResult) []byte {
	held := uint64(0)
	if t.Held {
		held = 1
	}
	b = binary.AppendUvarint(b, uint64(len(t.Results))<<1|held)
	b = binary.AppendUvarint(b, uint64(t.Revision))
	for i := range t.Results {
		r := &t.Results[i]
		flags := byte(0)
		at := len(b)
		b = append(b, 0)
		if r.Done {
			flags |= isDone
		}
		if r.Revision != 0 {
			flags |= hasRevision
			b = binary.AppendUvarint(b, uint64(r.Revision))
		}
		if r.Number != 0 {
			flags |= hasNumber
			b = binary.AppendVarint(b, r.Number)
		}
		if r.Value != nil || r.Expired {
			flags |= hasEntry
			if r.Expired {
				flags |= isExpired
			}
			b = binary.AppendUvarint(b, uint64(len(r.Value)))
			b = append(b, r.Value...)
			b = binary.AppendUvarint(b, uint64(r.ExpireIn))
			b = binary.AppendUvarint(b, uint64(r.DeleteIn))
		}
		b[at] = flags
	}
	return b
}

func readTxn(f *field.Reader) *store.TxnResult {
	n := f.Uvarint()
	t := &store.TxnResult{Held: n&1 != 0, Revision: store.Revision(f.Uvarint())}
	if n >>= 1; n > store.MaxTxnOps {
		f.Fail()
		return t
	}
	t.Results = make([]store.OpResult, n)
	for i := range t.Results {
		r := &t.Results[i]
		flags := f.Byte()
		r.Done = flags&isDone != 0
		if flags&hasRevision != 0 {
			r.Revision = store.Revision(nonzero(f, f.Uvarint()))
		}
		if flags&hasNumber != 0 {
			r.Number = int64(nonzero(f, uint64(f.Varint())))
		}
		if flags&hasEntry != 0 {
			r.Expired = flags&isExpired != 0
			r.Value = bytes.Clone(f.Bytes(store.MaxTxnRead)) // which outlives what is read
			r.ExpireIn, r.DeleteIn = time.Duration(f.Int63()), time.Duration(f.Int63())
			if r.Expired {
				if len(r.Value) > 0 {
					f.Fail()
				}
				r.Value = nil
			}
		}
		if flags >= isExpired<<1 || flags&isExpired != 0 && flags&hasEntry == 0 || f.Bad() {
			f.Fail()
			return t
		}
	}
	return t
}
