package storetest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

// infoChecks count what is stored, and so need the store to themselves. A
// member may show a change some time after it has returned.
var infoChecks = []check{
	{"InfoTellsWhatTheStoreIs", func(s *session) {
		for i := range s.stores {
			info := s.on(i).info()
			if !slices.Contains([]string{"memory", "durable", "replicated"}, info.Mode) {
				s.Errorf("member %d: the mode is %q", i, info.Mode)
			}
			if !slices.IsSorted(info.Members) {
				s.Errorf("member %d: the members %q are not sorted", i, info.Members)
			}
			if info.Locks != 0 {
				s.Errorf("member %d: %d locks are held; want none", i, info.Locks)
			}
		}
	}},
	{"ProgressTellsHowFarEachMemberIs", func(s *session) {
		for i := range s.stores {
			info := s.on(i).info()
			if info.Mode == "memory" {
				if info.Applied != 0 || len(info.Progress) != 0 {
					s.Fatalf("member %d has no log, and has applied %d entries of it, %v", i, info.Applied, info.Progress)
				}
				continue
			}
			for range 3 { // a member tells what it had applied before
				s.on(i).set(s.key("a"), "one")
			}
			for j := range s.stores {
				s.eventually(fmt.Sprintf("Info of member %d shows that member %d has applied entry %d", j, i, info.Applied), func() bool {
					other := s.on(j).info()
					now := s.on(i).info()
					switch p := other.Progress[info.Node]; {
					case now.Node != info.Node:
						s.Fatalf("member %d is %q, and then %q", i, info.Node, now.Node)
					case other.Progress[other.Node] != other.Applied:
						s.Fatalf("member %d has applied %d entries, and shows %d for itself", j, other.Applied, other.Progress[other.Node])
					case p > now.Applied:
						s.Fatalf("member %d shows that member %d has applied %d entries, which had applied %d a moment later", j, i, p, now.Applied)
					}
					for name := range other.Progress {
						if !slices.Contains(other.Members, name) {
							s.Fatalf("member %d shows the progress of %q, which is none of %q", j, name, other.Members)
						}
					}
					return other.Progress[info.Node] >= max(1, info.Applied)
				})
			}
		}
		s.delete(s.key("a"))
	}},
	{"KeysAndBytesAreThoseOfWhatIsThere", func(s *session) {
		a, b := s.key("a"), s.key("b")
		n := int64(len(a)) // and len(b)
		s.holds(0, 0)
		s.set(a, "12345")
		s.holds(1, n+5)
		s.set(a, "123")
		s.holds(1, n+3)
		s.setE(b, "1234567", time.Hour, time.Hour)
		s.holds(2, 2*n+10)
		s.setE(b, "", 0, 0)
		s.holds(2, 2*n+3)
		s.setEIfUnset(b, "more", 0, 0)
		s.holds(2, 2*n+3)
		s.expire(a)
		s.holds(2, 2*n)
		s.expire(a)
		s.holds(2, 2*n)
		s.set(a, "1")
		s.holds(2, 2*n+1)
		s.delete(a)
		s.delete(a)
		s.expire(a)
		s.holds(1, n)
		s.setEIfUnset(a, "1", 0, 0)
		s.holds(2, 2*n+1)
		s.expire(a)
		s.delete(a)
		s.delete(b)
		s.holds(0, 0)
	}},
	{"DeadlinesTakeKeysAndBytesAway", func(s *session) {
		var keys, bytes, all int64
		for i := range 60 {
			key, value := s.key("%d", i), "a value of some bytes"
			d := time.Duration(100+5*i) * time.Millisecond
			switch i % 3 {
			case 0:
				s.setE(key, value, d, 0)
				keys, bytes = keys+1, bytes+int64(len(key))
			case 1:
				s.setE(key, value, 0, d)
			case 2:
				s.setE(key, value, d/2, d)
			}
			all++
		}
		s.holds(keys, bytes)
		for i := range all {
			s.delete(s.key("%d", i))
		}
		s.holds(0, 0)
	}},
	{"ManyKeysAreCounted", func(s *session) {
		const callers, each = 8, 50
		s.together(callers, func(i int) error {
			for n := range each {
				if err := s.next().Set(s.ctx, s.key("%02d-%02d", i, n), []byte("12345")); err != nil {
					return err
				}
			}
			return nil
		})
		s.holds(callers*each, callers*each*int64(len(s.key("00-00"))+5))
		s.together(callers, func(i int) error {
			for n := range each {
				if err := s.next().Delete(s.ctx, s.key("%02d-%02d", i, n)); err != nil {
					return err
				}
			}
			return nil
		})
		s.holds(0, 0)
	}},
	{"SizeFollowsWhatIsThere", func(s *session) {
		// How it is reckoned is the engine's affair.
		a, b := s.key("a"), s.key("b")
		empty := s.size("nothing", 0, math.MaxInt64)
		s.set(a, "one")
		one := s.size("one key", empty+int64(len(a))+3, math.MaxInt64)
		s.set(a, strings.Repeat("one", 10_000))
		large := s.size("a large value", one+20_000, math.MaxInt64)
		s.set(a, "one")
		s.size("the small value again", one, one)
		s.setE(b, strings.Repeat("two", 10_000), time.Hour, 2*time.Hour)
		two := s.size("two keys", large+1, math.MaxInt64)
		s.expire(b)
		s.size("two keys, one of them expired", one+int64(len(b)), two-20_000)
		s.delete(b)
		s.size("one key again", one, one)
		s.delete(a)
		s.size("nothing again", empty, empty)
	}},
	{"RevisionOfInfoReachesEachChangeAndNeverFalls", func(s *session) {
		var stop atomic.Bool
		var watching sync.WaitGroup
		for i, st := range s.stores {
			watching.Go(func() {
				var last store.Revision
				for !stop.Load() {
					info, err := st.Info(s.ctx)
					if err != nil {
						s.Errorf("member %d: Info: %v", i, err)
						return
					}
					if info.Revision < last {
						s.Errorf("member %d: the revision fell from %d to %d", i, last, info.Revision)
						return
					}
					last = info.Revision
					time.Sleep(pause / 4)
				}
			})
		}
		defer watching.Wait()
		defer stop.Store(true)
		for range 100 {
			s.set(s.key("a"), "one")
		}
		r := s.revision(s.key("a"))
		for i := range s.stores {
			s.eventually("Info shows the last revision", func() bool { return s.on(i).info().Revision == r })
		}
		s.delete(s.key("a"))
		for i := range s.stores {
			s.eventually("Info shows the revision of a deletion", func() bool { return s.on(i).info().Revision == r+1 })
		}
	}},
}

// size ends the check unless all members soon show the same Size, no less than
// least and no more than most, and returns it.
func (s *session) size(what string, least, most int64) int64 {
	s.Helper()
	sizes := make([]int64, len(s.stores))
	for begin := time.Now(); ; time.Sleep(pause) {
		for i := range sizes {
			sizes[i] = s.on(i).info().Size
		}
		low, high := slices.Min(sizes), slices.Max(sizes)
		if low == high && low >= least && high <= most {
			return low
		}
		if time.Since(begin) > s.late {
			s.Fatalf("with %s the members show the sizes %d; want the same, from %d to %d", what, sizes, least, most)
		}
	}
}

// holds ends the check unless each member soon shows that many keys and bytes.
func (s *session) holds(keys, bytes int64) {
	s.Helper()
	for i := range s.stores {
		var info store.Info
		for begin := time.Now(); ; time.Sleep(pause) {
			info = s.on(i).info()
			if info.Keys == keys && info.Bytes == bytes {
				break
			}
			if time.Since(begin) > s.late {
				s.Fatalf("member %d shows %d keys and %d bytes; want %d and %d", i, info.Keys, info.Bytes, keys, bytes)
			}
		}
	}
}
