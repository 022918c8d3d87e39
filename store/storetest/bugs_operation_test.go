package storetest

import (
	"context"
	"runtime"
	"strings"
	"time"

	"dkv/store"
)

// operationBugs are in what an operation does to one key.
var operationBugs = []bug{
	{
		name:     "ExpireClearsTheDeletionDeadline",
		caughtBy: []string{"ExpireKeepsTheDeletionDeadline", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.expire = func(ctx context.Context, key string) error {
				return b.update(ctx, key, func(db *naive, _ time.Time, it *item) {
					if it != nil && !it.expired {
						db.put(key, &item{expired: true})
					}
				})
			}
		},
	},
	{
		name:     "ExpireDeletes",
		caughtBy: []string{"ExpiredKeyIsThereWithoutItsValue", "ExpireKeepsTheDeletionDeadline"},
		plant:    func(b *broken) { b.expire = b.member.Delete }},
	{
		name:     "ExpireDeletesAnExpiredKey",
		caughtBy: []string{"ExpireOfExpiredKeyIsNoError", "ExpireOfAKeyThatExpiredByItselfIsNoError"},
		plant: func(b *broken) {
			b.expire = func(ctx context.Context, key string) error {
				return b.update(ctx, key, func(db *naive, _ time.Time, it *item) {
					if it != nil && it.expired {
						db.remove(key)
					}
					db.expire(key)
				})
			}
		},
	},
	{
		name:     "ExpireOfAMissingKeyMakesOne",
		caughtBy: []string{"ExpireOfMissingKeyIsNoErrorAndMakesNone"},
		plant: func(b *broken) {
			b.expire = func(ctx context.Context, key string) error {
				return b.update(ctx, key, func(db *naive, _ time.Time, it *item) {
					if it == nil {
						db.put(key, &item{expired: true})
					}
					db.expire(key)
				})
			}
		},
	},
	{
		name:     "DeleteOfAMissingKeyFails",
		caughtBy: []string{"DeleteOfMissingKeyIsNoError"},
		plant: func(b *broken) {
			b.delete = func(ctx context.Context, key string) error {
				if ok, err := b.member.Has(ctx, key); err == nil && !ok {
					return errBroken
				}
				return b.member.Delete(ctx, key)
			}
		},
	},
	{
		name:     "DeleteOnlyExpires",
		caughtBy: []string{"DeletedKeyIsGone", "SetEIfUnsetSetsADeletedKey"},
		plant:    func(b *broken) { b.delete = b.member.Expire }},
	{
		name:     "DeleteTakesKeysWithThatPrefix",
		caughtBy: []string{"KeyThatIsAPrefixOfAnotherIsAnother"},
		plant: func(b *broken) {
			b.delete = func(ctx context.Context, key string) error {
				return b.update(ctx, key, func(db *naive, _ time.Time, _ *item) {
					for k := range db.mu.items {
						if k == key || strings.HasPrefix(k, key) && len(k) < len(key)+4 {
							db.remove(k)
						}
					}
				})
			}
		},
	},
	{
		name:     "ExpiredKeysCannotBeSet",
		caughtBy: []string{"SetRevivesAnExpiredKey"},
		plant: func(b *broken) {
			b.set = func(ctx context.Context, key string, value []byte) error {
				if e, _, _ := b.member.GetEntry(ctx, key); e.Expired {
					return nil
				}
				return b.member.Set(ctx, key, value)
			}
		},
	},
	{
		name:     "SetEIfUnsetSetsOverAnExpiredKey",
		caughtBy: []string{"SetEIfUnsetLeavesAnExpiredKeyAlone", "SetEIfUnsetLeavesAKeyThatExpiredByItselfAlone", "AmongManySetEIfUnsetOfAnExpiredKeyNoneWins", "HistoryOfConcurrentOperationsIsLinearizable"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				if e, _, _ := b.member.GetEntry(ctx, key); e.Expired {
					return true, b.member.SetE(ctx, key, value, expireIn, deleteIn)
				}
				return b.member.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
			}
		},
	},
	{
		name:     "SetEIfUnsetAlwaysSets",
		caughtBy: []string{"SetEIfUnsetLeavesASetKeyAlone"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				err := b.member.SetE(ctx, key, value, expireIn, deleteIn)
				return err == nil, err
			}
		},
	},
	{
		name:     "SetEIfUnsetNeverSets",
		caughtBy: []string{"SetEIfUnsetSetsAMissingKey", "SetEIfUnsetSetsADeletedKey"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				return false, b.do(ctx, store.CheckWrite(key, value, expireIn, deleteIn), func(*naive, time.Time) {})
			}
		},
	},
	{
		name:     "SetEIfUnsetLooksAndThenSets",
		caughtBy: []string{"AmongManySetEIfUnsetExactlyOneWins"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				if err := store.CheckWrite(key, value, expireIn, deleteIn); err != nil {
					return false, err
				}
				if ok, err := b.member.Has(ctx, key); ok || err != nil {
					return false, err
				}
				runtime.Gosched()
				err := b.member.SetE(ctx, key, value, expireIn, deleteIn)
				return err == nil, err
			}
		},
	},
	{
		name:     "SetEIfUnsetRenewsWhatIsSet",
		caughtBy: []string{"SetEIfUnsetLeavesAKeyThatExpiredByItselfAlone"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				set, err := b.member.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
				if err != nil || set {
					return set, err
				}
				return false, b.update(ctx, key, func(_ *naive, now time.Time, it *item) {
					if it != nil {
						it.deletes = newItem(nil, now, 0, deleteIn).deletes
					}
				})
			}
		},
	},
	{
		name:     "SetEIfUnsetChecksOnlyWhatItSets",
		caughtBy: []string{"RefusedSetEIfUnsetIsRefusedForASetKeyToo"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				if e, _, _ := b.member.GetEntry(ctx, key); e.Expired && ctx.Err() == nil {
					return false, nil
				}
				return b.member.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
			}
		},
	},
	{
		name:     "HasDoesNotFindExpiredKeys",
		caughtBy: []string{"ExpiredKeyIsThereWithoutItsValue", "ValueGoesAtExpireInAndTheKeyStays"},
		plant: func(b *broken) {
			b.has = func(ctx context.Context, key string) (bool, error) {
				_, ok, err := b.member.Get(ctx, key)
				return ok, err
			}
		},
	},
	{
		name:     "GetFindsExpiredKeys",
		caughtBy: []string{"ExpiredKeyIsThereWithoutItsValue", "ValueGoesAtExpireInAndTheKeyStays"},
		plant: func(b *broken) {
			b.get = func(ctx context.Context, key string) ([]byte, bool, error) {
				e, ok, err := b.member.GetEntry(ctx, key)
				return e.Value, ok, err
			}
		},
	},
	{
		name:     "ReadsFindMissingKeys",
		caughtBy: []string{"ReadingAMissingKeyFindsNothing", "DeletedKeyIsGone"},
		plant: func(b *broken) {
			b.has = func(ctx context.Context, key string) (bool, error) {
				_, err := b.member.Has(ctx, key)
				return err == nil, err
			}
		},
	},
	{
		name:     "ExpiredEntriesKeepTheirValue",
		caughtBy: []string{"ExpiredKeyIsThereWithoutItsValue"},
		plant: func(b *broken) {
			b.entry = func(ctx context.Context, key string) (store.Entry, bool, error) {
				e, ok, err := b.member.GetEntry(ctx, key)
				if e.Expired {
					e.Value = []byte("value")
				}
				return e, ok, err
			}
		},
	},
}
