package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"dkv/store"
)

// watchAloneChecks need the store to themselves: others would have it forget
// what they watch, or be seen by them.
var watchAloneChecks = []check{
	{"WatchOfEverythingHasNoGap", func(s *session) {
		keys := s.awkwardKeys()
		for i := range s.stores {
			_, at := s.scan(store.Range{})
			c := script{s: s}
			w := s.watches(i, store.Watch{})
			defer w.cancel()
			old := s.opens(i, store.Watch{From: at + 1})
			defer old.cancel()
			for _, key := range keys {
				c.set(key, "one")
				c.delete(key)
			}
			c.set("key of no prefix", "one")
			c.delete("key of no prefix")
			for n := range c.want {
				c.want[n].Revision = at + 1 + store.Revision(n)
			}
			go old.loop()
			for _, w := range []*watcher{w, old} {
				w.sees(c.want)
				w.stop()
			}
		}
	}},
	{"WatchGoesOnWhereAScanHasBeen", func(s *session) {
		// The keys are counters, so that it shows if a change is missed or seen twice.
		const writers, each = 4, 60
		s.scan(store.Range{}) // a store in memory remembers from there on
		var written atomic.Int64
		keys := s.numbered(writers)
		s.together(writers+len(s.stores), func(i int) error {
			if i < writers {
				for n := range each {
					// Each is written through every member.
					st := s.stores[(i+n)%len(s.stores)]
					if _, _, err := st.Add(s.ctx, keys[i], 1); err != nil {
						return err
					}
					written.Add(1)
					time.Sleep(pause / 8) // so that they meet those who watch
				}
				return nil
			}
			i -= writers
			for enough := int64(0); enough < writers*each; enough += writers * each / 4 {
				for written.Load() < enough && s.ctx.Err() == nil {
					time.Sleep(pause / 4)
				}
				all, at, err := collect(s.ctx, s.stores[i], store.Range{Prefix: s.prefix}, nil)
				if err != nil {
					return err
				}
				c := counters{last: at, counts: make(map[string]int)}
				for _, e := range all {
					n, _ := strconv.Atoi(string(e.Value))
					c.counts[e.Key], c.sum = n, c.sum+n
				}
				if err := c.follow(s, s.stores[(i+1)%len(s.stores)], writers*each, writers*each); err != nil {
					return fmt.Errorf("after a scan of member %d at revision %d: %w", i, at, err)
				}
			}
			return nil
		})
		s.empty(keys)
	}},
	{"WatchIsResumedBehindItsLastEventOnAnyMember", func(s *session) {
		const writers, each = 4, 40
		keys := s.numbered(writers)
		_, at := s.scan(store.Range{})
		s.together(writers+len(s.stores), func(i int) error {
			if i < writers {
				for n := range each {
					if _, _, err := s.stores[(i+n)%len(s.stores)].Add(s.ctx, keys[i], 1); err != nil {
						return err
					}
				}
				return nil
			}
			i -= writers
			c := counters{last: at, counts: make(map[string]int)}
			for n := 1; c.sum < writers*each; n++ {
				// The next revision may be one that nobody has written yet.
				if err := c.follow(s, s.stores[(i+n)%len(s.stores)], writers*each, 1+n%7); err != nil {
					return err
				}
			}
			return nil
		})
		s.empty(keys)
	}},
	{"SlowLoopSeesEveryEvent", func(s *session) {
		const txns, each = 40, 100
		keys := s.numbered(each)
		for i := range s.stores {
			s.set(keys[0], "first")
			first := s.revision(keys[0])
			goOn := make(chan struct{})
			var watching []*watcher
			for _, what := range []store.Watch{{Prefix: s.prefix}, {Key: keys[0]}, {Prefix: s.prefix, From: first}, {}} {
				w := s.opens(i, what)
				defer w.cancel()
				w.during = func(n int) {
					if n == 0 {
						select {
						case <-goOn:
						case <-s.ctx.Done():
						}
					}
				}
				watching = append(watching, w)
				go w.loop()
			}
			want := []store.Event{{Type: store.EventSet, Key: keys[0], Value: []byte("first"), Revision: first}}
			for n := range txns {
				t := store.Txn{}
				for _, key := range keys {
					t.Then = append(t.Then, store.OpSet(key, strconv.AppendInt(nil, int64(n), 10)))
				}
				res := s.txn(t)
				for k, op := range t.Then {
					want = append(want, store.Event{Type: store.EventSet, Key: op.Key, Value: op.Value, Revision: res.Results[k].Revision})
				}
			}
			c := script{s: s}
			c.set(keys[0], "last")
			want = append(want, c.want...)
			close(goOn)
			for _, w := range watching {
				from := w.what.From
				if from == 0 {
					from = first + 1
				}
				w.sees(slices.DeleteFunc(slices.Clone(want), func(e store.Event) bool {
					return e.Revision < from || w.what.Key != "" && e.Key != w.what.Key
				}))
				w.stop()
			}
		}
		s.empty(keys)
	}},
	{"WatchOfWhatIsForgottenIsRefused", func(s *session) {
		// More than is remembered. What a watch has kept for its loop comes before.
		const many, large = 300, 20
		value := strings.Repeat("v", 1<<20)
		key, small := s.key("large"), s.numbered(many)
		_, at := s.scan(store.Range{})
		var standing []*watcher
		stand := make(chan struct{})
		for i := range s.stores {
			for _, begun := range []bool{false, true} {
				w := s.opens(i, store.Watch{Prefix: s.prefix})
				defer w.cancel()
				w.during = func(n int) {
					if n == 0 {
						select {
						case <-stand:
						case <-s.ctx.Done():
						}
					}
				}
				if begun {
					go w.loop()
				}
				standing = append(standing, w)
			}
		}
		t := store.Txn{}
		for _, key := range small {
			t.Then = append(t.Then, store.OpSet(key, nil))
		}
		res := s.txn(t)
		for n := range large {
			s.set(key, strconv.Itoa(n)+value)
		}
		last := s.revision(key)
		for i, st := range s.stores {
			s.eventually(fmt.Sprintf("member %d knows the last change", i), func() bool { return s.on(i).info().Revision >= last })
			for _, from := range []store.Revision{at + 1, res.Revision, res.Revision + 1} {
				what := store.Watch{Prefix: s.prefix, From: from}
				if _, err := st.Watch(s.ctx, what); !errors.Is(err, store.ErrCompacted) || store.KindOf(err) != store.KindFinal {
					s.Fatalf("member %d: %s, with %d MiB written since: %v (kind: %v); want it compacted", i, showWatch(what), large, err, store.KindOf(err))
				}
			}
			// The last changes are remembered.
			w := s.watches(i, store.Watch{Key: key, From: last - 3})
			defer w.cancel()
			w.sees([]store.Event{
				{Type: store.EventSet, Key: key, Value: []byte("16" + value), Revision: last - 3}, {Type: store.EventSet, Key: key, Value: []byte("17" + value)},
				{Type: store.EventSet, Key: key, Value: []byte("18" + value)}, {Type: store.EventSet, Key: key, Value: []byte("19" + value), Revision: last},
			})
			w.stop()
		}
		close(stand)
		for n, w := range standing {
			if n%2 == 0 {
				go w.loop()
			}
			w.ends(store.KindFinal, store.ErrCompacted)
			seen, _ := w.seen()
			for k, e := range seen {
				if e.Revision != at+1+store.Revision(k) {
					s.Fatalf("%s yields, before it ends as compacted, %s as event %d after revision %d", w.name, showEvent(e), k, at)
				}
			}
			if len(seen) >= many+large {
				s.Fatalf("%s yields %d events and then ends as compacted", w.name, len(seen))
			}
			w.cancel()
		}
		s.empty(append(small, key))
	}},
	{"WatchOfTheNextRevisionWaitsAndOfTheOneBehindIsRefused", func(s *session) {
		for i, st := range s.stores {
			c := script{s: s}
			s.set(s.key("a"), "before")
			r := s.revision(s.key("a"))
			for n := range store.Revision(3) {
				if _, err := st.Watch(s.ctx, store.Watch{From: r + 2 + n}); !errors.Is(err, store.ErrFutureRevision) {
					s.Fatalf("member %d: a watch from revision %d when %d is the last: %v", i, r+2+n, r, err)
				}
			}
			w := s.watches(i, store.Watch{From: r + 1})
			defer w.cancel()
			c.set(s.key("a"), "after")
			w.sees(c.want)
			w.stop()
		}
		s.delete(s.key("a"))
	}},
	{"WatchesAreCountedUntilTheyEnd", func(s *session) {
		a := s.key("a")
		ended := func(how string) {
			s.Helper()
			for i := range s.stores {
				s.eventually(fmt.Sprintf("Info of member %d shows no watch after those that %s", i, how), func() bool {
					s.set(a, "changed") // by which a server learns that a client has lost interest
					return s.on(i).info().Watches == 0
				})
			}
		}
		ended("were before")
		for i, st := range s.stores {
			ctx, cancel := context.WithCancel(s.ctx)
			defer cancel()
			var all []*watcher
			for n := range 5 {
				events, err := st.Watch(ctx, []store.Watch{{}, {Key: a}, {Prefix: s.prefix}}[n%3])
				s.must(err)
				w := &watcher{s: s, events: events, ended: make(chan struct{})}
				go w.loop()
				all = append(all, w)
			}
			s.eventually(fmt.Sprintf("Info of member %d shows five watches", i), func() bool { return s.on(i).info().Watches == 5 })
			cancel()
			for _, w := range all {
				w.ends(store.KindNotApplied, context.Canceled)
			}
			ended("are cancelled")

			_, at := s.scan(store.Range{})
			c := script{s: s}
			c.set(a, "one")
			for n := range 5 {
				events, err := st.Watch(s.ctx, store.Watch{Key: a, From: at + 1})
				s.must(err)
				for e, err := range events {
					s.must(err)
					if string(e.Value) != "one" && n == 0 {
						s.Fatalf("member %d: the first event is %s", i, showEvent(e))
					}
					break
				}
			}
			ended("are left early")

			for range 5 { // without a loop
				ctx, cancel := context.WithCancel(s.ctx)
				_, err := st.Watch(ctx, store.Watch{Key: a})
				cancel()
				s.must(err)
				st.Watch(ctx, store.Watch{Key: a})
				st.Watch(s.ctx, store.Watch{Key: a, Prefix: a})
				st.Watch(s.ctx, store.Watch{Key: a, From: at + 1000})
			}
			ended("had no loop or were refused")
		}
		s.delete(a)
	}},
}

// counters are what is known of keys that others count up, up to the revision last.
type counters struct {
	last   store.Revision
	counts map[string]int
	sum    int
}

// follow watches the counters go on, until their sum is all or it has seen so many
// events. The error says what is wrong.
func (c *counters) follow(s *session, st store.Store, all, most int) error {
	if c.sum == all {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.late)
	defer cancel()
	what := store.Watch{Prefix: s.prefix, From: c.last + 1}
	events, err := st.Watch(ctx, what)
	if err != nil {
		return fmt.Errorf("%s: %w", showWatch(what), err)
	}
	for e, err := range events {
		if err == nil {
			err = checkEvent(what, c.last, e)
		}
		if n := c.counts[e.Key] + 1; err == nil && string(e.Value) != strconv.Itoa(n) {
			err = fmt.Errorf("it yields %s; want %d", showEvent(e), n)
		}
		if err != nil {
			return fmt.Errorf("%s, with a sum of %d out of %d: %w", showWatch(what), c.sum, all, err)
		}
		c.last = e.Revision
		c.counts[e.Key]++
		c.sum++
		if most--; c.sum == all || most == 0 {
			break
		}
	}
	return nil
}

// closeWatchChecks close the stores.
var closeWatchChecks = []check{
	{"CloseEndsWatches", func(s *session) {
		var waiting, idle []*watcher
		c := script{s: s}
		for i := range s.stores {
			for _, what := range []store.Watch{{Prefix: s.prefix}, {Key: s.key("a")}} {
				w := s.watches(i, what)
				defer w.cancel()
				waiting = append(waiting, w)
			}
			w := s.opens(i, store.Watch{Prefix: s.key("none")})
			defer w.cancel()
			idle = append(idle, w)
		}
		c.set(s.key("a"), "one")
		for _, w := range waiting {
			w.sees(c.want)
		}
		s.close()
		for _, w := range waiting {
			w.ends(store.KindClosed, store.ErrClosed)
		}
		for _, w := range idle {
			go w.loop()
			w.ends(store.KindClosed, store.ErrClosed)
		}
	}},
	{"ClosedStoreRefusesWatches", func(s *session) {
		s.close()
		for i, st := range s.stores {
			for _, what := range []store.Watch{{}, {Key: "a"}, {Prefix: "a", From: 1}} {
				if _, err := st.Watch(s.ctx, what); !errors.Is(err, store.ErrClosed) || store.KindOf(err) != store.KindClosed {
					s.Fatalf("member %d: %s after Close: %v (kind: %v)", i, showWatch(what), err, store.KindOf(err))
				}
			}
		}
	}},
}
