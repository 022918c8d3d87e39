package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"dkv/store"
)

type joinLock func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error)

// onJoin has f take the place of JoinLock.
func (b *broken) onJoin(f func(next joinLock) joinLock) { b.join = f(b.member.JoinLock) }

// onQueue has f change a lock's queue before every operation that gives it up.
func (b *broken) onQueue(f func(db *naive, q queue, owner []byte) queue) {
	b.leave = func(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
		b.naive.do(func(db *naive, _ time.Time) {
			if q := db.mu.locks[key]; len(q) > 0 {
				db.mu.locks[key] = f(db, slices.Clone(q), owner)
			}
		})
		return b.member.LeaveLock(ctx, key, owner, number)
	}
}

// lockBugs are in locks.
var lockBugs = []bug{
	{
		name:     "LockIsGrantedToTwo",
		caughtBy: []string{"LockIsHeldByOneAtATimeAndTokensRise", "FencedCounterIsExact", "LockThatIsHeldIsNotTakenByWhoDoesNotWait"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, _ int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
					return next(ctx, key, owner, 2, ttl, wait)
				}
			})
		},
	},
	{
		name:     "LastWhoCameIsServedFirst",
		caughtBy: []string{"WaitersGetTheLockInTheOrderInWhichTheyCame"},
		plant: func(b *broken) {
			b.onQueue(func(_ *naive, q queue, _ []byte) queue {
				slices.Reverse(q)
				return q
			})
		},
	},
	{
		name:     "TokensDoNotRise",
		caughtBy: []string{"ReleaseByAnotherOwnerChangesNothing"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
					at, err := next(ctx, key, owner, limit, ttl, wait)
					at.Token = min(at.Token, 1)
					return at, err
				}
			})
		},
	},
	{
		name:     "TokensFallWithTheRevision",
		caughtBy: []string{"WaitersGetTheLockInTheOrderInWhichTheyCame"},
		plant: func(b *broken) {
			b.onQueue(func(db *naive, q queue, _ []byte) queue {
				db.mu.revision -= min(db.mu.revision, 2)
				return q
			})
		},
	},
	{
		name:     "WaiterThatHasLeftIsGranted",
		caughtBy: []string{"WaiterWhoseContextEndsLeavesTheQueue"},
		plant: func(b *broken) {
			b.leave = func(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
				waits := false
				b.naive.do(func(db *naive, _ time.Time) {
					p := db.mu.locks[key].find(owner)
					waits = p != nil && !p.held
				})
				if waits {
					return true, nil
				}
				return b.member.LeaveLock(ctx, key, owner, number)
			}
		},
	},
	{
		name:     "FormerOwnerEndsItsSuccessorsLock",
		caughtBy: []string{"ReleaseByAnotherOwnerChangesNothing", "LockThatNobodyRenewsGoesToTheNextAfterItsTime"},
		plant: func(b *broken) {
			b.leave = func(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
				left, err := b.member.LeaveLock(ctx, key, owner, number)
				if h, ok, _ := b.member.LockHolder(ctx, key); ok && !left && err == nil {
					b.member.LeaveLock(ctx, key, h.Owner, 0)
				}
				return left, err
			}
		},
	},
	{
		name:     "UnlockOfWhatIsNotHeldIsTold",
		caughtBy: []string{"ReleaseByAnotherOwnerChangesNothing", "LockThatNobodyRenewsGoesToTheNextAfterItsTime"},
		plant: func(b *broken) {
			b.leave = func(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
				_, err := b.member.LeaveLock(ctx, key, owner, number)
				return err == nil, err
			}
		},
	},
	{
		name:     "ReleaseIsLost",
		caughtBy: []string{"ClosedLockerGivesUpWhatItHolds"},
		plant: func(b *broken) {
			b.leave = func(context.Context, string, []byte, uint64) (bool, error) { return true, nil }
		},
	},
	{
		name:     "UnlockOfWhatIsHeldIsDenied",
		caughtBy: []string{"UnlockTwiceIsErrNotHeld", "ReleaseByAnotherOwnerChangesNothing"},
		plant: func(b *broken) {
			b.leave = func(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
				_, err := b.member.LeaveLock(ctx, key, owner, number)
				return false, err
			}
		},
	},
	{
		name:     "LockConditionHoldsForAFormerOwner",
		caughtBy: []string{"LockConditionHoldsWhileTheLockIsHeld"},
		plant: func(b *broken) {
			b.onConds(func(c *store.Cond) {
				if h, ok, _ := b.member.LockHolder(context.Background(), c.Key); c.Kind == store.CondLock && ok && c.Revision != 0 && c.Revision < h.Token {
					c.Revision = h.Token
				}
			})
		},
	},
	{
		name:     "AcquireOvertakesWaiters",
		caughtBy: []string{"AcquireDoesNotOvertakeWaiters"},
		plant: func(b *broken) {
			// The lock is free for a while before it is granted.
			b.leave = func(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
				var waiting queue
				b.naive.do(func(db *naive, _ time.Time) {
					for _, p := range db.mu.locks[key] {
						if !p.held {
							waiting = append(waiting, p)
						}
					}
					db.mu.locks[key] = slices.DeleteFunc(slices.Clone(db.mu.locks[key]), func(p *place) bool { return !p.held })
				})
				left, err := b.member.LeaveLock(ctx, key, owner, number)
				time.Sleep(pause)
				b.naive.do(func(db *naive, now time.Time) {
					if db.mu.locks[key] = append(db.mu.locks[key], waiting...); len(db.mu.locks[key]) == 0 {
						delete(db.mu.locks, key)
					}
					db.settle(key, now)
				})
				return left, err
			}
		},
	},
	{
		name:     "SemaphoreHasOnePermitTooMany",
		caughtBy: []string{"SemaphoreHasAsManyHoldersAsPermits"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
					if limit > 0 && limit < 100 {
						limit++
					}
					return next(ctx, key, owner, limit, ttl, wait)
				}
			})
		},
	},
	{
		name:     "ReadersOvertakeAWriter",
		caughtBy: []string{"ReadersShareALockAndDoNotOvertakeAWriter"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (at store.LockPlace, err error) {
					b.naive.do(func(db *naive, now time.Time) {
						q := db.mu.locks[key]
						if limit > 100 && len(q) > 0 && q[0].held && q[0].limit > 0 {
							db.mu.revision++
							p := &place{owner: slices.Clone(owner), limit: limit, held: true, token: db.mu.revision}
							db.extend(p, ttl, now)
							db.mu.locks[key] = slices.Insert(slices.Clone(q), 0, p)
							at = p.show(db.mu.revision)
						}
					})
					if at.Held {
						return at, nil
					}
					return next(ctx, key, owner, limit, ttl, wait)
				}
			})
		},
	},
	{
		name:     "ReadersHaveTheLockOneByOne",
		caughtBy: []string{"ReadersShareALockAndDoNotOvertakeAWriter", "SemaphoreHasAsManyHoldersAsPermits"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, _ int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
					return next(ctx, key, owner, 0, ttl, wait)
				}
			})
		},
	},
	{
		name:     "HolderThatHasDiedIsNeverReplaced",
		caughtBy: []string{"LockThatNobodyRenewsGoesToTheNextAfterItsTime", "WaiterThatIsNotRenewedLosesItsPlace"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
					return next(ctx, key, owner, limit, ttl+time.Hour, wait)
				}
			})
			b.renew = func(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
				return b.member.RenewLock(ctx, key, owner, number, ttl+time.Hour)
			}
		},
	},
	{
		name:     "LocksEndTooEarly",
		caughtBy: []string{"LockThatNobodyRenewsGoesToTheNextAfterItsTime", "LocksAndPlacesAreRenewed"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
					return next(ctx, key, owner, limit, ttl/8, wait)
				}
			})
			b.renew = func(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
				return b.member.RenewLock(ctx, key, owner, number, ttl/8)
			}
		},
	},
	{
		name:     "RenewalRenewsNothing",
		caughtBy: []string{"LocksAndPlacesAreRenewed"},
		plant: func(b *broken) {
			b.renew = func(ctx context.Context, key string, owner []byte, number uint64, _ time.Duration) (at store.LockPlace, err error) {
				b.naive.do(func(db *naive, _ time.Time) { at = db.mu.locks[key].find(owner).show(db.mu.revision) })
				return at, err
			}
		},
	},
	{
		name:     "LocksAreEachMembersOwn",
		caughtBy: []string{"LockThatIsHeldIsNotTakenByWhoDoesNotWait", "LockIsHeldByOneAtATimeAndTokensRise"},
		plant: func(b *broken) {
			own := newNaive(1)[0]
			b.join, b.leave, b.renew, b.holder = own.JoinLock, own.LeaveLock, own.RenewLock, own.LockHolder
			b.info = func(ctx context.Context) (store.Info, error) {
				info, err := b.member.Info(ctx)
				info.Locks, info.Waiters = 0, 0
				return info, err
			}
		},
	},
	{
		name:     "LeaderIsWhoWasSeenFirst",
		caughtBy: []string{"LeaderIsSeenAndObservedByEveryMember"},
		plant: func(b *broken) {
			var mu sync.Mutex
			var first store.LockHolder
			b.holder = func(ctx context.Context, key string) (store.LockHolder, bool, error) {
				h, ok, err := b.member.LockHolder(ctx, key)
				mu.Lock()
				defer mu.Unlock()
				if ok && first.Token == 0 {
					first = h
				}
				return first, first.Token != 0, err
			}
		},
	},
	{
		name:     "LeaderOfNobodyIsSeen",
		caughtBy: []string{"LeaderIsSeenAndObservedByEveryMember"},
		plant: func(b *broken) {
			b.holder = func(ctx context.Context, key string) (store.LockHolder, bool, error) {
				h, ok, err := b.member.LockHolder(ctx, key)
				if !ok {
					h.Owner = make([]byte, 8)
				}
				return h, err == nil, err
			}
		},
	},
	{
		name:     "LocksWithoutANameAreTaken",
		caughtBy: []string{"BadLocksAreRefused"},
		plant: func(b *broken) {
			b.onJoin(func(next joinLock) joinLock {
				return func(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
					at, err := next(ctx, key, owner, limit, ttl, wait)
					if errors.Is(err, store.ErrEmptyKey) {
						return store.LockPlace{Held: true, Token: 1}, nil
					}
					return at, err
				}
			})
		},
	},
}
