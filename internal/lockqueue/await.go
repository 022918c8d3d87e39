package lockqueue

import (
	"context"
	"errors"
	"time"

	"dkv/internal/feed"
	"dkv/store"
	"dkv/store/engine"
)

// Await waits until the owner of a waiting place waits no longer, for no longer than
// wait, and returns where it stands then. It looks at nothing but the state, of which
// db returns the engine; that has to be one that has had the place.
//
// The watch is there before the first look, so nothing is missed.
func Await(ctx context.Context, f *feed.Feed, db func() engine.Engine, name string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	if err := store.CheckOwner(owner); err != nil {
		return store.LockPlace{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		w, err := f.Watch(engine.Waiters, store.Watch{Key: Key(name, at.Number)})
		if err != nil {
			return store.LockPlace{}, err
		}
		place := look(db(), name, owner, at.Number)
		if place.Waiting {
			_, err = w.Next(ctx)
		}
		w.Close()
		switch {
		case !place.Waiting, ctx.Err() != nil:
			return place, nil
		case err != nil && !errors.Is(err, store.ErrCompacted): // when a snapshot was received
			return store.LockPlace{}, err
		}
	}
}

// look finds an owner that has waited under a number. Who waits no longer holds the
// lock at once, if at all: the one is looked for before the other.
func look(db engine.Engine, name string, owner []byte, number uint64) store.LockPlace {
	rev := db.Revision()
	if e, ok := db.Entry(engine.Waiters, Key(name, number)); ok && isOf(parseRequest(e.Value).owner, owner) {
		return store.LockPlace{Waiting: true, Number: number, At: store.Revision(rev)}
	}
	if e, ok := db.Entry(engine.Locks, name); ok && isOf(e.Value, owner) {
		return store.LockPlace{Held: true, Token: e.Revision}
	}
	if e, ok := db.Entry(engine.Shared, Key(name, number)); ok && isOf(e.Value, owner) {
		return store.LockPlace{Held: true, Token: e.Revision, Number: number}
	}
	return store.LockPlace{}
}

// Holder returns who holds a lock alone.
func Holder(db engine.Engine, name string) (h store.LockHolder, ok bool) {
	e, ok := db.Entry(engine.Locks, name)
	if !ok {
		return h, false
	}
	return store.LockHolder{Owner: append([]byte(nil), e.Value...), Token: e.Revision}, true
}
