package lock

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"dkv/store"
)

// Lock is a lock that is held, until Unlock or until it is lost. Its methods may be
// called from any goroutine.
type Lock struct {
	shop   *shop
	key    string
	owner  []byte
	number uint64
	token  store.Revision
	ttl    time.Duration
	counts bool // it is one of several permits, of which one may have two

	ctx    context.Context // ends when the lock cannot be trusted any longer
	cancel context.CancelCauseFunc

	mu struct {
		sync.Mutex
		until    time.Duration // the reading of the clock up to which it can be trusted
		unlocked bool

		// The timer that is set for the next renewal, and, while one is under
		// way, that for the end. A lock that is soon given up has cost no
		// goroutine, and no more than one timer.
		renewal, end func() bool
	}
}

// hold is the lock that the ticket holds. The error is store.ErrLockLost if that has
// ended by now.
func (t *ticket) hold(ctx context.Context) (*Lock, error) {
	h := &Lock{
		shop: t.shop, key: t.key, owner: t.owner, number: t.place.Number, token: t.place.Token, ttl: t.ttl,
		counts: 0 < t.limit && t.limit < math.MaxInt64,
	}
	ctx = context.WithValue(context.WithoutCancel(ctx), heldKey{}, append(slices.Clip(heldBy(ctx)), h))
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	h.trust(t.began)
	if err := h.Err(); err != nil {
		return nil, err
	}
	if !t.shop.keep(h) {
		h.lose(store.ErrClosed)
		return nil, store.ErrClosed
	}
	return h, nil
}

// Token is the fencing token: greater than that of every earlier holder of the lock.
func (h *Lock) Token() store.Revision { return h.token }

// Done is closed when the lock can no longer be trusted: when it has been given up or
// lost, or its time to live has passed since the last renewal that is known to have
// succeeded began. So, unless the process is paused, it is closed before another can
// hold the lock.
func (h *Lock) Done() <-chan struct{} { return h.ctx.Done() }

// Err is nil while the lock can be trusted. Then it is store.ErrLockLost, or
// store.ErrNotHeld after Unlock, or store.ErrClosed.
func (h *Lock) Err() error {
	h.mu.Lock()
	over := h.ctx.Err() == nil && h.shop.clock.Now() >= h.mu.until
	h.mu.Unlock()
	if over { // the timer is late: the process has been paused
		h.lose(store.ErrLockLost)
	}
	return context.Cause(h.ctx)
}

// Context returns a context that ends with Done, for work that must not go on without
// the lock. It has the values of the one that was passed to Lock, but does not end
// with it.
func (h *Lock) Context() context.Context { return h.ctx }

// Unlock gives the lock up; who waits for it gets it in the same step. It is over
// with the call: Done is closed when Unlock begins. That ctx comes from
// [Lock.Context], which ends then, does no harm.
//
// Errors: store.ErrNotHeld if the lock had ended before, or Unlock has been called
// before and succeeded; nothing has changed then, whoever holds the lock by now. And
// those of every write: the lock is given up in the background then, or ends with its
// time to live, and Unlock may be called again.
func (h *Lock) Unlock(ctx context.Context) error {
	h.lose(store.ErrNotHeld)
	h.mu.Lock()
	unlocked := h.mu.unlocked
	h.mu.Unlock()
	if unlocked {
		return store.ErrNotHeld
	}
	if slices.Contains(heldBy(ctx), h) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
	}
	left, err := h.shop.backend.LeaveLock(ctx, h.key, h.owner[:store.OwnerSize], h.number)
	if err != nil {
		h.giveUp()
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.unlocked = true
	if !left {
		return store.ErrNotHeld
	}
	return nil
}

// trust has the lock be trusted for its time to live from a reading of the clock, and
// renewed before that is over, unless the lock is over.
func (h *Lock) trust(began time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.until = began + h.ttl; h.mu.until < began {
		h.mu.until = Forever // beyond what can be told
	}
	h.renewInLocked(began + h.ttl/renewals - h.shop.clock.Now())
}

// renewInLocked has the lock renewed after a time, unless it is over.
func (h *Lock) renewInLocked(d time.Duration) {
	h.stopLocked()
	if h.ctx.Err() == nil {
		h.mu.renewal = h.shop.clock.AfterFunc(d, h.renew)
	}
}

func (h *Lock) stopLocked() {
	for _, stop := range []*func() bool{&h.mu.renewal, &h.mu.end} {
		if *stop != nil {
			(*stop)()
			*stop = nil
		}
	}
}

// lose ends the trust in the lock, for a reason, unless it has ended. One that is
// trusted no longer may not have ended in the store yet, and is of no use to anybody.
func (h *Lock) lose(why error) {
	h.mu.Lock()
	first := h.ctx.Err() == nil
	h.cancel(why)
	h.stopLocked()
	h.mu.Unlock()
	h.shop.forget(h)
	if first && why == store.ErrLockLost {
		h.giveUp()
	}
}

// giveUp has the lock given up in the background, unless the locker is closed.
func (h *Lock) giveUp() {
	if h.shop.enter() {
		go func() {
			defer h.shop.leave()
			h.shop.giveUp(h.key, h.owner, h.number)
		}()
	}
}

// renew tries once to renew the lock, and has it tried again.
func (h *Lock) renew() {
	if h.Err() != nil || !h.shop.enter() {
		return
	}
	defer h.shop.leave()
	began := h.shop.clock.Now()
	h.mu.Lock()
	if h.ctx.Err() == nil {
		// However long the renewal takes, the end comes in time.
		h.mu.end = h.shop.clock.AfterFunc(h.mu.until-began, func() { h.Err() })
	}
	h.mu.Unlock()

	ctx, cancel := context.WithTimeout(h.ctx, h.ttl/renewals)
	defer cancel()
	switch place, err := h.shop.backend.RenewLock(ctx, h.key, h.owner[:store.OwnerSize], h.number, h.ttl); {
	case err == nil && place.Held:
		h.trust(began)
	case err == nil:
		h.lose(store.ErrLockLost)
	default:
		// It may have been renewed, but is trusted no longer for that.
		h.mu.Lock()
		defer h.mu.Unlock()
		h.renewInLocked(min(h.ttl/renewals/4, h.mu.until-h.shop.clock.Now()))
	}
}
