package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

// staleChecks are about GetStale. That it sees what a Get before it on the same
// member has seen, all checks that use live, expired or unset look at.
var staleChecks = []check{
	{"StaleReadSeesWhatItsMemberHasDone", func(s *session) {
		for i := range s.stores {
			m, key := s.on(i), s.key("%d", i)
			want := func(what, value string, there bool) {
				s.Helper()
				if v, ok := m.stale(key); ok != there || string(v) != value {
					s.Fatalf("member %d %s, then its GetStale finds %s, %v", i, what, show(string(v)), ok)
				}
			}
			for n := range 20 {
				value := fmt.Sprint(n)
				m.set(key, value)
				want("sets "+value, value, true)
				m.setE(key, value+"e", time.Hour, time.Hour)
				want("sets "+value+"e with deadlines", value+"e", true)
				m.expire(key)
				want("expires the key", "", false)
				m.delete(key)
				want("deletes the key", "", false)
				m.setEIfUnset(key, value+"u", 0, 0)
				want("sets "+value+"u if unset", value+"u", true)
			}
		}
	}},
	{"StaleReadSoonSeesWhatOthersHaveDone", func(s *session) {
		for i := range s.stores {
			for j := range s.stores {
				key := s.key("%d-%d", i, j)
				sees := func(value string, there bool) {
					s.Helper()
					s.eventually(fmt.Sprintf("GetStale of member %d sees what member %d has done", j, i), func() bool {
						v, ok := s.on(j).stale(key)
						return ok == there && string(v) == value
					})
				}
				sees("", false)
				s.on(i).set(key, "one")
				sees("one", true)
				s.on(i).set(key, "two")
				sees("two", true)
				s.on(i).delete(key)
				sees("", false)
			}
		}
	}},
	{"StaleReadNeverGoesBack", func(s *session) {
		const writes, readers = 60, 3 // by each member, on each member
		key := s.key("a")
		seen := make([]atomic.Int64, len(s.stores)) // by each member's calls that have returned
		var writing sync.Mutex
		last := 0
		var stop atomic.Bool
		var reading sync.WaitGroup
		errs := make([]error, readers*len(s.stores))
		for r := range errs {
			i := r % len(s.stores)
			reading.Go(func() {
				for n := 0; !stop.Load() && errs[r] == nil; n++ {
					errs[r] = s.notBack(i, key, &seen[i], n%8 == 0)
				}
			})
		}
		s.together(len(s.stores), func(i int) error {
			for range writes {
				writing.Lock()
				last++
				n := last
				err := s.stores[i].Set(s.ctx, key, strconv.AppendInt(nil, int64(n), 10))
				writing.Unlock()
				if err != nil {
					return err
				}
				raise(&seen[i], int64(n))
				time.Sleep(pause / 8)
			}
			return nil
		})
		stop.Store(true)
		reading.Wait()
		s.must(errors.Join(errs...))
	}},
}

// notBack reads a number that only rises, by GetStale or else by Get, and fails if
// it is less than what the member's calls had seen.
func (s *session) notBack(i int, key string, seen *atomic.Int64, linearizable bool) error {
	read, name := store.Store.GetStale, "GetStale"
	if linearizable {
		read, name = store.Store.Get, "Get"
	}
	before := seen.Load()
	v, ok, err := read(s.stores[i], s.ctx, key)
	if err != nil {
		return fmt.Errorf("member %d: %s: %w", i, name, err)
	}
	n := 0
	if ok {
		if n, err = strconv.Atoi(string(v)); err != nil {
			return fmt.Errorf("member %d: %s finds what nobody wrote: %w", i, name, err)
		}
	}
	if int64(n) < before {
		return fmt.Errorf("member %d: %s finds write %d, when write %d had been seen there", i, name, n, before)
	}
	raise(seen, int64(n))
	return nil
}

// raise sets v to n if that is more.
func raise(v *atomic.Int64, n int64) {
	for old := v.Load(); old < n && !v.CompareAndSwap(old, n); old = v.Load() {
	}
}
