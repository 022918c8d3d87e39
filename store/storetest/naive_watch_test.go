package storetest

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"dkv/store"
)

// remembered is how many bytes of changes can be watched later.
const remembered = 16 << 20

// history is all that ever happened. Of that, what comes before first counts as
// forgotten.
type history struct {
	events []store.Event
	first  int
	bytes  int // of keys and values from first on
}

// tell notes what has become of a key.
func (db *naive) tell(typ store.EventType, key string, value []byte, byDeadline bool) {
	h := &db.mu.history
	h.events = append(h.events, store.Event{
		Type: typ, Key: key, Value: value, Revision: db.mu.revision, ByDeadline: byDeadline,
	})
	for h.bytes += len(key) + len(value); h.bytes > remembered; h.first++ {
		h.bytes -= len(h.events[h.first].Key) + len(h.events[h.first].Value)
	}
}

// isOf tells whether the event is one that the watch yields.
func isOf(w store.Watch, e store.Event) bool {
	return e.Revision >= w.From && (w.Key == "" || e.Key == w.Key) && strings.HasPrefix(e.Key, w.Prefix)
}

// Watch looks again and again.
func (m *member) Watch(ctx context.Context, w store.Watch) (iter.Seq2[store.Event, error], error) {
	seen := 0 // of the events
	var refused error
	err := m.do(ctx, w.Check(), func(db *naive, _ time.Time) {
		h := &db.mu.history
		switch {
		case w.From == 0:
			w.From = db.mu.revision + 1
			seen = len(h.events)
		case w.From > db.mu.revision+1:
			refused = store.ErrFutureRevision
		case h.first > 0 && w.From <= h.events[h.first-1].Revision:
			refused = store.ErrCompacted
		default:
			seen = h.first
		}
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, err
	}
	m.watches.Add(1)
	end := sync.OnceFunc(func() { m.watches.Add(-1) })
	stop := context.AfterFunc(ctx, end)
	return func(yield func(store.Event, error) bool) {
		defer end()
		defer stop()
		for {
			const few = 16
			var events []store.Event
			var more bool
			var missed error
			err := m.do(ctx, nil, func(db *naive, _ time.Time) {
				h := &db.mu.history
				for ; seen < h.first; seen++ {
					if isOf(w, h.events[seen]) {
						missed = store.ErrCompacted
					}
				}
				// A few at a time: a loop that stands still has not been given the
				// rest yet, and may find it forgotten.
				events = h.events[seen:min(seen+few, len(h.events))]
				seen += len(events)
				more = seen < len(h.events)
			})
			if err == nil {
				err = missed
			}
			if err != nil {
				yield(store.Event{}, err)
				return
			}
			for _, e := range events {
				if !isOf(w, e) {
					continue
				}
				if e.Type == store.EventSet {
					e.Value = append([]byte{}, e.Value...)
				}
				if !yield(e, nil) {
					return
				}
			}
			if more {
				continue
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
