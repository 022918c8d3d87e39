// Package engine is the seam between dkv's stores and what holds their data: the
// operations that a store has carried out ([Op]), what they come to ([Result]),
// and what it needs of whoever does them ([Engine]). store/local and
// store/replica use it; package maple is the engine that they take unless they
// are given another by a [Factory]. enginetest has a plain one, and compares any
// with it.
//
// An engine decides what an operation means, and nothing else does. A replica
// makes it the state machine of a log, so an engine without a clock has to be
// deterministic: what it holds, what it answers and the order in which it carries
// out deadlines must follow from the calls that change it (Apply, Tick, Reap,
// Skip and Load) and from nothing else, be it map order, a random seed or an open view.
package engine

import (
	"bytes"
	"io"
	"strconv"
	"time"

	"dkv/store"
)

// Kind is what an operation does. The numbers are part of the log format.
type Kind uint8

const (
	Set              Kind = 1 + iota // gives the key a value and deadlines
	SetIfUnset                       // the same, if the key is not there
	Expire                           // makes the value go, the key stay
	Delete                           // removes the key
	DeleteIfValue                    // removes the key if its value is Value
	SetIfRevision                    // Set, if the key's revision is At; 0: if it is not there
	DeleteIfRevision                 // removes the key if its revision is At, and it is there
	RenewIfValue                     // gives the key new deadlines if its value is Value; its revision stays
	Add                              // adds Delta to the number that is the value, and leaves deadlines that have not come
	Transact                         // does Txn
	Get                              // reads the key; in a transaction only

	// The operations on locks and those who wait for them are made of the ones
	// above by internal/lockqueue; no engine gets them. Value is who does it, and
	// At what it was given when it joined, if that is known.
	Join    // takes the lock or waits for it; Delta: 0 for it alone, else beside so many others less one
	TryJoin // takes the lock or does nothing
	Renew   // gives the lock, or the waiting for it, a new deadline
	Leave   // gives the lock up, or the waiting for it

	// Void stands for an operation of a client that it has given up; see package
	// once. It has nothing but an ID, and no engine gets it.
	Void

	Kinds // one more than the last
)

// HasValue tells whether an operation of that kind comes with a value.
func (k Kind) HasValue() bool {
	switch k {
	case Set, SetIfUnset, SetIfRevision, DeleteIfValue, RenewIfValue, Join, TryJoin, Renew, Leave:
		return true
	}
	return false
}

// HasDeadlines tells whether an operation of that kind may come with durations.
func (k Kind) HasDeadlines() bool {
	switch k {
	case Set, SetIfUnset, SetIfRevision, RenewIfValue, Join, TryJoin, Renew:
		return true
	}
	return false
}

// HasRevision tells whether an operation of that kind comes with At.
func (k Kind) HasRevision() bool {
	switch k {
	case SetIfRevision, DeleteIfRevision, Renew, Leave:
		return true
	}
	return false
}

// HasDelta tells whether an operation of that kind comes with Delta.
func (k Kind) HasDelta() bool { return k == Add || k == Join || k == TryJoin }

// OnLock tells whether an operation of that kind is for internal/lockqueue.
func (k Kind) OnLock() bool { return Join <= k && k <= Leave }

// Frees tells whether an operation of that kind never makes the state larger, but for
// a deadline.
func (k Kind) Frees() bool {
	switch k {
	case Expire, Delete, DeleteIfValue, DeleteIfRevision, RenewIfValue, Get, Renew, Leave, Void:
		return true
	}
	return false
}

// Space separates keys that must never meet. The numbers are part of the log
// format.
type Space uint8

const (
	Keys    Space = iota // what users set
	Locks                // what they lock, each for one of them alone
	Shared               // what they hold beside each other; see internal/lockqueue
	Waiters              // who waits for it
	Spaces               // how many there are
)

// MaxKeySize is the greatest length of a key of an engine. What users set and lock
// is no longer than store.MaxKeySize.
const MaxKeySize = store.MaxKeySize + 8

// Op is one operation, on one key unless it is a transaction.
type Op struct {
	Kind               Kind
	Space              Space
	Key                string
	Value              []byte
	ExpireIn, DeleteIn time.Duration // 0 = never
	At                 uint64        // a revision
	Delta              int64
	Txn                *Txn // of Transact, which has none of the others
}

// HasDeadlines tells whether the operation may leave a deadline behind.
func (op *Op) HasDeadlines() bool {
	if op.Kind != Transact {
		return op.ExpireIn != 0 || op.DeleteIn != 0
	}
	for _, branch := range [][]Op{op.Txn.Then, op.Txn.Else} {
		for i := range branch {
			if branch[i].HasDeadlines() {
				return true
			}
		}
	}
	return false
}

// Txn is a transaction: Then is done if all conditions hold, else Else, in one
// atomic step. What a branch reads, and what its operations compare with, is the
// state before it. No branch writes a key twice, and no transaction is part of
// another.
type Txn struct {
	If         []Cond
	Then, Else []Op
}

// Branch returns the operations that are done if the conditions held, or did not.
func (t *Txn) Branch(held bool) []Op {
	if held {
		return t.Then
	}
	return t.Else
}

// Reads is how many reads the branch with more of them has.
func (t *Txn) Reads() int {
	most := 0
	for _, branch := range [][]Op{t.Then, t.Else} {
		n := 0
		for i := range branch {
			if branch[i].Kind == Get {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// WritesTwice tells whether a branch of a transaction writes a key twice.
func WritesTwice(branch []Op) bool {
	const few = 16
	if len(branch) <= few {
		for i := range branch {
			for j := range i {
				if samePlace(&branch[i], &branch[j]) {
					return true
				}
			}
		}
		return false
	}
	type place struct {
		space Space
		key   string
	}
	written := make(map[place]struct{}, len(branch))
	writes := 0
	for i := range branch {
		if branch[i].Kind != Get {
			written[place{branch[i].Space, branch[i].Key}] = struct{}{}
			writes++
		}
	}
	return len(written) < writes
}

func samePlace(a, b *Op) bool {
	return a.Key == b.Key && a.Space == b.Space && a.Kind != Get && b.Kind != Get
}

// Cond is a condition.
type Cond struct {
	Kind  CondKind
	Space Space
	Key   string
	Value []byte
	At    uint64
}

// CondKind is what a condition is about. The numbers are part of the log format.
type CondKind uint8

const (
	RevisionIs CondKind = 1 + iota // the key's is At; 0: it is not there
	Exists                         // the key is there, be its value expired or not
	ValueIs                        // the key's is Value, and has not expired
	TokenIs                        // the key is there and its revision is At
	CondKinds                      // one more than the last
)

// Holds tells whether the condition holds if its key is e, or is not there.
func (c *Cond) Holds(e *store.Entry, there bool) bool {
	switch c.Kind {
	case RevisionIs:
		return uint64(e.Revision) == c.At
	case TokenIs:
		return there && uint64(e.Revision) == c.At
	case Exists:
		return there
	case ValueIs:
		return there && !e.Expired && bytes.Equal(e.Value, c.Value)
	}
	panic("engine: unknown kind of condition")
}

// Result is what an operation did: it changed the state if Done, did not because
// of a Refusal, and otherwise found nothing to do.
type Result struct {
	// Revision is that of the change, if Done; that which the key has instead, 0
	// if it is not there, of a SetIfRevision or DeleteIfRevision that is not.
	Revision uint64
	Number   int64            // the sum, of an Add that is Done; who holds a lock or waits for it, of internal/lockqueue
	Txn      *store.TxnResult // of a Transact that is Done, which need not have changed anything; shared with the engine
	Refusal  Refusal
	Done     bool
}

// Refusal is why an operation changed nothing that would have otherwise. The
// numbers are part of the log format.
type Refusal uint8

const (
	NotRefused Refusal = iota
	Full               // it would have taken the state over its limit
	Forgotten          // what the store knows of its client forbids it; for stores to say, no engine was asked
	NotNumber          // the value to add to is not a number
	OutOfRange         // the sum is not of 64 bits
	ReadsMuch          // what a transaction reads is more than store.MaxTxnRead
	Unkept             // it was done, but what came of it was too much to be kept; for stores to say
	Refusals           // one more than the last
)

// Sum is what Add makes of a value; there tells whether there is one.
func Sum(value []byte, there bool, delta int64) (sum int64, why Refusal) {
	const longest = len("-9223372036854775808")
	var n int64
	if there {
		var err error
		if len(value) > longest {
			return 0, NotNumber
		}
		if n, err = strconv.ParseInt(string(value), 10, 64); err != nil {
			return 0, NotNumber
		}
	}
	if sum = n + delta; (sum > n) != (delta > 0) && delta != 0 {
		return 0, OutOfRange
	}
	return sum, NotRefused
}

// Options says how an engine works. The zero value is an engine whose time only
// Tick moves.
type Options struct {
	// Now reads a monotonic clock, which may not be negative. If it is nil,
	// time stands still but for Tick.
	Now func() time.Duration

	// Changed is called with each change, if it is not nil: after the change has
	// its revision and before the call that makes it returns. The order of the
	// calls is that of the revisions if the engine has no clock; otherwise they
	// may come concurrently. It must be quick, and not call the engine.
	Changed func(Change)
}

// Change is what happened to a key at one revision.
type Change struct {
	Revision   uint64
	Space      Space
	Type       store.EventType
	ByDeadline bool
	Key        string // shared with the engine, as the value is
	Value      []byte // nil unless it was set
}

// Factory makes engines.
type Factory struct {
	// New returns an empty engine.
	New func(Options) Engine

	// Load returns an engine with the state that a view of an engine of the same
	// Factory has saved. A stream that is not exactly that is an error; there is
	// nothing then that needs to be released. With a clock, what time was left
	// to each entry when it was saved is left to it now; deadlines that had come
	// and were not carried out are so in any order.
	Load func(io.Reader, Options) (Engine, error)
}

// Engine holds the data of one store. All methods may be called concurrently,
// except that those which change an engine without a clock (Apply, Tick, Reap)
// are called one at a time, as a log gives them; reads and views run beside them.
//
// Values and keys that an engine returns are shared with it: they are not to be
// changed, and do not change. The value of an entry is nil if it has expired, and
// only then.
type Engine interface {
	// Get returns the value of key. ok is false if there is no such key or its
	// value has expired.
	Get(space Space, key string) (value []byte, ok bool)

	// Has tells whether key is there, be its value expired or not.
	Has(space Space, key string) bool

	// Entry returns key with all that is known of it.
	Entry(space Space, key string) (store.Entry, bool)

	// Apply does one operation, in one atomic step. It copies keys and values. It
	// does not do one that makes the Size of [store.Info] grow beyond limit,
	// unless limit is 0. The changes of a transaction have revisions that follow
	// each other, in the order of its operations.
	Apply(op *Op, limit int64) Result

	// Tick moves the time of an engine that has no clock by elapsed, and lets
	// the deadlines of entries written between the last two ticks count from lag
	// after the reading before this one: lag <= elapsed. So what is written
	// between two ticks is settled by the second tick after it.
	//
	// An entry's durations cannot count from the moment it is applied, because
	// no reading belongs to that moment: it lies between two ticks. They count
	// from a moment that lies after it for certain, the arrival of the tick that
	// follows it; what the clock would have read then is told by the tick after
	// that. store/replica proves that no deadline comes early this way.
	Tick(elapsed, lag time.Duration)

	// Unsettled tells what ticks an engine without a clock waits for: open,
	// whether entries with deadlines were written since the last tick; settling,
	// the shortest duration of an entry that counts from the last tick's
	// arrival, if ok. Entries that have been overwritten or deleted since may or
	// may not count.
	Unsettled() (open bool, settling time.Duration, ok bool)

	// Reap carries out deadlines that have come, in the order of the deadlines
	// and, where those are equal, of the revisions of the entries, but no more
	// than limit of them, and returns how many it did: if that is limit, there
	// may be more. With a clock, but not without, it may leave off earlier if it
	// has had much else to do; NextDeadline then has come. Readers see the effect of a deadline the moment it comes;
	// reaping gives the memory back and the change its revision.
	Reap(limit int) int

	// NextDeadline returns a reading of the clock before which Reap has nothing
	// to do, and at or after which it may; ok is false if there is no deadline.
	NextDeadline() (at time.Duration, ok bool)

	// Now is the reading of the clock that deadlines are compared with.
	Now() time.Duration

	// Revision is that of the last change. It waits for no call under way, be it
	// one that is telling of its changes.
	Revision() uint64

	// Skip leaves out the next n revisions, which no change will have. What there is
	// keeps those that it has. Nothing else may be done meanwhile, and no view be open.
	Skip(n uint64)

	// Info fills in what the engine knows.
	Info(*store.Info)

	// View opens a view of the state as it is now. That is the state after a
	// number of whole calls if none is under way that changes an engine without
	// a clock.
	View() View
}

// View is the state of an engine at one revision and one moment, however much is
// written meanwhile. It costs memory for what is superseded while it is open,
// until Release. Its methods may be called concurrently, but none after Release.
type View interface {
	// Revision is that of the last change that the view shows.
	Revision() uint64

	// Entry returns key as it was.
	Entry(space Space, key string) (store.Entry, bool)

	// Scan calls yield with each entry from the key from up to, but not
	// including, the key to, in the order of the keys' bytes or in reverse,
	// until it returns false. An empty to is beyond all keys. What yield gets
	// is shared like other entries.
	Scan(space Space, from, to string, reverse bool, yield func(store.Entry) bool)

	// Save writes the state for [Factory.Load]. It takes memory that does not
	// depend on how much there is.
	Save(w io.Writer) error

	// Checksum is a hash of all that the view shows, time included. Engines of
	// one Factory that hold equal states have equal checksums.
	Checksum() uint64

	// Release gives up the view and the versions that only it needed. It may be
	// called more than once.
	Release()
}
