package storetest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strings"
	"sync/atomic"
	"time"

	"dkv/store"
)

type events = iter.Seq2[store.Event, error]

// onEvents has what begin returns at the beginning of every watch replace each event.
func (b *broken) onEvents(begin func(w store.Watch) func(e store.Event) []store.Event) {
	b.onLoop(func(w store.Watch, all events) events {
		f := begin(w)
		return func(yield func(store.Event, error) bool) {
			for e, err := range all {
				if err != nil {
					yield(e, err)
					return
				}
				for _, e := range f(e) {
					if !yield(e, nil) {
						return
					}
				}
			}
		}
	})
}

// onLoop has f change what every watch returns.
func (b *broken) onLoop(f func(w store.Watch, all events) events) {
	m := b.member
	b.watch = func(ctx context.Context, w store.Watch) (events, error) {
		all, err := m.Watch(ctx, w)
		if err != nil {
			return nil, err
		}
		return f(w, all), nil
	}
}

// onWatch has f change the arguments of every watch that are not bad.
func (b *broken) onWatch(f func(w *store.Watch)) {
	m := b.member
	b.watch = func(ctx context.Context, w store.Watch) (events, error) {
		if w.Check() == nil {
			f(&w)
		}
		return m.Watch(ctx, w)
	}
}

func each(f func(e store.Event) []store.Event) func(store.Watch) func(store.Event) []store.Event {
	return func(store.Watch) func(store.Event) []store.Event { return f }
}

// watchBugs are in watches.
var watchBugs = []bug{
	{
		name:     "EventsComeOutOfOrder",
		caughtBy: []string{"WatchOfAKeyYieldsEachChangeOfIt", "WatchOfEverythingHasNoGap"},
		plant: func(b *broken) {
			b.onEvents(func(store.Watch) func(e store.Event) []store.Event {
				var kept []store.Event
				return func(e store.Event) []store.Event {
					if kept == nil && e.Revision%5 == 0 {
						kept = []store.Event{e}
						return nil
					}
					all := append([]store.Event{e}, kept...)
					kept = nil
					return all
				}
			})
		},
	},
	{
		name:     "DeletionsAreNotTold",
		caughtBy: []string{"WatchOfAKeyYieldsEachChangeOfIt", "ConcurrentChangesAreSeenAlikeByEveryWatcher", "EventsOfATransactionFollowEachOther"},
		plant: func(b *broken) {
			b.onEvents(each(func(e store.Event) []store.Event {
				if e.Type == store.EventDeleted && !e.ByDeadline {
					return nil
				}
				return []store.Event{e}
			}))
		},
	},
	{
		name:     "DeadlinesAreToldAsCalls",
		caughtBy: []string{"EventsTellCallsFromDeadlines"},
		plant: func(b *broken) {
			b.onEvents(each(func(e store.Event) []store.Event {
				e.ByDeadline = false
				return []store.Event{e}
			}))
		},
	},
	{
		name:     "CallsAreToldAsDeadlines",
		caughtBy: []string{"EventsTellCallsFromDeadlines", "WatchOfAKeyYieldsEachChangeOfIt"},
		plant: func(b *broken) {
			b.onEvents(each(func(e store.Event) []store.Event {
				e.ByDeadline = e.Type != store.EventSet
				return []store.Event{e}
			}))
		},
	},
	{
		name:     "ExpiryIsToldAsDeletion",
		caughtBy: []string{"EventsTellCallsFromDeadlines", "WatchOfAKeyYieldsEachChangeOfIt"},
		plant: func(b *broken) {
			b.onEvents(each(func(e store.Event) []store.Event {
				if e.Type == store.EventExpired {
					e.Type = store.EventDeleted
				}
				return []store.Event{e}
			}))
		},
	},
	{
		name:     "PrefixIsMatchedAsAKey",
		caughtBy: []string{"WatchOfAPrefixYieldsTheChangesOfItsKeys"},
		plant: func(b *broken) {
			b.onWatch(func(w *store.Watch) { w.Key, w.Prefix = w.Key+w.Prefix, "" })
		},
	},
	{
		name:     "KeyIsMatchedAsAPrefix",
		caughtBy: []string{"WatchOfAKeyYieldsEachChangeOfIt"},
		plant: func(b *broken) {
			b.onWatch(func(w *store.Watch) { w.Key, w.Prefix = "", w.Key+w.Prefix })
		},
	},
	{
		name:     "PrefixIsTakenForText",
		caughtBy: []string{"WatchOfAPrefixYieldsTheChangesOfItsKeys"},
		plant: func(b *broken) {
			b.onEvents(each(func(e store.Event) []store.Event {
				e.Key = strings.ToValidUTF8(e.Key, "?")
				return []store.Event{e}
			}))
		},
	},
	{
		name:     "WatchBeginsWithItsLoop",
		caughtBy: []string{"WatchMissesNothingOnceItHasReturned", "SlowLoopSeesEveryEvent"},
		plant: func(b *broken) {
			b.watch = func(ctx context.Context, w store.Watch) (events, error) {
				if _, err := b.member.Watch(ctx, w); err != nil || w.From != 0 {
					return b.member.Watch(ctx, w)
				}
				return func(yield func(store.Event, error) bool) {
					all, err := b.member.Watch(ctx, w)
					if err != nil {
						yield(store.Event{}, err)
						return
					}
					all(yield)
				}, nil
			}
		},
	},
	{
		name:     "WatchFromNowShowsTheLastChange",
		caughtBy: []string{"WatchMissesNothingOnceItHasReturned"},
		plant: func(b *broken) {
			b.onWatch(func(w *store.Watch) {
				if w.From == 0 {
					b.naive.do(func(db *naive, _ time.Time) { w.From = max(1, db.mu.revision) })
				}
			})
		},
	},
	{
		name:     "LastEventIsToldAgainAfterResumption",
		caughtBy: []string{"WatchIsResumedBehindItsLastEventOnAnyMember", "WatchGoesOnWhereAScanHasBeen"},
		plant: func(b *broken) {
			b.watch = func(ctx context.Context, w store.Watch) (events, error) {
				if w.From > 1 && w.Check() == nil {
					w.From--
				}
				return b.member.Watch(ctx, w)
			}
		},
	},
	{
		name:     "FirstEventIsMissedAfterResumption",
		caughtBy: []string{"WatchIsResumedBehindItsLastEventOnAnyMember", "WatchGoesOnWhereAScanHasBeen", "WatchOfEverythingHasNoGap"},
		plant: func(b *broken) {
			b.onEvents(func(w store.Watch) func(e store.Event) []store.Event {
				return func(e store.Event) []store.Event {
					if w.From != 0 && e.Revision == w.From {
						return nil
					}
					return []store.Event{e}
				}
			})
		},
	},
	{
		name:     "SlowLoopMissesEvents",
		caughtBy: []string{"SlowLoopSeesEveryEvent"},
		plant: func(b *broken) {
			b.onLoop(func(w store.Watch, all events) events {
				return func(yield func(store.Event, error) bool) {
					behind := false
					for e, err := range all {
						if behind {
							var last store.Revision
							b.naive.do(func(db *naive, _ time.Time) { last = db.mu.revision })
							if behind = e.Revision+1000 < last; behind && err == nil {
								continue
							}
						}
						begin := time.Now()
						if !yield(e, err) {
							return
						}
						behind = time.Since(begin) > 2*time.Millisecond
					}
				}
			})
		},
	},
	{
		name:     "ForgottenEventsAreSkippedInSilence",
		caughtBy: []string{"WatchOfWhatIsForgottenIsRefused"},
		plant: func(b *broken) {
			b.watch = func(ctx context.Context, w store.Watch) (events, error) {
				all, err := b.member.Watch(ctx, w)
				if errors.Is(err, store.ErrCompacted) {
					w.From = 0
					return b.member.Watch(ctx, w)
				}
				return all, err
			}
		},
	},
	{
		name:     "StandingLoopIsNotToldWhatItMissed",
		caughtBy: []string{"WatchOfWhatIsForgottenIsRefused"},
		plant: func(b *broken) {
			b.watch = func(ctx context.Context, w store.Watch) (events, error) {
				all, err := b.member.Watch(ctx, w)
				if err != nil {
					return nil, err
				}
				return func(yield func(store.Event, error) bool) {
					for e, err := range all {
						if errors.Is(err, store.ErrCompacted) {
							err = store.ErrClosed
						}
						if !yield(e, err) {
							return
						}
					}
				}, nil
			}
		},
	},
	{
		name:     "FutureIsWaitedFor",
		caughtBy: []string{"BadWatchesAreRefused", "WatchOfTheNextRevisionWaitsAndOfTheOneBehindIsRefused"},
		plant: func(b *broken) {
			b.watch = func(ctx context.Context, w store.Watch) (events, error) {
				all, err := b.member.Watch(ctx, w)
				if errors.Is(err, store.ErrFutureRevision) {
					w.From = 0
					return b.member.Watch(ctx, w)
				}
				return all, err
			}
		},
	},
	{
		name:     "KeyWinsOverPrefix",
		caughtBy: []string{"BadWatchesAreRefused"},
		plant: func(b *broken) {
			b.watch = func(ctx context.Context, w store.Watch) (events, error) {
				if w.Key != "" {
					w.Prefix = ""
				}
				return b.member.Watch(ctx, w)
			}
		},
	},
	{
		name:     "ValuesAreSharedByWatchers",
		caughtBy: []string{"ValuesOfEventsBelongToTheCaller"},
		plant: func(b *broken) {
			b.onEvents(each(func(e store.Event) []store.Event {
				b.naive.do(func(db *naive, _ time.Time) {
					for _, h := range db.mu.history.events {
						if h.Revision == e.Revision {
							e.Value = h.Value
						}
					}
				})
				return []store.Event{e}
			}))
		},
	},
	{
		name:     "ChangesThatAreRefusedAreTold",
		caughtBy: []string{"WhatChangesNothingIsNoEvent"},
		plant: func(b *broken) {
			b.setEIfUnset = func(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
				set, err := b.member.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
				if err == nil && !set {
					b.naive.do(func(db *naive, _ time.Time) {
						db.mu.revision++
						db.tell(store.EventSet, key, value, false)
					})
				}
				return set, err
			}
		},
	},
	{
		name:     "LocksAreWatchedAsKeys",
		caughtBy: []string{"LocksAreNotSeenAsKeys"},
		plant: func(b *broken) {
			b.join = func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
				at, err := b.member.JoinLock(ctx, key, owner, limit, ttl, wait)
				b.naive.do(func(db *naive, _ time.Time) {
					db.mu.revision++
					db.tell(store.EventSet, key, bytes.Clone(owner), false)
				})
				return at, err
			}
		},
	},
	{
		name:     "ContextDoesNotEndAWatchWithAnError",
		caughtBy: []string{"ContextThatEndsEndsAWatch"},
		plant: func(b *broken) {
			b.onLoop(func(_ store.Watch, all events) events {
				return func(yield func(store.Event, error) bool) {
					for e, err := range all {
						if errors.Is(err, store.ErrUnavailable) || !yield(e, err) {
							return
						}
					}
				}
			})
		},
	},
	{
		name:     "WatchesAreCountedForEver",
		caughtBy: []string{"WatchesAreCountedUntilTheyEnd"},
		plant: func(b *broken) {
			var begun atomic.Int64
			b.onLoop(func(_ store.Watch, all events) events {
				begun.Add(1)
				return all
			})
			b.info = func(ctx context.Context) (store.Info, error) {
				info, err := b.member.Info(ctx)
				info.Watches = int(begun.Load())
				return info, err
			}
		},
	},
	{
		name:     "CloseEndsWatchesAsIfAllWereWell",
		caughtBy: []string{"CloseEndsWatches", "ClosedStoreRefusesWatches"},
		plant: func(b *broken) {
			b.watch = func(ctx context.Context, w store.Watch) (events, error) {
				all, err := b.member.Watch(ctx, w)
				if errors.Is(err, store.ErrClosed) {
					return func(func(store.Event, error) bool) {}, nil
				}
				return func(yield func(store.Event, error) bool) {
					for e, err := range all {
						if errors.Is(err, store.ErrClosed) || !yield(e, err) {
							return
						}
					}
				}, err
			}
		},
	},
}
