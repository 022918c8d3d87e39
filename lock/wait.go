package lock

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"dkv/store"
)

const (
	// DefaultTTL is the time to live of the locks that are renewed in the
	// background.
	DefaultTTL = 10 * time.Second

	// MaxHolderValue is the greatest length of what a holder tells of itself.
	MaxHolderValue = store.MaxHolderValue

	// renewals is how often a lock is renewed in its time to live: what is lost
	// twice has one more try.
	renewals = 3

	// leaveTimeout bounds the giving up of what nobody wants any longer. If it
	// comes to nothing, the time to live does.
	leaveTimeout = 5 * time.Second
)

// Option changes how a lock is taken.
type Option func(*config)

type config struct {
	ttl   time.Duration
	limit int64
	value []byte
}

// TTL has the lock end when it has not been renewed for that long, because its
// holder has died, is paused, or cannot reach the store. The default is DefaultTTL.
// It must be positive, and is not [Forever]: a lock that nobody renews and that ends
// with nothing but its release is for [Locker.Acquire].
func TTL(d time.Duration) Option { return func(c *config) { c.ttl = d } }

// Value is what others can learn of the holder; see [Election]. It is up to
// MaxHolderValue bytes long.
func Value(b []byte) Option { return func(c *config) { c.value = b } }

// shared has the lock held by up to limit at a time.
func shared(limit int64) Option { return func(c *config) { c.limit = limit } }

// Lock waits until it is the caller's turn to hold the lock key. Who comes first is
// served first, and nobody polls: the lock is granted by the very change of the
// store that releases it, or that ends the time of a holder that has died. It is
// renewed in the background until Unlock.
//
// While it waits, its place in the queue is renewed as well. If ctx ends, the place
// is given up in the background; if the program dies, it goes with its time to live.
//
// A lock is not reentrant. If ctx comes from [Lock.Context] of a lock that is held
// with the same key, the call would wait for its caller and returns
// store.ErrReentrant instead.
//
// Errors: store.ErrUnavailable when ctx ends first, store.ErrReentrant,
// store.ErrLockLost if the lock was granted and its time to live was over before that
// was heard of, as it is if that is shorter than a write takes, store.ErrEmptyKey,
// store.ErrKeyTooLarge, store.ErrValueTooLarge, store.ErrBadDuration, and those of
// every write. After an error the lock is not held: should it have been taken, it is
// given up.
func (l *Locker) Lock(ctx context.Context, key string, opts ...Option) (*Lock, error) {
	return l.lock(ctx, l.name(key), true, opts)
}

// TryLock is Lock that does not wait: ok is false if somebody holds the lock or
// waits for it. Errors are those of Lock.
func (l *Locker) TryLock(ctx context.Context, key string, opts ...Option) (lock *Lock, ok bool, err error) {
	lock, err = l.lock(ctx, l.name(key), false, opts)
	return lock, lock != nil, err
}

// lock returns nil without an error if it does not wait and the lock is taken.
func (s *shop) lock(ctx context.Context, key string, wait bool, opts []Option) (*Lock, error) {
	c := config{ttl: DefaultTTL}
	for _, o := range opts {
		o(&c)
	}
	switch {
	case c.ttl <= 0 || c.ttl == Forever:
		return nil, fmt.Errorf("%w: a lock's time to live is %v", store.ErrBadDuration, c.ttl)
	case len(c.value) > MaxHolderValue:
		return nil, store.ErrValueTooLarge
	case c.isHeld(ctx, s, key):
		return nil, store.ErrReentrant
	}
	if !s.enter() {
		return nil, store.ErrClosed
	}
	defer s.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for {
		t := &ticket{shop: s, key: key, config: c}
		err := t.join(ctx, wait)
		for err == nil && t.place.Waiting {
			err = t.await(ctx)
		}
		if s.ctx.Err() != nil {
			err = store.ErrClosed
		}
		switch {
		case err != nil:
			t.leave()
			return nil, err
		case t.place.Held:
			held, err := t.hold(ctx)
			if err != nil { // it has taken too long to learn of it
				t.leave()
			}
			return held, err
		case !wait:
			return nil, nil
		}
		// The place in the queue has been lost, the context has not ended: it is
		// the last in the queue now.
	}
}

// ticket is one attempt to take a lock.
type ticket struct {
	shop *shop
	key  string
	config
	owner []byte
	place store.LockPlace
	began time.Duration // when the call began that gave the place its time to live
	unset bool          // there is nothing to give up
}

func (t *ticket) join(ctx context.Context, wait bool) (err error) {
	t.owner = make([]byte, store.OwnerSize, store.OwnerSize+len(t.value))
	rand.Read(t.owner) // never fails
	t.owner = append(t.owner, t.value...)
	t.began = t.shop.clock.Now()
	t.place, err = t.shop.backend.JoinLock(ctx, t.key, t.owner, t.limit, t.ttl, wait)
	t.unset = err != nil && store.KindOf(err) != store.KindUnknown
	return err
}

// await waits until the ticket no longer waits or it is time to renew it, and does
// so.
func (t *ticket) await(ctx context.Context) error {
	l := t.shop
	if left := t.began + t.ttl/renewals - l.clock.Now(); left > 0 {
		// A server that does not answer in time may not be there any longer.
		patience, cancel := context.WithTimeout(ctx, left+t.ttl/renewals/2)
		place, err := l.backend.AwaitLock(patience, t.key, t.owner[:store.OwnerSize], t.place, left)
		cancel()
		switch {
		case err == nil:
			t.place = place
			return nil
		case ctx.Err() != nil || store.KindOf(err) != store.KindNotApplied:
			return err
		default:
			t.pause(ctx)
		}
	}
	began := l.clock.Now()
	patience, cancel := context.WithTimeout(ctx, t.ttl/renewals)
	defer cancel()
	place, err := l.backend.RenewLock(patience, t.key, t.owner[:store.OwnerSize], t.place.Number, t.ttl)
	switch {
	case err == nil:
		t.place, t.began = place, began
	case ctx.Err() != nil || store.KindOf(err) == store.KindClosed || store.KindOf(err) == store.KindFinal:
		return err
	default:
		t.pause(ctx) // it may have been renewed, but is trusted no longer for that
	}
	return nil
}

// pause keeps a ticket from being renewed all the time when something fails at once.
func (t *ticket) pause(ctx context.Context) {
	pause(ctx, min(t.ttl/renewals/4, time.Second))
}

// pause waits for a time, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// leave gives up, in the background, what the ticket may have.
func (t *ticket) leave() {
	if t.unset {
		return
	}
	t.shop.mu.work.Go(func() { t.shop.giveUp(t.key, t.owner, t.place.Number) }) // Close waits for the caller
}

// heldKey is that of a context's value: the locks that it comes from.
type heldKey struct{}

func heldBy(ctx context.Context) []*Lock {
	all, _ := ctx.Value(heldKey{}).([]*Lock)
	return all
}

// isHeld tells whether the caller holds the lock already, and would wait for itself.
func (c *config) isHeld(ctx context.Context, l *shop, key string) bool {
	return slices.ContainsFunc(heldBy(ctx), func(h *Lock) bool {
		return h.shop == l && h.key == key && !h.counts && h.Err() == nil
	})
}
