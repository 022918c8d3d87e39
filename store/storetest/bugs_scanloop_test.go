package storetest

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"

	"dkv/store"
)

// scanLoopBugs are in how loops over scans begin and end, and in what they leave
// behind.
var scanLoopBugs = []bug{
	{
		name:     "ScanBeginsBeforeTheLoop",
		caughtBy: []string{"EachLoopOverAScanIsAScanOfItsOwn"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				all, _, failure := collect(ctx, b.member, r, nil)
				return func(yield func(store.Entry, error) bool) {
					for _, e := range all {
						if !yield(e, nil) {
							return
						}
					}
					if failure != nil {
						yield(store.Entry{}, failure)
					}
				}
			}
		},
	},
	{
		name:     "ScanIsLoopedOverOnce",
		caughtBy: []string{"EachLoopOverAScanIsAScanOfItsOwn"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				var once atomic.Bool
				return func(yield func(store.Entry, error) bool) {
					if !once.Swap(true) {
						b.member.Scan(ctx, r)(yield)
					}
				}
			}
		},
	},
	{
		name:     "OneScanAtATime",
		caughtBy: []string{"ScansMayBeNestedAndWrittenIn"},
		plant: func(b *broken) {
			var busy atomic.Bool
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					if busy.Swap(true) {
						yield(store.Entry{}, errBroken)
						return
					}
					defer busy.Store(false)
					b.member.Scan(ctx, r)(yield)
				}
			}
		},
	},
	{
		name:     "ScansThatAreNestedShareTheirPlace",
		caughtBy: []string{"ScansMayBeNestedAndWrittenIn"},
		plant: func(b *broken) {
			var after atomic.Value
			b.onEntry(func(r store.Range) func(e *store.Entry) bool {
				after.Store("")
				return func(e *store.Entry) bool {
					if !r.Reverse && e.Key < after.Load().(string) {
						return false
					}
					after.Store(e.Key)
					return true
				}
			})
		},
	},
	{
		name:     "ScanLooksAtTheContextOnlyAtItsBeginning",
		caughtBy: []string{"ContextThatEndsDuringAScanEndsItWithAnError"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					if ctx.Err() == nil {
						ctx = context.WithoutCancel(ctx)
					}
					b.member.Scan(ctx, r)(yield)
				}
			}
		},
	},
	{
		name:     "EndedContextEndsAScanWithoutAnError",
		caughtBy: []string{"ContextThatEndsDuringAScanEndsItWithAnError", "CancelledContextKeepsEveryOperationFromBeginning"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					for e, err := range b.member.Scan(ctx, r) {
						if err != nil || !yield(e, nil) {
							return
						}
					}
				}
			}
		},
	},
	{
		name:     "EndedContextIsNotTheErrorOfTheScan",
		caughtBy: []string{"ContextThatEndsDuringAScanEndsItWithAnError"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					for e, err := range b.member.Scan(ctx, r) {
						if err != nil {
							err = fmt.Errorf("%w: %v", store.ErrUnavailable, err)
						}
						if !yield(e, err) {
							return
						}
					}
				}
			}
		},
	},
	{
		name:     "ScanGoesOnAfterAnError",
		caughtBy: []string{"ContextThatEndsDuringAScanEndsItWithAnError"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					var last string
					for e, err := range b.member.Scan(ctx, r) {
						if !yield(e, err) {
							return
						}
						if err == nil {
							last = e.Key
						}
					}
					if ctx.Err() != nil && last != "" {
						r.After = last
						b.member.Scan(context.WithoutCancel(ctx), r)(yield)
					}
				}
			}
		},
	},
	{
		name:     "EntryComesWithTheError",
		caughtBy: []string{"ContextThatEndsDuringAScanEndsItWithAnError"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					var last store.Entry
					for e, err := range b.member.Scan(ctx, r) {
						if err != nil {
							e = last
						}
						if !yield(e, err) {
							return
						}
						last = e
					}
				}
			}
		},
	},
	{
		name:     "LoopThatIsLeftKeepsItsView",
		caughtBy: []string{"ScansGiveUpWhatTheyHold"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					for e, err := range b.member.Scan(ctx, r) {
						if !yield(e, err) {
							b.views.Add(1)
							return
						}
					}
				}
			}
		},
	},
	{
		name:     "RefusedScanKeepsAView",
		caughtBy: []string{"ScansGiveUpWhatTheyHold"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return func(yield func(store.Entry, error) bool) {
					if r.Check() != nil {
						b.views.Add(1)
					}
					b.member.Scan(ctx, r)(yield)
				}
			}
		},
	},
	{
		name:     "ScanWithoutALoopHoldsAView",
		caughtBy: []string{"ScansGiveUpWhatTheyHold"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				b.views.Add(1)
				return func(yield func(store.Entry, error) bool) {
					b.views.Add(-1)
					b.member.Scan(ctx, r)(yield)
				}
			}
		},
	},
	{
		name:     "SupersededVersionsAreKeptForever",
		caughtBy: []string{"ScansGiveUpWhatTheyHold"},
		plant: func(b *broken) {
			var kept atomic.Int64
			b.set = func(ctx context.Context, key string, value []byte) error {
				if b.views.Load() > 0 {
					kept.Add(1)
				}
				return b.member.Set(ctx, key, value)
			}
			b.info = func(ctx context.Context) (store.Info, error) {
				info, err := b.member.Info(ctx)
				info.Retained = kept.Load()
				return info, err
			}
		},
	},
	{
		name:     "ScanIgnoresAnEndedContext",
		caughtBy: []string{"CancelledContextKeepsEveryOperationFromBeginning", "PassedDeadlineKeepsEveryOperationFromBeginning"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return b.member.Scan(context.WithoutCancel(ctx), r)
			}
		},
	},
	{
		name:     "ClosedStoreIsScanned",
		caughtBy: []string{"ClosedStoreRefusesEveryOperation"},
		plant: func(b *broken) {
			b.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
				return newNaive(1)[0].Scan(ctx, r)
			}
		},
	},
	{
		name:     "CloseCutsScansShort",
		caughtBy: []string{"CloseEndsOperationsUnderWay"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool {
					b.member.mu.RLock()
					defer b.member.mu.RUnlock()
					return !b.member.mu.closed
				}
			})
		},
	},
}
