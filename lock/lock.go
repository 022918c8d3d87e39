// Package lock gives out locks that live in a store: with a replicated store,
// among all processes that embed or reach one of its members. Locks have a
// namespace of their own, so a lock "x" and a key "x" have nothing to do with
// each other.
//
// A lock ends with Release or when its time to live has passed, whichever comes
// first. A holder that was paused may believe that it holds a lock that has
// ended and that another holds now. What it protects is safe all the same if it
// accepts no [Owner.Token] lower than the highest that it has seen: tokens only
// rise.
package lock

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"dkv/store"
)

// Backend is what a store does for locks.
type Backend interface {
	// AcquireLock gives the lock to id if nobody holds it, in one atomic step.
	// The token is the revision of that step.
	AcquireLock(ctx context.Context, key string, id []byte, ttl time.Duration) (token store.Revision, ok bool, err error)

	// ReleaseLock ends the lock if id holds it, in one atomic step.
	ReleaseLock(ctx context.Context, key string, id []byte) (ok bool, err error)
}

// Forever is the time to live of a lock that ends only with Release.
const Forever time.Duration = math.MaxInt64

// Locker gives out the locks of one store.
type Locker struct{ backend Backend }

// New returns a Locker over a store.
func New(b Backend) *Locker { return &Locker{b} }

// Acquire tries once to take the lock key for ttl, and does not wait: ok is
// false if somebody holds it, be it the caller. ttl counts from the call in real
// time; it must be positive, and [Forever] makes a lock without end.
//
// The error's kind says whether the lock may have been taken. If that is
// unknown, the owner that is returned can release it: once Release through the
// same store has returned without an error, that owner does not hold the lock
// and never will.
//
// Errors: store.ErrEmptyKey, store.ErrKeyTooLarge, store.ErrBadDuration, and
// those of every write.
func (l *Locker) Acquire(ctx context.Context, key string, ttl time.Duration) (owner Owner, ok bool, err error) {
	if ttl <= 0 {
		return Owner{}, false, store.ErrBadDuration
	}
	if ttl == Forever {
		ttl = 0
	}
	rand.Read(owner.id[:]) // never fails
	token, ok, err := l.backend.AcquireLock(ctx, key, owner.id[:], ttl)
	switch {
	case ok:
		owner.token = token
		return owner, true, nil
	case store.KindOf(err) == store.KindUnknown:
		return owner, false, err
	}
	return Owner{}, false, err
}

// Release gives up the lock key if owner holds it, as one atomic step, and tells
// whether it did. A release that is repeated, or comes after the lock has ended,
// changes nothing, whoever holds the lock by then.
//
// Errors: store.ErrBadOwner for the zero Owner, store.ErrEmptyKey,
// store.ErrKeyTooLarge, and those of every write.
func (l *Locker) Release(ctx context.Context, key string, owner Owner) (bool, error) {
	if owner == (Owner{}) {
		return false, store.ErrBadOwner
	}
	return l.backend.ReleaseLock(ctx, key, owner.id[:])
}

// Owner is who holds a lock: one successful Acquire.
type Owner struct {
	id    [8]byte // random, chosen before the lock is asked for
	token store.Revision
}

// Token is the fencing token: greater than that of every earlier owner of any
// lock of the same store. It is 0 if it is unknown whether the lock was taken.
func (o Owner) Token() store.Revision { return o.token }

// String is the owner as text, which ParseOwner reads.
func (o Owner) String() string {
	return hex.EncodeToString(o.id[:]) + "-" + strconv.FormatUint(uint64(o.token), 10)
}

// ParseOwner reads what String wrote. For other text it returns
// store.ErrBadOwner.
func ParseOwner(s string) (Owner, error) {
	var o Owner
	id, token, _ := strings.Cut(s, "-")
	n, err := strconv.ParseUint(token, 10, 64)
	if err == nil && len(id) == 2*len(o.id) {
		_, err = hex.Decode(o.id[:], []byte(id))
		o.token = store.Revision(n)
	}
	if err != nil || o.String() != s || o == (Owner{}) {
		return Owner{}, fmt.Errorf("%w: %q", store.ErrBadOwner, s)
	}
	return o, nil
}

// MarshalText implements encoding.TextMarshaler.
func (o Owner) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Owner) UnmarshalText(b []byte) (err error) {
	*o, err = ParseOwner(string(b))
	return err
}
