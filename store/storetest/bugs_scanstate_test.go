package storetest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

// scanStateBugs are in the state that a scan shows.
var scanStateBugs = []bug{
	{
		name: "ScanReadsEachKeyWhenItComesToIt",
		caughtBy: []string{
			"ScanShowsOneStateWhateverIsWrittenMeanwhile", "DeadlinesThatPassDuringAScanAreNotSeen",
			"ScanWithTheSecondOfTwoWritesHasTheFirst", "ScanNeitherMissesNorDoublesWhatMovesFromKeyToKey",
		},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool {
					now, ok, err := b.member.GetEntry(context.Background(), e.Key)
					now.Revision = e.Revision // not to be caught by that alone
					*e = now
					return ok && err == nil
				}
			})
		},
	},
	{
		name: "EachEntryHasAStateOfItsOwn",
		caughtBy: []string{
			"DeadlinesThatPassDuringAScanAreNotSeen",
			"ScanWithTheSecondOfTwoWritesHasTheFirst", "ScanNeitherMissesNorDoublesWhatMovesFromKeyToKey",
		},
		plant: func(b *broken) { b.inPages(1) },
	},
	{
		name:     "EachPageHasAStateOfItsOwn",
		caughtBy: []string{"ScanShowsOneStateWhateverIsWrittenMeanwhile"},
		plant:    func(b *broken) { b.inPages(1024) },
	},
	{
		name:     "DeadlinesPassDuringAScan",
		caughtBy: []string{"DeadlinesThatPassDuringAScanAreNotSeen"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				begin := time.Now()
				return func(e *store.Entry) bool {
					return e.DeleteIn == 0 || time.Since(begin) < e.DeleteIn
				}
			})
		},
	},
	{
		name:     "AtIsNotSet",
		caughtBy: []string{"AtIsTheRevisionOfTheStateThatAScanShows"},
		plant:    func(b *broken) { b.onRange(func(r *store.Range) { r.At = nil }) },
	},
	{
		name:     "AtIsNotSetIfNothingIsYielded",
		caughtBy: []string{"AtIsTheRevisionOfTheStateThatAScanShows", "RangeThatHoldsNoKeyYieldsNothing"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if len(all) == 0 && r.At != nil {
					*r.At = unset
				}
				return all
			})
		},
	},
	{
		name:     "AtIsTheGreatestRevisionYielded",
		caughtBy: []string{"AtIsTheRevisionOfTheStateThatAScanShows", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if r.At != nil {
					*r.At = 0
					for _, e := range all {
						*r.At = max(*r.At, e.Revision)
					}
				}
				return all
			})
		},
	},
	{
		name:     "AtIsTheNextRevision",
		caughtBy: []string{"AtIsTheRevisionOfTheStateThatAScanShows", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if r.At != nil {
					*r.At++
				}
				return all
			})
		},
	},
	{
		name:     "AtFalls",
		caughtBy: []string{"AtNeverFallsFromOneScanToTheNext"},
		plant: func(b *broken) {
			var n atomic.Uint64
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if r.At != nil && len(all) == 0 {
					*r.At -= min(*r.At, store.Revision(n.Add(1)%5))
				}
				return all
			})
		},
	},
	{
		name:     "ScansAreSometimesStale",
		caughtBy: []string{"ScanSeesWhatWasWrittenBeforeItOnEveryMember"},
		plant: func(b *broken) {
			type cached struct {
				all    []store.Entry
				at     store.Revision
				expire time.Time
			}
			var mu sync.Mutex
			cache := make(map[string]cached)
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if r.At == nil {
					return all
				}
				mu.Lock()
				defer mu.Unlock()
				key := showRange(r)
				c := cache[key]
				if time.Now().After(c.expire) {
					c = cached{all, *r.At, time.Now().Add(2 * time.Millisecond)}
					cache[key] = c
				}
				*r.At = c.at
				return c.all
			})
		},
	},
}
