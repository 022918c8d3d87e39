package storetest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

// staleBugs are in GetStale.
var staleBugs = []bug{
	{
		name:     "StaleReadsAreBehindTheirMember",
		caughtBy: []string{"StaleReadSeesWhatItsMemberHasDone", "StaleReadNeverGoesBack", "WhatIsSetIsFound"},
		plant:    func(b *broken) { b.stale = behind(b.member.Get, 2*time.Millisecond) },
	},
	{
		name:     "StaleReadsAreSometimesOlder",
		caughtBy: []string{"StaleReadNeverGoesBack"},
		plant: func(b *broken) {
			var n atomic.Int64
			old := behind(b.member.Get, 5*time.Millisecond)
			b.stale = func(ctx context.Context, key string) ([]byte, bool, error) {
				if n.Add(1)%3 == 0 {
					return old(ctx, key)
				}
				return b.member.Get(ctx, key)
			}
		},
	},
	{
		name:     "StaleReadsSeeOnlyWhatTheirMemberHasDone",
		caughtBy: []string{"StaleReadSoonSeesWhatOthersHaveDone"},
		plant: func(b *broken) {
			var mine sync.Map
			b.set = func(ctx context.Context, key string, value []byte) error {
				err := b.member.Set(ctx, key, value)
				if err == nil {
					mine.Store(key, string(value))
				}
				return err
			}
			b.stale = func(ctx context.Context, key string) ([]byte, bool, error) {
				if v, ok := mine.Load(key); ok {
					return []byte(v.(string)), true, nil
				}
				return nil, false, nil
			}
		},
	},
	{
		name:     "StaleReadsFindWhatWasNeverWritten",
		caughtBy: []string{"ReadingAMissingKeyFindsNothing", "DeletedKeyIsGone"},
		plant: func(b *broken) {
			b.stale = func(ctx context.Context, key string) ([]byte, bool, error) {
				v, _, err := b.member.Get(ctx, key)
				return v, err == nil, err
			}
		},
	},
	{
		name:     "StaleReadsFindExpiredKeys",
		caughtBy: []string{"ExpiredKeyIsThereWithoutItsValue", "StaleReadSeesWhatItsMemberHasDone"},
		plant: func(b *broken) {
			b.stale = func(ctx context.Context, key string) ([]byte, bool, error) {
				e, ok, err := b.member.GetEntry(ctx, key)
				return e.Value, ok, err
			}
		},
	},
	{
		name:     "StaleReadsReturnEmptyValuesAsNil",
		caughtBy: []string{"EmptyAndNilValuesAreFoundAsEmptySlices"},
		plant: func(b *broken) {
			b.stale = func(ctx context.Context, key string) ([]byte, bool, error) {
				v, ok, err := b.member.Get(ctx, key)
				return append([]byte(nil), v...), ok, err
			}
		},
	},
	{
		name:     "StaleReadsReturnTheMemoryOfTheStore",
		caughtBy: []string{"SlicesReturnedBelongToTheCaller"},
		plant: func(b *broken) {
			b.stale = func(ctx context.Context, key string) (value []byte, ok bool, err error) {
				err = b.update(ctx, key, func(_ *naive, _ time.Time, it *item) {
					if ok = it != nil && !it.expired; ok {
						value = append(it.value, ""...)
					}
				})
				return value, ok, err
			}
		},
	},
	{
		name:     "StaleReadsTakeAnyKey",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing"},
		plant: func(b *broken) {
			b.stale = func(ctx context.Context, key string) ([]byte, bool, error) {
				if store.CheckKey(key) != nil {
					return nil, false, nil
				}
				return b.member.Get(ctx, key)
			}
		},
	},
	{
		name:     "StaleReadsDoNotLookAtTheContext",
		caughtBy: []string{"CancelledContextKeepsEveryOperationFromBeginning", "PassedDeadlineKeepsEveryOperationFromBeginning"},
		plant: func(b *broken) {
			b.stale = func(ctx context.Context, key string) ([]byte, bool, error) {
				return b.member.Get(context.WithoutCancel(ctx), key)
			}
		},
	},
	{
		name:     "ClosedStoreAnswersStaleReads",
		caughtBy: []string{"ClosedStoreRefusesEveryOperation"},
		plant: func(b *broken) {
			b.stale = func(_ context.Context, key string) (value []byte, ok bool, err error) {
				b.naive.do(func(db *naive, _ time.Time) {
					if it := db.mu.items[key]; it != nil && !it.expired {
						value, ok = append([]byte{}, it.value...), true
					}
				})
				return value, ok, nil
			}
		},
	},
}

// behind returns a Get that shows what was there up to lag ago.
func behind(get func(context.Context, string) ([]byte, bool, error), lag time.Duration) func(context.Context, string) ([]byte, bool, error) {
	type cached struct {
		value []byte
		ok    bool
		at    time.Time
	}
	var mu sync.Mutex
	cache := make(map[string]cached)
	return func(ctx context.Context, key string) ([]byte, bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if c, ok := cache[key]; ok && time.Since(c.at) < lag {
			return append([]byte{}, c.value...), c.ok, nil
		}
		v, ok, err := get(ctx, key)
		if err == nil {
			cache[key] = cached{append([]byte{}, v...), ok, time.Now()}
		}
		return v, ok, err
	}
}
