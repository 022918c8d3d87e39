package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"dkv/store"
)

// scanStateChecks are about the state that a scan shows.
var scanStateChecks = []check{
	{"ScanShowsOneStateWhateverIsWrittenMeanwhile", func(s *session) {
		// So many that they do not come over a network in one piece.
		const n = 3000
		const pad = 400
		keys := s.numbered(n)
		twin := make(map[string]twinEntry)
		for _, key := range keys {
			twin[key] = twinEntry{value: "value of " + key + strings.Repeat(".", pad)}
		}
		s.forEach(keys, func(key string) error { return s.next().Set(s.ctx, key, []byte(twin[key].value)) })
		changes := 0
		change := func() {
			changes++
			for i := changes % 97; i < n; i += 97 {
				key := keys[i]
				switch i % 4 {
				case 0:
					value := fmt.Sprintf("changed %d times", changes)
					s.set(key, value)
					twin[key] = twinEntry{value: value}
				case 1:
					s.delete(key)
					delete(twin, key)
				case 2:
					s.expire(key)
					if _, ok := twin[key]; ok {
						twin[key] = twinEntry{expired: true}
					}
				case 3:
					key += "+"
					s.set(key, "new")
					twin[key] = twinEntry{value: "new"}
				}
			}
		}
		for i, st := range s.stores {
			for _, reverse := range []bool{false, true} {
				want := maps.Clone(twin)
				all, _, err := collect(s.ctx, st, store.Range{Prefix: s.prefix, Reverse: reverse}, func(n int) {
					if n == 0 || n == 1500 {
						change()
					}
				})
				s.must(err)
				s.shows(fmt.Sprintf("member %d: the scan, reverse: %v,", i, reverse), all, want, reverse)
			}
		}
		all, _ := s.scan(store.Range{Prefix: s.prefix})
		s.shows("the last scan", all, twin, false)
	}},
	{"DeadlinesThatPassDuringAScanAreNotSeen", func(s *session) {
		a, b, c := s.key("a"), s.key("b"), s.key("c")
		s.set(a, "one")
		for d := 200 * time.Millisecond; ; d *= 2 {
			begin := time.Now()
			s.setE(b, "one", d, 0)
			s.setE(c, "one", 0, d)
			passed := true // before all scans had begun
			lists, errs := s.everywhere(store.Range{Prefix: s.prefix}, func() {
				if passed = time.Since(begin) >= d; passed {
					return
				}
				time.Sleep(time.Until(begin.Add(d)))
				for i := range s.stores {
					s.eventually("the deadlines pass", func() bool {
						_, ok := s.on(i).get(b)
						return !ok && !s.on(i).has(c)
					})
				}
			})
			s.must(errors.Join(errs...))
			if passed {
				if d > 5*time.Second {
					s.Fatalf("in %v scans have not begun", d)
				}
				continue
			}
			for i, all := range lists {
				s.sameKeys(fmt.Sprintf("member %d: a scan during which deadlines passed", i), keysOf(all), []string{a, b, c})
				for _, e := range all {
					if e.Expired || string(e.Value) != "one" || (e.ExpireIn > 0) != (e.Key == b) && e.Key != c || (e.DeleteIn > 0) != (e.Key == c) {
						s.Fatalf("member %d: a scan during which deadlines passed yields %s", i, showEntry(e))
					}
				}
			}
			break
		}
	}},
	{"AtIsTheRevisionOfTheStateThatAScanShows", func(s *session) {
		// That no entry has a greater one, collect makes sure of.
		a, b := s.key("a"), s.key("b")
		var last store.Revision
		for i := range s.stores {
			m := s.on(i)
			for range 5 {
				s.set(a, "one")
				written := s.revision(a)
				for _, r := range []store.Range{{Prefix: s.prefix}, {Prefix: s.key("none")}, {From: "b", To: "a"}, {Prefix: a, KeysOnly: true, Limit: 1}} {
					_, at := m.scan(r)
					if at < written {
						s.Fatalf("member %d: At is %d after a write with revision %d", i, at, written)
					}
					if at < last {
						s.Fatalf("member %d: At is %d after it was %d", i, at, last)
					}
					last = at
				}
				for _, err := range m.stores[0].Scan(s.ctx, store.Range{Prefix: s.prefix, At: &last}) {
					s.must(err)
					s.set(b, "two")
					if r := s.revision(b); r <= last {
						s.Fatalf("member %d: At is %d and a write during the scan has revision %d", i, last, r)
					}
					break
				}
			}
		}
	}},
	{"AtNeverFallsFromOneScanToTheNext", func(s *session) {
		s.fill(s.numbered(3))
		var last, scanned atomic.Uint64
		s.together(1+2*len(s.stores), func(n int) error {
			if n == 0 {
				for scanned.Load() < uint64(2*len(s.stores)) {
					if err := s.next().Set(s.ctx, s.key("0001"), nil); err != nil {
						return err
					}
				}
				return nil
			}
			defer scanned.Add(1)
			for i := range 25 {
				before := last.Load()
				prefix := []string{s.prefix, s.key("none")}[i%2]
				_, at, err := collect(s.ctx, s.stores[n%len(s.stores)], store.Range{Prefix: prefix}, nil)
				if err != nil {
					return err
				}
				if uint64(at) < before {
					return fmt.Errorf("the revision At is %d in a scan that began after one with %d had ended", at, before)
				}
				for old := last.Load(); old < uint64(at) && !last.CompareAndSwap(old, uint64(at)); old = last.Load() {
				}
			}
			return nil
		})
	}},
	{"ScanSeesWhatWasWrittenBeforeItOnEveryMember", func(s *session) {
		for i := range s.stores {
			for j := range s.stores {
				w, r := s.on(i), s.on(j)
				key, other := s.key("%d-%d", i, j), s.key("%d-%d other", i, j)
				w.set(other, "stays")
				sees := func(what string, found bool, value string) {
					s.Helper()
					all, _ := r.scan(store.Range{Prefix: key})
					want := []string{other}
					if found {
						want = []string{key, other}
					}
					s.sameKeys(fmt.Sprintf("member %d %s, then the scan of member %d", i, what, j), keysOf(all), want)
					if found && (string(all[0].Value) != value || all[0].Expired != (value == "")) {
						s.Fatalf("member %d %s, then the scan of member %d yields %s", i, what, j, showEntry(all[0]))
					}
				}
				for n := range 15 {
					value := fmt.Sprint(n)
					w.set(key, value)
					sees("sets a key", true, value)
					w.setE(key, value+"e", time.Hour, time.Hour)
					sees("sets a key with deadlines", true, value+"e")
					w.expire(key)
					sees("expires a key", true, "")
					w.delete(key)
					sees("deletes a key", false, "")
					w.setEIfUnset(key, value+"u", 0, 0)
					sees("sets a deleted key", true, value+"u")
				}
			}
		}
	}},
	{"ScanWithTheSecondOfTwoWritesHasTheFirst", func(s *session) {
		const pairs = 4
		// In half of the pairs the scan comes to the key that is written first
		// before it comes to the other.
		pair := func(i int) (first, second string) {
			first, second = s.key("%d-%d", i, i%2), s.key("%d-%d", i, 1-i%2)
			return first, second
		}
		for i := range pairs {
			first, second := pair(i)
			s.set(first, "0")
			s.set(second, "0")
		}
		s.whileWriting(pairs, func(i, n int) error {
			first, second := pair(i)
			for _, key := range []string{first, second} {
				if err := s.next().Set(s.ctx, key, []byte(strconv.Itoa(n))); err != nil {
					return err
				}
			}
			return nil
		}, func(all []store.Entry) error {
			values := make(map[string]int)
			for _, e := range all {
				values[e.Key], _ = strconv.Atoi(string(e.Value))
			}
			for i := range pairs {
				first, second := pair(i)
				if a, b := values[first], values[second]; len(values) != 2*pairs || a != b && a != b+1 {
					return fmt.Errorf("the scan yields %d keys; of two that are written one after the other %s is %d and %s is %d", len(all), show(first), a, show(second), b)
				}
			}
			return nil
		})
	}},
	{"ScanNeitherMissesNorDoublesWhatMovesFromKeyToKey", func(s *session) {
		// Each move sets the next key and then deletes the one before, so there
		// are never less than one and never more than two.
		const movers, places = 3, 10
		place := make([]string, movers)
		prefix := func(i int) string { return s.key("mover %d/", i) }
		for i := range movers {
			place[i] = prefix(i) + "start"
			s.set(place[i], "0")
		}
		s.whileWriting(movers, func(i, n int) error {
			next := fmt.Sprintf("%s%02d", prefix(i), rand.IntN(places))
			if next == place[i] {
				next += "+"
			}
			if err := s.next().Set(s.ctx, next, []byte(strconv.Itoa(n))); err != nil {
				return err
			}
			if err := s.next().Delete(s.ctx, place[i]); err != nil {
				return err
			}
			place[i] = next
			return nil
		}, func(all []store.Entry) error {
			for i := range movers {
				var steps []int
				for _, e := range all {
					if strings.HasPrefix(e.Key, prefix(i)) {
						n, _ := strconv.Atoi(string(e.Value))
						steps = append(steps, n)
					}
				}
				slices.Sort(steps)
				if len(steps) != 1 && (len(steps) != 2 || steps[0]+1 != steps[1]) {
					return fmt.Errorf("the scan shows mover %d at its steps %v; want one, or one and the next", i, steps)
				}
			}
			return nil
		})
	}},
}

// whileWriting scans the check's keys on all members while writers are at work,
// and ends the check if a scan is not right. Each writer calls write with its
// number and 1, 2, 3 and so on. In each scan some of that is done after the
// first entry, so that a scan that does not show one state is caught.
func (s *session) whileWriting(writers int, write func(i, n int) error, right func(all []store.Entry) error) {
	s.Helper()
	const scans = 8 // on each member
	var written, ended atomic.Int64
	s.together(writers+len(s.stores), func(i int) error {
		if i < writers {
			for n := 1; ended.Load() < int64(len(s.stores)); n++ {
				if err := write(i, n); err != nil {
					return err
				}
				written.Add(1)
			}
			return nil
		}
		defer ended.Add(1)
		for n := range scans {
			all, _, err := collect(s.ctx, s.stores[i-writers], store.Range{Prefix: s.prefix, Reverse: n%2 == 1}, func(n int) {
				if n > 0 {
					return
				}
				begin, enough := time.Now(), written.Load()+3*int64(writers)
				for written.Load() < enough && time.Since(begin) < time.Second {
					time.Sleep(pause / 4)
				}
			})
			if err == nil {
				err = right(all)
			}
			if err != nil {
				return fmt.Errorf("member %d: %w", i-writers, err)
			}
		}
		return nil
	})
}

// shows ends the check unless that is what there is. Revisions and deadlines are
// not compared.
func (s *session) shows(what string, all []store.Entry, want map[string]twinEntry, reverse bool) {
	s.Helper()
	keys := slices.Sorted(maps.Keys(want))
	if reverse {
		slices.Reverse(keys)
	}
	s.sameKeys(what, keysOf(all), keys)
	for _, e := range all {
		if got := (twinEntry{value: string(e.Value), expired: e.Expired}); got != want[e.Key] {
			s.Fatalf("%s yields %s; want %s, expired: %v", what, showEntry(e), show(want[e.Key].value), want[e.Key].expired)
		}
	}
}
