package storetest

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"dkv/store"
)

// scanBugs are in what a scan yields when nothing is written meanwhile.
var scanBugs = []bug{
	{
		name:     "KeysAreOrderedByLength",
		caughtBy: []string{"ScanIsInTheOrderOfTheBytesOfKeys", "ScanOfEverythingHasEachKeyOnce"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				slices.SortStableFunc(all, func(a, b store.Entry) int { return cmp.Compare(len(a.Key), len(b.Key)) })
				return all
			})
		},
	},
	{
		name:     "BytesOfKeysAreComparedSigned",
		caughtBy: []string{"ScanIsInTheOrderOfTheBytesOfKeys"},
		plant: func(b *broken) {
			signed := func(key string) string {
				b := []byte(key)
				for i := range b {
					b[i] ^= 0x80
				}
				return string(b)
			}
			b.onEntries(func(_ store.Range, all []store.Entry) []store.Entry {
				slices.SortFunc(all, func(a, b store.Entry) int { return cmp.Compare(signed(a.Key), signed(b.Key)) })
				return all
			})
		},
	},
	{
		name:     "ReverseLeavesOutTheGreatestKey",
		caughtBy: []string{"ReverseScanIsTheMirrorOfAScan", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if r.Reverse && len(all) > 1 {
					return all[1:]
				}
				return all
			})
		},
	},
	{
		name:     "ReverseBeginsAtTheWrongEnd",
		caughtBy: []string{"LimitIsHowManyEntriesAScanYieldsAtMost", "PagesHoldEachKeyOnce"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if r.Reverse && r.Limit > 0 {
					all, _, _ = b.state(context.Background(), r)
					all = all[:min(r.Limit, len(all))]
					slices.Reverse(all)
				}
				return all
			})
		},
	},
	{
		name:     "ReverseIsIgnored",
		caughtBy: []string{"ReverseScanIsTheMirrorOfAScan"},
		plant:    func(b *broken) { b.onRange(func(r *store.Range) { r.Reverse = false }) },
	},
	{
		name:     "ToIsInTheRange",
		caughtBy: []string{"RangeIsWhatItsFieldsSay", "RangeThatHoldsNoKeyYieldsNothing", "ScanOfEverythingHasEachKeyOnce"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if r.To != "" {
					r.To += "\x00"
				}
			})
		},
	},
	{
		name:     "FromIsNotInTheRange",
		caughtBy: []string{"RangeIsWhatItsFieldsSay", "BoundsMayBeAsLongAsKeys", "ScanOfEverythingHasEachKeyOnce"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				return slices.DeleteFunc(all, func(e store.Entry) bool { return e.Key == r.From })
			})
		},
	},
	{
		name:     "FromOverridesThePrefix",
		caughtBy: []string{"RangeIsWhatItsFieldsSay", "RangeThatHoldsNoKeyYieldsNothing"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if r.From != "" {
					r.Prefix = ""
				}
			})
		},
	},
	{
		name:     "AfterIsInTheRange",
		caughtBy: []string{"PagesHoldEachKeyOnce", "RangeIsWhatItsFieldsSay", "RangeThatHoldsNoKeyYieldsNothing"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if r.After != "" && !r.Reverse {
					r.From, r.After = max(r.From, r.After), ""
				}
			})
		},
	},
	{
		name:     "AfterIsIgnoredInReverse",
		caughtBy: []string{"PagesHoldEachKeyOnce", "RangeIsWhatItsFieldsSay", "RangeThatHoldsNoKeyYieldsNothing", "BoundsMayBeAsLongAsKeys"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if r.Reverse {
					r.After = ""
				}
			})
		},
	},
	{
		name:     "KeyRightBehindAfterIsMissed",
		caughtBy: []string{"PagesHoldEachKeyOnce", "ScanOfEverythingHasEachKeyOnce"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				return slices.DeleteFunc(all, func(e store.Entry) bool { return e.Key == r.After+"\x00" })
			})
		},
	},
	{
		name:     "PrefixEndsAtFF",
		caughtBy: []string{"ScanIsInTheOrderOfTheBytesOfKeys", "ScanOfEverythingHasEachKeyOnce"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				return slices.DeleteFunc(all, func(e store.Entry) bool { return r.Prefix != "" && e.Key > r.Prefix+"\xff" })
			})
		},
	},
	{
		name:     "PrefixOfFFHasNoKeys",
		caughtBy: []string{"RangeIsWhatItsFieldsSay", "ScanOfEverythingHasEachKeyOnce"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if strings.HasSuffix(r.Prefix, "\xff") {
					return nil
				}
				return all
			})
		},
	},
	{
		name:     "KeysBeginAtOne",
		caughtBy: []string{"ScanOfEverythingHasEachKeyOnce"},
		plant:    func(b *broken) { b.onRange(func(r *store.Range) { r.From = cmp.Or(r.From, "\x01") }) },
	},
	{
		name:     "LimitIsOneMore",
		caughtBy: []string{"LimitIsHowManyEntriesAScanYieldsAtMost", "PagesHoldEachKeyOnce", "RangeIsWhatItsFieldsSay"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if r.Limit > 0 && r.Limit < 1<<20 {
					r.Limit++
				}
			})
		},
	},
	{
		name:     "LimitIsOneLess",
		caughtBy: []string{"LimitIsHowManyEntriesAScanYieldsAtMost", "PagesHoldEachKeyOnce"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if r.Limit > 1 {
					r.Limit--
				}
			})
		},
	},
	{
		name:     "LimitCountsAfterToo",
		caughtBy: []string{"PagesHoldEachKeyOnce", "RangeIsWhatItsFieldsSay"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				if r.Limit > 0 && r.After != "" && len(all) > 0 {
					return all[:len(all)-1]
				}
				return all
			})
		},
	},
	{
		name:     "KeysOnlyIsIgnored",
		caughtBy: []string{"ScanOfKeysOnlyLeavesOutNothingButValues"},
		plant:    func(b *broken) { b.onRange(func(r *store.Range) { r.KeysOnly = false }) },
	},
	{
		name:     "KeysOnlyLeavesOutTimesLeft",
		caughtBy: []string{"ScanOfKeysOnlyLeavesOutNothingButValues"},
		plant: func(b *broken) {
			b.onEntry(func(r store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool {
					if r.KeysOnly {
						e.DeleteIn = 0
					}
					return true
				}
			})
		},
	},
	{
		name:     "KeysOnlyTakesAllForAlive",
		caughtBy: []string{"ScanOfKeysOnlyLeavesOutNothingButValues"},
		plant: func(b *broken) {
			b.onEntry(func(r store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool {
					e.Expired = e.Expired && !r.KeysOnly
					return true
				}
			})
		},
	},
	{
		name:     "ScanLeavesOutTimesLeft",
		caughtBy: []string{"ScanYieldsWhatGetEntryReturns", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool { e.ExpireIn = 0; return true }
			})
		},
	},
	{
		name:     "ScanShowsTimesLeftWhole",
		caughtBy: []string{"ScanYieldsWhatGetEntryReturns"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool { e.DeleteIn = roundUp(e.DeleteIn); return true }
			})
		},
	},
	{
		name:     "EmptyValuesAreYieldedAsNil",
		caughtBy: []string{"ScanYieldsWhatGetEntryReturns"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool { e.Value = append([]byte(nil), e.Value...); return true }
			})
		},
	},
	{
		name:     "ExpiredKeysAreNotScanned",
		caughtBy: []string{"ExpiredKeysAreScannedAndDeletedOnesAreNot", "ExpiredKeyIsThereWithoutItsValue", "ValueGoesAtExpireInAndTheKeyStays"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool { return !e.Expired }
			})
		},
	},
	{
		name:     "ScanDoesNotLookAtDeadlines",
		caughtBy: []string{"ExpiredKeysAreScannedAndDeletedOnesAreNot", "ValueGoesAtExpireInAndTheKeyStays"},
		plant: func(b *broken) {
			var mu sync.Mutex
			values := make(map[string][]byte)
			b.setE = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
				mu.Lock()
				values[key] = bytes.Clone(value)
				mu.Unlock()
				return b.member.SetE(ctx, key, value, expireIn, deleteIn)
			}
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool {
					mu.Lock()
					defer mu.Unlock()
					if value, ok := values[e.Key]; ok && e.Expired {
						e.Expired, e.Value = false, value
					}
					return true
				}
			})
		},
	},
	{
		name:     "DeletedKeysAreScanned",
		caughtBy: []string{"ExpiredKeysAreScannedAndDeletedOnesAreNot", "ScanSeesWhatWasWrittenBeforeItOnEveryMember", "DeletedKeyIsGone"},
		plant: func(b *broken) {
			var deleted sync.Map
			b.delete = func(ctx context.Context, key string) error {
				deleted.Store(key, true)
				return b.member.Delete(ctx, key)
			}
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				for key := range deleted.Range {
					if key := key.(string); within(r, key) && !slices.Contains(keysOf(all), key) {
						all = append(all, store.Entry{Key: key, Revision: 1, Expired: true})
					}
				}
				return inOrder(r, all)
			})
		},
	},
	{
		name:     "LocksAreScannedToo",
		caughtBy: []string{"LocksAreNotScanned"},
		plant: func(b *broken) {
			b.onEntries(func(r store.Range, all []store.Entry) []store.Entry {
				b.naive.do(func(db *naive, _ time.Time) {
					for key, q := range db.mu.locks {
						if p := q.alone(); p != nil && within(r, key) {
							all = append(all, store.Entry{Key: key, Value: p.owner, Revision: p.token})
						}
					}
				})
				return inOrder(r, all)
			})
		},
	},
	{
		name:     "MemoryOfTheStoreIsYielded",
		caughtBy: []string{"SlicesYieldedBelongToTheCaller"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool {
					b.naive.do(func(db *naive, _ time.Time) { e.Value = db.mu.items[e.Key].value })
					return true
				}
			})
		},
	},
	{
		name:     "ValuesOfAScanShareABuffer",
		caughtBy: []string{"SlicesYieldedBelongToTheCaller"},
		plant: func(b *broken) {
			b.onEntries(func(_ store.Range, all []store.Entry) []store.Entry {
				var page []byte
				for _, e := range all {
					page = append(page, e.Value...)
				}
				for i := range all {
					all[i].Value, page = page[:len(all[i].Value)], page[len(all[i].Value):]
				}
				return all
			})
		},
	},
	{
		name:     "BufferOfAScanIsUsedAgain",
		caughtBy: []string{"SlicesYieldedBelongToTheCaller"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				var buf []byte
				return func(e *store.Entry) bool {
					buf = append(buf[:0], e.Value...)
					e.Value = buf
					return true
				}
			})
		},
	},
	{
		name:     "LargeValuesAreCut",
		caughtBy: []string{"LargeValuesAreScannedWhole"},
		plant: func(b *broken) {
			b.onEntry(func(store.Range) func(e *store.Entry) bool {
				return func(e *store.Entry) bool {
					e.Value = e.Value[:min(len(e.Value), 1<<19)]
					return true
				}
			})
		},
	},
	{
		name:     "NegativeLimitIsNone",
		caughtBy: []string{"BadRangesAreRefused"},
		plant:    func(b *broken) { b.onRange(func(r *store.Range) { r.Limit = max(r.Limit, 0) }) },
	},
	{
		name:     "LongBoundsAreTaken",
		caughtBy: []string{"BadRangesAreRefused"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) { r.After = r.After[:min(len(r.After), store.MaxKeySize)] })
		},
	},
	{
		name:     "BadRangeThatHoldsNoKeyIsTaken",
		caughtBy: []string{"BadRangesAreRefused"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if r.To != "" && r.From >= r.To {
					r.After = ""
				}
			})
		},
	},
	{
		name:     "BoundsLimitIsOneLess",
		caughtBy: []string{"BoundsMayBeAsLongAsKeys"},
		plant: func(b *broken) {
			b.onRange(func(r *store.Range) {
				if len(r.After) == store.MaxKeySize {
					r.After += "\x00"
				}
			})
		},
	},
}

// inOrder sorts entries as a scan yields them, and keeps to its limit.
func inOrder(r store.Range, all []store.Entry) []store.Entry {
	slices.SortFunc(all, func(a, b store.Entry) int { return cmp.Compare(a.Key, b.Key) })
	if r.Reverse {
		slices.Reverse(all)
	}
	if r.Limit > 0 {
		all = all[:min(r.Limit, len(all))]
	}
	return all
}
