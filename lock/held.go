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
		stop     func() bool   // of the timer that is set for then
		unlocked bool
	}
}

// hold is the lock that the ticket holds. The error is store.ErrLockLost if that has
// ended by now.
func (t *ticket) hold(ctx context.Context) (*Lock, error) {
	h := &Lock{
		shop: t.shop, key: t.key, owner: t.owner, number: t.place.Number, token: t.place.Token, ttl: t.ttl,
		counts: 0 < t.limit && t.limit < math.MaxInt64,
	}
	all, _ := ctx.Value(heldKey{}).([]*Lock)
	ctx = context.WithValue(context.WithoutCancel(ctx), heldKey{}, append(slices.Clip(all), h))
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	h.trust(t.began)
	if err := h.Err(); err != nil {
		return nil, err
	}
	t.shop.mu.work.Go(h.keep) // Close waits for the caller
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
// with the call: Done is closed when Unlock begins.
//
// Errors: store.ErrNotHeld if the lock had been lost before, or Unlock has been
// called before and succeeded; nothing has changed then, whoever holds the lock by
// now. And those of every write: Unlock may be called again then; if it is not, the
// lock ends with its time to live.
func (h *Lock) Unlock(ctx context.Context) error {
	h.lose(store.ErrNotHeld)
	h.mu.Lock()
	unlocked := h.mu.unlocked
	h.mu.Unlock()
	if unlocked {
		return store.ErrNotHeld
	}
	left, err := h.shop.backend.LeaveLock(ctx, h.key, h.owner, h.number)
	if err != nil {
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

// trust has the lock be trusted for its time to live from a reading of the clock,
// unless it is over.
func (h *Lock) trust(began time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return
	}
	if h.mu.stop != nil {
		h.mu.stop()
	}
	h.mu.until = began + h.ttl
	if h.mu.until < began {
		h.mu.until = Forever // beyond what can be told
	}
	h.mu.stop = h.shop.clock.AfterFunc(h.mu.until-h.shop.clock.Now(), func() { h.Err() })
}

// lose ends the trust in the lock, for a reason.
func (h *Lock) lose(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cancel(why)
	h.mu.stop()
}

// keep renews the lock until it is over.
func (h *Lock) keep() {
	defer context.AfterFunc(h.shop.ctx, func() { h.lose(store.ErrClosed) })()
	defer func() {
		if context.Cause(h.ctx) == store.ErrClosed {
			h.shop.giveUp(h.key, h.owner, h.number)
		}
	}()
	pause := h.ttl / renewals
	for h.sleep(pause) {
		began := h.shop.clock.Now()
		ctx, cancel := context.WithTimeout(h.ctx, h.ttl/renewals)
		place, err := h.shop.backend.RenewLock(ctx, h.key, h.owner, h.number, h.ttl)
		cancel()
		switch {
		case err != nil:
			// It may have been renewed, but is trusted no longer for that.
			pause = h.ttl / renewals / 4
			continue
		case !place.Held:
			h.lose(store.ErrLockLost)
			return
		}
		h.trust(began)
		pause = began + h.ttl/renewals - h.shop.clock.Now()
	}
}

// sleep waits for a time by the clock; it is false if the lock is over.
func (h *Lock) sleep(d time.Duration) bool {
	woken := make(chan struct{})
	stop := h.shop.clock.AfterFunc(d, func() { close(woken) })
	select {
	case <-woken:
		return h.Err() == nil
	case <-h.ctx.Done():
		stop()
		return false
	}
}
