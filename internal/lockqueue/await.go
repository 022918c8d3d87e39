package lockqueue

import (
	"context"
	"time"

	"dkv/internal/feed"
	"dkv/store"
	"dkv/store/engine"
)

// Await waits until the owner of a waiting place waits no longer, for no longer than
// wait, and returns where it stands then. The views that it opens are to be of a
// state that has had the place.
//
// The watch is there before the first look, so nothing is missed.
func Await(ctx context.Context, f *feed.Feed, open func() engine.View, name string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	key := Key(name, at.Number)
	w, err := f.Watch(engine.Waiters, store.Watch{Key: key})
	if err != nil {
		return store.LockPlace{}, err
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		view := open()
		place := look(view, name, owner, at.Number)
		view.Release()
		if !place.Waiting {
			return place, nil
		}
		switch _, err := w.Next(ctx); {
		case err != nil && ctx.Err() != nil:
			return place, nil
		case err == store.ErrCompacted: // a snapshot was received
			if w, err = f.Watch(engine.Waiters, store.Watch{Key: key}); err != nil {
				return store.LockPlace{}, err
			}
			defer w.Close()
		case err != nil:
			return store.LockPlace{}, err
		}
	}
}

// look finds an owner that has waited under a number.
func look(view engine.View, name string, owner []byte, number uint64) store.LockPlace {
	if e, ok := view.Entry(engine.Waiters, Key(name, number)); ok && isOf(parseRequest(e.Value).owner, owner) {
		return store.LockPlace{Waiting: true, Number: number, At: store.Revision(view.Revision())}
	}
	if e, ok := view.Entry(engine.Locks, name); ok && isOf(e.Value, owner) {
		return store.LockPlace{Held: true, Token: e.Revision}
	}
	var place store.LockPlace
	view.Scan(engine.Shared, Key(name, number), Key(name, 1<<64-1), false, func(e store.Entry) bool {
		if len(e.Key) == len(name)+numberSize && isOf(e.Value, owner) {
			_, n := split(e.Key)
			place = store.LockPlace{Held: true, Token: e.Revision, Number: n}
			return false
		}
		return true
	})
	return place
}

// Holder returns who holds a lock alone.
func Holder(db engine.Engine, name string) (h store.LockHolder, ok bool) {
	e, ok := db.Entry(engine.Locks, name)
	if !ok {
		return h, false
	}
	return store.LockHolder{Owner: append([]byte(nil), e.Value...), Token: e.Revision}, true
}
