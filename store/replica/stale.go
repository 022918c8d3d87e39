package replica

import (
	"context"

	"dkv/internal/ops"
	"dkv/store/engine"
)

// The phases of a Store, in which they follow each other. Only a Store that is
// current answers stale reads at once. One that starts has a state that may be
// older than what the same directory has shown before: it applies its log again,
// and does not know how much of that had been committed. The first read barrier
// that gets through tells, since whatever a member has ever shown was committed.
// To know it without a quorum, the index would have to be written to the disk
// before a state is shown, once for each log entry.
const (
	phaseStarting = iota // by the zero value
	phaseCurrent
	phaseClosing
)

// GetStale implements store.Store. While no quorum has answered since Open, it
// waits for one, like Get; afterwards it reads what this member has applied and
// takes no lock.
func (s *Store) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	value, ok, err := s.GetShared(ctx, key)
	if !ok {
		return nil, false, err
	}
	return ops.Clone(value), true, nil
}

// GetShared is GetStale of a value that stays the store's.
func (s *Store) GetShared(ctx context.Context, key string) ([]byte, bool, error) {
	if err := ops.CheckRead(ctx, key); err != nil {
		return nil, false, err
	}
	if s.phase.Load() != phaseCurrent {
		if err := s.current(ctx); err != nil {
			return nil, false, err
		}
	}
	value, ok := s.machine.db.Load().Get(engine.Keys, key)
	return value, ok, nil
}

// current waits until a barrier has been through since Open.
func (s *Store) current(ctx context.Context) error {
	if s.phase.Load() == phaseClosing {
		return s.ending.err()
	}
	return s.barriers.wait(ctx)
}

// get returns a copy of the value of key.
func get(db engine.Engine, key string) ([]byte, bool, error) {
	value, ok := db.Get(engine.Keys, key)
	if !ok {
		return nil, false, nil
	}
	return ops.Clone(value), true, nil
}
