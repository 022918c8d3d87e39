package store

// OwnerSize is the length of what the owner of a lock is known by. What follows it is
// what others can learn of the owner.
const OwnerSize = 8

// MaxHolderValue is the greatest length of what others can learn of an owner.
const MaxHolderValue = 32 << 10

// CheckOwner returns the error of an operation of such an owner on a lock.
func CheckOwner(owner []byte) error {
	switch {
	case len(owner) < OwnerSize:
		return ErrBadOwner
	case len(owner) > OwnerSize+MaxHolderValue:
		return ErrValueTooLarge
	}
	return nil
}

// LockPlace is where an owner stands with a lock, as package lock uses it: it holds
// the lock, waits for it, or has neither.
type LockPlace struct {
	Held    bool
	Waiting bool
	Token   Revision // the fencing token, if Held
	Number  uint64   // by which the owner is found; 0 of who holds the lock alone
	At      Revision // a revision at which it was so, if Waiting
}

// LockHolder is who holds a lock alone.
type LockHolder struct {
	Owner []byte
	Token Revision
}
