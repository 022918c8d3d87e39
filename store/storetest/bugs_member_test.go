package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"dkv/store"
)

// memberBugs are in revisions, in what members see, in Info and in Close.
var memberBugs = []bug{
	{
		name:     "NothingTakesARevision",
		caughtBy: []string{"WhatChangesNothingTakesNoRevision", "EachChangeTakesTheNextRevision", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.delete = func(ctx context.Context, key string) error {
				return b.update(ctx, key, func(db *naive, _ time.Time, _ *item) {
					db.remove(key)
					db.mu.revision++
				})
			}
		},
	},
	{
		name:     "RefusedSetEIfUnsetTakesARevision",
		caughtBy: []string{"WhatChangesNothingTakesNoRevision", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				set, err := b.member.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
				if err == nil && !set {
					err = b.update(ctx, key, func(db *naive, _ time.Time, _ *item) { db.mu.revision++ })
				}
				return set, err
			}
		},
	},
	{
		name:     "SetOfTheSameValueTakesNoRevision",
		caughtBy: []string{"EachChangeTakesTheNextRevision", "RevisionOfAKeyOnlyRises"},
		plant: func(b *broken) {
			b.set = func(ctx context.Context, key string, value []byte) error {
				e, ok, err := b.member.GetEntry(ctx, key)
				if err == nil && ok && !e.Expired && e.ExpireIn+e.DeleteIn == 0 && string(e.Value) == string(value) {
					return nil
				}
				return b.member.Set(ctx, key, value)
			}
		},
	},
	{
		name:     "DeadlinesChangeTheRevisionOfTheEntry",
		caughtBy: []string{"DeadlinesLeaveTheRevisionOfTheEntry"},
		plant: func(b *broken) {
			b.entry = func(ctx context.Context, key string) (store.Entry, bool, error) {
				e, ok, err := b.member.GetEntry(ctx, key)
				if e.Expired {
					e.Revision++
				}
				return e, ok, err
			}
		},
	},
	{
		name:     "EachMemberCountsItsOwnRevisions",
		caughtBy: []string{"EachChangeTakesTheNextRevision"},
		plant: func(b *broken) {
			var own atomic.Uint64
			b.entry = func(ctx context.Context, key string) (store.Entry, bool, error) {
				e, ok, err := b.member.GetEntry(ctx, key)
				if ok {
					e.Revision = store.Revision(own.Add(1))
				}
				return e, ok, err
			}
		},
	},
	{
		name:     "ReadsAreSometimesStale",
		caughtBy: []string{"WriteThatHasReturnedIsSeenByEveryMember", "HistoryOfReadsAndSetsIsLinearizable"},
		plant:    func(b *broken) { b.get = behind(b.member.Get, 2*time.Millisecond) },
	},
	{
		name:     "SomeWritesAreLost",
		caughtBy: []string{"ManyCallersKeepTheirKeysApart", "ManyKeysAreCounted", "HistoryOfReadsAndSetsIsLinearizable"},
		plant: func(b *broken) {
			var n atomic.Int64
			b.set = func(ctx context.Context, key string, value []byte) error {
				if n.Add(1)%20 == 0 {
					return ctx.Err()
				}
				return b.member.Set(ctx, key, value)
			}
		},
	},
	{
		name:     "WritesReturnBeforeTheyAreDone",
		caughtBy: []string{"WhatIsSetIsFound", "SetHasNoDeadlines", "WriteThatHasReturnedIsSeenByEveryMember"},
		plant: func(b *broken) {
			b.set = func(ctx context.Context, key string, value []byte) error {
				if err := store.CheckWrite(key, value, 0, 0); err != nil || ctx.Err() != nil {
					return b.member.Set(ctx, key, value)
				}
				value = append([]byte{}, value...)
				time.AfterFunc(time.Millisecond, func() { b.member.Set(context.Background(), key, value) })
				return nil
			}
		},
	},
	{
		name:     "OneCallersKeysAreMistakenForAnothers",
		caughtBy: []string{"ManyCallersKeepTheirKeysApart"},
		plant: func(b *broken) {
			b.onKey(func(key string) string { return strings.Replace(key, "/11-", "/10-", 1) })
		},
	},
	{
		name:     "InfoDoesNotCountExpiredKeys",
		caughtBy: []string{"KeysAndBytesAreThoseOfWhatIsThere", "DeadlinesTakeKeysAndBytesAway"},
		plant: func(b *broken) {
			b.info = func(ctx context.Context) (info store.Info, err error) {
				info, err = b.member.Info(ctx)
				b.naive.do(func(db *naive, _ time.Time) {
					for _, it := range db.mu.items {
						if it.expired {
							info.Keys--
						}
					}
				})
				return info, err
			}
		},
	},
	{
		name:     "InfoForgetsTheBytesOfKeys",
		caughtBy: []string{"KeysAndBytesAreThoseOfWhatIsThere", "ManyKeysAreCounted"},
		plant: func(b *broken) {
			b.info = func(ctx context.Context) (info store.Info, err error) {
				info, err = b.member.Info(ctx)
				info.Bytes /= 2
				return info, err
			}
		},
	},
	{
		name:     "InfoHasNoMode",
		caughtBy: []string{"InfoTellsWhatTheStoreIs"},
		plant: func(b *broken) {
			b.info = func(ctx context.Context) (info store.Info, err error) {
				info, err = b.member.Info(ctx)
				info.Mode = ""
				return info, err
			}
		},
	},
	{
		name:     "InfoShowsItsMemberBehind",
		caughtBy: []string{"ProgressTellsHowFarEachMemberIs"},
		plant: func(b *broken) {
			b.onProgress(func(info *store.Info) { info.Progress[info.Node]-- })
		},
	},
	{
		name:     "InfoShowsOthersStandStill",
		caughtBy: []string{"ProgressTellsHowFarEachMemberIs"},
		plant: func(b *broken) {
			b.onProgress(func(info *store.Info) {
				for name := range info.Progress {
					if name != info.Node {
						info.Progress[name] = 1
					}
				}
			})
		},
	},
	{
		name:     "InfoShowsOthersAhead",
		caughtBy: []string{"ProgressTellsHowFarEachMemberIs"},
		plant: func(b *broken) {
			b.onProgress(func(info *store.Info) {
				for name := range info.Progress {
					if name != info.Node {
						info.Progress[name] += 1000
					}
				}
			})
		},
	},
	{
		name:     "InfoShowsTheProgressOfStrangers",
		caughtBy: []string{"ProgressTellsHowFarEachMemberIs"},
		plant: func(b *broken) {
			b.onProgress(func(info *store.Info) { info.Progress["stranger"] = 1 })
		},
	},
	{
		name:     "SizeNeverFalls",
		caughtBy: []string{"SizeFollowsWhatIsThere"},
		plant: func(b *broken) {
			var most atomic.Int64
			b.info = func(ctx context.Context) (store.Info, error) {
				info, err := b.member.Info(ctx)
				for old := most.Load(); old < info.Size && !most.CompareAndSwap(old, info.Size); old = most.Load() {
				}
				info.Size = most.Load()
				return info, err
			}
		},
	},
	{
		name:     "SizeLeavesOutValues",
		caughtBy: []string{"SizeFollowsWhatIsThere"},
		plant: func(b *broken) {
			b.info = func(ctx context.Context) (store.Info, error) {
				info, err := b.member.Info(ctx)
				info.Size = 100 * info.Keys
				return info, err
			}
		},
	},
	{
		name:     "EachMemberReckonsItsOwnSize",
		caughtBy: []string{"SizeFollowsWhatIsThere"},
		plant: func(b *broken) {
			own := rand.Int64N(1000)
			b.info = func(ctx context.Context) (store.Info, error) {
				info, err := b.member.Info(ctx)
				info.Size += own
				return info, err
			}
		},
	},
	{
		name:     "RevisionOfInfoFalls",
		caughtBy: []string{"RevisionOfInfoReachesEachChangeAndNeverFalls"},
		plant: func(b *broken) {
			var n atomic.Uint64
			b.info = func(ctx context.Context) (info store.Info, err error) {
				info, err = b.member.Info(ctx)
				info.Revision -= min(info.Revision, store.Revision(n.Add(1)%3))
				return info, err
			}
		},
	},
	{
		name:     "ClosedStoreAnswers",
		caughtBy: []string{"ClosedStoreRefusesEveryOperation"},
		plant:    func(b *broken) { b.close = func() error { return nil } }},
	{
		name:     "CloseFailsTheSecondTime",
		caughtBy: []string{"CloseMayBeCalledAgain"},
		plant: func(b *broken) {
			var closed atomic.Bool
			b.close = func() error {
				if closed.Swap(true) {
					return errBroken
				}
				return b.member.Close()
			}
		},
	},
	{
		name:     "CloseEndsReadsWithUnknownOutcome",
		caughtBy: []string{"CloseEndsOperationsUnderWay"},
		plant: func(b *broken) {
			b.has = func(ctx context.Context, key string) (bool, error) {
				time.Sleep(time.Millisecond)
				ok, err := b.member.Has(ctx, key)
				if errors.Is(err, store.ErrClosed) {
					return false, store.ErrUnknown
				}
				return ok, err
			}
		},
	},
}
