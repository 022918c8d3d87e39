package storetest

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strconv"
	"time"

	"dkv/store"
)

// conditionBugs are in CompareAndSet and CompareAndDelete.
var conditionBugs = []bug{
	{
		name: "CompareAndSetComparesNothing",
		caughtBy: []string{
			"CompareAndSetLeavesAKeyOfAnotherRevisionAlone", "CompareAndSetSetsNoMissingKeyOfSomeRevision",
			"HistoryOfConditionalWritesIsLinearizable", "RandomWalkAgreesWithAMap",
		},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, _, next *item, _ store.Revision) (store.Revision, bool) {
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "CompareAndSetTakesZeroForAnything",
		caughtBy: []string{"CompareAndSetLeavesAKeyOfAnotherRevisionAlone", "AmongManyWhoCompareARevisionExactlyOneWins"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				if at := db.revisionOf(key); rev != 0 && at != rev {
					return at, false
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "CompareAndSetTakesAnExpiredKeyForMissing",
		caughtBy: []string{"CompareAndSetSetsAKeyThatHasTheRevision", "CompareAndSetLeavesAKeyOfAnotherRevisionAlone", "DeadlinesLeaveTheRevisionThatIsCompared"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				at := db.revisionOf(key)
				if it != nil && it.expired {
					at = 0
				}
				if at != rev {
					return at, false
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "CompareAndSetOfAMissingKeyIgnoresTheRevision",
		caughtBy: []string{"CompareAndSetSetsNoMissingKeyOfSomeRevision", "KeyThatItsDeadlineDeletesHasNoRevisionToCompare"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				if it != nil && it.revision != rev {
					return it.revision, false
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "CompareAndSetReturnsNoRevisionIfItSetsNothing",
		caughtBy: []string{"CompareAndSetLeavesAKeyOfAnotherRevisionAlone", "AmongManyWhoCompareARevisionExactlyOneWins", "HistoryOfConditionalWritesIsLinearizable"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				if db.revisionOf(key) != rev {
					return 0, false
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name: "CompareAndSetReturnsTheRevisionBefore",
		caughtBy: []string{
			"CompareAndSetSetsAKeyThatHasTheRevision", "HistoryOfConditionalWritesIsLinearizable", "HistoryOfConditionalWritesWithDeadlinesIsLinearizable",
			"ConditionalWritesTakeOneRevisionForEachChange",
		},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				at := db.revisionOf(key)
				if at != rev {
					return at, false
				}
				db.put(key, next)
				return at, true
			})
		},
	},
	{
		name:     "CompareAndSetKeepsOldDeadlines",
		caughtBy: []string{"CompareAndSetRemovesDeadlines", "CompareAndSetSetsDeadlines"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				if at := db.revisionOf(key); at != rev {
					return at, false
				}
				if it != nil {
					next.expires, next.deletes = it.expires, it.deletes
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "CompareAndSetRenewsDeadlinesOfWhatItDoesNotSet",
		caughtBy: []string{"CompareAndSetLeavesAKeyOfAnotherRevisionAlone"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				if at := db.revisionOf(key); at != rev {
					if it != nil {
						it.deletes = next.deletes
					}
					return at, false
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "CompareAndSetLooksAndThenSets",
		caughtBy: []string{"CountingByCompareAndSetLosesNothing", "AmongManyWhoCompareARevisionExactlyOneWins"},
		plant: func(b *broken) {
			b.cas = func(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
				if e, _, err := b.member.GetEntry(ctx, key); e.Revision != rev || err != nil {
					return e.Revision, false, err
				}
				runtime.Gosched()
				if err := b.member.SetE(ctx, key, value, expireIn, deleteIn); err != nil {
					return 0, false, err
				}
				e, _, err := b.member.GetEntry(ctx, key)
				return e.Revision, err == nil, err
			}
		},
	},
	{
		name:     "CompareAndSetOfWhatIsThereTakesNoRevision",
		caughtBy: []string{"CompareAndSetSetsAKeyThatHasTheRevision"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				if at := db.revisionOf(key); at != rev {
					return at, false
				}
				if it != nil && string(it.value) == string(next.value) && !it.expired {
					return it.revision, true
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "CompareAndSetThatSetsNothingTakesARevision",
		caughtBy: []string{"ConditionalWritesTakeOneRevisionForEachChange", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				if at := db.revisionOf(key); at != rev {
					db.mu.revision++
					return at, false
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "DeadlinesRaiseTheRevisionThatIsCompared",
		caughtBy: []string{"DeadlinesLeaveTheRevisionThatIsCompared"},
		plant: func(b *broken) {
			b.onCompare(func(db *naive, key string, it, next *item, rev store.Revision) (store.Revision, bool) {
				at := db.revisionOf(key)
				if it != nil && it.expired {
					at++
				}
				if at != rev {
					return at, false
				}
				db.put(key, next)
				return db.mu.revision, true
			})
		},
	},
	{
		name:     "WhatCompareAndSetHasDoneIsSaidNotToBe",
		caughtBy: []string{"ImpatientCallersOfConditionalWritesAreToldTheTruth"},
		plant: func(b *broken) {
			b.cas = func(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
				now, ok, err := b.member.CompareAndSet(ctx, key, rev, value, expireIn, deleteIn)
				if end, impatient := ctx.Deadline(); ok && impatient && time.Until(end) < time.Second {
					return 0, false, store.ErrUnavailable
				}
				return now, ok, err
			}
		},
	},
	{
		name:     "CompareAndSetIsEarlyWithDeadlines",
		caughtBy: []string{"CompareAndSetSetsDeadlines"},
		plant: func(b *broken) {
			b.cas = func(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
				return b.member.CompareAndSet(ctx, key, rev, value, expireIn/4, deleteIn/4)
			}
		},
	},
	{
		name:     "RefusedCompareAndSetReturnsARevision",
		caughtBy: []string{"BadInputIsRefusedByEveryOperationAndChangesNothing", "CancelledContextKeepsEveryOperationFromBeginning", "ClosedStoreRefusesEveryOperation"},
		plant: func(b *broken) {
			b.cas = func(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
				now, ok, err := b.member.CompareAndSet(ctx, key, rev, value, expireIn, deleteIn)
				return now, ok || err != nil, err
			}
		},
	},
	{
		name:     "CompareAndDeleteTakesZeroForAnything",
		caughtBy: []string{"CompareAndDeleteLeavesAKeyOfAnotherRevisionAlone"},
		plant: func(b *broken) {
			b.cad = func(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
				if rev == 0 {
					e, _, err := b.member.GetEntry(ctx, key)
					if rev = e.Revision; err != nil {
						return 0, false, err
					}
				}
				return b.member.CompareAndDelete(ctx, key, rev)
			}
		},
	},
	{
		name:     "CompareAndDeleteOfAMissingKeyIsDone",
		caughtBy: []string{"CompareAndDeleteOfAMissingKeyDeletesNothing"},
		plant: func(b *broken) {
			b.cad = func(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
				now, ok, err := b.member.CompareAndDelete(ctx, key, rev)
				return now, ok || now == 0 && err == nil, err
			}
		},
	},
	{
		name:     "CompareAndDeleteReturnsTheRevisionBefore",
		caughtBy: []string{"CompareAndDeleteDeletesAKeyThatHasTheRevision", "DeadlinesLeaveTheRevisionThatIsCompared"},
		plant: func(b *broken) {
			b.cad = func(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
				now, ok, err := b.member.CompareAndDelete(ctx, key, rev)
				if ok {
					now = rev
				}
				return now, ok, err
			}
		},
	},
	{
		name:     "CompareAndDeleteOnlyExpires",
		caughtBy: []string{"CompareAndDeleteDeletesAKeyThatHasTheRevision", "ConditionalWritesCountInInfo"},
		plant: func(b *broken) {
			b.cad = func(ctx context.Context, key string, rev store.Revision) (now store.Revision, ok bool, err error) {
				err = b.update(ctx, key, func(db *naive, _ time.Time, it *item) {
					if now = db.revisionOf(key); now == rev && now != 0 {
						db.put(key, &item{expired: true})
						now, ok = db.mu.revision, true
					}
				})
				return now, ok, err
			}
		},
	},
}

// addBugs are in Add.
var addBugs = []bug{
	{
		name:     "AddLosesDeadlines",
		caughtBy: []string{"AddKeepsDeadlinesThatHaveNotCome", "AddToAnExpiredKeyKeepsItsDeletionDeadline", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onAdd(func(_, next *item) { next.expires, next.deletes = time.Time{}, time.Time{} })
		},
	},
	{
		name:     "AddRenewsDeadlines",
		caughtBy: []string{"AddKeepsDeadlinesThatHaveNotCome"},
		plant: func(b *broken) {
			b.onAdd(func(_, next *item) {
				if !next.expires.IsZero() {
					next.expires = next.expires.Add(time.Hour)
				}
			})
		},
	},
	{
		name:     "AddToAnExpiredKeyLosesItsDeletionDeadline",
		caughtBy: []string{"AddToAnExpiredKeyKeepsItsDeletionDeadline"},
		plant: func(b *broken) {
			b.onAdd(func(old, next *item) {
				if old != nil && old.expired {
					next.expires, next.deletes = time.Time{}, time.Time{}
				}
			})
		},
	},
	{
		name:     "AddWrapsAround",
		caughtBy: []string{"AddRefusesASumOutOfRange"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				sum, rev, err := b.member.Add(ctx, key, delta)
				if !errors.Is(err, store.ErrOutOfRange) {
					return sum, rev, err
				}
				v, _, _ := b.member.Get(ctx, key)
				n, _ := strconv.ParseInt(string(v), 10, 64)
				b.member.Set(ctx, key, strconv.AppendInt(nil, n+delta, 10))
				e, _, err := b.member.GetEntry(ctx, key)
				return n + delta, e.Revision, err
			}
		},
	},
	{
		name:     "AddStopsAtTheGreatestNumber",
		caughtBy: []string{"AddRefusesASumOutOfRange"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				sum, rev, err := b.member.Add(ctx, key, delta)
				if errors.Is(err, store.ErrOutOfRange) {
					return math.MaxInt64, rev, nil
				}
				return sum, rev, err
			}
		},
	},
	{
		name:     "AddChangesWhatItRefuses",
		caughtBy: []string{"AddRefusesWhatIsNotANumber", "ConditionalWritesTakeOneRevisionForEachChange"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				sum, rev, err := b.member.Add(ctx, key, delta)
				if errors.Is(err, store.ErrNotNumber) {
					b.member.Set(ctx, key, []byte("0"))
				}
				return sum, rev, err
			}
		},
	},
	{
		name:     "AddTakesTextForZero",
		caughtBy: []string{"AddRefusesWhatIsNotANumber"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				sum, rev, err := b.member.Add(ctx, key, delta)
				if errors.Is(err, store.ErrNotNumber) {
					b.member.Set(ctx, key, []byte("0"))
					return b.member.Add(ctx, key, delta)
				}
				return sum, rev, err
			}
		},
	},
	{
		name:     "AddOfAMissingKeyFails",
		caughtBy: []string{"AddOfAMissingKeyCountsFromZero", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				if ok, err := b.member.Has(ctx, key); err == nil && !ok {
					return 0, 0, store.ErrNotNumber
				}
				return b.member.Add(ctx, key, delta)
			}
		},
	},
	{
		name:     "AddOfAnExpiredKeyFails",
		caughtBy: []string{"AddOfAnExpiredKeyCountsFromZero", "AddToAnExpiredKeyKeepsItsDeletionDeadline"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				if e, _, _ := b.member.GetEntry(ctx, key); e.Expired {
					return 0, 0, store.ErrNotNumber
				}
				return b.member.Add(ctx, key, delta)
			}
		},
	},
	{
		name:     "AddIsOfThirtyTwoBits",
		caughtBy: []string{"AddAddsToADecimalNumber", "AddOfAMissingKeyCountsFromZero"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				return b.member.Add(ctx, key, int64(int32(delta)))
			}
		},
	},
	{
		name:     "AddReturnsTheNumberBefore",
		caughtBy: []string{"AddAddsToADecimalNumber", "ConcurrentAddsLoseNothing"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				sum, rev, err := b.member.Add(ctx, key, delta)
				if err == nil {
					sum -= delta
				}
				return sum, rev, err
			}
		},
	},
	{
		name:     "AddReadsAndThenSets",
		caughtBy: []string{"ConcurrentAddsLoseNothing"},
		plant: func(b *broken) {
			b.add = func(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
				e, _, err := b.member.GetEntry(ctx, key)
				if err != nil {
					return 0, 0, err
				}
				runtime.Gosched()
				n, _ := strconv.ParseInt(string(e.Value), 10, 64)
				if err := b.member.Set(ctx, key, strconv.AppendInt(nil, n+delta, 10)); err != nil {
					return 0, 0, err
				}
				e, _, err = b.member.GetEntry(ctx, key)
				return n + delta, e.Revision, err
			}
		},
	},
}

// onAdd has f change what becomes of a key that Add adds to.
func (b *broken) onAdd(f func(old, next *item)) {
	b.add = func(ctx context.Context, key string, delta int64) (sum int64, rev store.Revision, err error) {
		bad := b.update(ctx, key, func(db *naive, _ time.Time, old *item) {
			if sum, err = db.add(key, delta); err == nil {
				rev = db.mu.revision
				f(old, db.mu.items[key])
			}
		})
		return sum, rev, errors.Join(bad, err)
	}
}
