package storetest

import (
	"context"
	"math"
	"time"

	"dkv/store"
)

// timeBugs are in the deadlines.
var timeBugs = []bug{
	{
		name:     "DeadlinesComeATenthEarly",
		caughtBy: []string{"ValueGoesAtExpireInAndTheKeyStays", "KeyGoesAtDeleteIn", "ValueGoesAtExpireInAndTheKeyAtDeleteIn", "ManyStaggeredDeadlinesAreEachKept", "EqualDurationsDelete"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, _ *[]byte, expireIn, deleteIn *time.Duration) {
				*expireIn -= *expireIn / 10
				*deleteIn -= *deleteIn / 10
			})
		},
	},
	{
		name:     "DeadlinesComeAfterHalfTheTime",
		caughtBy: []string{"HistoryWithDeadlinesIsLinearizableAndNeverEarly", "SetEIfUnsetSetsAKeyOnceItsDeadlineHasDeletedIt", "SetESetsDeadlinesOfAPlainKey"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, _ *[]byte, expireIn, deleteIn *time.Duration) { *expireIn /= 2; *deleteIn /= 2 })
		},
	},
	{
		name:     "DeadlinesNeverCome",
		caughtBy: []string{"ValueGoesAtExpireInAndTheKeyStays", "KeyGoesAtDeleteIn", "DeadlinesTakeKeysAndBytesAway", "DeadlinesLeaveTheRevisionOfTheEntry", "DeadlinesTakeOneRevisionOfTheStore"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, _ *[]byte, expireIn, deleteIn *time.Duration) { *expireIn, *deleteIn = 0, 0 })
		},
	},
	{
		name:     "ExpireInAndDeleteInAreSwapped",
		caughtBy: []string{"ValueGoesAtExpireInAndTheKeyStays", "ValueGoesAtExpireInAndTheKeyAtDeleteIn", "ValueExpiresLongBeforeTheKeyGoes"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, _ *[]byte, expireIn, deleteIn *time.Duration) {
				*expireIn, *deleteIn = *deleteIn, *expireIn
			})
		},
	},
	{
		name:     "ExpireInIsNotCut",
		caughtBy: []string{"ExpireInBeyondDeleteInIsCut", "LongestDurationsDoNotOverflow"},
		plant: func(b *broken) {
			b.setE = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
				if err := store.CheckWrite(key, value, expireIn, deleteIn); err != nil || expireIn == 0 {
					return b.member.SetE(ctx, key, value, expireIn, deleteIn)
				}
				return b.update(ctx, key, func(db *naive, now time.Time, _ *item) {
					it := newItem(value, now, 0, deleteIn)
					it.expires = now.Add(min(expireIn, math.MaxInt64/2))
					db.put(key, it)
				})
			}
		},
	},
	{
		name:     "LongDurationsOverflow",
		caughtBy: []string{"LongestDurationsDoNotOverflow", "ValueExpiresLongBeforeTheKeyGoes"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, _ *[]byte, expireIn, deleteIn *time.Duration) {
				for _, d := range []*time.Duration{expireIn, deleteIn} {
					if *d > math.MaxInt64/2 {
						*d = 1
					}
				}
			})
		},
	},
	{
		name:     "ShortDurationsAreTakenForNever",
		caughtBy: []string{"ShortestDurationsPassAtOnce"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, _ *[]byte, expireIn, deleteIn *time.Duration) {
				for _, d := range []*time.Duration{expireIn, deleteIn} {
					if *d > 0 {
						*d = d.Truncate(time.Millisecond)
					}
				}
			})
		},
	},
	{
		name:     "ZeroDurationsAreTakenForNow",
		caughtBy: []string{"ZeroDurationsNeverPass", "SetRemovesDeadlines"},
		plant: func(b *broken) {
			b.setE = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
				if expireIn == 0 && deleteIn == 0 {
					expireIn = 1
				}
				return b.member.SetE(ctx, key, value, expireIn, deleteIn)
			}
		},
	},
	{
		name:     "NegativeDurationsAreTakenForNever",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, _ *[]byte, expireIn, deleteIn *time.Duration) {
				*expireIn, *deleteIn = max(*expireIn, 0), max(*deleteIn, 0)
			})
		},
	},
	{
		name:     "TimesLeftStandStill",
		caughtBy: []string{"TimesLeftBeginAtTheirDurationsAndShrink"},
		plant: func(b *broken) {
			b.entry = func(ctx context.Context, key string) (store.Entry, bool, error) {
				e, ok, err := b.member.GetEntry(ctx, key)
				e.ExpireIn, e.DeleteIn = roundUp(e.ExpireIn), roundUp(e.DeleteIn)
				return e, ok, err
			}
		},
	},
	{
		name:     "TimesLeftAreTooShort",
		caughtBy: []string{"TimesLeftBeginAtTheirDurationsAndShrink"},
		plant: func(b *broken) {
			b.entry = func(ctx context.Context, key string) (store.Entry, bool, error) {
				e, ok, err := b.member.GetEntry(ctx, key)
				e.ExpireIn -= e.ExpireIn / 10
				return e, ok, err
			}
		},
	},
	{
		name:     "SetKeepsDeadlines",
		caughtBy: []string{"SetRemovesDeadlines", "ExpiredKeyIsRevivedWithoutItsDeletionDeadline"},
		plant: func(b *broken) {
			b.set = func(ctx context.Context, key string, value []byte) error {
				if err := store.CheckWrite(key, value, 0, 0); err != nil {
					return err
				}
				return b.update(ctx, key, func(db *naive, now time.Time, old *item) {
					it := newItem(value, now, 0, 0)
					if old != nil {
						it.expires, it.deletes = old.expires, old.deletes
					}
					db.put(key, it)
				})
			}
		},
	},
	{
		name:     "SetEKeepsOldDeadlines",
		caughtBy: []string{"SetESetsDeadlinesOfAPlainKey", "SetERenewsDeadlines", "SetEShortensDeadlines", "SetERevivesAnExpiredKeyWithNewDeadlines"},
		plant: func(b *broken) {
			b.setE = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
				if err := store.CheckWrite(key, value, expireIn, deleteIn); err != nil {
					return err
				}
				return b.update(ctx, key, func(db *naive, now time.Time, old *item) {
					it := newItem(value, now, expireIn, deleteIn)
					if old != nil {
						it.expires, it.deletes = old.expires, old.deletes
					}
					db.put(key, it)
				})
			}
		},
	},
	{
		name:     "OverwrittenDeadlinesComeAllTheSame",
		caughtBy: []string{"OverwrittenDeadlinesDoNotPileUp"},
		plant: func(b *broken) {
			b.setE = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
				if expireIn > 0 && deleteIn == 0 {
					time.AfterFunc(expireIn, func() { b.member.Expire(context.Background(), key) })
				}
				return b.member.SetE(ctx, key, value, expireIn, deleteIn)
			}
		},
	},
	{
		name:     "DeleteLeavesDeadlinesBehind",
		caughtBy: []string{"DeletedKeyLeavesNoDeadlinesToTheNext"},
		plant: func(b *broken) {
			b.delete = func(ctx context.Context, key string) error {
				e, _, _ := b.member.GetEntry(ctx, key)
				if e.DeleteIn > 0 && e.DeleteIn < time.Minute {
					time.AfterFunc(e.DeleteIn, func() { b.member.Delete(context.Background(), key) })
				}
				return b.member.Delete(ctx, key)
			}
		},
	},
}

func roundUp(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return (d + 30*time.Second - 1) / (30 * time.Second) * (30 * time.Second)
}
