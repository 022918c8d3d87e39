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

// Events is what a watch of keys yields, for one loop. The watch ends with the loop
// or with ctx, be there a loop or not.
func Events(ctx context.Context, w *Watcher) iter.Seq2[store.Event, error] {
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

// Poll waits for some events of a watch from what.From on, for no longer than wait,
// and returns those that take up to maxBytes with the revision to go on from. That
// there are none is no error. If what.From is 0, it does not wait. It ends w.
func Poll(ctx context.Context, w *Watcher, what store.Watch, wait time.Duration, maxBytes int64) (events []store.Event, next store.Revision, err error) {
	defer w.Close()
	if what.From == 0 {
		return nil, w.Through(), nil
	}
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
		events = append(events, event(c))
	}
	return events, w.Through(), nil
}
