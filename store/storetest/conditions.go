package storetest

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"dkv/store"
)

// conditionChecks are about writes that depend on the revision of their key.
var conditionChecks = []check{
	{"CompareAndSetSetsAKeyThatHasTheRevision", func(s *session) {
		a := s.key("a")
		r := s.swaps(a, 0, "one") // it never was
		r = s.swaps(a, r, "two")
		r = s.swaps(a, r, "two") // the same value is a change, too
		s.swaps(a, r, "")
		s.expire(a)
		s.swaps(a, s.expired(a).Revision, "three")
		s.delete(a)
		r = s.swaps(a, 0, "four")
		if now, ok := s.compareAndDelete(a, r); !ok {
			s.Fatalf("CompareAndDelete(%s, %d) finds revision %d", show(a), r, now)
		}
		s.swaps(a, 0, "five")
		s.set(s.key("b"), "one")
		s.swaps(s.key("b"), s.revision(s.key("b")), "two")
	}},
	{"CompareAndSetLeavesAKeyOfAnotherRevisionAlone", func(s *session) {
		s.others("CompareAndSet", compareAndSet, 0)
	}},
	{"CompareAndSetSetsNoMissingKeyOfSomeRevision", func(s *session) {
		s.missing("CompareAndSet", compareAndSet, 1, math.MaxUint64)
	}},
	{"CompareAndDeleteDeletesAKeyThatHasTheRevision", func(s *session) {
		for i := range s.stores {
			a := s.key("a%d", i)
			for _, expired := range []bool{false, true} {
				s.setE(a, "one", 0, time.Hour)
				if expired {
					s.expire(a)
				}
				r := s.revision(a)
				now, ok := s.on(i).compareAndDelete(a, r)
				if !ok || now <= r {
					s.Fatalf("member %d: CompareAndDelete of revision %d, which the key has, returns %d, %v", i, r, now, ok)
				}
				s.unset(a)
				s.set(a, "two")
				if next := s.revision(a); next <= now {
					s.Fatalf("CompareAndDelete returns revision %d, and a Set after it has %d", now, next)
				}
			}
		}
	}},
	{"CompareAndDeleteLeavesAKeyOfAnotherRevisionAlone", func(s *session) {
		s.others("CompareAndDelete", compareAndDelete, 0)
	}},
	{"CompareAndDeleteOfAMissingKeyDeletesNothing", func(s *session) {
		s.missing("CompareAndDelete", compareAndDelete, 0, 1, math.MaxUint64)
	}},
	{"DeadlinesLeaveTheRevisionThatIsCompared", func(s *session) {
		for i, deletes := range []bool{false, true} {
			a := s.key("a%d", i)
			r := s.seenAlive(func(d time.Duration) { s.setE(a, "one", d, time.Hour) }, a)
			s.eventually("the deadline expires the key", func() bool { _, ok := s.get(a); return !ok })
			before := s.expired(a)
			s.leaves("CompareAndSet", compareAndSet, before, 0, r-1, r+1)
			s.leaves("CompareAndDelete", compareAndDelete, before, 0, r-1, r+1)
			if !deletes {
				s.swaps(a, r, "two")
				continue
			}
			if now, ok := s.compareAndDelete(a, r); !ok || now <= r {
				s.Fatalf("CompareAndDelete of revision %d, which the key had before its value expired, returns %d, %v", r, now, ok)
			}
			s.unset(a)
		}
	}},
	{"KeyThatItsDeadlineDeletesHasNoRevisionToCompare", func(s *session) {
		a := s.key("a")
		r := s.seenAlive(func(d time.Duration) { s.setE(a, "one", 0, d) }, a)
		s.eventually("the deadline deletes the key", func() bool { return !s.has(a) })
		for i := range s.stores {
			if now, ok := s.on(i).compareAndSet(a, r, "two", 0, 0); ok || now != 0 {
				s.Fatalf("member %d: CompareAndSet of a key that its deadline has deleted returns %d, %v; want 0, false", i, now, ok)
			}
			if now, ok := s.on(i).compareAndDelete(a, r); ok || now != 0 {
				s.Fatalf("member %d: CompareAndDelete of a key that its deadline has deleted returns %d, %v; want 0, false", i, now, ok)
			}
		}
		s.unset(a)
		s.swaps(a, 0, "three")
	}},
	{"CompareAndSetSetsDeadlines", func(s *session) {
		s.together(2, func(i int) error {
			one := *s
			one.prefix = s.key("%d-", i)
			_, err := one.lifecycle(func(d time.Duration) span { return span{d, 3 * d} }, func(key string, d span) error {
				var r store.Revision
				if i == 1 { // in place of longer ones
					var err error
					if r, _, err = s.next().CompareAndSet(s.ctx, key, 0, []byte("before"), time.Hour, time.Hour); err != nil {
						return err
					}
				}
				_, ok, err := s.next().CompareAndSet(s.ctx, key, r, []byte("value"), d.expireIn, d.deleteIn)
				if err == nil && !ok {
					err = fmt.Errorf("CompareAndSet does not set a key of revision %d", r)
				}
				return err
			}, deleted, alive, expired)
			return err
		})
	}},
	{"CompareAndSetRemovesDeadlines", func(s *session) {
		const d = 100 * time.Millisecond
		a, b := s.key("a"), s.key("b")
		for {
			s.setE(a, "one", d, 2*d)
			if e, ok := s.entry(a); ok {
				if _, ok := s.compareAndSet(a, e.Revision, "two", 0, 0); ok {
					break // else it was deleted before
				}
			}
		}
		s.setE(b, "one", time.Hour, time.Hour)
		s.swaps(b, s.revision(b), "two")
		s.outlive(d, 2*d)
		for _, key := range []string{a, b} {
			if e := s.live(key, "two"); e.ExpireIn != 0 || e.DeleteIn != 0 {
				s.Fatalf("the times left of %s are %v and %v; want none", key, e.ExpireIn, e.DeleteIn)
			}
		}
	}},
	{"AmongManyWhoCompareARevisionExactlyOneWins", func(s *session) {
		const rounds, callers = 24, 12
		for round := range rounds {
			key := s.key("%d", round)
			var r store.Revision
			switch round % 4 {
			case 1:
				s.set(key, "before")
				s.delete(key)
			case 2, 3:
				s.set(key, "before")
				if round%4 == 3 {
					s.expire(key)
				}
				r = s.revision(key)
			}
			var wins, after atomic.Uint64
			found := make([]store.Revision, callers)
			start := make(chan struct{})
			time.AfterFunc(time.Millisecond, func() { close(start) })
			s.together(callers, func(i int) error {
				st := s.stores[i%len(s.stores)]
				compare := compareAndSet
				deletes := i%4 == 3 && r != 0
				if deletes {
					compare = compareAndDelete
				}
				<-start
				now, ok, err := compare(s.ctx, st, key, r)
				found[i] = now
				if ok {
					wins.Add(1)
					if !deletes {
						after.Store(uint64(now))
					}
					found[i] = store.Revision(after.Load())
				}
				return err
			})
			if wins.Load() != 1 {
				s.Fatalf("%d of %d callers change the same key of revision %d", wins.Load(), callers, r)
			}
			for i, now := range found {
				if now != store.Revision(after.Load()) {
					s.Fatalf("caller %d finds revision %d; the only change has made it %d", i, now, after.Load())
				}
			}
		}
	}},
	{"CountingByCompareAndSetLosesNothing", func(s *session) {
		const callers, each = 6, 12
		key := s.key("a")
		s.together(callers, func(i int) error {
			st := s.stores[i%len(s.stores)]
			for n := 0; n < each; {
				e, _, err := st.GetEntry(s.ctx, key)
				if err != nil {
					return err
				}
				_, ok, err := st.CompareAndSet(s.ctx, key, e.Revision, append(e.Value, '+'), 0, 0)
				if err != nil {
					return err
				}
				if ok {
					n++
				}
			}
			return nil
		})
		if v, _ := s.get(key); len(v) != callers*each {
			s.Fatalf("%d callers count to %d each, and the sum is %d", callers, each, len(v))
		}
	}},
}

// compare is an operation that does something to a key that has the revision.
type compare func(ctx context.Context, st store.Store, key string, rev store.Revision) (store.Revision, bool, error)

func compareAndSet(ctx context.Context, st store.Store, key string, rev store.Revision) (store.Revision, bool, error) {
	return st.CompareAndSet(ctx, key, rev, []byte("other"), 20*time.Hour, 30*time.Hour)
}

func compareAndDelete(ctx context.Context, st store.Store, key string, rev store.Revision) (store.Revision, bool, error) {
	return st.CompareAndDelete(ctx, key, rev)
}

func (s *session) compareAndSet(key string, rev store.Revision, value string, expireIn, deleteIn time.Duration) (store.Revision, bool) {
	s.Helper()
	now, ok, err := s.next().CompareAndSet(s.ctx, key, rev, []byte(value), expireIn, deleteIn)
	s.did(err, "CompareAndSet", key)
	return now, ok
}

func (s *session) compareAndDelete(key string, rev store.Revision) (store.Revision, bool) {
	s.Helper()
	now, ok, err := s.next().CompareAndDelete(s.ctx, key, rev)
	s.did(err, "CompareAndDelete", key)
	return now, ok
}

// swaps ends the check unless CompareAndSet sets key, which has that revision,
// and returns the new one.
func (s *session) swaps(key string, rev store.Revision, value string) store.Revision {
	s.Helper()
	now, ok := s.compareAndSet(key, rev, value, 0, 0)
	if !ok {
		s.Fatalf("CompareAndSet(%s) of revision %d, which the key has, sets nothing and finds revision %d", show(key), rev, now)
	}
	if e := s.live(key, value); e.Revision != now || now <= rev || e.ExpireIn != 0 || e.DeleteIn != 0 {
		s.Fatalf("CompareAndSet(%s) of revision %d returns revision %d; found is %s", show(key), rev, now, showEntry(e))
	}
	return now
}

// others ends the check unless the operation leaves keys in every state alone
// that have other revisions than it wants. never is a revision that no key has.
func (s *session) others(op string, do compare, never store.Revision) {
	s.Helper()
	plain, timed, expired, expiredTimed := s.key("plain"), s.key("timed"), s.key("expired"), s.key("expired and timed")
	s.set(plain, "zero")
	old := s.revision(plain)
	s.set(plain, "one")
	s.setE(timed, "one", time.Hour, 2*time.Hour)
	s.set(expired, "one")
	s.setE(expiredTimed, "one", 0, 2*time.Hour)
	s.expire(expired)
	s.expire(expiredTimed)
	for _, before := range []store.Entry{s.live(plain, "one"), s.live(timed, "one"), s.expired(expired), s.expired(expiredTimed)} {
		r := before.Revision
		s.leaves(op, do, before, never, r-1, r+1, r+1<<32, r<<32, math.MaxUint64)
		if before.Key == plain {
			s.leaves(op, do, before, old)
		}
	}
}

// leaves ends the check unless the operation, for each of the revisions and on
// every member, leaves what was found before alone and returns its revision.
func (s *session) leaves(op string, do compare, before store.Entry, revs ...store.Revision) {
	s.Helper()
	for i, st := range s.stores {
		for _, rev := range revs {
			now, ok, err := do(s.ctx, st, before.Key, rev)
			s.did(err, op, before.Key)
			if ok || now != before.Revision {
				s.Fatalf("member %d: %s of revision %d of a key that has %d returns %d, %v", i, op, rev, before.Revision, now, ok)
			}
		}
	}
	s.untouched(op, before)
}

// untouched ends the check unless key is what was found before.
func (s *session) untouched(op string, before store.Entry) {
	s.Helper()
	var after store.Entry
	if before.Expired {
		after = s.expired(before.Key)
	} else {
		after = s.live(before.Key, string(before.Value))
	}
	const much = 10 * time.Minute // for the times of members may differ a little
	if !sameEntry(before, after) || (after.ExpireIn == 0) != (before.ExpireIn == 0) || (after.DeleteIn == 0) != (before.DeleteIn == 0) ||
		after.ExpireIn > before.ExpireIn+much || after.DeleteIn > before.DeleteIn+much {
		s.Fatalf("%s changed %s to %s", op, showEntry(before), showEntry(after))
	}
}

// missing ends the check unless the operation finds nothing and makes nothing
// of a key that is not there, for each of the revisions and the one it had.
func (s *session) missing(op string, do compare, revs ...store.Revision) {
	s.Helper()
	never, deleted := s.key("never"), s.key("deleted")
	s.set(deleted, "one")
	revs = append(revs, s.revision(deleted))
	s.delete(deleted)
	for i, st := range s.stores {
		for _, key := range []string{never, deleted} {
			for _, rev := range revs {
				now, ok, err := do(s.ctx, st, key, rev)
				s.did(err, op, key)
				if ok || now != 0 {
					s.Fatalf("member %d: %s of revision %d of a key that is not there returns %d, %v; want 0, false", i, op, rev, now, ok)
				}
			}
		}
	}
	s.unset(never)
	s.unset(deleted)
}
