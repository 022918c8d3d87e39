package storetest

import (
	"fmt"
	"sync/atomic"
	"time"
)

// memberChecks are about several callers, on several members where there are
// some.
var memberChecks = []check{
	{"WriteThatHasReturnedIsSeenByEveryMember", func(s *session) {
		for i := range s.stores {
			for j := range s.stores {
				w, r := s.on(i), s.on(j)
				key := s.key("%d-%d", i, j)
				for n := range 20 {
					value := fmt.Sprint(n)
					w.set(key, value)
					if v, ok := r.get(key); !ok || string(v) != value {
						s.Fatalf("member %d sets %s to %s, then member %d finds %s, %v", i, key, value, j, show(string(v)), ok)
					}
					w.setE(key, value+"e", time.Hour, time.Hour)
					if e, ok := r.entry(key); !ok || string(e.Value) != value+"e" || e.DeleteIn == 0 {
						s.Fatalf("member %d sets %s with deadlines, then member %d finds %+v, %v", i, key, j, e, ok)
					}
					w.expire(key)
					if v, ok := r.get(key); ok {
						s.Fatalf("member %d expires %s, then member %d finds %s", i, key, j, show(string(v)))
					}
					w.delete(key)
					if r.has(key) {
						s.Fatalf("member %d deletes %s, then member %d has it", i, key, j)
					}
					if !w.setEIfUnset(key, value+"u", 0, 0) {
						s.Fatalf("member %d deletes %s and finds it set", i, key)
					}
					if r.setEIfUnset(key, "other", 0, 0) {
						s.Fatalf("member %d sets %s, then member %d finds it unset", i, key, j)
					}
					if e, ok := r.entry(key); !ok || string(e.Value) != value+"u" {
						s.Fatalf("member %d sets %s if unset, then member %d finds %+v, %v", i, key, j, e, ok)
					}
				}
			}
		}
	}},
	{"AmongManySetEIfUnsetExactlyOneWins", func(s *session) {
		const rounds, callers = 25, 16
		for round := range rounds {
			key := s.key("%d", round)
			switch round % 3 { // unset in each way
			case 1:
				s.set(key, "before")
				s.delete(key)
			case 2:
				s.set(key, "before")
				s.expire(key)
				s.delete(key)
			}
			var wins, winner atomic.Int64
			start := make(chan struct{})
			time.AfterFunc(time.Millisecond, func() { close(start) })
			s.together(callers, func(i int) error {
				st := s.stores[i%len(s.stores)]
				<-start
				set, err := st.SetEIfUnset(s.ctx, key, fmt.Append(nil, i), time.Hour, time.Hour)
				if set {
					wins.Add(1)
					winner.Store(int64(i))
				}
				return err
			})
			if wins.Load() != 1 {
				s.Fatalf("%d of %d callers set the same unset key", wins.Load(), callers)
			}
			s.live(key, fmt.Sprint(winner.Load()))
		}
	}},
	{"AmongManySetEIfUnsetOfAnExpiredKeyNoneWins", func(s *session) {
		key := s.key("a")
		s.setE(key, "one", 0, time.Hour)
		s.expire(key)
		s.together(16, func(i int) error {
			set, err := s.stores[i%len(s.stores)].SetEIfUnset(s.ctx, key, fmt.Append(nil, i), 0, 0)
			if set {
				return fmt.Errorf("caller %d sets a key that is expired and not deleted", i)
			}
			return err
		})
		s.expired(key)
	}},
	{"ManyCallersKeepTheirKeysApart", func(s *session) {
		const callers, keys = 16, 25
		s.together(callers, func(i int) error {
			for n := range keys {
				key := s.key("%d-%d", i, n)
				if err := s.next().Set(s.ctx, key, []byte("value of "+key)); err != nil {
					return err
				}
				v, ok, err := s.next().Get(s.ctx, key)
				if err != nil || !ok || string(v) != "value of "+key {
					return fmt.Errorf("Get(%s) = %s, %v, %v after Set", key, show(string(v)), ok, err)
				}
				if n%2 == 0 {
					continue
				}
				if err := s.next().Delete(s.ctx, key); err != nil {
					return err
				}
				if ok, err := s.next().Has(s.ctx, key); ok || err != nil {
					return fmt.Errorf("Has(%s) = %v, %v after Delete", key, ok, err)
				}
			}
			return nil
		})
		for i := range callers {
			for n := range keys {
				key := s.key("%d-%d", i, n)
				if v, ok := s.get(key); ok != (n%2 == 0) || ok && string(v) != "value of "+key {
					s.Fatalf("Get(%s) = %s, %v in the end", key, show(string(v)), ok)
				}
			}
		}
	}},
	{"RevisionOfAKeyOnlyRises", func(s *session) {
		key := s.key("a")
		var last atomic.Uint64
		s.together(8, func(i int) error {
			for range 15 {
				before := last.Load()
				if err := s.next().Set(s.ctx, key, fmt.Append(nil, i)); err != nil {
					return err
				}
				e, ok, err := s.next().GetEntry(s.ctx, key)
				if err != nil || !ok {
					return fmt.Errorf("GetEntry after Set: %v, %w", ok, err)
				}
				if uint64(e.Revision) <= before {
					return fmt.Errorf("revision %d of a key was seen, and after one more Set it is %d", before, e.Revision)
				}
				for old := last.Load(); old < uint64(e.Revision) && !last.CompareAndSwap(old, uint64(e.Revision)); old = last.Load() {
				}
			}
			return nil
		})
	}},
}
