package storetest

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"dkv/lock"
	"dkv/store"
)

// scanChecks are about what a scan yields when nothing is written meanwhile.
var scanChecks = []check{
	{"ScanIsInTheOrderOfTheBytesOfKeys", func(s *session) {
		keys := s.awkwardKeys()
		s.fill(keys)
		slices.Sort(keys)
		for i := range s.stores {
			for n, e := range s.on(i).yields(store.Range{Prefix: s.prefix}, keys) {
				if string(e.Value) != "value of "+keys[n] {
					s.Fatalf("member %d: the scan yields %s", i, showEntry(e))
				}
			}
		}
	}},
	{"ReverseScanIsTheMirrorOfAScan", func(s *session) {
		s.fill(s.awkwardKeys())
		s.expire(s.key("prefix"))
		for i := range s.stores {
			there, _ := s.on(i).scan(store.Range{Prefix: s.prefix})
			back, _ := s.on(i).scan(store.Range{Prefix: s.prefix, Reverse: true})
			slices.Reverse(back)
			if !slices.EqualFunc(there, back, sameEntry) {
				s.Fatalf("member %d: a scan yields %d entries, in reverse %d that are not the same in reverse", i, len(there), len(back))
			}
		}
	}},
	{"RangeIsWhatItsFieldsSay", func(s *session) {
		seed := rand.Uint64()
		s.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		letters := []string{"\x00", "a", "b", "\xfe", "\xff"}
		text := func(most int) string {
			var b strings.Builder
			for range random.IntN(most + 1) {
				b.WriteString(letters[random.IntN(len(letters))])
			}
			return b.String()
		}
		keys := []string{s.prefix}
		for _, x := range letters {
			keys = append(keys, s.prefix+x)
			for _, y := range letters {
				keys = append(keys, s.prefix+x+y, s.prefix+x+y+letters[random.IntN(len(letters))])
			}
		}
		slices.Sort(keys)
		s.fill(keys)
		// bound is one that keeps a scan among the check's own keys, if it is
		// not left out.
		bound := func(sometimes bool) string {
			if sometimes && random.IntN(2) == 0 {
				return ""
			}
			return s.prefix + text(3)
		}
		for n := range 200 {
			r := store.Range{Reverse: random.IntN(2) == 0, KeysOnly: random.IntN(4) == 0}
			if n%4 > 0 {
				r.Prefix = s.prefix + text(2)
			}
			r.From, r.To, r.After = bound(n%4 > 0), bound(n%4 > 0), bound(true)
			if random.IntN(2) == 0 {
				r.Limit = 1 + random.IntN(8)
			}
			s.yields(r, pick(r, keys))
		}
	}},
	{"RangeThatHoldsNoKeyYieldsNothing", func(s *session) {
		a, b, c := s.key("a"), s.key("b"), s.key("c")
		s.fill([]string{a, b, c})
		for _, r := range []store.Range{
			{Prefix: s.key("d")},
			{Prefix: b + "\x00"},
			{From: c, To: a},
			{From: b, To: b},
			{From: b + "\x00", To: c},
			{Prefix: s.prefix, From: c + "\x00"},
			{Prefix: s.prefix, To: a},
			{Prefix: b, From: c},
			{Prefix: b, To: b},
			{Prefix: s.prefix, After: c},
			{Prefix: s.prefix, After: a, To: b},
			{Prefix: s.prefix, After: a, Reverse: true},
			{Prefix: s.prefix, After: c, From: c, Reverse: true},
			{Prefix: b, After: b},
			{Prefix: b, After: b, Reverse: true},
		} {
			s.yields(r, nil)
			r.Limit, r.KeysOnly = 1, true
			s.yields(r, nil)
			if !r.Reverse && r.After == "" {
				r.Reverse = true
				s.yields(r, nil)
			}
		}
	}},
	{"PagesHoldEachKeyOnce", func(s *session) {
		keys := s.awkwardKeys()
		s.fill(keys)
		slices.Sort(keys)
		for _, size := range []int{1, 2, 7, len(keys) - 1, len(keys), len(keys) + 1} {
			for _, reverse := range []bool{false, true} {
				var got []string
				for r := (store.Range{Prefix: s.prefix, Reverse: reverse, Limit: size}); ; {
					page, _ := s.scan(r)
					for _, e := range page {
						got = append(got, e.Key)
					}
					if len(page) < size {
						break
					}
					r.After = page[len(page)-1].Key
				}
				if reverse {
					slices.Reverse(got)
				}
				s.sameKeys(fmt.Sprintf("pages of %d, reverse: %v", size, reverse), got, keys)
			}
		}
	}},
	{"LimitIsHowManyEntriesAScanYieldsAtMost", func(s *session) {
		keys := s.numbered(20)
		s.fill(keys)
		for _, limit := range []int{1, 2, 19, 20, 21, math.MaxInt} {
			n := min(limit, len(keys))
			s.yields(store.Range{Prefix: s.prefix, Limit: limit}, keys[:n])
			back := slices.Clone(keys[len(keys)-n:])
			slices.Reverse(back)
			s.yields(store.Range{Prefix: s.prefix, Limit: limit, Reverse: true}, back)
		}
		s.yields(store.Range{Prefix: s.prefix}, keys)
	}},
	{"ScanOfKeysOnlyLeavesOutNothingButValues", func(s *session) {
		s.fill(s.numbered(5))
		s.setE(s.key("timed"), "one", time.Hour, 2*time.Hour)
		s.set(s.key("expired"), "one")
		s.expire(s.key("expired"))
		for i := range s.stores {
			whole, _ := s.on(i).scan(store.Range{Prefix: s.prefix})
			bare, _ := s.on(i).scan(store.Range{Prefix: s.prefix, KeysOnly: true})
			if len(bare) != len(whole) {
				s.Fatalf("member %d: a scan yields %d entries, one of keys only %d", i, len(whole), len(bare))
			}
			for n, e := range whole {
				e.Value = nil
				if !sameEntry(bare[n], e) || (bare[n].ExpireIn > 0) != (e.ExpireIn > 0) || (bare[n].DeleteIn > 0) != (e.DeleteIn > 0) {
					s.Fatalf("member %d: a scan of keys only yields %s; want %s", i, showEntry(bare[n]), showEntry(e))
				}
			}
		}
	}},
	{"ScanYieldsWhatGetEntryReturns", func(s *session) {
		s.set(s.key("plain"), "one")
		s.set(s.key("empty"), "")
		s.set(s.key("expired"), "one")
		s.expire(s.key("expired"))
		s.setE(s.key("expires"), "one", time.Hour, 0)
		s.setE(s.key("deletes"), "one", 0, 2*time.Hour)
		s.setE(s.key("both"), "one", time.Minute, time.Hour)
		s.setE(s.key("expired, deletes"), "one", time.Minute, time.Hour)
		s.expire(s.key("expired, deletes"))
		const rounding = 10 * time.Millisecond // a format may be that coarse
		between := func(before, t, after time.Duration) bool {
			return (t == 0) == (before == 0) && t <= before+rounding && t >= after-rounding
		}
		time.Sleep(2 * rounding) // or times that stand still would not show
		for i := range s.stores {
			m := s.on(i)
			before := make(map[string]store.Entry)
			for _, key := range []string{"plain", "empty", "expired", "expires", "deletes", "both", "expired, deletes"} {
				before[s.key("%s", key)], _ = m.entry(s.key("%s", key))
			}
			all, _ := m.scan(store.Range{Prefix: s.prefix})
			if len(all) != len(before) {
				s.Fatalf("member %d: the scan yields %d entries; want %d", i, len(all), len(before))
			}
			for _, e := range all {
				first := before[e.Key]
				last, _ := m.entry(e.Key)
				if !sameEntry(e, first) || !between(first.ExpireIn, e.ExpireIn, last.ExpireIn) || !between(first.DeleteIn, e.DeleteIn, last.DeleteIn) {
					s.Fatalf("member %d: the scan yields %s; GetEntry returns %s", i, showEntry(e), showEntry(first))
				}
				if !e.Expired && e.Value == nil {
					s.Errorf("member %d: the scan yields a nil slice for an empty value", i)
				}
			}
		}
	}},
	{"ExpiredKeysAreScannedAndDeletedOnesAreNot", func(s *session) {
		s.fill(s.numbered(4))
		s.expire(s.key("0001"))
		s.delete(s.key("0002"))
		s.set(s.key("set again"), "one")
		s.delete(s.key("set again"))
		s.set(s.key("set again"), "two")
		const d = 100 * time.Millisecond
		s.setE(s.key("time expires"), "one", d, 0)
		s.setE(s.key("time expires and deletes"), "one", d, 2*d)
		s.setE(s.key("time deletes"), "one", 0, 2*d)
		s.setE(s.key("time deletes what is expired"), "one", 0, 2*d)
		s.expire(s.key("time deletes what is expired"))
		s.outlive(d, 2*d)
		for i := range s.stores {
			all, _ := s.on(i).scan(store.Range{Prefix: s.prefix})
			want := []string{s.key("0000"), s.key("0001"), s.key("0003"), s.key("set again"), s.key("time expires")}
			s.sameKeys(fmt.Sprintf("member %d: the scan", i), keysOf(all), want)
			for _, e := range all {
				if want := e.Key == s.key("0001") || e.Key == s.key("time expires"); e.Expired != want {
					s.Fatalf("member %d: the scan yields %s; want it expired: %v", i, showEntry(e), want)
				}
			}
		}
	}},
	{"LocksAreNotScanned", func(s *session) {
		keys := s.numbered(3)
		s.fill(keys)
		for _, st := range s.stores {
			backend, ok := st.(lock.Backend)
			if !ok {
				s.Logf("a %T has no locks", st)
				continue
			}
			owners := make(map[string]lock.Owner)
			for _, key := range []string{s.key("0000"), s.key("0000a"), s.key("lock")} {
				owner, ok, err := lock.New(backend).Acquire(s.ctx, key, time.Hour)
				if !ok || err != nil {
					s.Fatalf("Acquire(%s) = %v, %v", show(key), ok, err)
				}
				owners[key] = owner
			}
			for i := range s.stores {
				for n, e := range s.on(i).yields(store.Range{Prefix: s.prefix}, keys) {
					if string(e.Value) != "value of "+keys[n] {
						s.Fatalf("member %d: the scan yields %s", i, showEntry(e))
					}
				}
			}
			for key, owner := range owners {
				if ok, err := lock.New(backend).Release(s.ctx, key, owner); !ok || err != nil {
					s.Fatalf("Release(%s) = %v, %v", show(key), ok, err)
				}
			}
		}
	}},
	{"SlicesYieldedBelongToTheCaller", func(s *session) {
		keys := s.numbered(12)
		s.together(len(keys), func(n int) error {
			return s.next().Set(s.ctx, keys[n], bytes.Repeat([]byte(keys[n]), 1+n%2*200))
		})
		for i, st := range s.stores {
			for range 2 { // if the first changes what is stored, the second shows it
				var values [][]byte
				for e, err := range st.Scan(s.ctx, store.Range{Prefix: s.prefix}) {
					s.must(err)
					n := len(values)
					if n == len(keys) {
						s.Fatalf("member %d: the scan yields more than %d entries", i, n)
					}
					if string(e.Value) != strings.Repeat(keys[n], 1+n%2*200) {
						s.Fatalf("member %d: the scan yields %s after the values before were overwritten", i, showEntry(e))
					}
					values = append(values, e.Value)
					if n%3 > 0 {
						scribble(e.Value)
					}
				}
				if len(values) < len(keys) {
					s.Fatalf("member %d: the scan yields %d entries; want %d", i, len(values), len(keys))
				}
				for n, v := range values {
					if n%3 == 0 && string(v) != strings.Repeat(keys[n], 1+n%2*200) {
						s.Fatalf("member %d: the value of %s became %s while the scan went on", i, show(keys[n]), show(string(v)))
					}
				}
			}
		}
		for n, key := range keys {
			s.live(key, strings.Repeat(key, 1+n%2*200))
		}
	}},
	{"LargeValuesAreScannedWhole", func(s *session) {
		keys := s.numbered(5)
		value := func(n int) string { return strings.Repeat(fmt.Sprintf("%08d", n), 1<<17-n) }
		s.together(len(keys), func(n int) error { return s.next().Set(s.ctx, keys[n], []byte(value(n))) })
		for i := range s.stores {
			for n, e := range s.on(i).yields(store.Range{Prefix: s.prefix}, keys) {
				if string(e.Value) != value(n) {
					s.Fatalf("member %d: the scan yields %s; want %d bytes", i, showEntry(e), len(value(n)))
				}
			}
			s.on(i).yields(store.Range{Prefix: s.prefix, KeysOnly: true}, keys)
		}
	}},
	{"BadRangesAreRefused", func(s *session) {
		s.fill(s.numbered(2))
		long := s.prefix + strings.Repeat("k", store.MaxKeySize+1-len(s.prefix))
		for _, limit := range []int{-1, math.MinInt} {
			s.refuse(s.ctx, []call{scan(store.Range{Prefix: s.prefix, Limit: limit})}, store.ErrBadRange, store.KindFinal)
		}
		for _, long := range []string{long, strings.Repeat(long, 30)} {
			s.refuse(s.ctx, []call{
				scan(store.Range{Prefix: long}),
				scan(store.Range{Prefix: s.prefix, From: long}),
				scan(store.Range{Prefix: s.prefix, To: long}),
				scan(store.Range{Prefix: s.prefix, After: long}),
				scan(store.Range{Prefix: s.prefix, After: long, Reverse: true}),
				scan(store.Range{From: "b", To: "a", After: long}), // even if no key can be in it
			}, store.ErrKeyTooLarge, store.KindFinal)
		}
	}},
	{"BoundsMayBeAsLongAsKeys", func(s *session) {
		long := func(c string) string { return s.prefix + strings.Repeat(c, store.MaxKeySize-len(s.prefix)) }
		low, mid, high := long("\x00"), long("k"), long("\xff")
		s.fill([]string{low, mid, high})
		s.yields(store.Range{Prefix: mid}, []string{mid})
		s.yields(store.Range{Prefix: high}, []string{high})
		s.yields(store.Range{From: mid, To: high}, []string{mid})
		s.yields(store.Range{From: low, To: mid, Reverse: true}, []string{low})
		s.yields(store.Range{Prefix: s.prefix, From: high}, []string{high})
		s.yields(store.Range{Prefix: s.prefix, After: low}, []string{mid, high})
		s.yields(store.Range{Prefix: s.prefix, After: high}, nil)
		s.yields(store.Range{Prefix: s.prefix, After: high, Reverse: true}, []string{mid, low})
	}},
}

// wholeScanChecks scan all that there is.
var wholeScanChecks = []check{
	{"ScanOfEverythingHasEachKeyOnce", func(s *session) {
		keys := append(s.awkwardKeys(), "\x00\x00", "\xff\xff", "\xff\xff\xff", "\xff\x00", "\xfe\xff", strings.Repeat("\xff", store.MaxKeySize))
		for i := range 256 {
			keys = append(keys, string([]byte{byte(i)}))
		}
		slices.Sort(keys)
		s.yields(store.Range{}, nil)
		s.fill(keys)
		for i := range s.stores {
			m := s.on(i)
			for _, r := range []store.Range{
				{}, {Prefix: "\xff"}, {Prefix: "\xff\xff"}, {Prefix: "\x00"}, {Prefix: "\xfe"}, {Prefix: s.prefix}, {From: "\xff"}, {From: "\xfe\xff", To: "\xff\xff"},
				{To: "\x00"}, {To: "\x00\x00"}, {After: "\x00"}, {After: "\xff"}, {After: keys[len(keys)-1]}, {Prefix: "\xff", After: "\xff\xff"}, {Limit: 3},
			} {
				m.yields(r, pick(r, keys))
				r.Reverse = true
				m.yields(r, pick(r, keys))
			}
		}
		s.empty(keys)
		s.yields(store.Range{}, nil)
	}},
}
