package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dkv/lock"
	"dkv/store"
)

// watchChecks are about what watches yield.
var watchChecks = []check{
	{"WatchOfAKeyYieldsEachChangeOfIt", func(s *session) {
		a, at := s.key("a"), func(e store.Entry, ok bool) store.Revision { return e.Revision }
		for i := range s.stores {
			s.delete(a)
			w := s.watches(i, store.Watch{Key: a})
			defer w.cancel()
			c := script{s: s}
			s.set(a+"a", "of a longer name")
			s.set(s.prefix, "of a shorter name")
			s.set(a, "Set")
			c.note(store.EventSet, a, "Set", at(s.entry(a)))
			s.setE(a, "SetE", time.Hour, time.Hour)
			c.note(store.EventSet, a, "SetE", at(s.entry(a)))
			s.expire(a)
			c.note(store.EventExpired, a, "", at(s.entry(a)))
			r, _ := s.compareAndSet(a, at(s.entry(a)), "41", 0, 0)
			c.note(store.EventSet, a, "41", r)
			_, r = s.add(a, 1)
			c.note(store.EventSet, a, "42", r)
			c.delete(a)
			s.setEIfUnset(a, "SetEIfUnset", 0, 0)
			c.note(store.EventSet, a, "SetEIfUnset", at(s.entry(a)))
			s.set(a+"\x00", "of a longer name")
			r, _ = s.compareAndDelete(a, at(s.entry(a)))
			c.note(store.EventDeleted, a, "", r)
			c.set(a, "")
			r = s.txn(store.Txn{Then: []store.Op{store.OpExpire(a), store.OpDelete(a + "a")}}).Results[0].Revision
			c.note(store.EventExpired, a, "", r)
			r = s.txn(store.Txn{Then: []store.Op{store.OpAdd(a, -7)}}).Revision
			c.note(store.EventSet, a, "-7", r)
			r = s.txn(store.Txn{Then: []store.Op{store.OpDelete(a)}}).Revision
			c.note(store.EventDeleted, a, "", r)
			r = s.txn(store.Txn{Then: []store.Op{store.OpSetEIfUnset(a, []byte("last"), 0, time.Hour)}}).Revision
			c.note(store.EventSet, a, "last", r)
			w.sees(c.want)
			w.stop()
		}
	}},
	{"WatchOfAPrefixYieldsTheChangesOfItsKeys", func(s *session) {
		keys := s.awkwardKeys()
		prefixes := []string{s.prefix, s.key("a"), s.key("a\x00"), s.key("\xff"), s.key("prefix"), s.key("aaaaaaaaaaaaaaaa"), s.key("none")}
		var all []*watcher
		for n := range 2 * len(prefixes) {
			w := s.watches(n%len(s.stores), store.Watch{Prefix: prefixes[n/2]})
			defer w.cancel()
			all = append(all, w)
		}
		c := script{s: s}
		for n, key := range keys {
			c.set(key, fmt.Sprint(n))
			if n%3 == 0 {
				c.delete(key)
			}
		}
		for _, prefix := range slices.Backward(prefixes) {
			c.set(prefix, "last") // all watch at least that
		}
		for _, w := range all {
			w.sees(slices.DeleteFunc(slices.Clone(c.want), func(e store.Event) bool { return !strings.HasPrefix(e.Key, w.what.Prefix) }))
			w.stop()
		}
	}},
	{"WatchMissesNothingOnceItHasReturned", func(s *session) {
		for i := range s.stores {
			for j := range s.stores {
				key := s.key("%d-%d", i, j)
				for n := range 8 {
					c := script{s: s.on(j)}
					s.on(j).set(key, "before")
					w := s.opens(i, store.Watch{Key: key})
					defer w.cancel()
					c.set(key, fmt.Sprint("first ", n))
					c.delete(key)
					c.set(key, "third")
					go w.loop()
					c.set(key, "fourth")
					w.sees(c.want)
					w.stop()
				}
			}
		}
	}},
	{"EventsTellCallsFromDeadlines", func(s *session) {
		w := s.watches(0, store.Watch{Prefix: s.prefix})
		defer w.cancel()
		set, gone, deleted := store.EventSet, store.EventExpired, store.EventDeleted
		for d, again := 150*time.Millisecond, true; again; d *= 2 {
			names, begin, want := []string{"expires", "deletes", "both", "calls", "mixed"}, time.Now(), make(map[string][]store.Event)
			key := func(name string) string { return s.key("%s-%v", name, d) }
			s.setE(key("expires"), "one", d, 0)
			s.setE(key("deletes"), "one", 0, d)
			s.setE(key("both"), "one", d, 2*d)
			s.setE(key("calls"), "one", time.Hour, time.Hour)
			s.expire(key("calls"))
			s.delete(key("calls"))
			s.setE(key("mixed"), "one", time.Hour, 2*d)
			s.expire(key("mixed"))
			e, ok := s.entry(key("mixed"))
			again = !ok || !e.Expired // the deadline came first, which shows nothing
			note := func(name string, typ store.EventType, byDeadline bool, value string) {
				want[name] = append(want[name], store.Event{Type: typ, Key: key(name), ByDeadline: byDeadline, Value: []byte(value)})
			}
			for _, name := range names {
				note(name, set, false, "one")
			}
			note("expires", gone, true, "")
			note("deletes", deleted, true, "")
			note("both", gone, true, "")
			note("both", deleted, true, "")
			note("calls", gone, false, "")
			note("calls", deleted, false, "")
			note("mixed", gone, false, "")
			note("mixed", deleted, true, "")
			if again {
				continue
			}
			for _, name := range names {
				of := func(all []store.Event) []store.Event {
					return slices.DeleteFunc(slices.Clone(all), func(e store.Event) bool { return e.Key != key(name) })
				}
				final := want[name][len(want[name])-1].Type
				seen := of(w.await("the last event of "+name, func(seen []store.Event) bool {
					mine := of(seen)
					return len(mine) > 0 && mine[len(mine)-1].Type == final
				}))
				if name == "both" && len(seen) == 2 && d < s.late/4 {
					// A store that was kept from carrying out the one deadline
					// until the other had come need not tell of the one.
					again = true
					break
				}
				s.sameEvents(w.name, seen, want[name])
				last, ok := want[name][len(want[name])-1], time.Since(begin) >= d
				if last.ByDeadline && !ok {
					s.Fatalf("%s yields %s before %v have passed", w.name, showEvent(last), d)
				}
			}
		}
		w.stop()
	}},
	{"EventsOfATransactionFollowEachOther", func(s *session) {
		var watching []*watcher
		for i := range s.stores {
			w := s.watches(i, store.Watch{Prefix: s.prefix})
			defer w.cancel()
			watching = append(watching, w)
		}
		const callers, each = 6, 12
		told := make([][]store.Event, callers)
		s.together(callers, func(i int) error {
			a, b, c := s.key("%d-a", i), s.key("%d-b", i), s.key("%d-c", i)
			for n := range each {
				value := fmt.Append(nil, n)
				t := store.Txn{Then: []store.Op{store.OpSet(a, value), store.OpAdd(b, 1), store.OpGet(a), store.OpSetEIfUnset(c, value, 0, 0)}}
				if n%2 == 1 {
					t.Then[1], t.Then[3] = store.OpExpire(b), store.OpDelete(c)
				}
				res, err := s.stores[(i+n)%len(s.stores)].Txn(s.ctx, t)
				if err != nil {
					return err
				}
				for k, op := range t.Then {
					e := store.Event{Type: store.EventSet, Key: op.Key, Value: op.Value, Revision: res.Results[k].Revision}
					switch op.Kind {
					case store.OpKindGet:
						continue
					case store.OpKindAdd:
						e.Value = []byte("1") // it has expired before
					case store.OpKindExpire:
						e.Type = store.EventExpired
					case store.OpKindDelete:
						e.Type = store.EventDeleted
					}
					if first := told[i]; k > 0 && e.Revision != first[len(first)-1].Revision+1 {
						return fmt.Errorf("Txn(%s) has the revisions %+v", showTxn(t), res.Results)
					}
					told[i] = append(told[i], e)
				}
			}
			return nil
		})
		s.sawAlike(watching, slices.Concat(told...))
	}},
	{"WhatChangesNothingIsNoEvent", func(s *session) {
		a, missing := s.key("a"), s.key("missing")
		for i := range s.stores {
			s.set(a, "one")
			w := s.watches(i, store.Watch{Prefix: s.prefix})
			defer w.cancel()
			s.delete(missing)
			s.expire(missing)
			s.setEIfUnset(a, "other", 0, 0)
			r := s.revision(a)
			s.compareAndSet(a, r-1, "other", 0, 0)
			s.compareAndSet(missing, r, "other", 0, 0)
			s.compareAndDelete(a, r-1)
			s.compareAndDelete(missing, 0)
			s.txn(store.Txn{If: []store.Cond{store.IfMissing(a)}, Then: []store.Op{store.OpDelete(a), store.OpAdd(missing, 1)}, Else: []store.Op{store.OpGet(a)}})
			s.txn(store.Txn{Then: []store.Op{store.OpSetEIfUnset(a, nil, 0, 0), store.OpDelete(missing), store.OpExpire(missing + "-too")}})
			for _, err := range []error{
				second(s.stores[i].Txn(s.ctx, store.Txn{Then: []store.Op{store.OpSet(missing, nil), store.OpAdd(a, 1)}})),
				second(s.stores[i].Txn(s.ctx, store.Txn{Then: []store.Op{store.OpSet(a, nil), store.OpDelete(a)}})),
				s.stores[i].SetE(s.ctx, a, []byte("other"), -1, 0),
			} {
				if store.KindOf(err) != store.KindFinal {
					s.Fatalf("bad input is refused with %v", err)
				}
			}
			if _, _, err := s.stores[i].Add(s.ctx, a, 1); !errors.Is(err, store.ErrNotNumber) {
				s.Fatalf("Add to what is no number: %v", err)
			}
			s.get(a)
			s.scan(store.Range{Prefix: s.prefix})
			c := script{s: s}
			c.set(a, "changed")
			w.sees(c.want)
			w.stop()
		}
	}},
	{"LocksAreNotSeenAsKeys", func(s *session) {
		for i, st := range s.stores {
			backend, ok := st.(lock.Backend)
			if !ok {
				s.Logf("a %T has no locks", st)
				continue
			}
			a, locks := s.key("a"), lock.New(backend)
			defer locks.Close()
			one := s.watches(i, store.Watch{Key: a})
			defer one.cancel()
			all := s.watches(i, store.Watch{Prefix: s.prefix})
			defer all.cancel()
			for _, permits := range []int{1, 2} {
				h, err := locks.Semaphore(a, permits).Acquire(s.ctx)
				s.must(err)
				s.must(h.Unlock(s.ctx))
			}
			owner, _, err := locks.Acquire(s.ctx, a, time.Minute)
			s.must(err)
			_, err = locks.Release(s.ctx, a, owner)
			s.must(err)
			if _, ok, err := locks.Acquire(s.ctx, a+"-brief", time.Millisecond); !ok || err != nil {
				s.Fatalf("Acquire: %v, %v", ok, err)
			}
			s.eventually("the lock has ended", func() bool {
				owner, ok, err := locks.Acquire(s.ctx, a+"-brief", time.Minute)
				s.must(err)
				if ok {
					_, err = locks.Release(s.ctx, a+"-brief", owner)
					s.must(err)
				}
				return ok
			})
			c := script{s: s}
			c.set(a, "key")
			one.sees(c.want)
			all.sees(c.want)
			one.stop()
			all.stop()
		}
	}},
	{"ValuesOfEventsBelongToTheCaller", func(s *session) {
		for i := range s.stores {
			c := script{s: s}
			one, two := s.opens(i, store.Watch{Prefix: s.prefix}), s.opens(i, store.Watch{Prefix: s.prefix})
			defer one.cancel()
			defer two.cancel()
			one.during = func(n int) {
				// Its own alone; what follows in memory is of another event.
				one.mu.Lock()
				defer one.mu.Unlock()
				v := one.mu.seen[n].Value
				for j := range v {
					v[j] = '#'
				}
				_ = append(v, "######"...)
			}
			for n := range 6 {
				c.set(s.key("%d-%d", i, n), strings.Repeat(fmt.Sprint(n), 5*(n%3)))
			}
			last := c.want[len(c.want)-1].Revision
			go one.loop()
			one.through(last)
			one.stop() // so that all is overwritten
			go two.loop()
			two.sees(c.want)
			two.stop()
			for n, e := range c.want {
				s.live(e.Key, string(e.Value))
				if got, _ := one.seen(); n > 0 && string(got[n].Value) != strings.Repeat("#", len(e.Value)) {
					s.Fatalf("member %d: the value of an event has changed to %s", i, show(string(got[n].Value)))
				}
			}
		}
	}},
	{"ContextThatEndsEndsAWatch", func(s *session) {
		for i, st := range s.stores {
			for cause, timeout := range map[error]time.Duration{context.Canceled: time.Hour, context.DeadlineExceeded: 30 * time.Millisecond} {
				for _, when := range []string{"before the loop", "while it waits", "during the loop"} {
					key := s.key("%d-%v-%v", i, cause, when)
					ctx, cancel := context.WithTimeout(s.ctx, timeout)
					defer cancel()
					end := func() {
						if cause == context.Canceled {
							cancel()
						}
						<-ctx.Done()
					}
					w := &watcher{s: s, name: fmt.Sprintf("member %d: a watch whose context ends %s", i, when), what: store.Watch{Key: key}, ended: make(chan struct{})}
					var err error
					if w.events, err = st.Watch(ctx, w.what); err != nil {
						if ctx.Err() != nil {
							continue // the machine is slow
						}
						s.Fatalf("member %d: Watch: %v", i, err)
					}
					switch when {
					case "before the loop":
						end()
						go w.loop()
					case "while it waits":
						go w.loop()
						time.AfterFunc(5*pause, end)
					case "during the loop":
						w.during = func(int) { end() }
						s.set(key, "one")
						go w.loop()
					}
					w.ends(store.KindNotApplied, store.ErrUnavailable, cause)
				}
			}
			ctx, cancel := context.WithCancel(s.ctx)
			cancel()
			if _, err := st.Watch(ctx, store.Watch{Key: s.key("a")}); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
				s.Fatalf("member %d: Watch with a context that has ended: %v", i, err)
			}
		}
	}},
	{"BadWatchesAreRefused", func(s *session) {
		long := strings.Repeat("k", store.MaxKeySize+1)
		_, at := s.scan(store.Range{Prefix: s.prefix})
		for i, st := range s.stores {
			for what, want := range map[store.Watch]error{
				{Key: "a", Prefix: "a"}:          store.ErrBadRange,
				{Key: "a", Prefix: "b", From: 1}: store.ErrBadRange,
				{Key: long}:                      store.ErrKeyTooLarge,
				{Prefix: long}:                   store.ErrKeyTooLarge,
				{Key: "a", From: at + 1<<40}:     store.ErrFutureRevision,
				{Prefix: "a", From: 1<<64 - 1}:   store.ErrFutureRevision,
				{From: 1 << 63}:                  store.ErrFutureRevision,
			} {
				if _, err := st.Watch(s.ctx, what); !errors.Is(err, want) || store.KindOf(err) != store.KindFinal {
					s.Fatalf("member %d: %s: %v (kind: %v); want %v", i, showWatch(what), err, store.KindOf(err), want)
				}
			}
			// The longest that are allowed.
			for _, what := range []store.Watch{{Key: long[1:]}, {Prefix: long[1:]}} {
				s.opens(i, what).cancel()
			}
		}
	}},
	{"ConcurrentChangesAreSeenAlikeByEveryWatcher", func(s *session) {
		var watching []*watcher
		for n := range 2 * len(s.stores) {
			w := s.watches(n%len(s.stores), store.Watch{Prefix: s.prefix})
			defer w.cancel()
			watching = append(watching, w)
		}
		const callers, each, names = 8, 40, 3
		var told struct {
			sync.Mutex
			events []store.Event
		}
		note := func(typ store.EventType, key, value string, rev store.Revision) {
			told.Lock()
			defer told.Unlock()
			told.events = append(told.events, store.Event{Type: typ, Key: key, Value: []byte(value), Revision: rev})
		}
		s.together(callers, func(i int) error {
			st := s.stores[i%len(s.stores)]
			for n := range each {
				name := (i + n) % names
				key, count := s.key("key-%d", name), s.key("count-%d", name)
				switch n % 4 {
				case 0:
					sum, rev, err := st.Add(s.ctx, count, int64(i))
					if err != nil {
						return err
					}
					note(store.EventSet, count, fmt.Sprint(sum), rev)
				case 1, 2:
					e, _, err := st.GetEntry(s.ctx, key)
					if err != nil {
						return err
					}
					value := fmt.Sprint(i, "-", n)
					rev, ok, err := st.CompareAndSet(s.ctx, key, e.Revision, []byte(value), 0, 0)
					if err != nil {
						return err
					}
					if ok {
						note(store.EventSet, key, value, rev)
						rev, ok, err = st.CompareAndDelete(s.ctx, key, rev)
					}
					if ok && err == nil {
						note(store.EventDeleted, key, "", rev)
					}
					if err != nil {
						return err
					}
				case 3:
					res, err := st.Txn(s.ctx, store.Txn{Then: []store.Op{store.OpAdd(count, 1), store.OpExpire(key)}})
					if err != nil {
						return err
					}
					note(store.EventSet, count, fmt.Sprint(res.Results[0].Number), res.Results[0].Revision)
					if r := res.Results[1]; r.Done {
						note(store.EventExpired, key, "", r.Revision)
					}
				}
			}
			return nil
		})
		s.sawAlike(watching, told.events)
	}},
}

func second[T any](_ T, err error) error { return err }

// sawAlike ends the check unless all watchers have seen what the callers were
// told, in the order of the revisions, and ends the watches.
func (s *session) sawAlike(watching []*watcher, told []store.Event) {
	s.Helper()
	slices.SortFunc(told, func(a, b store.Event) int { return int(int64(a.Revision) - int64(b.Revision)) })
	for _, w := range watching {
		w.sees(told)
		w.stop()
	}
}
