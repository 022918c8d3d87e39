package storetest

import (
	"time"
)

// rewriteChecks are about keys that are written again while they have
// deadlines.
var rewriteChecks = []check{
	{"SetRemovesDeadlines", func(s *session) {
		const d = 100 * time.Millisecond
		s.setE(s.key("a"), "one", d, 2*d)
		s.set(s.key("a"), "two")
		s.setE(s.key("b"), "one", time.Hour, 2*d)
		s.expire(s.key("b"))
		s.set(s.key("b"), "two")
		s.setE(s.key("c"), "one", 0, d)
		s.setE(s.key("c"), "two", 0, 0)
		s.outlive(d, 2*d)
		for _, key := range []string{s.key("a"), s.key("b"), s.key("c")} {
			if e := s.live(key, "two"); e.ExpireIn != 0 || e.DeleteIn != 0 {
				s.Fatalf("the times left of %s are %v and %v; want none", key, e.ExpireIn, e.DeleteIn)
			}
		}
	}},
	{"SetESetsDeadlinesOfAPlainKey", func(s *session) {
		_, err := s.lifecycle(func(d time.Duration) span { return span{d, 3 * d} }, func(key string, d span) error {
			if err := s.next().Set(s.ctx, key, []byte("plain")); err != nil {
				return err
			}
			return s.next().SetE(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
		}, deleted, alive, expired)
		s.must(err)
	}},
	{"SetERenewsDeadlines", func(s *session) {
		_, err := s.lifecycle(func(d time.Duration) span { return span{2 * d, 3 * d} }, func(key string, d span) error {
			if err := s.next().SetE(s.ctx, key, []byte("shorter"), d.expireIn/4, d.deleteIn/4); err != nil {
				return err
			}
			return s.next().SetE(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
		}, deleted, alive)
		s.must(err)
	}},
	{"SetEShortensDeadlines", func(s *session) {
		_, err := s.lifecycle(func(d time.Duration) span { return span{d, 3 * d} }, func(key string, d span) error {
			if err := s.next().SetE(s.ctx, key, []byte("longer"), time.Hour, time.Hour); err != nil {
				return err
			}
			return s.next().SetE(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
		}, deleted, alive, expired)
		s.must(err)
	}},
	{"SetERevivesAnExpiredKeyWithNewDeadlines", func(s *session) {
		_, err := s.lifecycle(func(d time.Duration) span { return span{d, 3 * d} }, func(key string, d span) error {
			if err := s.next().SetE(s.ctx, key, []byte("before"), 0, d.deleteIn/2); err != nil {
				return err
			}
			if err := s.next().Expire(s.ctx, key); err != nil {
				return err
			}
			return s.next().SetE(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
		}, deleted, alive, expired)
		s.must(err)
	}},
	{"ExpireKeepsTheDeletionDeadline", func(s *session) {
		for _, shape := range []span{{0, 2}, {1, 2}, {4, 2}} { // of d each
			for d := 150 * time.Millisecond; ; d *= 2 {
				key, in := s.key("%v-%v", shape, d), span{shape.expireIn * d, shape.deleteIn * d}
				begin := time.Now()
				s.setE(key, "value", in.expireIn, in.deleteIn)
				s.expire(key)
				w := s.watch(key, "value", begin, span{1, in.deleteIn})
				w.least = expired // from now on
				s.must(w.follow(deleted))
				if w.seen[expired] {
					break
				}
				if d > 5*time.Second {
					s.Fatalf("%s was never seen expired", key)
				}
			}
		}
		s.setE(s.key("long"), "one", time.Hour, 2*time.Hour)
		s.expire(s.key("long"))
		s.expire(s.key("long"))
		if e := s.expired(s.key("long")); e.DeleteIn <= time.Hour || e.DeleteIn > 2*time.Hour {
			s.Fatalf("after Expire the key is to be deleted in %v; want about 2h", e.DeleteIn)
		}
	}},
	{"ExpireOfAKeyThatExpiredByItselfIsNoError", func(s *session) {
		key, err := s.lifecycle(func(d time.Duration) span { return span{d, time.Hour} }, func(key string, d span) error {
			return s.next().SetE(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
		}, expired)
		s.must(err)
		s.expire(key)
		if e := s.expired(key); e.DeleteIn <= time.Minute || e.DeleteIn > time.Hour {
			s.Fatalf("after Expire the key is to be deleted in %v; want about 1h", e.DeleteIn)
		}
	}},
	{"ExpiredKeyIsRevivedWithoutItsDeletionDeadline", func(s *session) {
		const d = 100 * time.Millisecond
		s.setE(s.key("a"), "one", 0, d)
		s.expire(s.key("a"))
		s.set(s.key("a"), "two")
		s.outlive(d, d)
		s.live(s.key("a"), "two")
	}},
	{"DeletedKeyLeavesNoDeadlinesToTheNext", func(s *session) {
		const d = 100 * time.Millisecond
		s.setE(s.key("a"), "one", d, 2*d)
		s.delete(s.key("a"))
		if !s.setEIfUnset(s.key("a"), "two", 0, 0) {
			s.Fatalf("SetEIfUnset does not set a deleted key")
		}
		s.setE(s.key("b"), "one", d, 2*d)
		s.delete(s.key("b"))
		s.unset(s.key("b"))
		s.set(s.key("b"), "two")
		s.setE(s.key("c"), "one", d, 2*d)
		s.delete(s.key("c"))
		s.outlive(d, 2*d)
		s.live(s.key("a"), "two")
		s.live(s.key("b"), "two")
		s.unset(s.key("c"))
	}},
	{"SetEIfUnsetLeavesAKeyThatExpiredByItselfAlone", func(s *session) {
		key, err := s.lifecycle(func(d time.Duration) span { return span{expireIn: d} }, func(key string, d span) error {
			return s.next().SetE(s.ctx, key, []byte("value"), d.expireIn, d.deleteIn)
		}, expired)
		s.must(err)
		before := s.expired(key)
		if s.setEIfUnset(key, "other", time.Hour, time.Hour) {
			s.Fatalf("SetEIfUnset sets a key that is expired and not deleted")
		}
		if after := s.expired(key); after.Revision != before.Revision || after.DeleteIn != 0 {
			s.Fatalf("SetEIfUnset set nothing but changed %+v to %+v", before, after)
		}
	}},
	{"SetEIfUnsetSetsAKeyOnceItsDeadlineHasDeletedIt", func(s *session) {
		const d = 200 * time.Millisecond
		key := s.key("a")
		begin := time.Now()
		s.setE(key, "one", d/2, d)
		s.eventually("SetEIfUnset sets the key after its deadline", func() bool {
			s.Helper()
			set := s.setEIfUnset(key, "two", 0, 0)
			if elapsed := time.Since(begin); set && elapsed < d {
				s.Fatalf("SetEIfUnset sets a key %v after it was set to be deleted after %v", elapsed, d)
			}
			return set
		})
		s.live(key, "two")
	}},
	{"OverwrittenDeadlinesDoNotPileUp", func(s *session) {
		// Each write's deadline would end the value of the next.
		key := s.key("a")
		for i := range 50 {
			s.setE(key, "value", time.Duration(1+i%5)*10*time.Millisecond, 0)
		}
		s.set(key, "stays")
		s.outlive(50*time.Millisecond, 60*time.Millisecond)
		s.live(key, "stays")
	}},
}
