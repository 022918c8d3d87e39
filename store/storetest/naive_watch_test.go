package storetest

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"dkv/store"
)

// tell notes what has become of a key. It is remembered for ever.
func (db *naive) tell(typ store.EventType, key string, value []byte, byDeadline bool) {
	db.mu.events = append(db.mu.events, store.Event{
		Type: typ, Key: key, Value: value, Revision: db.mu.revision, ByDeadline: byDeadline,
	})
}

// Watch looks again and again.
func (m *member) Watch(ctx context.Context, w store.Watch) (iter.Seq2[store.Event, error], error) {
	seen := 0 // of the events
	var future bool
	err := m.do(ctx, w.Check(), func(db *naive, _ time.Time) {
		if w.From == 0 {
			w.From = db.mu.revision + 1
		}
		future = w.From > db.mu.revision+1
	})
	if future {
		err = store.ErrFutureRevision
	}
	if err != nil {
		return nil, err
	}
	return func(yield func(store.Event, error) bool) {
		for {
			var events []store.Event
			err := m.do(ctx, nil, func(db *naive, _ time.Time) {
				events = db.mu.events[seen:]
				seen = len(db.mu.events)
			})
			if err != nil {
				yield(store.Event{}, err)
				return
			}
			for _, e := range events {
				if e.Revision < w.From || w.Key != "" && e.Key != w.Key || !strings.HasPrefix(e.Key, w.Prefix) {
					continue
				}
				if e.Type == store.EventSet {
					e.Value = append([]byte{}, e.Value...)
				}
				if !yield(e, nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
				yield(store.Event{}, fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err()))
				return
			case <-time.After(pause):
			}
		}
	}, nil
}
