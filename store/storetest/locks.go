package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dkv/lock"
	"dkv/store"
)

// lockChecks count who holds locks and waits for them, and so need the store to
// themselves.
var lockChecks = []check{
	{"LockIsHeldByOneAtATimeAndTokensRise", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			var inside atomic.Int64
			var last store.Revision // guarded by the lock, and by mu for the race detector
			var mu sync.Mutex
			s.workers(6, func(ctx context.Context, i int) error {
				for n := range 8 {
					h, err := all[(i+n)%len(all)].Lock(ctx, s.key("a"))
					if err != nil {
						return err
					}
					if in := inside.Add(1); in != 1 {
						return fmt.Errorf("%d hold the same lock", in)
					}
					mu.Lock()
					before := last
					last = h.Token()
					mu.Unlock()
					if h.Token() <= before {
						return fmt.Errorf("the token %d comes after %d", h.Token(), before)
					}
					time.Sleep(pause / 8)
					inside.Add(-1)
					if err := h.Unlock(s.ctx); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}},
	{"FencedCounterIsExact", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			const workers, each = 6, 8
			name, count := s.key("lock"), s.key("count")
			s.workers(workers, func(ctx context.Context, i int) error {
				for n := range each {
					h, err := all[(i+n)%len(all)].Lock(ctx, name)
					if err != nil {
						return err
					}
					v, _, err := s.next().Get(s.ctx, count)
					if err != nil {
						return err
					}
					sum, _ := strconv.Atoi(string(v))
					res, err := s.next().Txn(s.ctx, store.Txn{If: []store.Cond{store.IfLock(name, h.Token())}, Then: []store.Op{store.OpSet(count, []byte(strconv.Itoa(sum+1)))}})
					if err != nil || !res.Held {
						return fmt.Errorf("the condition of a lock that is held: %v, %w", res.Held, errors.Join(err, h.Err()))
					}
					if err := h.Unlock(s.ctx); err != nil {
						return err
					}
				}
				return nil
			})
			s.live(count, strconv.Itoa(workers*each))
			s.delete(count)
		})
	}},
	{"WaitersGetTheLockInTheOrderInWhichTheyCame", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			h := s.takes("the first", by(all[0], a))
			var queue []*taker
			for n := range 6 {
				queue = append(queue, s.joins(s.ctx, fmt.Sprintf("waiter %d", n), by(all[n%len(all)], a), int64(n+1)))
			}
			for n, t := range queue {
				before := h.Token()
				s.unlock(h)
				if h = t.gets(); h.Token() <= before {
					s.Fatalf("waiter %d gets the token %d after %d", n, h.Token(), before)
				}
				s.queues(1, int64(len(queue)-n-1))
			}
			s.unlock(h)
		})
	}},
	{"LockThatIsHeldIsNotTakenByWhoDoesNotWait", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			for i := range all {
				h := s.takes("Lock of a free lock", by(all[i], a))
				for j := range all {
					if s.free(all[j], a) {
						s.Fatalf("member %d gives out a lock that is held by way of member %d", j, i)
					}
				}
				s.unlock(h)
				if !s.free(all[(i+1)%len(all)], a) {
					s.Fatalf("a lock is not free after Unlock")
				}
			}
		})
	}},
	{"WaiterWhoseContextEndsLeavesTheQueue", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			for i, tries := 0, 0; i < len(all); i++ {
				h := s.takes("the first", by(all[i], a))
				ctx, cancel := context.WithCancel(s.ctx)
				defer cancel()
				left := s.joins(ctx, "who leaves", by(all[(i+1)%len(all)], a), 1)
				stays := s.joins(s.ctx, "who stays", by(all[(i+2)%len(all)], a), 2)
				cancel()
				s.eventually("Lock returns when its context ends", func() bool { return !left.waits() })
				s.wantErr("Lock whose context ends", left.err, context.Canceled)
				if store.KindOf(left.err) == store.KindUnknown && tries < 20 {
					tries++ // it is in the queue, and has not been told so yet: once more
					i--
				} else {
					s.wantErr("Lock whose context ends", left.err, store.ErrUnavailable)
				}
				s.queues(1, 1)
				if !stays.waits() {
					s.Fatalf("a waiter gets the lock when another leaves")
				}
				s.unlock(h)
				s.unlock(stays.gets())
				s.queues(0, 0)
			}
		})
	}},
	{"AcquireDoesNotOvertakeWaiters", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			h := s.takes("the first", by(all[0], a))
			var queue []*taker
			for n := range 5 {
				queue = append(queue, s.joins(s.ctx, fmt.Sprintf("waiter %d", n), by(all[n%len(all)], a), int64(n+1)))
			}
			var served atomic.Bool // all who wait
			s.workers(1+len(all), func(ctx context.Context, i int) error {
				if i > 0 {
					for {
						owner, ok, err := all[i-1].Acquire(ctx, a, time.Hour)
						switch {
						case err != nil:
							return err
						case ok && !served.Load():
							return errors.New("who waits for the lock is overtaken by an Acquire")
						case ok:
							_, err := all[i-1].Release(s.ctx, a, owner)
							return err
						}
					}
				}
				defer served.Store(true)
				for _, t := range queue {
					time.Sleep(pause)
					if err := h.Unlock(s.ctx); err != nil {
						return err
					}
					select {
					case <-t.taken:
					case <-time.After(s.late):
						return fmt.Errorf("%s does not get the lock", t.what)
					}
					if t.err != nil {
						return t.err
					}
					h = t.held
				}
				served.Store(true)
				return h.Unlock(s.ctx)
			})
		})
	}},
	{"ReleaseByAnotherOwnerChangesNothing", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a, b := s.key("a"), s.key("b")
			acquire := func(i int, key string) lock.Owner {
				s.Helper()
				owner, ok, err := all[i%len(all)].Acquire(s.ctx, key, time.Hour)
				if !ok || err != nil {
					s.Fatalf("Acquire(%s): %v, %v", show(key), ok, err)
				}
				return owner
			}
			release := func(what string, key string, owner lock.Owner, want bool) {
				s.Helper()
				for i := range all {
					if ok, err := all[i].Release(s.ctx, key, owner); ok != (want && i == 0) || err != nil {
						s.Fatalf("member %d: Release %s: %v, %v", i, what, ok, err)
					}
				}
			}
			first, other := acquire(0, a), acquire(1, b)
			release("by the owner of another lock", a, other, false)
			release("by the owner, and again", a, first, true)
			second := acquire(2, a)
			if second.Token() <= first.Token() {
				s.Fatalf("the token %d comes after %d", second.Token(), first.Token())
			}
			release("by a former owner", a, first, false)
			s.condition(true, store.IfLock(a, second.Token()), store.IfLock(b, other.Token()))
			h := s.joins(s.ctx, "Lock", by(all[0], a), 1)
			release("by a former owner", a, first, false)
			release("by the owner, and again", a, second, true)
			release("by the owner", b, other, true)
			s.unlock(h.gets())
		})
	}},
	{"UnlockTwiceIsErrNotHeld", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			one := s.takes("Lock", by(all[0], a))
			s.must(one.Err())
			s.unlock(one)
			s.wantErr("Unlock again", one.Unlock(s.ctx), store.ErrNotHeld)
			two := s.takes("Lock again", by(all[len(all)-1], a))
			s.wantErr("Unlock of who held it before", one.Unlock(s.ctx), store.ErrNotHeld)
			s.wantErr("Err after Unlock", one.Err(), store.ErrNotHeld)
			s.condition(true, store.IfLock(a, two.Token()))
			s.unlock(two)
		})
	}},
	{"LockThatNobodyRenewsGoesToTheNextAfterItsTime", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			const ttl = 300 * time.Millisecond
			a := s.key("a")
			begin := time.Now()
			owner, ok, err := all[0].Acquire(s.ctx, a, ttl)
			if s.did(err, "Acquire", a); !ok {
				s.Fatalf("Acquire does not take a free lock")
			}
			n := s.joins(s.ctx, "the next", by(all[len(all)-1], a), 1).gets()
			if d := time.Since(begin); d < ttl || n.Token() <= owner.Token() {
				s.Fatalf("%v after it was taken for %v, the next gets a lock with the token %d after %d", d, ttl, n.Token(), owner.Token())
			}
			s.condition(false, store.IfLock(a, owner.Token()))
			if ok, err := all[0].Release(s.ctx, a, owner); ok || err != nil {
				s.Fatalf("Release of a lock that has ended = %v, %v", ok, err)
			}
			s.condition(true, store.IfLock(a, n.Token()))
			s.unlock(n)
		})
	}},
	{"ClosedLockerGivesUpWhatItHolds", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			closes := lock.New(s.next().(lock.Backend))
			defer closes.Close()
			h := s.takes("Lock", by(closes, a), lock.TTL(time.Hour))
			next := s.joins(s.ctx, "the next", by(all[len(all)-1], a), 1)
			closes.Close()
			s.wantErr("Err of a closed locker's lock", h.Err(), store.ErrClosed)
			n := next.gets()
			s.condition(false, store.IfLock(a, h.Token()))
			s.condition(true, store.IfLock(a, n.Token()))
			s.unlock(n)
		})
	}},
	{"LocksAndPlacesAreRenewed", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			for ttl := 300 * time.Millisecond; ; ttl *= 2 {
				h := s.takes("Lock", by(all[0], a), lock.TTL(ttl))
				next := s.joins(s.ctx, "the next", by(all[len(all)-1], a), 1, lock.TTL(ttl))
				for begin := time.Now(); time.Since(begin) < 5*ttl/2 && h.Err() == nil; {
					time.Sleep(5 * pause)
				}
				if h.Err() != nil && ttl < 3*time.Second { // a slow machine; others get more time
					h.Unlock(s.ctx)
					s.unlock(next.gets())
					s.queues(0, 0)
					continue
				}
				s.must(h.Err())
				s.queues(1, 1)
				s.condition(true, store.IfLock(a, h.Token()))
				s.unlock(h)
				s.unlock(next.gets())
				return
			}
		})
	}},
	{"WaiterThatIsNotRenewedLosesItsPlace", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			h := s.takes("Lock", by(all[0], a))
			at, err := s.next().(lock.Backend).JoinLock(s.ctx, a, []byte("12345678"), 0, 200*time.Millisecond, true)
			if err != nil || !at.Waiting || at.Held {
				s.Fatalf("JoinLock of a lock that is held: %+v, %v", at, err)
			}
			s.queues(1, 0)
			s.unlock(h)
			s.queues(0, 0)
		})
	}},
	{"LockConditionHoldsWhileTheLockIsHeld", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			var last store.Revision
			for i := range 3 {
				h := s.takes("Lock", by(all[i%len(all)], a))
				next := s.joins(s.ctx, "the next", by(all[(i+1)%len(all)], a), 1)
				s.condition(true, store.IfLock(a, h.Token()))
				s.condition(false, store.IfLock(a, last))
				s.unlock(h)
				s.condition(false, store.IfLock(a, h.Token()))
				n := next.gets()
				s.condition(true, store.IfLock(a, n.Token()))
				s.condition(false, store.IfLock(a, h.Token()))
				s.unlock(n)
				s.condition(false, store.IfLock(a, n.Token()))
				last = n.Token()
			}
		})
	}},
	{"BadLocksAreRefused", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			long := strings.Repeat("k", store.MaxKeySize+1)
			for i, l := range all {
				for _, c := range []struct {
					name string
					err  error
					want error
				}{
					{"Lock of an empty name", second(l.Lock(s.ctx, "")), store.ErrEmptyKey},
					{"Lock of a long name", second(l.Lock(s.ctx, long)), store.ErrKeyTooLarge},
					{"Lock for no time", second(l.Lock(s.ctx, "a", lock.TTL(0))), store.ErrBadDuration},
					{"Lock with a long value", second(l.Lock(s.ctx, "a", lock.Value(make([]byte, lock.MaxHolderValue+1)))), store.ErrValueTooLarge},
					{"Release by nobody", second(l.Release(s.ctx, "a", lock.Owner{})), store.ErrBadOwner},
				} {
					s.wantErr(fmt.Sprintf("member %d: %s", i, c.name), c.err, c.want)
				}
				ctx, cancel := context.WithCancel(s.ctx)
				cancel()
				_, err := l.Lock(ctx, s.key("a"))
				s.wantErr("Lock with a context that has ended", err, context.Canceled)
				s.unlock(s.takes("Lock of the longest name", by(l, long[1:])))
			}
		})
	}},
	{"SemaphoreHasAsManyHoldersAsPermits", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			const permits = 3
			acquire := func(i int) take { return all[i%len(all)].Semaphore(s.key("a"), permits).Acquire }
			var held []*lock.Lock
			for i := range permits {
				held = append(held, s.takes("a permit", acquire(i)))
			}
			for i := range all {
				if _, ok, err := all[i].Semaphore(s.key("a"), permits).TryAcquire(s.ctx); ok || err != nil {
					s.Fatalf("member %d: one permit too many: %v, %v", i, ok, err)
				}
			}
			one, two := s.joins(s.ctx, "the first who waits", acquire(1), 1), s.joins(s.ctx, "the second who waits", acquire(2), 2)
			s.unlock(held[1])
			held[1] = one.gets()
			s.queues(permits, 1)
			if !two.waits() {
				s.Fatalf("two get the permit that one gives back")
			}
			s.unlock(held[0])
			held[0] = two.gets()
			for _, h := range held {
				s.unlock(h)
			}
		})
	}},
	{"ReadersShareALockAndDoNotOvertakeAWriter", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			rw := func(i int) lock.RWLock { return all[i%len(all)].RWLock(s.key("a")) }
			one, two := s.takes("a reader", rw(0).RLock), s.takes("another reader", rw(1).RLock)
			writer := s.joins(s.ctx, "the writer", rw(2).Lock, 1)
			three := s.joins(s.ctx, "a reader behind the writer", rw(0).RLock, 2)
			four := s.joins(s.ctx, "another reader behind the writer", rw(1).RLock, 3)
			s.unlock(one)
			s.queues(1, 3)
			if !writer.waits() {
				s.Fatalf("a writer gets the lock beside a reader")
			}
			s.unlock(two)
			h := writer.gets()
			s.queues(1, 2)
			if !three.waits() || !four.waits() {
				s.Fatalf("a reader gets the lock beside the writer")
			}
			s.unlock(h)
			three.gets()
			four.gets()
			s.unlock(three.held)
			s.unlock(four.held)
		})
	}},
	{"LeaderIsSeenAndObservedByEveryMember", func(s *session) {
		s.lockers(func(all []*lock.Locker) {
			a := s.key("a")
			ctx, stop := context.WithCancel(s.ctx)
			defer stop()
			seen := make([]chan lock.Leader, len(all))
			for i, l := range all {
				seen[i] = make(chan lock.Leader, 16)
				go func() {
					for leader, err := range l.Election(a).Observe(ctx) {
						if err == nil {
							seen[i] <- leader
						}
					}
					close(seen[i])
				}()
			}
			for n := range 3 {
				value := fmt.Sprint("leader ", n)
				h, err := all[n%len(all)].Election(a).Campaign(s.ctx, []byte(value))
				s.must(err)
				for i, l := range all {
					leader, ok, err := l.Election(a).Leader(s.ctx)
					if !ok || err != nil || string(leader.Value) != value || leader.Token != h.Token() {
						s.Fatalf("member %d sees the leader %+v, %v, %v; want %s with the token %d", i, leader, ok, err, value, h.Token())
					}
					select {
					case o := <-seen[i]:
						if string(o.Value) != value || o.Token != h.Token() {
							s.Fatalf("member %d observes the leader %+v; want %s with the token %d", i, o, value, h.Token())
						}
					case <-time.After(s.late):
						s.Fatalf("member %d does not observe the leader", i)
					}
				}
				s.unlock(h)
				for i, l := range all {
					if leader, ok, err := l.Election(a).Leader(s.ctx); ok || err != nil {
						s.Fatalf("member %d sees the leader %+v, who has resigned: %v", i, leader, err)
					}
				}
			}
			stop()
			for i := range seen {
				for range seen[i] {
				}
			}
		})
	}},
}
