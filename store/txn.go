package store

import "time"

// Limits of a transaction.
const (
	// MaxTxnOps is the greatest number of conditions and operations, those of
	// both branches together.
	MaxTxnOps = 1024
	// MaxTxnSize is the greatest sum of the lengths of all keys and values.
	MaxTxnSize = MaxValueSize
	// MaxTxnRead is the greatest sum of the lengths of the values that the
	// operations of one branch read.
	MaxTxnRead = 1 << 20
)

// Txn is a transaction: conditions, and operations that are carried out as one
// change if all of them hold, or others if they do not. Nobody sees some of the
// operations done and others not; they need not be on keys that the conditions
// are about.
//
// The operations of a branch all begin with the state in which the conditions were
// looked at: a Get does not see what another operation of the same transaction
// writes. So a branch that writes a key twice is refused.
//
//	// Moves a task, unless somebody has changed it or we have lost the lock.
//	Txn{
//		If: []Cond{IfRevision("todo/7", rev), IfLock("worker", token)},
//		Then: []Op{OpDelete("todo/7"), OpSet("done/7", task)},
//		Else: []Op{OpGet("todo/7")},
//	}
type Txn struct {
	If   []Cond // none: Then is carried out
	Then []Op
	Else []Op
}

// Cond is one condition of a transaction, made by IfRevision, IfExists, IfMissing,
// IfValue or IfLock.
type Cond struct {
	Kind     CondKind
	Key      string
	Revision Revision
	Value    []byte
}

// CondKind is what a condition is about.
type CondKind uint8

const (
	CondRevision CondKind = 1 + iota // the key has the Revision; 0: it is not there
	CondExists                       // Has finds the key
	CondValue                        // Get finds the key with the Value
	CondLock                         // the lock's current token is Revision
)

// IfRevision holds if key has that revision, or, for 0, if it is not there. That
// its value expires by a deadline does not change a key's revision.
func IfRevision(key string, rev Revision) Cond {
	return Cond{Kind: CondRevision, Key: key, Revision: rev}
}

// IfExists holds if key is there, be its value expired or not.
func IfExists(key string) Cond { return Cond{Kind: CondExists, Key: key} }

// IfMissing holds if key is not there.
func IfMissing(key string) Cond { return IfRevision(key, 0) }

// IfValue holds if key has that value.
func IfValue(key string, value []byte) Cond { return Cond{Kind: CondValue, Key: key, Value: value} }

// IfLock holds if somebody holds the lock key alone and token is the fencing token of
// that owner. A lock that is shared, by readers or as a semaphore, has no owner in that
// sense.
func IfLock(key string, token Revision) Cond {
	return Cond{Kind: CondLock, Key: key, Revision: token}
}

// Op is one operation of a transaction, made by OpGet, OpSet, OpSetE,
// OpSetEIfUnset, OpExpire, OpDelete or OpAdd.
type Op struct {
	Kind               OpKind
	Key                string
	Value              []byte
	ExpireIn, DeleteIn time.Duration
	Delta              int64
}

// OpKind is what an operation of a transaction does.
type OpKind uint8

const (
	OpKindGet OpKind = 1 + iota
	OpKindSet
	OpKindSetIfUnset
	OpKindExpire
	OpKindDelete
	OpKindAdd
)

// OpGet reads key.
func OpGet(key string) Op { return Op{Kind: OpKindGet, Key: key} }

// OpSet does what Store.Set does.
func OpSet(key string, value []byte) Op { return Op{Kind: OpKindSet, Key: key, Value: value} }

// OpSetE does what Store.SetE does.
func OpSetE(key string, value []byte, expireIn, deleteIn time.Duration) Op {
	return Op{Kind: OpKindSet, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn}
}

// OpSetEIfUnset does what Store.SetEIfUnset does.
func OpSetEIfUnset(key string, value []byte, expireIn, deleteIn time.Duration) Op {
	return Op{Kind: OpKindSetIfUnset, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn}
}

// OpExpire does what Store.Expire does.
func OpExpire(key string) Op { return Op{Kind: OpKindExpire, Key: key} }

// OpDelete does what Store.Delete does.
func OpDelete(key string) Op { return Op{Kind: OpKindDelete, Key: key} }

// OpAdd does what Store.Add does.
func OpAdd(key string, delta int64) Op { return Op{Kind: OpKindAdd, Key: key, Delta: delta} }

// Writes tells whether the operation may change its key.
func (op *Op) Writes() bool { return op.Kind != OpKindGet }

// TxnResult is what a transaction did.
type TxnResult struct {
	// Held tells whether the conditions held: Then was carried out, else Else.
	Held bool
	// Revision is that of the last change that the transaction made or, if it
	// made none, that of the state that it saw.
	Revision Revision
	// Results has one result for each operation of the branch, in their order.
	Results []OpResult
}

// OpResult is what one operation of a transaction did.
type OpResult struct {
	// Done tells whether an OpGet found the key there, and whether another
	// operation changed it.
	Done bool
	// Revision is that of the change, or of the key that was found; 0 if not Done.
	Revision Revision
	// Number is what an OpAdd has made of the key.
	Number int64

	// What an OpGet has found; see [Entry].
	Value              []byte
	Expired            bool
	ExpireIn, DeleteIn time.Duration
}

// Check returns the error that every store returns for such a transaction.
func (t *Txn) Check() error {
	n, size := len(t.If)+len(t.Then)+len(t.Else), 0
	if n > MaxTxnOps {
		return badTxn("%d conditions and operations, %d are allowed", n, MaxTxnOps)
	}
	for i := range t.If {
		c := &t.If[i]
		if c.Kind == 0 || c.Kind > CondLock {
			return badTxn("condition %d is of no kind", i)
		}
		if err := CheckWrite(c.Key, c.Value, 0, 0); err != nil {
			return inTxn(err, "condition", i)
		}
		size += len(c.Key) + len(c.Value)
	}
	for _, branch := range [][]Op{t.Then, t.Else} {
		written := make(map[string]struct{}, len(branch))
		for i := range branch {
			op := &branch[i]
			if op.Kind == 0 || op.Kind > OpKindAdd {
				return badTxn("operation %d is of no kind", i)
			}
			if err := CheckWrite(op.Key, op.Value, op.ExpireIn, op.DeleteIn); err != nil {
				return inTxn(err, "operation", i)
			}
			size += len(op.Key) + len(op.Value)
			if !op.Writes() {
				continue
			}
			if _, twice := written[op.Key]; twice {
				return badTxn("a branch writes %.100q twice", op.Key)
			}
			written[op.Key] = struct{}{}
		}
	}
	if size > MaxTxnSize {
		return badTxn("%d bytes of keys and values, %d are allowed", size, MaxTxnSize)
	}
	return nil
}
