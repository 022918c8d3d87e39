// Package lock gives out locks that live in a store: with a replicated store,
// among all processes that embed or reach one of its members. Locks have a
// namespace of their own, so a lock "x" and a key "x" have nothing to do with
// each other.
//
// [Locker.Lock] waits for its turn, keeps the lock alive in the background, and
// tells when it can no longer be trusted; [Election], [RWLock] and [Semaphore] are
// made of it. [Locker.Acquire] and [Locker.Release] are single steps, for a program
// that hands an [Owner] on, or leaves it to the next run of itself.
//
// # What a lock is worth
//
// A lock ends when it is given up or its time to live has passed since it was last
// renewed, whichever comes first. At any revision of the store it has one holder at
// most. But a holder that was paused, or whose packets were, may believe that it
// holds a lock that has ended and that another holds now; no lock service can help
// that. What it protects is safe all the same if it accepts no token lower than the
// highest that it has seen, because tokens only rise: in the store itself that is a
// transaction with the condition [store.IfLock], elsewhere a comparison of
// [Lock.Token] where the resource is. That is for locks that one has alone: those who
// share one hold it at the same time, and none of their tokens is the current one.
//
// Time is measured by the monotonic clock, which stands still while a machine is
// suspended: who was suspended has been paused.
package lock

import (
	"context"
	"crypto/rand"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"dkv/internal/clock"
	"dkv/store"
	"dkv/store/engine"
)

// Backend is what a store does for locks. An owner is known by its first 8 bytes; the
// rest is what others can learn of it.
type Backend interface {
	// JoinLock takes the lock, or waits in the queue for it, in one atomic step.
	// If limit is 0, the owner has it alone, else beside up to limit-1 others
	// that joined with a limit. The token is the revision at which it was
	// granted.
	JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error)

	// RenewLock has the time to live begin again, be the lock held or waited
	// for, and returns where the owner stands.
	RenewLock(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error)

	// LeaveLock gives the lock up, or the waiting for it, and has the next
	// granted in the same step. number is 0 if it is not known.
	LeaveLock(ctx context.Context, key string, owner []byte, number uint64) (left bool, err error)

	// AwaitLock waits until the owner no longer waits, or for the time wait, and
	// returns where it stands.
	AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error)

	// LockHolder returns who holds the lock alone.
	LockHolder(ctx context.Context, key string) (store.LockHolder, bool, error)

	// Poll watches the locks; see transport.Backend.
	Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, maxBytes int64) ([]store.Event, store.Revision, error)
}

// Forever is the time to live of a lock that ends only with Release.
const Forever time.Duration = math.MaxInt64

// Locker gives out the locks of one store, or of one namespace of it.
type Locker struct {
	*shop
	prefix string // of the names of locks
}

// shop is what the lockers of one store have in common.
type shop struct {
	backend Backend
	clock   store.Clock
	ctx     context.Context // of what goes on in the background
	cancel  context.CancelFunc

	mu struct {
		sync.Mutex
		closed bool
		work   sync.WaitGroup // Add only while not closed
		held   map[*Lock]struct{}
	}
}

// New returns a Locker over a store.
func New(b Backend) *Locker { return NewWithClock(b, clock.System{}) }

// NewWithClock returns a Locker that measures by a clock how long its locks can be
// trusted.
func NewWithClock(b Backend, c store.Clock) *Locker {
	s := &shop{backend: b, clock: c}
	s.mu.held = make(map[*Lock]struct{})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return &Locker{shop: s}
}

// WithPrefix returns a Locker for the locks whose names begin with the prefix, which
// its users leave out. It is closed with l.
func (l *Locker) WithPrefix(prefix string) *Locker {
	return &Locker{l.shop, l.prefix + prefix}
}

// name is that of a lock in the store. An empty one stays empty, and is refused.
func (l *Locker) name(key string) string {
	if key == "" {
		return ""
	}
	return l.prefix + key
}

// closeTimeout is how long Close tries to give up what is held.
const closeTimeout = 300 * time.Millisecond

// Close has all locks that Lock and its like have given out be done, and gives them
// up, as well as the places in queues of calls under way, which end with
// store.ErrClosed. What cannot be given up within 300 ms ends with its time to
// live. It is to be called before the store is closed; for a Locker that WithPrefix
// has returned it does nothing.
func (l *Locker) Close() {
	if l.prefix != "" {
		return
	}
	l.mu.Lock()
	l.mu.closed = true
	held := slices.Collect(maps.Keys(l.mu.held))
	l.mu.Unlock()
	l.cancel()
	var leaving sync.WaitGroup
	for _, h := range held {
		h.lose(store.ErrClosed)
		leaving.Go(func() { l.giveUp(h.key, h.owner, h.number) })
	}
	leaving.Wait()
	l.mu.work.Wait()
}

// keep has Close give up a lock, until forget. It is false if the locker is closed.
func (s *shop) keep(h *Lock) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.closed {
		s.mu.held[h] = struct{}{}
	}
	return !s.mu.closed
}

func (s *shop) forget(h *Lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.held, h)
}

// enter has Close wait until leave is called. It is false if the locker is closed.
func (s *shop) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	s.mu.work.Add(1)
	return true
}

func (s *shop) leave() { s.mu.work.Done() }

// giveUp has an owner leave, for no longer than leaveTimeout, or closeTimeout once the
// locker is closed.
func (s *shop) giveUp(key string, owner []byte, number uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, func() { time.AfterFunc(closeTimeout, cancel) })()
	s.backend.LeaveLock(ctx, key, owner[:store.OwnerSize], number)
}

// Acquire tries once to take the lock key for ttl, and does not wait: ok is
// false if somebody holds it, be it the caller, or waits for it. ttl counts from
// the call in real time; it must be positive, and [Forever] makes a lock without
// end. Nobody renews it.
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
	place, err := l.backend.JoinLock(ctx, l.name(key), owner.id[:], 0, ttl, false)
	switch {
	case place.Held:
		owner.token = place.Token
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
	return l.backend.LeaveLock(ctx, l.name(key), owner.id[:], 0)
}
