package rest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dkv/lock"
	"dkv/store"
)

const (
	// renewals is how often the place of who waits is renewed in the time to live.
	renewals = 3

	// minWaitTTL is the least time to live of a lock that is waited for: a place in
	// the queue is renewed, and that is a write.
	minWaitTTL = time.Second

	// leaveTimeout bounds the giving up of a place that nobody wants any longer. If
	// it comes to nothing, the time to live does.
	leaveTimeout = 2 * time.Second
)

// lockHeld is what its owner learns of a lock.
type lockHeld struct {
	Owner lock.Owner     `json:"owner"`
	Token store.Revision `json:"token"`
}

// ownedError is an error after which an owner may have a lock or not.
type ownedError struct {
	error
	owner lock.Owner
}

func (e *ownedError) Unwrap() error { return e.error }

var errTaken = &statusError{http.StatusConflict, "somebody else holds the lock or waits for it"}

// takeLock is lock.Locker.Acquire, but that it can wait, in the queue in which
// lock.Locker.Lock does.
func takeLock(ctx context.Context, c *call) (*answer, error) {
	ttl, err := c.ttl()
	wait := min(c.params.duration("wait"), maxTimeout)
	switch {
	case err != nil:
		return nil, err
	case c.params.err != nil:
		return nil, c.params.err
	case wait > 0 && (ttl == 0 || ttl < minWaitTTL):
		return nil, fmt.Errorf("%w: who waits needs a ttl of %v or more, and not forever", store.ErrBadDuration, minWaitTTL)
	}
	id := make([]byte, store.OwnerSize)
	rand.Read(id) // never fails
	place, err := c.store.JoinLock(ctx, c.name, id, 0, ttl, wait > 0)
	if wait > 0 && err == nil {
		place, err = c.await(id, place, ttl, wait)
	}
	switch unknown := store.KindOf(err) == store.KindUnknown; {
	case place.Held && c.r.Context().Err() == nil:
		owner, err := ownerOf(id, place.Token)
		if err != nil {
			return nil, err
		}
		return &answer{http.StatusOK, lockHeld{owner, place.Token}}, nil
	case place.Held, wait > 0 && (err == nil || place.Waiting || unknown):
		c.leave(id, place.Number)
	case unknown:
		if owner, bad := ownerOf(id, 0); bad == nil {
			return nil, &ownedError{err, owner}
		}
	}
	if err == nil {
		err = errTaken
	}
	return nil, err
}

// await waits until who has a place in the queue holds the lock, for no longer than
// wait, and returns the place that it has at last.
func (c *call) await(id []byte, place store.LockPlace, ttl, wait time.Duration) (store.LockPlace, error) {
	// A deadline for reading the request, which is over, would end the wait.
	http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(c.r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(c.waitCtx, cancel)()
	for place.Waiting && ctx.Err() == nil {
		now, err := c.store.AwaitLock(ctx, c.name, id, place, ttl/renewals)
		if err == nil && now.Waiting && ctx.Err() == nil {
			now, err = c.store.RenewLock(ctx, c.name, id, place.Number, ttl)
		}
		switch {
		case err == nil:
			place = now
		case ctx.Err() != nil:
		default:
			return place, err
		}
	}
	if place.Waiting && c.waitCtx.Err() != nil {
		return place, store.ErrClosed
	}
	return place, nil
}

// leave gives up what a client may have that does not want it any longer or has
// gone.
func (c *call) leave(id []byte, number uint64) {
	ctx, cancel := context.WithTimeout(c.ctx, leaveTimeout)
	defer cancel()
	c.store.LeaveLock(ctx, c.name, id, number)
}

func renewLock(ctx context.Context, c *call) (*answer, error) {
	ttl, err := c.ttl()
	if err != nil {
		return nil, err
	}
	id, err := c.ownerID()
	if err != nil {
		return nil, err
	}
	place, err := c.store.RenewLock(ctx, c.name, id, 0, ttl)
	switch {
	case err != nil:
		return nil, err
	case !place.Held:
		return nil, store.ErrNotHeld
	}
	owner, err := ownerOf(id, place.Token)
	if err != nil {
		return nil, err
	}
	return &answer{http.StatusOK, lockHeld{owner, place.Token}}, nil
}

func releaseLock(ctx context.Context, c *call) (*answer, error) {
	id, err := c.ownerID()
	if err != nil {
		return nil, err
	}
	released, err := c.store.LeaveLock(ctx, c.name, id, 0)
	if err != nil {
		return nil, err
	}
	return &answer{http.StatusOK, struct {
		Released bool `json:"released"`
	}{released}}, nil
}

// getLock does not tell who the holder is: whoever knows that can release the lock.
func getLock(ctx context.Context, c *call) (*answer, error) {
	h, ok, err := c.store.LockHolder(ctx, c.name)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, &statusError{http.StatusNotFound, "nobody holds the lock alone"}
	}
	out := struct {
		Token store.Revision `json:"token"`
		Value []byte         `json:"value,omitempty"` // what the holder tells of itself
	}{Token: h.Token}
	if len(h.Owner) > store.OwnerSize {
		out.Value = h.Owner[store.OwnerSize:]
	}
	return &answer{http.StatusOK, out}, nil
}

// ttl is the time to live that is asked for, 0 for a lock that has no end.
func (c *call) ttl() (time.Duration, error) {
	if c.params.text("ttl") == "forever" {
		return 0, nil
	}
	ttl := c.params.duration("ttl")
	if c.params.err == nil && ttl == 0 {
		c.params.fail(fmt.Errorf("%w: a lock needs a ttl, as in ttl=30s or ttl=forever", store.ErrBadDuration))
	}
	return ttl, c.params.err
}

// ownerOf is the owner that is known by an ID, in the form in which package lock
// prints and reads it.
func ownerOf(id []byte, token store.Revision) (lock.Owner, error) {
	return lock.ParseOwner(hex.EncodeToString(id) + "-" + strconv.FormatUint(uint64(token), 10))
}

// ownerID is what the owner that the request names is known by.
func (c *call) ownerID() ([]byte, error) {
	owner, err := lock.ParseOwner(c.params.text("owner"))
	if err != nil {
		return nil, err
	}
	id, _, _ := strings.Cut(owner.String(), "-")
	return hex.DecodeString(id)
}
