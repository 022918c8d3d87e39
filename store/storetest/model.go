package storetest

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"

	"dkv/store"
)

// opKind is what an operation in a history does.
type opKind uint8

const (
	opGet opKind = iota
	opEntry
	opScan
	opHas
	opSet
	opSetE
	opSetEIfUnset
	opExpire
	opDelete
	opCompareAndSet
	opCompareAndDelete
	opTxn // if the value is old, set value, else get
)

func (k opKind) String() string {
	return [...]string{"Get", "GetEntry", "Scan", "Has", "Set", "SetE", "SetEIfUnset", "Expire", "Delete", "CompareAndSet", "CompareAndDelete", "Txn"}[k]
}

// input is one operation on the key that the history is of.
type input struct {
	kind     opKind
	value    string
	span     span
	revision store.Revision // that is compared
	old      string         // value that is compared
	call     time.Duration  // since the history began
}

// output is what it returned.
type output struct {
	unknown  bool // whether it was applied; nothing else is known then
	ok       bool // of a Txn: its condition held
	found    bool // by the Get of a Txn
	expired  bool
	value    string
	revision store.Revision
	ret      time.Duration // since the history began
}

// register is a key as a linearization has it. A deadline passes at some
// moment that nothing shows, so the state is not one phase but the least that
// the key must have come to; beyond that it may be wherever its deadlines allow
// at the time. Each such passage can happen on its own, which is why no fork is
// needed for it.
type register struct {
	least  phase
	value  string
	expire time.Duration // not before this; 0 means never
	delete time.Duration // likewise
	// revision is the entry's, if it is known. What comes to be known next is
	// greater than floor.
	revision, floor store.Revision
}

// may tells whether the key may have come to p by then.
func (r register) may(p phase, by time.Duration) bool {
	return r.least >= p || r.delete > 0 && by >= r.delete || p == expired && r.expire > 0 && by >= r.expire
}

// at returns the register once the key is known to have come to p. That a value
// expires does not change the entry's revision.
func (r register) at(p phase) register {
	if r.least < p {
		r.least = p
		if p == deleted {
			r = register{least: deleted, floor: max(r.floor, r.revision)}
		}
	}
	return r
}

func (r register) written(in input) register {
	r = register{least: alive, value: in.value, floor: max(r.floor, r.revision)}
	if in.span.expireIn > 0 {
		r.expire = in.call + in.span.expireIn
	}
	if in.span.deleteIn > 0 {
		r.delete = in.call + in.span.deleteIn
	}
	return r
}

// step says whether the operation may return that, and what is there after it.
func (r register) step(in input, out output) (bool, register) {
	switch in.kind {
	case opGet:
		if out.ok {
			return r.least == alive && out.value == r.value, r
		}
		return r.may(expired, out.ret), r.at(expired)
	case opHas:
		if out.ok {
			return r.least <= expired, r
		}
		return r.may(deleted, out.ret), r.at(deleted)
	case opEntry, opScan:
		return r.read(out)
	case opSet, opSetE:
		return true, r.written(in)
	case opSetEIfUnset:
		if out.unknown { // only where no deadline passes
			out.ok = r.least == deleted
		}
		if !out.ok {
			return r.least <= expired, r
		}
		return r.may(deleted, out.ret), r.written(in)
	case opExpire:
		if r.revision != 0 {
			// It is no change if the value had expired before.
			r.floor, r.revision = r.revision-1, 0
		}
		return true, r.at(expired)
	case opDelete:
		return true, r.at(deleted)
	case opCompareAndSet, opCompareAndDelete:
		return r.compare(in, out)
	case opTxn:
		held := r.least == alive && r.value == in.old
		if out.unknown { // only where no deadline passes
			if held {
				r = r.written(in)
			}
			return true, r
		}
		if out.ok {
			r = r.written(in)
			r.revision = out.revision
			return held && out.revision > r.floor, r
		}
		if out.found && !out.expired && out.value == in.old {
			return false, r
		}
		return r.read(output{ok: out.found, expired: out.expired, value: out.value, revision: out.revision, ret: out.ret})
	}
	panic(fmt.Sprintf("storetest: operation %d has no model", in.kind))
}

// read is step for what finds the entry with its revision.
func (r register) read(out output) (bool, register) {
	switch {
	case !out.ok:
		return r.may(deleted, out.ret), r.at(deleted)
	case out.expired:
		if r.least > expired || !r.may(expired, out.ret) {
			return false, r
		}
		r = r.at(expired)
	case r.least != alive || out.value != r.value:
		return false, r
	}
	return r.has(out.revision)
}

// has says whether the key, which is there, may have that revision, and what is
// there then.
func (r register) has(rev store.Revision) (bool, register) {
	if r.least > expired {
		return false, r
	}
	if r.revision != 0 {
		return rev == r.revision, r
	}
	legal := rev > r.floor
	r.revision = rev
	return legal, r
}

// compare is step for CompareAndSet and CompareAndDelete.
func (r register) compare(in input, out output) (bool, register) {
	if out.unknown {
		// Only where no deadline passes and nobody expires the key. A client has
		// seen the revision it wants, so if it is not what the key is known to have,
		// the key has another.
		if in.revision != 0 {
			out.ok = in.revision == r.revision
		} else {
			out.ok = in.kind == opCompareAndSet && r.least == deleted
		}
		if !out.ok {
			return true, r
		}
	}
	legal, was := r.may(deleted, out.ret), r.at(deleted)
	switch {
	case !out.ok && out.revision == 0: // it is not there
		return legal && (in.revision != 0 || in.kind == opCompareAndDelete), was
	case !out.ok:
		legal, was = r.has(out.revision)
		return legal && out.revision != in.revision, was
	case in.revision != 0:
		legal, was = r.has(in.revision)
	case in.kind == opCompareAndDelete:
		return false, r
	}
	var next register
	if in.kind == opCompareAndSet {
		next = was.written(in)
	} else {
		next = was.at(deleted)
	}
	if out.unknown {
		return true, next
	}
	legal = legal && out.revision > next.floor
	if in.kind == opCompareAndSet {
		next.revision = out.revision
	} else {
		next.floor = max(next.floor, out.revision)
	}
	return legal, next
}

// model is that of one key; histories are kept and checked by key.
var model = porcupine.Model{
	Init: func() any { return register{least: deleted} },
	Step: func(state, in, out any) (bool, any) {
		ok, next := state.(register).step(in.(input), out.(output))
		return ok, next
	},
	DescribeOperation: func(in, out any) string { return describe(in.(input), out.(output)) },
}

func describe(in input, out output) string {
	s := in.kind.String()
	switch in.kind {
	case opSet:
		s += fmt.Sprintf("(%s)", in.value)
	case opSetE, opSetEIfUnset:
		s += fmt.Sprintf("(%s, %v, %v)", in.value, in.span.expireIn, in.span.deleteIn)
	case opCompareAndSet:
		s += fmt.Sprintf("(%d, %s, %v, %v)", in.revision, in.value, in.span.expireIn, in.span.deleteIn)
	case opCompareAndDelete:
		s += fmt.Sprintf("(%d)", in.revision)
	case opTxn:
		s += fmt.Sprintf("(if value %s then Set %s else Get)", in.old, in.value)
	}
	switch in.kind {
	case opGet, opHas, opSetEIfUnset:
		s += fmt.Sprintf(" = %v %s", out.ok, out.value)
	case opCompareAndSet, opCompareAndDelete:
		s += fmt.Sprintf(" = %v, revision %d", out.ok, out.revision)
	case opTxn:
		s += fmt.Sprintf(" = %v; %v %s, revision %d, expired %v", out.ok, out.found, out.value, out.revision, out.expired)
	case opEntry, opScan:
		s += fmt.Sprintf(" = %v %s, revision %d, expired %v", out.ok, out.value, out.revision, out.expired)
	}
	if out.unknown {
		s += " (outcome unknown)"
	}
	return s
}

// never is when an operation of unknown outcome returns.
const never = math.MaxInt64
