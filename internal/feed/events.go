package feed

import (
	"context"
	"iter"
	"strings"
	"time"

	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
)

// Watches are the methods of a store that are about watches.
type Watches struct {
	begin func(ctx context.Context, space engine.Space, what store.Watch) (*Watcher, error)
}

// NewWatches returns the methods of a store that begins a watch with begin, which
// checks its arguments.
func NewWatches(begin func(ctx context.Context, space engine.Space, what store.Watch) (*Watcher, error)) Watches {
	return Watches{begin}
}

// Watch implements store.Store.
func (w Watches) Watch(ctx context.Context, what store.Watch) (iter.Seq2[store.Event, error], error) {
	watcher, err := w.begin(ctx, engine.Keys, what)
	if err != nil {
		return nil, err
	}
	return events(ctx, watcher), nil
}

// Poll implements transport.Backend and lock.Backend: it waits for some events of a
// watch from what.From on, for no longer than wait, and returns those that take up to
// maxBytes with the revision to go on from. That there are none is no error. If
// what.From is 0, it does not wait. The events are not for callers to change: they share
// their memory with the store, so that many who wait for one large value take it once.
func (w Watches) Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, maxBytes int64) ([]store.Event, store.Revision, error) {
	watcher, err := w.begin(ctx, space, what)
	if err != nil {
		return nil, 0, err
	}
	defer watcher.Close()
	if what.From == 0 {
		return nil, watcher.Through(), nil
	}
	return poll(ctx, watcher, wait, maxBytes)
}

// events is what a watch of keys yields, for one loop. The watch ends with the loop
// or with ctx, be there a loop or not.
func events(ctx context.Context, w *Watcher) iter.Seq2[store.Event, error] {
	stop := context.AfterFunc(ctx, w.Close)
	return func(yield func(store.Event, error) bool) {
		defer w.Close()
		defer stop()
		for {
			changes, err := w.Next(ctx)
			if err != nil {
				if ctx.Err() != nil {
					err = ops.CheckContext(ctx) // which has closed it
				}
				yield(store.Event{}, err)
				return
			}
			for i := range changes {
				if !yield(event(&changes[i]), nil) {
					return
				}
			}
		}
	}
}

// event is a change for a caller to keep.
func event(c *engine.Change) store.Event {
	return store.Event{
		Type:       c.Type,
		Key:        strings.Clone(c.Key),
		Value:      ops.Clone(c.Value),
		Revision:   store.Revision(c.Revision),
		ByDeadline: c.ByDeadline,
	}
}

// poll is Poll for a watch that has begun.
func poll(ctx context.Context, w *Watcher, wait time.Duration, maxBytes int64) (events []store.Event, next store.Revision, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	changes, err := w.Next(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, w.Through(), nil
	case err != nil:
		return nil, 0, err
	}
	bytes := int64(0)
	for i := range changes {
		c := &changes[i]
		if bytes += size(c); i > 0 && bytes > maxBytes {
			return events, store.Revision(c.Revision), nil
		}
		events = append(events, store.Event{
			Type: c.Type, Key: c.Key, Value: c.Value, Revision: store.Revision(c.Revision), ByDeadline: c.ByDeadline,
		})
	}
	return events, w.Through(), nil
}
