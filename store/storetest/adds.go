package storetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"dkv/store"
)

// addChecks are about numbers that are added to.
var addChecks = []check{
	{"AddOfAMissingKeyCountsFromZero", func(s *session) {
		for i, delta := range []int64{0, 1, -1, 42, math.MaxInt64, math.MinInt64} {
			a := s.key("a%d", i)
			s.adds(a, delta, delta)
			s.delete(a)
			s.adds(a, delta, delta)
			s.delete(a)
			s.set(a, "17")
			s.delete(a)
			s.adds(a, delta, delta)
		}
	}},
	{"AddOfAnExpiredKeyCountsFromZero", func(s *session) {
		a := s.key("a")
		for _, value := range []string{"17", "no number"} {
			s.set(a, value)
			s.expire(a)
			s.adds(a, 4, 4)
		}
		b := s.key("b")
		s.seenAlive(func(d time.Duration) { s.setE(b, "17", d, time.Hour) }, b)
		s.eventually("the deadline expires the key", func() bool { _, ok := s.get(b); return !ok })
		s.adds(b, -4, -4)
	}},
	{"AddAddsToADecimalNumber", func(s *session) {
		a := s.key("a")
		for _, c := range []struct {
			value      string
			delta, sum int64
		}{
			{"0", 0, 0}, {"0", 5, 5}, {"5", -5, 0}, {"1", -2, -1}, {"-7", 7, 0}, {"-7", -3, -10}, {"99", 1, 100}, {"-99", -1, -100}, {"12", 0, 12},
			{"9223372036854775806", 1, math.MaxInt64}, {"-9223372036854775807", -1, math.MinInt64},
			{"9223372036854775807", math.MinInt64, -1}, {"-9223372036854775808", math.MaxInt64, -1},
			{"9223372036854775807", 0, math.MaxInt64}, {"-9223372036854775808", 0, math.MinInt64},
		} {
			s.set(a, c.value)
			s.adds(a, c.delta, c.sum)
		}
		s.set(a, "0")
		for sum := int64(1); sum < 20; sum++ {
			s.adds(a, 1, sum)
		}
	}},
	{"AddRefusesWhatIsNotANumber", func(s *session) {
		a := s.key("a")
		for _, value := range []string{
			"", " ", "x", "1x", "x1", "1 ", " 1", "1.5", "1e3", "0x10", "1_000", "1,000", "-", "--1", "1\x00", "\x01",
			"9223372036854775808", "-9223372036854775809", strings.Repeat("9", 40), strings.Repeat("x", 5000),
		} {
			s.setE(a, value, time.Hour, 2*time.Hour)
			s.addsNothing(s.live(a, value), store.ErrNotNumber, 0, 1, -1)
		}
	}},
	{"AddRefusesASumOutOfRange", func(s *session) {
		a := s.key("a")
		s.setE(a, "9223372036854775800", time.Hour, 2*time.Hour)
		s.addsNothing(s.live(a, "9223372036854775800"), store.ErrOutOfRange, 8, 9, math.MaxInt64)
		s.set(a, "-9223372036854775800")
		s.addsNothing(s.live(a, "-9223372036854775800"), store.ErrOutOfRange, -9, -10, math.MinInt64)
		s.set(a, "-1")
		s.addsNothing(s.live(a, "-1"), store.ErrOutOfRange, math.MinInt64)
		s.set(a, "1")
		s.addsNothing(s.live(a, "1"), store.ErrOutOfRange, math.MaxInt64)
	}},
	{"AddKeepsDeadlinesThatHaveNotCome", func(s *session) {
		for _, shape := range []span{{1, 0}, {0, 2}, {1, 3}} { // of d each
			for d := 200 * time.Millisecond; ; d *= 2 {
				key, in := s.key("%v-%v", shape, d), span{shape.expireIn * d, shape.deleteIn * d}
				begin := time.Now()
				s.setE(key, "1", in.expireIn, in.deleteIn)
				if sum, _ := s.add(key, 2); sum == 3 {
					last := deleted
					if in.deleteIn == 0 {
						last = expired
					}
					s.must(s.watch(key, "3", begin, in).follow(last))
					break
				}
				if d > 5*time.Second { // it expired before each time
					s.Fatalf("Add never adds to what is there")
				}
			}
		}
		both, plain := s.key("both"), s.key("plain")
		s.setE(both, "1", time.Hour, 2*time.Hour)
		s.adds(both, 2, 3)
		if e := s.live(both, "3"); e.ExpireIn <= 0 || e.ExpireIn > time.Hour || e.DeleteIn <= time.Hour || e.DeleteIn > 2*time.Hour {
			s.Fatalf("after Add the times left are %v and %v; want about 1h and 2h", e.ExpireIn, e.DeleteIn)
		}
		s.adds(plain, 2, 2)
		s.adds(plain, 2, 4)
		if e := s.live(plain, "4"); e.ExpireIn != 0 || e.DeleteIn != 0 {
			s.Fatalf("after Add to a key without deadlines the times left are %v and %v", e.ExpireIn, e.DeleteIn)
		}
	}},
	{"AddToAnExpiredKeyKeepsItsDeletionDeadline", func(s *session) {
		for i, expireIn := range []time.Duration{0, time.Hour} {
			a := s.key("a%d", i)
			s.setE(a, "1", expireIn, 3*time.Hour)
			s.expire(a)
			s.adds(a, 2, 2)
			// The value goes with the key, not before.
			e := s.live(a, "2")
			if e.DeleteIn <= 2*time.Hour || e.DeleteIn > 3*time.Hour || e.ExpireIn != 0 && e.ExpireIn < 2*time.Hour {
				s.Fatalf("after Add to an expired key the times left are %v and %v; want about 3h to its deletion", e.ExpireIn, e.DeleteIn)
			}
		}
		for d := 200 * time.Millisecond; ; d *= 2 {
			b := s.key("b-%v", d)
			begin := time.Now()
			s.setE(b, "1", 0, d)
			s.expire(b)
			_, rev := s.add(b, 2)
			if e, ok := s.entry(b); ok && e.DeleteIn > 0 && e.Revision == rev {
				s.must(s.watch(b, "2", begin, span{0, d}).follow(deleted))
				break
			}
			if d > 5*time.Second { // it was deleted before each time
				s.Fatalf("Add to an expired key clears its deletion deadline")
			}
		}
	}},
	{"ConcurrentAddsLoseNothing", func(s *session) {
		const callers, each = 12, 15
		key := s.key("a")
		sums := make([][]int64, callers)
		s.together(callers, func(i int) error {
			st := s.stores[i%len(s.stores)]
			var last store.Revision
			for range each {
				sum, rev, err := st.Add(s.ctx, key, 1)
				switch {
				case err != nil:
					return err
				case rev <= last:
					return fmt.Errorf("revision %d is returned after %d", rev, last)
				case len(sums[i]) > 0 && sum <= sums[i][len(sums[i])-1]:
					return fmt.Errorf("after 1 was added the sum is %d, before it was %d", sum, sums[i][len(sums[i])-1])
				}
				last = rev
				sums[i] = append(sums[i], sum)
			}
			return nil
		})
		all := slices.Sorted(slices.Values(slices.Concat(sums...)))
		for i, sum := range all {
			if sum != int64(i+1) {
				s.Fatalf("the sums that Add of 1 returned are %v; want each once", all)
			}
		}
		s.live(key, strconv.Itoa(callers*each))
	}},
}

func (s *session) add(key string, delta int64) (int64, store.Revision) {
	s.Helper()
	sum, rev, err := s.next().Add(s.ctx, key, delta)
	s.did(err, "Add", key)
	return sum, rev
}

// adds ends the check unless Add makes that sum, and says so.
func (s *session) adds(key string, delta, want int64) {
	s.Helper()
	sum, rev := s.add(key, delta)
	if sum != want {
		s.Fatalf("Add(%s, %d) = %d; want %d", show(key), delta, sum, want)
	}
	if e := s.live(key, strconv.FormatInt(want, 10)); e.Revision != rev {
		s.Fatalf("Add(%s, %d) returns revision %d; the key has %d", show(key), delta, rev, e.Revision)
	}
}

// addsNothing ends the check unless every member refuses to add any of that to
// what was found before, and leaves it alone.
func (s *session) addsNothing(before store.Entry, want error, deltas ...int64) {
	s.Helper()
	for i, st := range s.stores {
		for _, delta := range deltas {
			sum, rev, err := st.Add(s.ctx, before.Key, delta)
			if !errors.Is(err, want) || store.KindOf(err) != store.KindFinal || sum != 0 || rev != 0 {
				s.Fatalf("member %d: Add of %d to %s returns %d, %d, %v; want %v", i, delta, show(string(before.Value)), sum, rev, err, want)
			}
		}
	}
	s.untouched("refused Add", before)
}
