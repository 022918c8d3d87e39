// Package command defines what a log entry says and how it is written in bytes:
// either a [Batch] of operations of one proposer, or a [Tick] of the replicated
// clock. The format is strict: bytes that are not exactly what an Append
// function writes are refused as a whole, by every replica alike.
package command

import (
	"cmp"
	"encoding/binary"
	"errors"
	"time"

	"dkv/internal/field"
	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
)

// Batch is a log entry of operations. Member, Incarnation, Slot and Seq identify
// it: however often it stands in the log, it is applied once. In each slot the
// proposer has one batch under way at a time, and Seq rises from one to the
// next: Slot < MaxSlots, Seq > 0.
//
// Low has, for each slot, the lowest Seq that the proposer may still want
// applied: those below it are done or given up. Low[Slot] == Seq.
//
// Void has operations of the batches with the numbers Low in other slots: those that
// nobody waits for any longer, though somebody waits for others of the same batch.
// They have no effect, unless that batch stands before this one in the log.
//
// Applied tells the others how far the proposer was. It is no part of what the
// batch does: nothing in the state may come from it.
type Batch struct {
	Member      uint64
	Incarnation uint64
	Slot        uint64
	Seq         uint64
	Low         [MaxSlots]uint64
	Void        []Voided // rising
	Limit       int64    // of the size that the operations may take the state to, 0 = none
	Applied     uint64   // index of the last entry that the proposer had applied, 0 = none
	Ops         []engine.Op
	IDs         []once.ID // of Ops; those behind its end are zero
}

// Voided is an operation of the batch Low in a slot.
type Voided struct{ Slot, Op uint64 }

func (v Voided) compare(other Voided) int {
	return cmp.Or(cmp.Compare(v.Slot, other.Slot), cmp.Compare(v.Op, other.Op))
}

// ID is that of an operation.
func (b *Batch) ID(op int) once.ID {
	if op < len(b.IDs) {
		return b.IDs[op]
	}
	return once.ID{}
}

// Tick is a log entry that moves the replicated clock; the package doc of
// store/replica says how. It counts only if Prev is the number of the last tick
// that did. Nonce lets the proposer recognize it. 0 <= Lag <= Elapsed.
type Tick struct {
	Prev    uint64
	Nonce   uint64
	Elapsed time.Duration
	Lag     time.Duration
}

const (
	// MaxOps is the greatest number of operations in a batch.
	MaxOps = 1 << 14
	// MaxSlots is the number of slots that one proposer may use.
	MaxSlots = 8
)

// ErrMalformed is returned for bytes that are no log entry.
var ErrMalformed = errors.New("command: malformed log entry")

// The first byte of a log entry.
const (
	typeBatch = 1
	typeTick  = 2
)

// Bits of the byte of an operation's kind: whether its deadlines follow it, and
// whether its ID goes before it.
const (
	hasDeadlines = 0x80
	hasID        = 0x40
)

// AppendBatchHeader begins a batch of n operations; n AppendOps must follow. It
// sees to Low[Slot] == Seq.
func AppendBatchHeader(b []byte, batch Batch, n int) []byte {
	b = append(b, typeBatch)
	b = binary.AppendUvarint(b, batch.Member)
	b = binary.AppendUvarint(b, batch.Incarnation)
	b = binary.AppendUvarint(b, batch.Slot)
	if batch.Slot < MaxSlots {
		batch.Low[batch.Slot] = batch.Seq
	}
	for _, low := range batch.Low {
		b = binary.AppendUvarint(b, low)
	}
	b = binary.AppendUvarint(b, uint64(batch.Limit))
	b = binary.AppendUvarint(b, batch.Applied)
	b = binary.AppendUvarint(b, uint64(len(batch.Void)))
	for _, v := range batch.Void {
		b = binary.AppendUvarint(b, v.Slot)
		b = binary.AppendUvarint(b, v.Op)
	}
	return binary.AppendUvarint(b, uint64(n))
}

// AppendOp appends one operation. One without a kind enrols a client, and has
// nothing but its ID's nonce.
func AppendOp(b []byte, op *engine.Op, id once.ID) []byte {
	if op.Kind == 0 {
		return binary.AppendUvarint(append(b, hasID), id.Nonce)
	}
	kind := byte(op.Kind)
	deadlines := op.ExpireIn != 0 || op.DeleteIn != 0
	if deadlines {
		kind |= hasDeadlines
	}
	if id != (once.ID{}) {
		b = append(b, kind|hasID)
		b = binary.AppendUvarint(b, id.Client)
		b = binary.AppendUvarint(b, id.Nonce)
		b = binary.AppendUvarint(b, id.Seq)
		b = binary.AppendUvarint(b, id.Low)
	} else {
		b = append(b, kind)
	}
	switch op.Kind {
	case engine.Transact:
		return appendTxn(b, op.Txn)
	case engine.Void:
		return b
	}
	b = append(b, byte(op.Space))
	b = appendBytes(b, op.Key)
	if op.Kind.HasValue() {
		b = appendBytes(b, op.Value)
	}
	if op.Kind.HasRevision() {
		b = binary.AppendUvarint(b, op.At)
	}
	if op.Kind.HasDelta() {
		b = binary.AppendVarint(b, op.Delta)
	}
	if deadlines {
		b = binary.AppendUvarint(b, uint64(op.ExpireIn))
		b = binary.AppendUvarint(b, uint64(op.DeleteIn))
	}
	return b
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendTxn(b []byte, t *engine.Txn) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.If)))
	for i := range t.If {
		c := &t.If[i]
		b = append(b, byte(c.Kind), byte(c.Space))
		b = appendBytes(b, c.Key)
		switch c.Kind {
		case engine.RevisionIs, engine.TokenIs:
			b = binary.AppendUvarint(b, c.At)
		case engine.ValueIs:
			b = appendBytes(b, c.Value)
		}
	}
	for _, branch := range [][]engine.Op{t.Then, t.Else} {
		b = binary.AppendUvarint(b, uint64(len(branch)))
		for i := range branch {
			b = AppendOp(b, &branch[i], once.ID{})
		}
	}
	return b
}

// DecodeOp reads what AppendOp wrote, and nothing after it. The value aliases b;
// the key does not.
func DecodeOp(b []byte) (engine.Op, once.ID, error) {
	d := decoder{field.NewReader(b)}
	op, id := d.op()
	if !d.Complete() {
		return engine.Op{}, once.ID{}, ErrMalformed
	}
	return op, id, nil
}

// DecodeTxn is DecodeOp for a transaction. For what is none it returns ErrMalformed,
// at little cost.
func DecodeTxn(b []byte) (engine.Op, once.ID, error) {
	if len(b) == 0 || b[0]&^hasID != byte(engine.Transact) {
		return engine.Op{}, once.ID{}, ErrMalformed
	}
	return DecodeOp(b)
}

// AppendTick appends a tick, which is a log entry of its own.
func AppendTick(b []byte, t Tick) []byte {
	b = append(b, typeTick)
	b = binary.AppendUvarint(b, t.Prev)
	b = binary.AppendUvarint(b, t.Nonce)
	b = binary.AppendUvarint(b, uint64(t.Elapsed))
	return binary.AppendUvarint(b, uint64(t.Lag))
}

// Entry is a decoded log entry: a batch, or a tick if IsTick.
type Entry struct {
	IsTick bool
	Tick   Tick
	Batch  Batch
}

// Decode reads a log entry into e, whose Batch.Ops it reuses. The values alias
// b; the keys do not.
func Decode(b []byte, e *Entry) error {
	d := decoder{field.NewReader(b)}
	ops, ids := e.Batch.Ops[:0], e.Batch.IDs[:0]
	*e = Entry{}
	switch d.Byte() {
	case typeTick:
		e.IsTick = true
		e.Tick = Tick{
			Prev:    d.Uvarint(),
			Nonce:   d.Uvarint(),
			Elapsed: d.duration(),
			Lag:     d.duration(),
		}
		if e.Tick.Lag > e.Tick.Elapsed {
			d.Fail()
		}
	case typeBatch:
		e.Batch = Batch{
			Member:      d.Uvarint(),
			Incarnation: d.Uvarint(),
			Slot:        d.Uvarint(),
		}
		for i := range e.Batch.Low {
			e.Batch.Low[i] = d.Uvarint()
		}
		e.Batch.Limit = d.Int63()
		e.Batch.Applied = d.Uvarint()
		e.Batch.Void = d.voided(e.Batch.Slot)
		n := d.Uvarint()
		if n > MaxOps || e.Batch.Slot >= MaxSlots {
			d.Fail()
		} else if e.Batch.Seq = e.Batch.Low[e.Batch.Slot]; e.Batch.Seq == 0 {
			d.Fail()
		}
		for i := uint64(0); i < n && !d.Bad(); i++ {
			op, id := d.op()
			if id != (once.ID{}) {
				ids = append(ids, make([]once.ID, len(ops)-len(ids))...)
				ids = append(ids, id)
			}
			ops = append(ops, op)
		}
	default:
		d.Fail()
	}
	e.Batch.Ops, e.Batch.IDs = ops, ids
	if !d.Complete() {
		e.Batch.Ops, e.Batch.IDs = ops[:0], ids[:0]
		return ErrMalformed
	}
	return nil
}

// decoder takes operations off a log entry.
type decoder struct{ field.Reader }

// voided reads which operations of batches in other slots than own are void.
func (d *decoder) voided(own uint64) (all []Voided) {
	for n := d.Uvarint(); n > 0 && !d.Bad(); n-- {
		v := Voided{d.Uvarint(), d.Uvarint()}
		if v.Slot >= MaxSlots || v.Slot == own || v.Op >= MaxOps || len(all) > 0 && all[len(all)-1].compare(v) >= 0 {
			d.Fail()
		}
		all = append(all, v)
	}
	return all
}

func (d *decoder) op() (op engine.Op, id once.ID) {
	kind := d.Byte()
	if kind == hasID {
		if id.Nonce = d.Uvarint(); id.Nonce == 0 {
			d.Fail()
		}
		return op, id
	}
	if kind&hasID != 0 {
		kind &^= hasID
		id = once.ID{Client: d.Uvarint(), Nonce: d.Uvarint(), Seq: d.Uvarint(), Low: d.Uvarint()}
		if id.Client == 0 || id.Nonce == 0 || id.Low == 0 || id.Low > id.Seq {
			d.Fail()
		}
	}
	switch kind {
	case byte(engine.Transact):
		return engine.Op{Kind: engine.Transact, Txn: d.txn()}, id
	case byte(engine.Void):
		if id == (once.ID{}) {
			d.Fail()
		}
		return engine.Op{Kind: engine.Void}, id
	case byte(engine.Get):
		d.Fail() // it stands in transactions only
	}
	return d.single(kind), id
}

// single reads an operation on one key.
func (d *decoder) single(kind byte) (op engine.Op) {
	op.Kind = engine.Kind(kind &^ hasDeadlines)
	space, key := d.place()
	op.Space = space
	if op.Kind.HasValue() {
		op.Value = d.Bytes(store.MaxValueSize)
	}
	if op.Kind.HasRevision() {
		op.At = d.Uvarint()
	}
	if op.Kind.HasDelta() {
		op.Delta = d.Varint()
	}
	if op.Kind.OnLock() && (op.Delta < 0 || store.CheckOwner(op.Value) != nil) {
		d.Fail()
	}
	if kind&hasDeadlines != 0 {
		op.ExpireIn = d.duration()
		op.DeleteIn = d.duration()
		if op.ExpireIn == 0 && op.DeleteIn == 0 || !op.Kind.HasDeadlines() {
			d.Fail()
		}
	}
	if op.Kind == 0 || op.Kind >= engine.Kinds || op.Kind == engine.Transact || op.Kind == engine.Void {
		d.Fail()
	}
	if !d.Bad() {
		op.Key = string(key)
	}
	return op
}

func (d *decoder) place() (engine.Space, []byte) {
	space, key := engine.Space(d.Byte()), d.Bytes(store.MaxKeySize)
	if space > engine.Locks || len(key) == 0 {
		d.Fail() // the others are for internal/lockqueue alone
	}
	return space, key
}

// txn reads a transaction. What would not be one transaction, because a branch
// writes a key twice or there is too much of it, is malformed.
func (d *decoder) txn() *engine.Txn {
	t := new(engine.Txn)
	left := uint64(store.MaxTxnOps)
	count := func() uint64 {
		n := d.Uvarint()
		if n > left {
			d.Fail()
			return 0
		}
		left -= n
		return n
	}
	for n := count(); n > 0 && !d.Bad(); n-- {
		t.If = append(t.If, d.cond())
	}
	for _, branch := range []*[]engine.Op{&t.Then, &t.Else} {
		for n := count(); n > 0 && !d.Bad(); n-- {
			op := d.single(d.Byte())
			if op.Kind.OnLock() {
				d.Fail()
			}
			*branch = append(*branch, op)
		}
		if engine.WritesTwice(*branch) {
			d.Fail()
		}
	}
	return t
}

func (d *decoder) cond() engine.Cond {
	c := engine.Cond{Kind: engine.CondKind(d.Byte())}
	space, key := d.place()
	switch c.Kind {
	case engine.RevisionIs, engine.TokenIs:
		c.At = d.Uvarint()
	case engine.ValueIs:
		c.Value = d.Bytes(store.MaxValueSize)
	case engine.Exists:
	default:
		d.Fail()
	}
	if !d.Bad() {
		c.Space, c.Key = space, string(key)
	}
	return c
}

func (d *decoder) duration() time.Duration { return time.Duration(d.Int63()) }
