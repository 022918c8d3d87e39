package lock

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"time"

	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
)

// Election is a lock whose holder is called the leader, and tells the others
// something of itself. The zero value is of no use; see [Locker.Election].
type Election struct {
	locker *Locker
	key    string
}

// again is how long Observe waits when something could not be read, before it tries
// again.
const again = 100 * time.Millisecond

// Leader is who leads.
type Leader struct {
	Value []byte         // what it campaigned with
	Token store.Revision // the fencing token of its leadership
}

// Election returns the election of a name, which is that of the lock too.
func (l *Locker) Election(name string) Election { return Election{l, name} }

// Campaign waits until the caller is elected; who campaigns first is elected first.
// value is what the others learn, an address for one. The leader resigns by
// Lock.Unlock, and leads no longer when Lock.Done is closed. Errors are those of
// [Locker.Lock].
func (e Election) Campaign(ctx context.Context, value []byte, opts ...Option) (*Lock, error) {
	return e.locker.Lock(ctx, e.key, append(opts[:len(opts):len(opts)], Value(value))...)
}

// Leader returns who leads; ok is false if nobody does. Errors are those of every
// read.
func (e Election) Leader(ctx context.Context) (leader Leader, ok bool, err error) {
	h, ok, err := e.locker.backend.LockHolder(ctx, e.locker.name(e.key))
	if !ok || len(h.Owner) < store.OwnerSize {
		return Leader{}, false, err
	}
	return Leader{Value: h.Owner[store.OwnerSize:], Token: h.Token}, true, nil
}

// Observe yields who leads, and then each later leader, until the loop is left or ctx
// ends, which is an error and the last that is yielded. A leader who did not lead
// for long may be left out, the last one never. When nobody leads, it waits. If it is a
// store in memory behind a server, and is opened anew, who leads there is yielded within
// 10 s.
func (e Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		what := store.Watch{Key: e.locker.name(e.key)}
		var last Leader
		for {
			// First the place in the history, then a look: so nothing is missed.
			next, err := e.locker.changes(ctx, what)
			if err == nil {
				var leader Leader
				var ok bool
				if leader, ok, err = e.Leader(ctx); ok && (leader.Token != last.Token || !bytes.Equal(leader.Value, last.Value)) {
					last = leader
					last.Value = bytes.Clone(leader.Value) // which who has it may change
					if !yield(leader, nil) {
						return
					}
				}
			}
			if store.KindOf(err) == store.KindNotApplied && ctx.Err() == nil {
				what.From = 0 // a server that closes, for one: again
				pause(ctx, again)
				continue
			}
			if err != nil {
				yield(Leader{}, err)
				return
			}
			what.From = next
		}
	}
}

// changes waits for a change of a lock, but not for long, and returns the revision to go on
// from. It does not wait if what.From is 0, or if the history does not go back that far, or
// not up to there: then it is another one. That is not always told, so who waits is to look
// now and then.
func (s *shop) changes(ctx context.Context, what store.Watch) (store.Revision, error) {
	const wait, maxBytes = 10 * time.Second, 64 << 10
	for {
		_, next, err := s.backend.Poll(ctx, engine.Locks, what, wait, maxBytes)
		switch {
		case ctx.Err() != nil:
			return 0, ops.CheckContext(ctx)
		case err == nil:
			return next, nil
		case store.KindOf(err) == store.KindNotApplied:
			pause(ctx, again)
		case errors.Is(err, store.ErrCompacted), errors.Is(err, store.ErrFutureRevision):
			what.From = 0
		default:
			return 0, err
		}
	}
}
