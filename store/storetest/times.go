package storetest

import (
	"fmt"
	"math"
	"time"
)

var timeChecks = []check{
	{"ValueGoesAtExpireInAndTheKeyStays", func(s *session) {
		s.bothWrites(func(d time.Duration) span { return span{expireIn: d} }, expired, alive, expired)
	}},
	{"KeyGoesAtDeleteIn", func(s *session) {
		s.bothWrites(func(d time.Duration) span { return span{deleteIn: d} }, deleted, alive)
	}},
	{"ValueGoesAtExpireInAndTheKeyAtDeleteIn", func(s *session) {
		s.bothWrites(func(d time.Duration) span { return span{d, 3 * d} }, deleted, alive, expired)
	}},
	{"ExpireInBeyondDeleteInIsCut", func(s *session) {
		s.bothWrites(func(d time.Duration) span { return span{3 * d, d} }, deleted, alive)
		s.bothWrites(func(d time.Duration) span { return span{math.MaxInt64, d} }, deleted, alive)

		s.setE(s.key("a"), "one", 2*time.Hour, time.Hour)
		e := s.live(s.key("a"), "one")
		if e.ExpireIn <= 0 || e.ExpireIn > time.Hour || e.DeleteIn <= 0 || e.DeleteIn > time.Hour {
			s.Fatalf("the times left are %v and %v; want both cut to 1h", e.ExpireIn, e.DeleteIn)
		}
	}},
	{"EqualDurationsDelete", func(s *session) {
		s.bothWrites(func(d time.Duration) span { return span{d, d} }, deleted, alive)
	}},
	{"ValueExpiresLongBeforeTheKeyGoes", func(s *session) {
		s.bothWrites(func(d time.Duration) span { return span{d, math.MaxInt64} }, expired, alive, expired)
	}},
	{"ShortestDurationsPassAtOnce", func(s *session) {
		s.bothWrites(func(d time.Duration) span { return span{expireIn: 1} }, expired)
		s.bothWrites(func(d time.Duration) span { return span{1, 1} }, deleted)
	}},
	{"ZeroDurationsNeverPass", func(s *session) {
		s.setE(s.key("a"), "one", 0, 0)
		if !s.setEIfUnset(s.key("b"), "one", 0, 0) {
			s.Fatalf("SetEIfUnset does not set a missing key")
		}
		s.outlive(50*time.Millisecond, 100*time.Millisecond)
		for _, key := range []string{s.key("a"), s.key("b")} {
			if e := s.live(key, "one"); e.ExpireIn != 0 || e.DeleteIn != 0 {
				s.Fatalf("the times left are %v and %v; want 0, for never", e.ExpireIn, e.DeleteIn)
			}
		}
	}},
	{"LongestDurationsDoNotOverflow", func(s *session) {
		spans := []span{
			{math.MaxInt64, math.MaxInt64}, {math.MaxInt64, 0}, {0, math.MaxInt64}, {math.MaxInt64 - 1, math.MaxInt64},
			{math.MaxInt64, math.MaxInt64 - 1}, {1 << 62, 1 << 62}, {time.Hour, math.MaxInt64}, {math.MaxInt64, time.Hour},
		}
		for i, d := range spans {
			s.setE(s.key("a%d", i), "one", d.expireIn, d.deleteIn)
			if !s.setEIfUnset(s.key("b%d", i), "one", d.expireIn, d.deleteIn) {
				s.Fatalf("SetEIfUnset does not set a missing key")
			}
		}
		s.outlive(50*time.Millisecond, 100*time.Millisecond)
		for i, d := range spans {
			for _, key := range []string{s.key("a%d", i), s.key("b%d", i)} {
				e := s.live(key, "one")
				expireIn, _ := d.until(expired)
				if !plausible(e.DeleteIn, d.deleteIn) || d.expireIn > 0 && !plausible(e.ExpireIn, expireIn) || e.ExpireIn > expireIn {
					s.Fatalf("the times left of %v are %v and %v", d, e.ExpireIn, e.DeleteIn)
				}
			}
		}
	}},
	{"TimesLeftBeginAtTheirDurationsAndShrink", func(s *session) {
		const expireIn, deleteIn = time.Minute, 2 * time.Minute
		const rounding = 10 * time.Millisecond // a format may be that coarse
		begin := time.Now()
		s.setE(s.key("a"), "one", expireIn, deleteIn)
		for i := range s.stores {
			s.eventually("the times left shrink", func() bool {
				s.Helper()
				e, ok := s.on(i).entry(s.key("a"))
				elapsed := time.Since(begin)
				if elapsed >= expireIn {
					s.Fatalf("the machine is too slow for this check")
				}
				if !ok || e.Expired {
					s.Fatalf("member %d: the key is gone %v after its write", i, elapsed)
				}
				for _, t := range []struct{ left, whole time.Duration }{{e.ExpireIn, expireIn}, {e.DeleteIn, deleteIn}} {
					if t.left > t.whole || t.left < t.whole-elapsed-rounding {
						s.Fatalf("member %d: %v are left of %v, %v after the write", i, t.left, t.whole, elapsed)
					}
				}
				return e.ExpireIn < expireIn && e.DeleteIn < deleteIn
			})
		}
	}},
	{"ManyStaggeredDeadlinesAreEachKept", func(s *session) {
		const writers, each = 8, 30
		watches := make([]*watch, writers*each)
		s.together(writers, func(n int) error {
			for i := range each {
				i := n*each + i
				d := time.Duration(100+i*37%400) * time.Millisecond
				shape := []span{{expireIn: d}, {deleteIn: d}, {d / 2, d}, {d, d / 2}}[i%4]
				w := s.watch(s.key("%d", i), fmt.Sprint(i), time.Now(), shape)
				if err := s.next().SetE(s.ctx, w.key, []byte(w.value), shape.expireIn, shape.deleteIn); err != nil {
					return err
				}
				watches[i] = w
			}
			return nil
		})
		var worst time.Duration
		for pending := watches; len(pending) > 0; time.Sleep(pause) {
			var left []*watch
			for _, w := range pending {
				s.must(w.look())
				last := deleted
				if w.span.deleteIn == 0 {
					last = expired
				}
				if w.least < last {
					left = append(left, w)
				} else {
					worst = max(worst, w.lateness(last))
				}
			}
			pending = left
		}
		s.Logf("the latest of %d deadlines was seen %v late", len(watches), worst)
	}},
}

// plausible tells whether that much may be left of a duration that has just
// begun. What is left of one beyond all clocks may be shown as never.
func plausible(left, whole time.Duration) bool {
	const century = 100 * 365 * 24 * time.Hour
	return left <= whole && (left > 0) == (whole > 0) || left == 0 && whole > century
}

// bothWrites follows keys of that shape, one written by SetE and one by
// SetEIfUnset, until they have come to p.
func (s *session) bothWrites(shape func(d time.Duration) span, p phase, must ...phase) {
	s.Helper()
	s.together(2, func(i int) error {
		one := *s
		one.prefix = s.key("%v-%d-", shape(1), i)
		_, err := one.lifecycle(shape, func(key string, d span) error {
			if i == 0 {
				return s.next().SetE(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
			}
			set, err := s.next().SetEIfUnset(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
			if err == nil && !set {
				err = fmt.Errorf("SetEIfUnset does not set a missing key")
			}
			return err
		}, p, must...)
		return err
	})
}

// outlive returns after the deadlines of a key that was written with these
// durations just now have been carried out. Deadlines of the same durations
// that were set earlier are then due as well.
func (s *session) outlive(expireIn, deleteIn time.Duration) {
	s.Helper()
	key := s.key("witness-%d", s.turn.Load())
	begin := time.Now()
	s.setE(key, "value", expireIn, deleteIn)
	w := s.watch(key, "value", begin, span{expireIn, deleteIn})
	s.must(w.follow(deleted))
	time.Sleep(5 * pause) // nothing hangs on it: it gives what is wrong more time to show
}
