package lock

import (
	"context"
	"math"
)

// Semaphore is a lock that up to a number of holders have at a time. The zero value
// is of no use; see [Locker.Semaphore].
type Semaphore struct {
	locker *Locker
	key    string
	permit Option
}

// Semaphore returns a semaphore with a number of permits, which is at least 1, else
// it panics. Its name is that of the lock too: all who use it have to say the same
// number, and do nothing else with a lock of that name. The tokens of its holders tell
// them apart, but the condition store.IfLock is about who holds a lock alone.
func (l *Locker) Semaphore(name string, permits int) Semaphore {
	if permits < 1 {
		panic("lock: a semaphore without permits")
	}
	return Semaphore{l, name, shared(int64(permits))}
}

// Acquire waits for a permit, which Lock.Unlock gives back. Who comes first is served
// first. Errors are those of [Locker.Lock].
func (s Semaphore) Acquire(ctx context.Context, opts ...Option) (*Lock, error) {
	return s.locker.Lock(ctx, s.key, append(opts[:len(opts):len(opts)], s.permit)...)
}

// TryAcquire is Acquire that does not wait.
func (s Semaphore) TryAcquire(ctx context.Context, opts ...Option) (permit *Lock, ok bool, err error) {
	return s.locker.TryLock(ctx, s.key, append(opts[:len(opts):len(opts)], s.permit)...)
}

// RWLock is a lock that either one writer or any number of readers hold. The zero
// value is of no use; see [Locker.RWLock].
type RWLock struct {
	locker *Locker
	key    string
}

// RWLock returns the read-write lock of a name, which is that of the lock too: its
// writers are those who take that by [Locker.Lock].
func (l *Locker) RWLock(name string) RWLock { return RWLock{l, name} }

// Lock waits until the caller holds the lock alone. Errors are those of
// [Locker.Lock].
func (rw RWLock) Lock(ctx context.Context, opts ...Option) (*Lock, error) {
	return rw.locker.Lock(ctx, rw.key, opts...)
}

// TryLock is Lock that does not wait.
func (rw RWLock) TryLock(ctx context.Context, opts ...Option) (lock *Lock, ok bool, err error) {
	return rw.locker.TryLock(ctx, rw.key, opts...)
}

// TryRLock is RLock that does not wait.
func (rw RWLock) TryRLock(ctx context.Context, opts ...Option) (lock *Lock, ok bool, err error) {
	return rw.locker.TryLock(ctx, rw.key, append(opts[:len(opts):len(opts)], shared(math.MaxInt64))...)
}

// RLock waits until the caller holds the lock beside other readers. It does not
// overtake a writer who waits. Errors are those of [Locker.Lock].
func (rw RWLock) RLock(ctx context.Context, opts ...Option) (*Lock, error) {
	return rw.locker.Lock(ctx, rw.key, append(opts[:len(opts):len(opts)], shared(math.MaxInt64))...)
}
