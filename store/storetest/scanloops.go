package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"dkv/store"
)

// scanLoopChecks are about the loops over scans: how they begin, end and go
// together.
var scanLoopChecks = []check{
	{"EachLoopOverAScanIsAScanOfItsOwn", func(s *session) {
		keys := s.numbered(4)
		s.fill(keys[:2])
		for i, st := range s.stores {
			s.empty(keys[2:])
			scan := st.Scan(s.ctx, store.Range{Prefix: s.prefix, Reverse: true, Limit: 3})
			s.set(keys[2], "written before the loop")
			for n := range 3 {
				var got []string
				for e, err := range scan {
					s.must(err)
					got = append(got, e.Key)
				}
				want := []string{keys[2], keys[1], keys[0]}
				if n > 0 {
					want = []string{keys[3], keys[2], keys[1]}
				}
				s.sameKeys(fmt.Sprintf("member %d: loop %d", i, n), got, want)
				s.set(keys[3], "written after the first")
			}
		}
	}},
	{"ScansMayBeNestedAndWrittenIn", func(s *session) {
		keys := s.numbered(8)
		s.fill(keys)
		for _, st := range s.stores {
			var got []string
			for outer, err := range st.Scan(s.ctx, store.Range{Prefix: s.prefix}) {
				s.must(err)
				got = append(got, outer.Key)
				s.set(outer.Key, "seen")
				n := 0
				for inner, err := range st.Scan(s.ctx, store.Range{Prefix: s.prefix, Reverse: len(got)%2 == 0}) {
					s.must(err)
					if seen := string(inner.Value) == "seen"; inner.Key <= outer.Key && !seen {
						s.Fatalf("a scan in a scan yields %s, which was set before", showEntry(inner))
					}
					n++
				}
				if n != len(keys) {
					s.Fatalf("a scan in a scan yields %d entries; want %d", n, len(keys))
				}
			}
			s.sameKeys("a scan with scans in it", got, keys)
			s.fill(keys)
		}
		// In step, on the same and on different members.
		for i := range 2 {
			one, stopOne := iter.Pull2(s.stores[0].Scan(s.ctx, store.Range{Prefix: s.prefix}))
			defer stopOne()
			two, stopTwo := iter.Pull2(s.stores[i%len(s.stores)].Scan(s.ctx, store.Range{Prefix: s.prefix}))
			defer stopTwo()
			for n := range len(keys) + 1 {
				a, errA, okA := one()
				b, errB, okB := two()
				s.must(errors.Join(errA, errB))
				if !sameEntry(a, b) || okA != okB || okA != (n < len(keys)) {
					s.Fatalf("step %d of two scans: %s, %v and %s, %v", n, showEntry(a), okA, showEntry(b), okB)
				}
			}
		}
	}},
	{"ContextThatEndsDuringAScanEndsItWithAnError", func(s *session) {
		keys := s.numbered(400)
		s.fill(keys)
		for i, st := range s.stores {
			for cause, timeout := range map[error]time.Duration{context.Canceled: time.Hour, context.DeadlineExceeded: 50 * time.Millisecond} {
				for _, last := range []int{0, 150} {
					ctx, cancel := context.WithTimeout(s.ctx, timeout)
					all, _, err := collect(ctx, st, store.Range{Prefix: s.prefix}, func(n int) {
						if n == last {
							if cause == context.Canceled {
								cancel()
							}
							<-ctx.Done()
						}
					})
					cancel()
					if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, cause) || store.KindOf(err) != store.KindNotApplied {
						s.Fatalf("member %d: after %d entries the context ended with %v and the scan with %v (kind: %v); want it unavailable", i, last+1, cause, err, store.KindOf(err))
					}
					if len(all) == len(keys) {
						s.Fatalf("member %d: after %d entries the context ended, and all %d are yielded", i, last+1, len(keys))
					}
					s.sameKeys(fmt.Sprintf("member %d: a scan whose context ends", i), keysOf(all), keys[:len(all)])
				}
			}
		}
	}},
}

// viewChecks look at the views of the whole store.
var viewChecks = []check{
	{"ScansGiveUpWhatTheyHold", func(s *session) {
		keys := s.numbered(40)
		for i, st := range s.stores {
			s.fill(keys)
			_ = st.Scan(s.ctx, store.Range{}) // no loop, no scan
			for n := range 100 {
				seen := 0
				for _, err := range st.Scan(s.ctx, store.Range{Reverse: n%2 == 0}) {
					s.must(err)
					if n%10 == 0 {
						s.set(keys[seen], "superseded")
						s.expire(keys[len(keys)-1])
					}
					if seen++; seen > n%4 {
						break
					}
				}
			}
			next, stop := iter.Pull2(st.Scan(s.ctx, store.Range{}))
			defer stop()
			_, err, _ := next()
			s.must(err)
			s.delete(keys[3])
			stop()
			for n := range 10 { // how these end is for other checks
				ctx, cancel := context.WithCancel(s.ctx)
				collect(ctx, st, store.Range{}, func(at int) {
					if at == n {
						cancel()
					}
				})
				cancel()
				collect(ctx, st, store.Range{}, nil) // refused
				collect(s.ctx, st, store.Range{Limit: -n}, nil)
				collect(s.ctx, st, store.Range{Limit: 1 + n}, func(int) { s.set(keys[5], "superseded") })
				collect(s.ctx, st, store.Range{From: "b", To: "a"}, nil)
			}
			for j := range s.stores {
				s.eventually(fmt.Sprintf("after the scans of member %d, Info of member %d shows neither views nor what is kept for them", i, j), func() bool {
					info := s.on(j).info()
					return info.Views == 0 && info.Retained == 0 && info.RetainedBytes == 0
				})
			}
		}
		s.empty(keys)
		s.holds(0, 0)
	}},
}
