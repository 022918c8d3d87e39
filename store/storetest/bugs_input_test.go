package storetest

import (
	"context"
	"errors"
	"strings"
	"time"

	"dkv/store"
)

// inputBugs are in keys, values, limits, contexts and errors.
var inputBugs = []bug{
	{
		name:     "MemoryOfTheStoreIsReturned",
		caughtBy: []string{"SlicesReturnedBelongToTheCaller"},
		plant: func(b *broken) {
			b.get = func(ctx context.Context, key string) (value []byte, ok bool, err error) {
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
		name:     "MemoryOfTheCallerIsKept",
		caughtBy: []string{"SlicesPassedInAreCopied"},
		plant: func(b *broken) {
			b.set = func(ctx context.Context, key string, value []byte) error {
				if err := store.CheckWrite(key, value, 0, 0); err != nil {
					return err
				}
				return b.update(ctx, key, func(db *naive, _ time.Time, _ *item) { db.put(key, &item{value: value}) })
			}
		},
	},
	{
		name:     "EmptyValuesAreReturnedAsNil",
		caughtBy: []string{"EmptyAndNilValuesAreFoundAsEmptySlices"},
		plant: func(b *broken) {
			b.get = func(ctx context.Context, key string) ([]byte, bool, error) {
				v, ok, err := b.member.Get(ctx, key)
				return append([]byte(nil), v...), ok, err
			}
		},
	},
	{
		name:     "ValuesEndAtANUL",
		caughtBy: []string{"ValuesMayHoldAnyBytes"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, value *[]byte, _, _ *time.Duration) {
				cut, _, _ := strings.Cut(string(*value), "\x00")
				*value = []byte(cut)
			})
		},
	},
	{
		name:     "KeysEndAtANUL",
		caughtBy: []string{"KeysMayHoldAnyBytes"},
		plant: func(b *broken) {
			b.onKey(func(key string) string {
				if i := strings.IndexByte(key, 0); i > 0 {
					return key[:i]
				}
				return key
			})
		},
	},
	{
		name:     "KeysAreMadeValidUTF8",
		caughtBy: []string{"KeysMayHoldAnyBytes"},
		plant: func(b *broken) {
			b.onKey(func(key string) string { return strings.ToValidUTF8(key, "\ufffd") })
		},
	},
	{
		name:     "EmptyKeyIsAKey",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing"},
		plant: func(b *broken) {
			b.has = func(ctx context.Context, key string) (bool, error) {
				if key == "" {
					return false, nil
				}
				return b.member.Has(ctx, key)
			}
		},
	},
	{
		name:     "KeyLimitIsOneLess",
		caughtBy: []string{"KeysAndValuesAtTheirLimitsAreTaken"},
		plant: func(b *broken) {
			b.delete = func(ctx context.Context, key string) error {
				if len(key) == store.MaxKeySize {
					return store.ErrKeyTooLarge
				}
				return b.member.Delete(ctx, key)
			}
		},
	},
	{
		name:     "KeyLimitIsOneMore",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing"},
		plant: func(b *broken) {
			b.onKey(func(key string) string {
				if len(key) == store.MaxKeySize+1 {
					return key[1:]
				}
				return key
			})
		},
	},
	{
		name:     "ValueLimitIsOneMore",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, value *[]byte, _, _ *time.Duration) {
				if len(*value) == store.MaxValueSize+1 {
					*value = (*value)[1:]
				}
			})
		},
	},
	{
		name:     "ValueLimitIsOneLess",
		caughtBy: []string{"KeysAndValuesAtTheirLimitsAreTaken"},
		plant: func(b *broken) {
			b.onPut(func(_ *string, value *[]byte, _, _ *time.Duration) {
				if len(*value) == store.MaxValueSize {
					*value = make([]byte, store.MaxValueSize+1)
				}
			})
		},
	},
	{
		name:     "ErrorsAreOfNoKind",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing", "CancelledContextKeepsEveryOperationFromBeginning", "ClosedStoreRefusesEveryOperation"},
		plant: func(b *broken) {
			b.expire = func(ctx context.Context, key string) error {
				if err := b.member.Expire(ctx, key); err != nil {
					return errors.New(err.Error())
				}
				return nil
			}
		},
	},
	{
		name:     "RefusedWritesAreWrittenAllTheSame",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing"},
		plant: func(b *broken) {
			b.setE = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
				err := b.member.SetE(ctx, key, value, expireIn, deleteIn)
				if errors.Is(err, store.ErrBadDuration) {
					b.member.SetE(ctx, key, value, 0, 0)
				}
				return err
			}
		},
	},
	{
		name:     "EndedContextIsIgnored",
		caughtBy: []string{"CancelledContextKeepsEveryOperationFromBeginning", "PassedDeadlineKeepsEveryOperationFromBeginning"},
		plant: func(b *broken) {
			b.get = func(ctx context.Context, key string) ([]byte, bool, error) {
				return b.member.Get(context.WithoutCancel(ctx), key)
			}
		},
	},
	{
		name:     "EndedContextIsNotNamed",
		caughtBy: []string{"CancelledContextKeepsEveryOperationFromBeginning", "PassedDeadlineKeepsEveryOperationFromBeginning"},
		plant: func(b *broken) {
			b.get = func(ctx context.Context, key string) ([]byte, bool, error) {
				if ctx.Err() != nil {
					return nil, false, store.ErrUnavailable
				}
				return b.member.Get(ctx, key)
			}
		},
	},
	{
		name:     "WhatEndedBeforeItBeganIsDone",
		caughtBy: []string{"CancelledContextKeepsEveryOperationFromBeginning", "WhatChangesNothingTakesNoRevision"},
		plant: func(b *broken) {
			b.delete = func(ctx context.Context, key string) error {
				if err := b.member.Delete(ctx, key); err != nil {
					b.member.Delete(context.WithoutCancel(ctx), key)
					return err
				}
				return nil
			}
		},
	},
	{
		name:     "WhatWasDoneIsSaidNotToBe",
		caughtBy: []string{"ImpatientCallersAreToldTheTruth"},
		plant: func(b *broken) {
			b.set = func(ctx context.Context, key string, value []byte) error {
				err := b.member.Set(ctx, key, value)
				if end, ok := ctx.Deadline(); err == nil && ok && time.Until(end) < time.Second {
					return store.ErrUnavailable
				}
				return err
			}
		},
	},
}
